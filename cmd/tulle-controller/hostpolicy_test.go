package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admission "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/webhook/hostpolicy"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

// TestHostModePolicyOfTheChart holds the policy that the chart renders against the one that follows from the settings
// that the chart renders: both come to the same pods, down to the hash.
func TestHostModePolicyOfTheChart(t *testing.T) {
	for name, tt := range map[string]struct {
		namespace string
		injector  map[string]any
	}{
		"hostIP":       {"tulle", map[string]any{"hostAddress": "hostIP"}},
		"hostIPv6":     {"tulle", map[string]any{"hostAddress": "hostIPv6", "probe": false, "defaultMode": "sidecar"}},
		"nodeName":     {"mesh", map[string]any{"hostAddress": "nodeName", "excludedNamespaces": []any{"a", "b"}}},
		"service":      {"mesh", map[string]any{"hostAddress": "service", "webhook": false}},
		"literal":      {"tulle", map[string]any{"hostAddress": "169.254.20.10", "webhook": false, "probe": false}},
		"name in name": {"tulle", map[string]any{"hostAddress": "proxy.$(NODE_NAME).nodes.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.injector["hostModePolicy"] = true
			rendered, err := manifests.Render(tt.namespace, map[string]any{"injector": tt.injector})
			if err != nil {
				t.Fatal(err)
			}
			got, text, hook := policiesOf(t, string(rendered))
			s, err := settings.Parse("controller.yaml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			cfg := s.Config("")
			generate := hostpolicy.Alone
			if tt.injector["webhook"] != false {
				generate = hostpolicy.Generate
				if tt.injector["probe"] != false { // which is to try the webhook
					cfg.ExcludedNamespaces = append(cfg.ExcludedNamespaces, tt.namespace+"-probe")
				}
			}
			want, err := generate(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-of the settings +of the chart)\n%s", diff)
			}
			if (hook != nil) != (tt.injector["webhook"] != false) {
				t.Fatalf("the webhook is there: %v", hook != nil)
			}
			if hook == nil {
				return
			}
			done, err := hostpolicy.Done(cfg)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range hook.Webhooks {
				for _, c := range w.MatchConditions {
					if c.Name == hostpolicy.Condition && c.Expression != "!("+done+")" {
						t.Errorf("%s: the condition is\n%s, expected\n!(%s)", w.Name, c.Expression, done)
					}
				}
				pods := w.Name == "inject.tulle.dev" || w.Name == "best-effort.inject.tulle.dev"
				if has := slices.ContainsFunc(w.MatchConditions, func(c admission.MatchCondition) bool { return c.Name == hostpolicy.Condition }); has != pods {
					t.Errorf("%s has the conditions %v", w.Name, w.MatchConditions)
				}
			}
		})
	}
}

// What cannot be is refused with what would be right.
func TestHostModePolicyWithout(t *testing.T) {
	for want, injector := range map[string]map[string]any{
		"injector.hostModePolicy needs injector.hostAddress": {"hostModePolicy": true},
		"injector.webhook is false: without injector":        {"webhook": false},
	} {
		if _, err := manifests.Render("tulle", map[string]any{"injector": injector}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, expected %q", injector, err, want)
		}
	}
}

// policiesOf returns the policies and bindings without labels, the controller's settings, and the injector's webhook.
func policiesOf(t *testing.T, rendered string) (policies []runtime.Object, text string, hook *admission.MutatingWebhookConfiguration) {
	t.Helper()
	decoder := scheme.Codecs.UniversalDeserializer()
	for _, document := range strings.Split(rendered, "\n---\n") {
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			continue // a type of others
		}
		switch o := object.(type) {
		case *corev1.ConfigMap:
			if settings, ok := o.Data["controller.yaml"]; ok {
				text = settings
			}
		case *admission.MutatingWebhookConfiguration:
			if o.Name == "tulle-injector" {
				hook = o
			}
		case *admission.MutatingAdmissionPolicy, *admission.MutatingAdmissionPolicyBinding, *admission.ValidatingAdmissionPolicy, *admission.ValidatingAdmissionPolicyBinding:
			object.(metav1.Object).SetLabels(nil)
			policies = append(policies, object)
		}
	}
	return policies, text, hook
}
