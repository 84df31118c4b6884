//go:build e2e

package admission

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/serving"
)

// Which pods the API server asks about, what becomes of them, and what becomes of them while the injector is away.
func TestEntries(t *testing.T) {
	m := install(t, map[string]any{"createNamespace": false, "injector": map[string]any{"timeoutSeconds": 1}})
	m.settings.Inject.ProxyImage = "" // so that the injector cannot do what a pod asks for: a sidecar
	r := m.start(t, "one", serving.Config{Settle: 10 * time.Millisecond})
	namespaces := map[string]string{}
	for _, label := range []string{"", "enabled", "best-effort", "disabled", "enable"} {
		labels := map[string]string{}
		if label != "" {
			labels["tulle.dev/inject"] = label
		}
		namespaces[label] = namespace(t, labels)
	}
	mirror := func(p *corev1.Pod) {
		p.Name, p.Spec.NodeName, p.Annotations = "mirror", "n1", map[string]string{"kubernetes.io/config.mirror": "hash"}
	}
	annotated := func(p *corev1.Pod) { p.Annotations = map[string]string{"other": "value"} }
	sidecar := func(p *corev1.Pod) { p.Annotations = map[string]string{"tulle.dev/mode": "sidecar"} }
	out := func(p *corev1.Pod) { p.Labels = map[string]string{"tulle.dev/inject": "false"} }
	cases := []struct {
		name, label string
		pod         func(*corev1.Pod)
		asked       bool
		want, away  string // host, none, or a part of the refusal
	}{
		{"no label", "", nil, false, "none", "none"},
		{"enabled", "enabled", nil, true, "host", `failed calling webhook "inject.tulle.dev"`},
		{"enabled, with annotations", "enabled", annotated, true, "host", `failed calling webhook "inject.tulle.dev"`},
		{"best effort", "best-effort", nil, true, "host", "none"},
		{"disabled", "disabled", nil, false, "none", "none"},
		{"a label that means nothing", "enable", nil, true, "allowed: ", "none"},
		{"a pod that opted out", "enabled", out, false, "none", "none"},
		{"a mirror", "enabled", mirror, false, "none", "none"},
		{"a fault of the injector", "enabled", sidecar, true, "the proxy image is not set", `failed calling webhook "inject.tulle.dev"`},
		{"best effort, a fault of the injector", "best-effort", sidecar, true, "none", "none"},
	}
	try := func(t *testing.T, label string, change func(*corev1.Pod), want string, asked bool) {
		pod := app()
		if change != nil {
			change(pod)
		}
		before := r.calls.Load()
		got, err := api.Client().CoreV1().Pods(namespaces[label]).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if was := r.calls.Load() > before; was != asked {
			t.Errorf("the injector was asked: %v", was)
		}
		switch want {
		case "host", "none":
			if err != nil {
				t.Fatal(err)
			}
			if mode := got.Labels[webhook.LabelMode]; mode != map[string]string{"host": "host"}[want] {
				t.Errorf("the mode is %q", mode)
			}
		default:
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { try(t, c.label, c.pod, c.want, c.asked) })
	}
	t.Run("debug", func(t *testing.T) {
		pods := api.Client().CoreV1().Pods(namespaces["enabled"])
		for mode, asked := range map[string]bool{"host": true, "out": false} {
			pod := app()
			if mode == "out" {
				out(pod)
			}
			pod, err := pods.Create(t.Context(), pod, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			before := r.calls.Load()
			pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "debug"}}}
			pod, err = pods.UpdateEphemeralContainers(t.Context(), pod.Name, pod, metav1.UpdateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if was := r.calls.Load() > before; was != asked {
				t.Errorf("%s: the injector was asked: %v", mode, was)
			}
			if env := pod.Spec.EphemeralContainers[0].Env; (len(env) > 0) != asked {
				t.Errorf("%s: the environment is %v", mode, env)
			}
		}
	})

	r.stop()
	for _, c := range cases {
		t.Run(c.name+", while the injector is away", func(t *testing.T) { try(t, c.label, c.pod, c.away, false) })
	}
}
