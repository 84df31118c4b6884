//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// command runs tulle, which must end with a code and say each of the texts on stdout or stderr.
func command(t *testing.T, code int, texts []string, args ...string) {
	t.Helper()
	got, out, talk, err := tulle(t.Context(), "", args...)
	if err != nil || got != code {
		t.Fatalf("tulle %q: exit code %d, %v, want %d\n%s%s", args, got, err, code, out, talk)
	}
	for _, text := range texts {
		if !strings.Contains(out+talk, text) {
			t.Errorf("tulle %q does not say %q:\n%s%s", args, text, out, talk)
		}
	}
}

// gauge reads a gauge of the controllers for a namespace; the replica that leads has it.
func gauge(ctx context.Context, t *testing.T, name, namespace string) string {
	t.Helper()
	pods, err := mesh.Client().CoreV1().Pods("tulle").List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"})
	if err != nil {
		return err.Error()
	}
	for _, p := range pods.Items {
		_, text, err := get(ctx, client(t, ""), "http://"+net.JoinHostPort(p.Status.PodIP, "9990")+"/metrics")
		if err != nil {
			continue
		}
		for line := range strings.Lines(text) {
			if value, ok := strings.CutPrefix(line, fmt.Sprintf("%s{namespace=%q} ", name, namespace)); ok {
				return strings.TrimSpace(value)
			}
		}
	}
	return "0"
}

// With the injector gone, break-glass lets pods of the mesh's namespaces start outside of it, says which, and is closed;
// what escaped is seen, and put right when that is asked for.
func TestBreakGlass(t *testing.T) {
	ns := namespace(t, "e2e-operate", "host")
	app{namespace: ns, name: "before", text: "before"}.start(t)
	command(t, 0, []string{"nothing found"}, "check", "--from-nodes")
	if pods := kubectl(t, "get", "pods", "-n", "tulle", "-l", "app.kubernetes.io/component!=controller,app.kubernetes.io/component!=host", "-o", "name"); pods != "" {
		t.Errorf("the check left %s", pods)
	}

	scaleController(t.Context(), t, 0)
	t.Cleanup(func() { scaleController(context.WithoutCancel(t.Context()), t, 2) })
	t.Cleanup(func() { _, _, _, _ = tulle(context.WithoutCancel(t.Context()), "", "breakglass", "--close") })
	command(t, 0, []string{"e2e: the injector is gone"}, "breakglass", "--for", "10m", "--reason", "e2e: the injector is gone")
	escaped := app{namespace: ns, name: "escaped", text: "out"}
	escaped.create(t)
	escaped.ready(t)
	if mode, ok := escaped.pod(t).Labels["tulle.dev/mode"]; ok {
		t.Fatalf("the pod was injected, in mode %s, by an injector that is not there", mode)
	}
	command(t, 0, []string{"e2e: the injector is gone", escaped.pod(t).Name}, "breakglass")
	command(t, 2, []string{"break-glass"}, "check")

	scaleController(t.Context(), t, 2)
	command(t, 0, []string{escaped.pod(t).Name}, "breakglass", "--close")
	await(t, "the escaped pod to be counted", func(ctx context.Context) (bool, string) {
		n := gauge(ctx, t, "tulle_injector_escaped_pods", ns)
		return n == "1", n
	})
	await(t, "an event on the Deployment", func(context.Context) (bool, string) {
		events := kubectl(t, "get", "events", "-n", ns, "--field-selector", "reason=Escaped,involvedObject.kind=Deployment,involvedObject.name=escaped", "-o", "jsonpath={.items[*].message}")
		return events != "", "none"
	})
	command(t, 2, []string{ns, "escaped"}, "check")

	configure(t, map[string]any{"injector": map[string]any{"escaped": "restart", "stale": "restart"}})
	await(t, "the workload to be restarted into the mesh", func(context.Context) (bool, string) {
		pods := escaped.pods(t)
		return len(pods) == 1 && pods[0].Labels["tulle.dev/mode"] == "host", fmt.Sprint(len(pods), " pods")
	})
	escaped.serving(t)
	reach(t, client(t, hostProxy(t, "n1")), "http://escaped."+ns)

	// A namespace that changes its mode makes its pods stale.
	kubectl(t, "label", "--overwrite", "namespace", ns, "tulle.dev/mode=sidecar")
	for _, name := range []string{"before", "escaped"} {
		a := app{namespace: ns, name: name}
		await(t, name+" to change its mode", func(context.Context) (bool, string) {
			pods := a.pods(t)
			return len(pods) == 1 && pods[0].Labels["tulle.dev/mode"] == "sidecar", fmt.Sprint(len(pods), " pods")
		})
	}
	await(t, "nothing to be stale", func(ctx context.Context) (bool, string) {
		n := gauge(ctx, t, "tulle_injector_stale_pods", ns)
		return n == "0", n
	})
}

// The mesh's issuer signs the webhook's certificate when it is asked to, cert-manager's cainjector tells the API server,
// and the way back is open.
func TestCertManagerSignsTheWebhook(t *testing.T) {
	ns := namespace(t, "e2e-cainjector", "host")
	injects := func(name string) {
		t.Helper()
		await(t, "a pod to be injected", func(ctx context.Context) (bool, string) {
			out, err := mesh.Kubectl(ctx, nil, "run", "-n", ns, name, "--image=tulle.dev/helloworld:dev", "--restart=Never", "--dry-run=server", "-o",
				"jsonpath={.metadata.labels.tulle\\.dev/mode}", `--overrides={"spec":{"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},`+
					`"containers":[{"name":"`+name+`","image":"tulle.dev/helloworld:dev","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}}`)
			return err == nil && out == "host", fmt.Sprint(out, err)
		})
	}
	t.Run("cert-manager", func(t *testing.T) {
		configure(t, map[string]any{"injector": map[string]any{"certificate": "cert-manager"}})
		injects("by-cert-manager")
		if got := kubectl(t, "get", "mutatingwebhookconfiguration/tulle-injector", "-o", "jsonpath={.metadata.annotations.cert-manager\\.io/inject-ca-from}"); got != "tulle/tulle-controller" {
			t.Errorf("the cainjector is told %q", got)
		}
	})
	injects("by-itself")
	command(t, 0, []string{"nothing found"}, "check")
}
