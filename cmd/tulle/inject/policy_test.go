//go:build e2e

package inject

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/e2e/chart"
	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/hostpolicy"
)

// Where the API server does host mode by a policy, that is what explain says, and which pods are still the injector's.
func TestExplainHostModePolicy(t *testing.T) {
	api := apitest.Start(t)
	s := &server{api, t}
	web := func(annotation string) string {
		return `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {` + annotation + `}}
    spec: {containers: [{name: web, image: web}]}
`
	}
	install := func() {
		objects := chart.Render(t, "tulle", map[string]any{"injector": map[string]any{"hostModePolicy": true, "hostAddress": "hostIP"}})
		if err := api.Apply(t.Context(), objects.Only(func(o chart.Object) bool {
			switch o.Kind + "/" + o.Name {
			case "Namespace/tulle", "ConfigMap/tulle-controller", "MutatingWebhookConfiguration/tulle-injector", "MutatingAdmissionPolicy/" + hostpolicy.Name,
				"MutatingAdmissionPolicyBinding/" + hostpolicy.Name:
				return true
			}
			return false
		})); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(doc string) {
		if err := api.Apply(t.Context(), doc); err != nil {
			t.Fatal(err)
		}
	}
	apply(`{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {tulle.dev/inject: enabled}}}`)
	apply(web(""))
	install()

	x := s.explain("deploy", "web", "-n", "shop")
	if x.Called == nil || !*x.Called || x.Reason != webhook.InjectedHost || len(x.Entries) < 2 || x.Entries[0].Name != hostpolicy.Name || !x.Entries[0].Calls || x.Entries[1].Calls {
		t.Errorf("%+v", x)
	}
	text := s.table("deploy/web", "-n", "shop")
	want(t, text, "its pods are injected in mode host")
	want(t, text, "policy tulle-host-mode: the API server does host mode itself")
	want(t, text, "inject.tulle.dev does not: the policy has done it")

	apply(web(`tulle.dev/skip-ports: "80"`))
	text = s.table("deploy/web", "-n", "shop")
	want(t, text, "policy tulle-host-mode: the API server's policy leaves the pod alone: its annotation tulle.dev/skip-ports is for sidecars")
	want(t, text, "inject.tulle.dev asks the injector")

	// No webhook at all.
	if err := api.Client().AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(t.Context(), configName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want(t, s.table("deploy/web", "-n", "shop"), "NOT in the mesh")
	apply(web("tulle.dev/mode: sidcar"))
	want(t, s.table("deploy/web", "-n", "shop"), "its pods are NOT in the mesh, because the API server does not ask the injector, which would refuse them (invalid_mode)")
	apply(web(""))
	want(t, s.table("deploy/web", "-n", "shop"), "its pods are injected in mode host")

	// Where another policy refuses what this one cannot do.
	apply(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: ` + hostpolicy.Refusals + `}, spec: {policyName: x, validationActions: [Deny]}}`)
	want(t, s.table("deploy/web", "-n", "shop"), "its pods are injected in mode host")
	apply(web("tulle.dev/mode: sidecar"))
	want(t, s.table("deploy/web", "-n", "shop"), "its pods are DENIED, where they belong in mode sidecar: there is no injector")
	apply(web("tulle.dev/mode: sidcar"))
	want(t, s.table("deploy/web", "-n", "shop"), "its pods are DENIED (invalid_mode)")

	if err := api.Client().AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Delete(t.Context(), hostpolicy.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apply(web(""))
	want(t, s.table("deploy/web", "-n", "shop"), "policy tulle-host-mode: it has no binding")
}
