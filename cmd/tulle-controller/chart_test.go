package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/naming/kubernetes/access"
)

// TestSettingsOfTheChart has the controller read what the Helm chart writes for it.
func TestSettingsOfTheChart(t *testing.T) {
	rendered, err := manifests.Render("mesh", map[string]any{
		"trustDomain": "corp.test",
		"injector":    map[string]any{"defaultMode": "sidecar"},
		"dtabs":       map[string]any{"web": "/svc => /srv ;"},
		"namers":      "- kind: io.l5d.k8s\n  prefix: /edge\n",
		"namer":       map[string]any{"configMaps": []any{"shop/rules", "l5d/rules.v1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range strings.Split(string(rendered), "\n---\n") {
		var object corev1.ConfigMap
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		settings, ok := object.Data["controller.yaml"]
		if object.Kind != "ConfigMap" || !ok {
			continue
		}
		cfg, err := load(t, settings)
		if err != nil {
			t.Fatalf("%v in\n%s", err, settings)
		}
		if cfg.Namespace != "mesh" || cfg.TrustDomain != "corp.test" || cfg.Inject.DefaultMode != "sidecar" || cfg.Dtabs["web"] != "/svc => /srv ;" ||
			cfg.Policy != "/etc/tulle/policy.yaml" || cfg.DtabStore != storeKubernetes || cfg.NamerAccess != access.RBAC || !strings.Contains(cfg.Namers, "/edge") ||
			cfg.ConfigMaps != "shop/rules,l5d/rules.v1" {
			t.Errorf("got %+v", cfg)
		}
		return
	}
	t.Error("the chart has no settings for the controller")
}
