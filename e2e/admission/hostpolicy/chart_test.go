//go:build e2e

package hostpolicy

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/e2e/chart"
	"github.com/tulle-mesh/tulle/webhook"
)

// The chart's own objects, with an injector that nobody can reach: pods in host mode start all the same, and only those
// that the policy leaves to the injector are refused, or start outside of the mesh, as their namespace says.
func TestChartWithoutTheController(t *testing.T) {
	const mesh = "tulle-away"
	text := chart.Render(t, mesh, map[string]any{"injector": map[string]any{"hostModePolicy": true, "hostAddress": "hostIP"}}).Only(func(o chart.Object) bool {
		return strings.HasPrefix(o.Kind, "Mutating") || strings.HasPrefix(o.Kind, "Validating")
	})
	if _, err := api.Kubectl(t.Context(), strings.NewReader(text), "apply", "--server-side", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := api.Kubectl(context.WithoutCancel(t.Context()), strings.NewReader(text), "delete", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	strict := namespace(t, enabled("host"))
	free := namespace(t, map[string]string{webhook.LabelInject: webhook.NamespaceBestEffort})
	c := client(t)
	pod := func(annotation string) []byte {
		return []byte(`{"metadata":{"name":"a","annotations":{` + annotation + `}},"spec":{"containers":[{"name":"a","image":"a"}]}}`)
	}
	inMesh := func(got *corev1.Pod) bool {
		return got.Labels[webhook.LabelMode] == "host" && got.Spec.Containers[0].Env != nil
	}
	eventually(t, "the policy is in force", func() bool {
		got, err := create(t.Context(), c, strict, pod(``))
		return err == nil && inMesh(got)
	})
	left := pod(`"tulle.dev/mode":"sidecar"`)
	eventually(t, "the webhook is in force", func() bool {
		_, err := create(t.Context(), c, strict, left)
		return err != nil && strings.Contains(err.Error(), "inject.tulle.dev")
	})
	if got, err := create(t.Context(), c, strict, pod(``)); err != nil || !inMesh(got) {
		t.Errorf("a pod in host mode: %v", err)
	}
	// A copy of it that the policy cannot do is the webhook's again, whatever its status says.
	got, err := create(t.Context(), c, strict, pod(``))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := create(t.Context(), c, strict, asked(t, got)); err != nil || same(again) != same(got) {
		t.Errorf("a copy: %v", err)
	}
	for name, change := range map[string]func(*corev1.Pod){
		"another mode": func(p *corev1.Pod) { p.Annotations[webhook.AnnotationMode] = "sidecar" },
		"another port": func(p *corev1.Pod) { p.Annotations[webhook.AnnotationOutgoingPort] = "4150" },
		"wrong label":  func(p *corev1.Pod) { p.Labels[webhook.LabelInject] = "yes" },
	} {
		other := got.DeepCopy()
		change(other)
		if _, err := create(t.Context(), c, strict, asked(t, other)); err == nil || !strings.Contains(err.Error(), "inject.tulle.dev") {
			t.Errorf("a copy with %s is not sent to the webhook: %v", name, err)
		}
	}
	if _, err := create(t.Context(), c, namespace(t, enabled("sidecar")), asked(t, got)); err == nil || !strings.Contains(err.Error(), "inject.tulle.dev") {
		t.Errorf("a copy in a namespace of sidecars is not sent to the webhook: %v", err)
	}
	// For good, too.
	plain := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a"}}}}
	if got, err := c.CoreV1().Pods(strict).Create(t.Context(), plain, metav1.CreateOptions{}); err != nil || !inMesh(got) {
		t.Errorf("a pod in host mode that is stored: %v", err)
	}
	if got, err := create(t.Context(), c, free, pod(``)); err != nil || !inMesh(got) {
		t.Errorf("a pod in host mode of a best-effort namespace: %v", err)
	}
	if got, err := create(t.Context(), c, free, left); err != nil || got.Labels[webhook.LabelMode] != "" {
		t.Errorf("a pod in sidecar mode of a best-effort namespace: %v", err)
	}
}
