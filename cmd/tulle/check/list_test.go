package check

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// listOf answers a question for a list with these objects.
func listOf(objects ...map[string]any) func(v1.ListOptions) (runtime.Object, error) {
	return func(v1.ListOptions) (runtime.Object, error) {
		list := &unstructured.UnstructuredList{Object: map[string]any{"kind": "List", "apiVersion": "v1"}}
		for _, o := range objects {
			o["kind"], o["apiVersion"] = "Deployment", "apps/v1"
			list.Items = append(list.Items, unstructured.Unstructured{Object: o})
		}
		return list, nil
	}
}
