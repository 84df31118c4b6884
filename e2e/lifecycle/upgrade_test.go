//go:build e2e

package lifecycle

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	installing "github.com/tulle-mesh/tulle/cmd/tulle/install"

	"github.com/tulle-mesh/tulle/e2e/cluster/apitest"
)

// An upgrade makes of what kubectl applied, either way, what another install would: fields and objects that are not in
// the chart any more go, what others own stays.
func TestUpgrade(t *testing.T) {
	for _, way := range [][]string{nil, {"--server-side"}} {
		t.Run("apply "+strings.Join(way, ""), func(t *testing.T) {
			api := apitest.Start(t)
			certManager(t, api)
			install(t, api, nil, way...)
			rollOut(t, api, 2)
			kubectl(t, api, `{"apiVersion":"admissionregistration.k8s.io/v1","kind":"MutatingWebhookConfiguration","metadata":{"name":"tulle-injector"},
				"webhooks":[{"name":"inject.tulle.dev","clientConfig":{"caBundle":"TUlJQkFRPT0="},"admissionReviewVersions":["v1"],"sideEffects":"None"}]}`,
				"apply", "--server-side", "--force-conflicts", "--field-manager=tulle-webhook-ca", "-f", "-")
			kubectl(t, api, "", "patch", "--field-manager=kubectl-edit", "-n", "tulle", "deployment/tulle-controller", "--type=merge", "-p", `{"spec":{"replicas":5},"metadata":{"labels":{"team":"mesh"}}}`)
			values := []string{"--set", "host.enabled=false,injector.probe=false,controller.priorityClassName=,controller.image=example/new:1"}

			before := kubectl(t, api, "", "get", "-n", "tulle", "deployment,daemonset,configmap", "-o", "name", "--show-managed-fields=false")
			out, talk, err := tulle(t, api, installing.UpgradeCommand(), "", append(values, "--dry-run")...)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{
				"\ndeployment.apps/tulle-controller configured (dry run)\n", `~ spec.template.spec.containers[tulle-controller].image: "tulle.dev/tulle-controller:dev" -> "example/new:1"`,
				"~ spec.replicas: 5 -> 2\n", "daemonset.apps/tulle-host deleted (dry run)\n", "service/tulle-host deleted (dry run)\n", "namespace/tulle-probe deleted (dry run)\n",
				"  - probe-namespace: tulle-probe\n", "- spec.template.spec.priorityClassName: \"system-cluster-critical\"\n",
			} {
				if !strings.Contains(out, want) {
					t.Errorf("the dry run does not say %q:\n%s", want, out)
				}
			}
			if !strings.Contains(talk, "warning: deployment.apps/tulle-controller: .spec.replicas of kubectl-edit would be set back") {
				t.Errorf("the dry run warns of %q", talk)
			}
			if after := kubectl(t, api, "", "get", "-n", "tulle", "deployment,daemonset,configmap", "-o", "name"); after != before {
				t.Errorf("the dry run changed\n%s to\n%s", before, after)
			}

			out, talk, err = tulle(t, api, installing.UpgradeCommand(), "", values...)
			if err != nil {
				t.Fatal(worded(err))
			}
			lines := strings.Split(strings.TrimSpace(out), "\n")
			at := func(line string) int { return slices.Index(lines, line) }
			if a, b := at("deployment.apps/tulle-controller configured"), at("mutatingwebhookconfiguration.admissionregistration.k8s.io/tulle-injector configured"); a < 0 || b >= 0 && b < a {
				t.Errorf("the controller at line %d, the webhook at %d:\n%s", a, b, out)
			}
			d, err := api.Client().AppsV1().Deployments("tulle").Get(t.Context(), "tulle-controller", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if spec := d.Spec.Template.Spec; *d.Spec.Replicas != 2 || spec.PriorityClassName != "" || spec.Containers[0].Image != "example/new:1" || d.Labels["team"] != "mesh" {
				t.Errorf("the Deployment is %+v", d)
			}
			if at("service/tulle-controller unchanged") < 0 {
				t.Errorf("what did not change is said to have:\n%s", out)
			}
			if !strings.Contains(talk, ".spec.replicas of kubectl-edit is set back") {
				t.Errorf("it says %q", talk)
			}
			if left := kubectl(t, api, "", "get", "-n", "tulle", "daemonset,service,serviceaccount,certificate", "-o", "name"); strings.Contains(left, "tulle-host") || strings.Contains(left, "tulle-bundle") || !strings.Contains(left, "service/tulle-controller") {
				t.Errorf("left are\n%s", left)
			}
			if got := kubectl(t, api, "", "get", "mutatingwebhookconfiguration/tulle-injector", "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}"); got != "TUlJQkFRPT0=" {
				t.Errorf("the CA bundle is %q", got)
			}

			// It is done: nothing is left to do.
			out, talk, err = tulle(t, api, installing.UpgradeCommand(), "", values...)
			if err != nil {
				t.Fatal(worded(err))
			}
			for line := range strings.Lines(out) {
				if !strings.HasSuffix(line, " unchanged\n") {
					t.Errorf("the second upgrade says %s", line)
				}
			}
			if talk != "" {
				t.Errorf("the second upgrade says %q", talk)
			}
		})
	}
}

func TestUpgradeRefuses(t *testing.T) {
	api := apitest.Start(t)
	upgrade := func(args ...string) error {
		_, _, err := tulle(t, api, installing.UpgradeCommand(), "", args...)
		return err
	}
	fails(t, upgrade(), "no Tulle is installed in the namespace tulle", "tulle install | kubectl apply -f -")
	certManager(t, api)
	install(t, api, nil)
	fails(t, upgrade("-n", "mesh"), "no Tulle is installed in the namespace mesh; it is in tulle", "-n tulle")
	fails(t, upgrade("--timeout=1s"), "deployment.apps/tulle-controller is not rolled out in time: waiting for Kubernetes to see the change", "run tulle upgrade again")
	for _, c := range []struct{ annotation, text, hint string }{
		{"meta.helm.sh/release-name=mesh", "Helm looks after this installation", "helm upgrade mesh CHART"},
		{"argocd.argoproj.io/tracking-id=x", "Argo CD looks after this installation", "where Argo CD reads it"},
		{"tulle.dev/layout-", "is arranged in a way that this program", "tulle uninstall keeps the dtabs"},
	} {
		kubectl(t, api, "", "annotate", "-n", "tulle", "configmap/tulle-controller", c.annotation)
		fails(t, upgrade(), c.text, c.hint)
		if key, _, ok := strings.Cut(c.annotation, "="); ok {
			if c.hint != "" && strings.HasPrefix(key, "meta.helm.sh") {
				_, _, err := tulle(t, api, installing.UninstallCommand(), "", "--yes")
				fails(t, err, "Helm looks after this installation", "helm uninstall mesh")
			}
			kubectl(t, api, "", "annotate", "-n", "tulle", "configmap/tulle-controller", key+"-")
		}
	}
}
