//go:build e2e

package admission

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/manifests"
)

// Kustomize, the one in kubectl, makes of the base what the chart renders: the same objects, field by field.
func TestKustomize(t *testing.T) {
	built, err := api.Kubectl(t.Context(), nil, "kustomize", "../../manifests/base")
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := manifests.Render("tulle", nil)
	if err != nil {
		t.Fatal(err)
	}
	objects := func(text string) map[string]any {
		all := map[string]any{}
		for _, doc := range regexp.MustCompile(`(?m)^---\n`).Split(text, -1) {
			var o struct {
				APIVersion, Kind string
				Metadata         struct{ Namespace, Name string }
			}
			var content map[string]any
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatal(err)
			}
			if err := yaml.Unmarshal([]byte(doc), &content); err != nil {
				t.Fatal(err)
			}
			if o.Kind != "" {
				all[o.Kind+" "+o.Metadata.Namespace+"/"+o.Metadata.Name] = content
			}
		}
		return all
	}
	want := objects(string(rendered))
	if diff := cmp.Diff(want, objects(built)); diff != "" || len(want) < 20 {
		t.Errorf("%d objects (-chart +kustomize)\n%s", len(want), diff)
	}
}
