package main

import (
	"maps"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Of the annotations of namespaces, which may hold whole objects, only what the injector reads is kept in memory.
func TestNamespacesKeepWhatTheInjectorReads(t *testing.T) {
	const ids = "openshift.io/sa.scc.uid-range"
	for _, tt := range []struct{ annotations, want map[string]string }{
		{nil, nil},
		{map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"}, nil},
		{map[string]string{"note": "x", ids: "1000700000/10000"}, map[string]string{ids: "1000700000/10000"}},
	} {
		kept, err := onlyRead(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			Name: "shop", Labels: map[string]string{"a": "b"}, Annotations: tt.annotations, ManagedFields: []metav1.ManagedFieldsEntry{{}}}})
		if err != nil {
			t.Fatal(err)
		}
		o := kept.(metav1.Object)
		if !maps.Equal(o.GetAnnotations(), tt.want) || o.GetManagedFields() != nil || o.GetLabels()["a"] != "b" {
			t.Errorf("of %v is kept %v", tt.annotations, o)
		}
	}
}
