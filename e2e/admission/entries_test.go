//go:build e2e

package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/serving"
)

// The chart's entries send to the injector what it decides about, and nothing else; with the injector away, each does what
// its label promised.
func TestEntries(t *testing.T) {
	m := install(t, values("self"))
	r := m.start(t, "only", serving.Config{})
	enabled := namespace(t, map[string]string{webhook.LabelInject: webhook.NamespaceEnabled})
	effort := namespace(t, map[string]string{webhook.LabelInject: webhook.NamespaceBestEffort})
	misspelt := namespace(t, map[string]string{webhook.LabelInject: "true"})
	disabled := namespace(t, map[string]string{webhook.LabelInject: webhook.NamespaceDisabled})
	none := namespace(t, nil)
	await(t, "the first admission", func(ctx context.Context) (bool, string) {
		err := admit(ctx, enabled)
		return err == nil, fmt.Sprint(err)
	})

	// made returns the mode of a pod that a namespace is given, and whether the injector was asked.
	made := func(t *testing.T, ns string, change func(*corev1.Pod)) (mode string, asked bool, err error) {
		t.Helper()
		p := app()
		if change != nil {
			change(p)
		}
		before := r.calls.Load()
		got, err := api.Client().CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return "", r.calls.Load() > before, err
		}
		return got.Labels[webhook.LabelMode], r.calls.Load() > before, nil
	}
	out := func(p *corev1.Pod) { p.Labels = map[string]string{webhook.LabelInject: "false"} }
	mirror := func(p *corev1.Pod) {
		p.Annotations, p.Spec.NodeName = map[string]string{corev1.MirrorPodAnnotationKey: "x"}, "node"
	}
	wrong := func(p *corev1.Pod) { p.Annotations = map[string]string{webhook.AnnotationMode: "hots"} }
	type line struct {
		name, ns string
		change   func(*corev1.Pod)
		mode     string
		asked    bool
		fails    string
	}
	check := func(t *testing.T, lines []line) {
		for _, l := range lines {
			t.Run(l.name, func(t *testing.T) {
				mode, asked, err := made(t, l.ns, l.change)
				if mode != l.mode || asked != l.asked || (err != nil) != (l.fails != "") || err != nil && !strings.Contains(err.Error(), l.fails) {
					t.Errorf("mode %q, asked %v, error %v; want %q, %v, %q", mode, asked, err, l.mode, l.asked, l.fails)
				}
			})
		}
	}
	check(t, []line{
		{"enabled", enabled, nil, "host", true, ""},
		{"best-effort", effort, nil, "host", true, ""},
		{"disabled", disabled, nil, "", false, ""},
		{"no label", none, nil, "", false, ""},
		{"misspelt", misspelt, nil, "", true, `is "true", allowed: enabled, best-effort, disabled`},
		{"opted out", enabled, out, "", false, ""},
		{"opted out of a misspelt one", misspelt, out, "", false, ""},
		{"a mirror", enabled, mirror, "", false, ""},
		{"wrong mode", enabled, wrong, "", true, `tulle.dev/mode is "hots", allowed: host, sidecar, none`},
		{"wrong mode, best effort", effort, wrong, "", true, `allowed: host`},
	})

	t.Run("warnings", func(t *testing.T) {
		heard := &listener{}
		config := api.RESTConfig()
		config.WarningHandler = heard
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		p := app()
		p.Annotations = map[string]string{"tulle.dev/mod": "host"}
		if _, err := client.CoreV1().Pods(enabled).Create(t.Context(), p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(heard.texts(), func(s string) bool { return strings.Contains(s, "did you mean tulle.dev/mode?") }) {
			t.Errorf("heard %q", heard.texts())
		}
	})

	t.Run("ephemeral containers", func(t *testing.T) {
		for mode, annotations := range map[string]map[string]string{"host": nil, "sidecar": {webhook.AnnotationMode: "sidecar"}} {
			if mode == "sidecar" && m.settings.Config("").ControllerCA == "" {
				continue // the test has no mesh CA for sidecars
			}
			p := app()
			p.Annotations = annotations
			p, err := api.Client().CoreV1().Pods(enabled).Create(t.Context(), p, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "tools", TerminationMessagePolicy: corev1.TerminationMessageReadFile}}}
			p, err = api.Client().CoreV1().Pods(enabled).UpdateEphemeralContainers(t.Context(), p.Name, p, metav1.UpdateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got, want := p.Spec.EphemeralContainers[0].Env, p.Spec.Containers[0].Env
			if len(want) == 0 || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("mode %s: the ephemeral container has %v, the app %v", mode, got, want)
			}
		}
	})

	r.stop()
	check(t, []line{
		{"enabled, injector away", enabled, nil, "", false, "inject.tulle.dev"},
		{"best-effort, injector away", effort, nil, "", false, ""},
		{"misspelt, injector away", misspelt, nil, "", false, ""},
		{"opted out, injector away", enabled, out, "", false, ""},
	})
}

// listener hears the API server's warnings.
type listener struct {
	mu    sync.Mutex
	heard []string
}

func (l *listener) HandleWarningHeader(_ int, _ string, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, text)
}

func (l *listener) texts() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.heard)
}
