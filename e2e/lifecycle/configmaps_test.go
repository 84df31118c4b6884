//go:build e2e

package lifecycle

import (
	"strings"
	"testing"

	installing "github.com/tulle-mesh/tulle/cmd/tulle/install"

	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
)

// Rights to read ConfigMaps are in namespaces of others: they come and go with the value, and with Tulle.
func TestConfigMapRights(t *testing.T) {
	api := apitest.Start(t)
	certManager(t, api)
	for _, name := range []string{"shop", "l5d"} {
		kubectl(t, api, "", "create", "namespace", name)
	}
	install(t, api, map[string]any{"injector": map[string]any{"probe": false}, "namer": map[string]any{"configMaps": []any{"shop/rules", "l5d/rules"}}})
	rollOut(t, api, 2)
	kubectl(t, api, "", "create", "role", "tulle-others", "-n", "shop", "--verb=get", "--resource=configmaps")
	rights := func(want ...string) {
		t.Helper()
		out := kubectl(t, api, "", "get", "role,rolebinding", "-A", "-o", `jsonpath={range .items[?(@.metadata.name=="tulle-configmaps")]}{.kind} {.metadata.namespace}{"\n"}{end}`)
		if got := strings.TrimSpace(out); got != strings.Join(want, "\n") {
			t.Errorf("there are\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
	}
	rights("Role l5d", "Role shop", "RoleBinding l5d", "RoleBinding shop")
	upgrade := func(values string) (string, error) {
		out, _, err := tulle(t, api, installing.UpgradeCommand(), "", "--set", "injector.probe=false,"+values)
		return out, err
	}
	out, err := upgrade("namer.configMaps={l5d/rules,l5d/more}")
	if err != nil {
		t.Fatal(worded(err))
	}
	for _, want := range []string{"role.rbac.authorization.k8s.io/tulle-configmaps configured\n", "rolebinding.rbac.authorization.k8s.io/tulle-configmaps unchanged\n", "role.rbac.authorization.k8s.io/tulle-configmaps deleted\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	rights("Role l5d", "RoleBinding l5d")
	if _, err := upgrade("namer.configMaps={nowhere/rules}"); err == nil || !strings.Contains(err.Error(), `namespaces "nowhere" not found`) {
		t.Errorf("a namespace that does not exist: %v", err)
	}
	if _, _, err := tulle(t, api, installing.UninstallCommand(), "", "--yes"); err != nil {
		t.Fatal(worded(err))
	}
	rights()
	kubectl(t, api, "", "get", "role", "-n", "shop", "tulle-others")
}
