//go:build e2e

package lifecycle

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	installing "github.com/tulle-mesh/tulle/cmd/tulle/install"

	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
)

// objects reads YAML documents by kind and name.
func objects(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for d := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096); ; {
		var o map[string]any
		if err := d.Decode(&o); err != nil {
			return all
		}
		if meta, ok := o["metadata"].(map[string]any); ok {
			namespace, _ := meta["namespace"].(string)
			all[o["kind"].(string)+" "+namespace+"/"+meta["name"].(string)] = o
		}
	}
}

// Helm's engine on the chart's folder, kustomize as it is in kubectl, and tulle install give the same objects, field by
// field.
func TestThreeWays(t *testing.T) {
	api := apitest.Start(t)
	var text bytes.Buffer
	c := installing.Command()
	c.SetArgs([]string{})
	c.SetOut(&text)
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	want := objects(t, text.String())
	if len(want) < 20 {
		t.Fatalf("tulle install prints %d objects", len(want))
	}
	kustomize := kubectl(t, api, "", "kustomize", "../../manifests/base")
	if diff := cmp.Diff(want, objects(t, kustomize)); diff != "" {
		t.Errorf("(-tulle install +kustomize)\n%s", diff)
	}
	chart, err := loader.LoadDir("../../manifests/chart")
	if err != nil {
		t.Fatal(err)
	}
	values, err := util.ToRenderValuesWithSchemaValidation(chart, map[string]any{"createNamespace": true},
		common.ReleaseOptions{Name: "tulle", Namespace: "tulle", Revision: 1, IsInstall: true}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Engine{Strict: true}.RenderWithContext(context.Background(), chart, values)
	if err != nil {
		t.Fatal(err)
	}
	helm := map[string]map[string]any{}
	for name, text := range files {
		if strings.HasSuffix(name, ".yaml") {
			for key, o := range objects(t, text) {
				helm[key] = o
			}
		}
	}
	if diff := cmp.Diff(want, helm); diff != "" {
		t.Errorf("(-tulle install +helm)\n%s", diff)
	}

	// The example of an overlay changes what it says, and nothing else.
	overlay := objects(t, kubectl(t, api, "", "kustomize", "../../manifests/examples/kustomize"))
	var changed []string
	for key, o := range overlay {
		if !cmp.Equal(want[key], o) {
			changed = append(changed, key)
		}
	}
	if len(overlay) != len(want) || len(changed) != 2 {
		t.Errorf("the overlay has %d objects, and changes %q", len(overlay), changed)
	}
}
