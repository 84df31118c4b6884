//go:build e2e

package admission

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/hostpolicy"
	"github.com/tulle-mesh/tulle/webhook/serving"
)

// With the policy of host mode in front of it, the injector is asked about what the policy leaves, and about nothing else.
func TestHostModePolicy(t *testing.T) {
	m := install(t, map[string]any{"createNamespace": false, "injector": map[string]any{"hostModePolicy": true, "hostAddress": "hostIP"}})
	t.Cleanup(func() {
		ctx, admission := context.WithoutCancel(t.Context()), api.Client().AdmissionregistrationV1()
		if err := admission.MutatingAdmissionPolicyBindings().Delete(ctx, hostpolicy.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		if err := admission.MutatingAdmissionPolicies().Delete(ctx, hostpolicy.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	r := m.start(t, "only", serving.Config{})
	ns := namespace(t, map[string]string{webhook.LabelInject: webhook.NamespaceEnabled})
	create := func(change func(*corev1.Pod)) (*corev1.Pod, int64, error) {
		pod := app()
		change(pod)
		before := r.calls.Load()
		pod, err := api.Client().CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return pod, r.calls.Load() - before, err
	}
	await(t, "the policy to be in force, and the webhook", func(ctx context.Context) (bool, string) {
		_, n, err := create(func(*corev1.Pod) {})
		_, left, err2 := create(func(p *corev1.Pod) { p.Annotations = map[string]string{webhook.AnnotationOutgoingPort: "4150"} })
		if err != nil || err2 != nil {
			return false, "a pod is refused"
		}
		return n == 0 && left > 0, "the injector is asked about the wrong pods"
	})
	for name, tt := range map[string]struct {
		change func(*corev1.Pod)
		calls  bool
		has    string // in http_proxy
	}{
		"host mode": {func(*corev1.Pod) {}, false, "http://$(TULLE_HOST_IP):4140"},
		"chained": {func(p *corev1.Pod) {
			p.Annotations = map[string]string{webhook.AnnotationOnConflict: webhook.ConflictChain}
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "http_proxy", Value: "http://corp.example:3128"}}
		}, true, "http://chain-"},
		"a port": {func(p *corev1.Pod) { p.Annotations = map[string]string{webhook.AnnotationOutgoingPort: "4150"} }, true, "http://$(TULLE_HOST_IP):4150"},
		"sidecar": {func(p *corev1.Pod) {
			p.Annotations = map[string]string{webhook.AnnotationMode: "sidecar"}
			p.Spec.ServiceAccountName = "default" // which a plugin does that is not there
		}, true, "http://127.0.0.1:4140"},
	} {
		pod, calls, err := create(tt.change)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		has := ""
		for _, e := range pod.Spec.Containers[0].Env {
			if e.Name == "http_proxy" {
				has = e.Value
			}
		}
		if (calls > 0) != tt.calls || !strings.HasPrefix(has, tt.has) {
			t.Errorf("%s: %d calls of the injector, http_proxy %q", name, calls, has)
		}
	}
	m.amongOthers(t)
}
