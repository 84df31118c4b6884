//go:build e2e

package lifecycle

import (
	"strings"
	"testing"

	installing "github.com/tulle-mesh/tulle/cmd/tulle/install"

	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
)

// An installation goes over to the API server's policies of host mode and back, and leaves nothing of either.
func TestHostModePolicy(t *testing.T) {
	api := apitest.Start(t)
	certManager(t, api)
	install(t, api, map[string]any{"injector": map[string]any{"probe": false}}) // whose namespace would not go without a controller for that
	rollOut(t, api, 2)
	const kinds = "mutatingadmissionpolicies,mutatingadmissionpolicybindings,validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingwebhookconfigurations"
	there := func(names ...string) {
		t.Helper()
		out := kubectl(t, api, "", "get", kinds, "-o", "name")
		if n := strings.Count(out, "tulle-"); n != len(names) {
			t.Errorf("there are %d, expected %d:\n%s", n, len(names), out)
		}
		for _, name := range names {
			if !strings.Contains(out, name+"\n") {
				t.Errorf("%s is missing in\n%s", name, out)
			}
		}
	}
	upgrade := func(values string) {
		t.Helper()
		if _, _, err := tulle(t, api, installing.UpgradeCommand(), "", "--set", "injector.probe=false,"+values); err != nil {
			t.Fatal(worded(err))
		}
	}
	policy := []string{"mutatingadmissionpolicy.admissionregistration.k8s.io/tulle-host-mode", "mutatingadmissionpolicybinding.admissionregistration.k8s.io/tulle-host-mode"}
	refusals := []string{"validatingadmissionpolicy.admissionregistration.k8s.io/tulle-host-mode-refusals", "validatingadmissionpolicybinding.admissionregistration.k8s.io/tulle-host-mode-refusals"}
	const injector, dtabs = "mutatingwebhookconfiguration.admissionregistration.k8s.io/tulle-injector", "mutatingwebhookconfiguration.admissionregistration.k8s.io/tulle-dtabs"
	there(injector, dtabs)
	upgrade("injector.hostModePolicy=true,injector.hostAddress=hostIP")
	there(append(policy, injector, dtabs)...)
	upgrade("injector.hostModePolicy=true,injector.hostAddress=hostIP,injector.webhook=false")
	there(append(append(refusals, policy...), dtabs)...)
	if out, _, err := tulle(t, api, installing.UninstallCommand(), "", "--yes", "--dry-run"); err != nil || !strings.Contains(out, policy[0]+" deleted (dry run)") || !strings.Contains(out, refusals[1]+" deleted (dry run)") {
		t.Errorf("uninstall: %v\n%s", err, out)
	}
	upgrade("injector.hostModePolicy=false")
	there(injector, dtabs)
}
