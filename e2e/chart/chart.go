// Package chart gives tests the objects of Tulle's chart one by one, as some of them cannot be had without nodes or
// without cert-manager.
//
//	objects := chart.Render(t, "tulle", nil)
//	rights := objects.Only(func(o chart.Object) bool { return strings.HasPrefix(o.Kind, "ClusterRole") })
//
// It applies nothing.
package chart

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/manifests"
)

// Object is an object of the chart.
type Object struct {
	Kind, Name string
	Text       string // YAML
	data       map[string]string
}

// Objects are all that the chart makes of some values, in its order.
type Objects []Object

// Render renders the chart for a namespace. The values are those that are not the default, as a file of values has them.
func Render(t *testing.T, namespace string, values map[string]any) Objects {
	t.Helper()
	text, err := manifests.Render(namespace, values)
	if err != nil {
		t.Fatal(err)
	}
	var all Objects
	for doc := range strings.SplitSeq("\n"+string(text), "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Name string }
			Data     map[string]string
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		if o.Kind != "" {
			all = append(all, Object{o.Kind, o.Metadata.Name, doc, o.Data})
		}
	}
	return all
}

// Only returns the YAML of the objects that are to be kept.
func (all Objects) Only(keep func(Object) bool) string {
	var kept []string
	for _, o := range all {
		if keep(o) {
			kept = append(kept, o.Text)
		}
	}
	return strings.Join(kept, "\n---\n")
}

// Settings returns the controller's settings, as its ConfigMap has them.
func (all Objects) Settings(t *testing.T) []byte {
	t.Helper()
	for _, o := range all {
		if text, ok := o.data["controller.yaml"]; ok {
			return []byte(text)
		}
	}
	t.Fatal("the chart has no settings for the controller")
	return nil
}
