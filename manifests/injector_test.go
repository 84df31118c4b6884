package manifests_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// injector returns values of the injector's section.
func injector(values map[string]any) map[string]any { return map[string]any{"injector": values} }

func selects(t *testing.T, s *metav1.LabelSelector, set labels.Set) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(set)
}

// Which entry of the webhook is asked, by the labels of namespace and pod: at most one, and for what is none of our
// business none, for then a broken injector cannot be in its way.
func TestWebhookEntries(t *testing.T) {
	config := all[admission.MutatingWebhookConfiguration](render(t, "mesh", injector(map[string]any{"excludedNamespaces": []any{"legacy", "kube-public"}})))["tulle-injector"]
	asked := func(operation admission.OperationType, resource string, namespace, pod labels.Set) string {
		var names []string
		for _, h := range config.Webhooks {
			if slices.Contains(h.Rules[0].Operations, operation) && slices.Contains(h.Rules[0].Resources, resource) && selects(t, h.NamespaceSelector, namespace) && selects(t, h.ObjectSelector, pod) {
				names = append(names, h.Name)
			}
		}
		return strings.Join(names, " ")
	}
	namespace := func(name, inject string) labels.Set {
		set := labels.Set{corev1.LabelMetadataName: name}
		if inject != "" {
			set["tulle.dev/inject"] = inject
		}
		return set
	}
	for label, want := range map[string]string{
		"enabled": "inject.tulle.dev", "best-effort": "best-effort.inject.tulle.dev", "disabled": "", "": "",
		"true": "labels.inject.tulle.dev", "Enabled": "labels.inject.tulle.dev",
	} {
		for _, name := range []string{"shop", "tulle", "default"} {
			ns := namespace(name, label)
			for pod, want := range map[string]string{"": want, "true": want, "nonsense": want, "false": ""} {
				set := labels.Set{}
				if pod != "" {
					set["tulle.dev/inject"] = pod
				}
				if got := asked(admission.Create, "pods", ns, set); got != want {
					t.Errorf("a pod with %v in %v: %q is asked, want %q", set, ns, got, want)
				}
			}
			debug := ""
			if label == "enabled" || label == "best-effort" {
				debug = "debug.inject.tulle.dev"
			}
			if got := asked(admission.Update, "pods/ephemeralcontainers", ns, labels.Set{"tulle.dev/mode": "host"}); got != debug {
				t.Errorf("debugging in %v: %q is asked, want %q", ns, got, debug)
			}
			if got := asked(admission.Update, "pods/ephemeralcontainers", ns, nil) + asked(admission.Update, "pods", ns, nil); got != "" {
				t.Errorf("%q is asked about a pod that is not in the mesh, or about an update", got)
			}
		}
		for _, name := range []string{"mesh", "legacy", "kube-system", "kube-public", "kube-node-lease", "cert-manager"} {
			if got := asked(admission.Create, "pods", namespace(name, label), nil) + asked(admission.Update, "pods/ephemeralcontainers", namespace(name, label), labels.Set{"tulle.dev/mode": "host"}); got != "" {
				t.Errorf("%q is asked about pods of namespace %s", got, name)
			}
		}
	}
	for _, h := range config.Webhooks {
		want := admission.Ignore
		if h.Name == "inject.tulle.dev" {
			want = admission.Fail
		}
		if *h.FailurePolicy != want || *h.ReinvocationPolicy != admission.IfNeededReinvocationPolicy || *h.SideEffects != admission.SideEffectClassNone ||
			*h.TimeoutSeconds != 5 || !slices.Equal(h.AdmissionReviewVersions, []string{"v1"}) || *h.ClientConfig.Service.Path != "/inject" || h.ClientConfig.Service.Namespace != "mesh" ||
			len(h.MatchConditions) != 1 || !strings.Contains(h.MatchConditions[0].Expression, "kubernetes.io/config.mirror") {
			t.Errorf("the entry is %+v", h)
		}
	}
}

// Who fills in the caBundle. The chart never does: what it had rendered would be taken back by the next upgrade.
func TestWebhookCertificate(t *testing.T) {
	for certificate, want := range map[string]struct {
		from, setting string
		writes        bool
	}{"self": {"", "self", true}, "cert-manager": {"mesh/tulle-controller", "file", false}} {
		objects := render(t, "mesh", injector(map[string]any{"certificate": certificate}))
		for name, config := range all[admission.MutatingWebhookConfiguration](objects) {
			if got := config.Annotations["cert-manager.io/inject-ca-from"]; got != want.from {
				t.Errorf("%s: cainjector brings the CA of %q to %s", certificate, got, name)
			}
			for _, h := range config.Webhooks {
				if h.ClientConfig.CABundle != nil {
					t.Errorf("%s: the chart fills in the CA of %s", certificate, h.Name)
				}
			}
		}
		text := all[corev1.ConfigMap](objects)["tulle-controller"].Data["controller.yaml"]
		if !strings.Contains(text, "\nwebhook-certificate: "+want.setting) {
			t.Errorf("%s: the settings are\n%s", certificate, text)
		}
		writes := slices.ContainsFunc(all[rbacv1.ClusterRole](objects)["tulle-controller"].Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.Verbs, "patch") && slices.Equal(r.Resources, []string{"mutatingwebhookconfigurations"}) && slices.Equal(r.ResourceNames, []string{"tulle-injector", "tulle-dtabs"})
		})
		keeps := slices.ContainsFunc(all[rbacv1.Role](objects)["tulle-controller"].Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.Verbs, "update") && slices.Equal(r.Resources, []string{"secrets"}) && slices.Equal(r.ResourceNames, []string{"tulle-webhook-ca"})
		})
		if writes != want.writes || keeps != want.writes {
			t.Errorf("%s: the controller may write the CA bundle: %v, keep the CA: %v", certificate, writes, keeps)
		}
	}
}

// The injector's settings reach the controller as its own words.
func TestInjectorSettings(t *testing.T) {
	read := func(values map[string]any) map[string]any {
		var settings struct{ Inject map[string]any }
		if err := yaml.Unmarshal([]byte(all[corev1.ConfigMap](render(t, "mesh", values))["tulle-controller"].Data["controller.yaml"]), &settings); err != nil {
			t.Fatal(err)
		}
		return settings.Inject
	}
	for _, c := range []struct {
		values map[string]any
		want   map[string]any
	}{
		{map[string]any{}, map[string]any{"host-address": "auto", "native-sidecar": "auto", "architectures": "amd64,arm64", "excluded-namespaces": "", "image-pull-secrets": ""}},
		{map[string]any{"hostAddress": "[$(TULLE_HOST_IP)]", "nativeSidecar": true, "excludedNamespaces": []any{"a", "b"}, "imagePullSecrets": []any{"reg"},
			"architectures": []any{"arm64"}, "resources": map[string]any{"limits": map[string]any{"cpu": "1"}}},
			map[string]any{"host-address": "[$(TULLE_HOST_IP)]", "native-sidecar": "true", "architectures": "arm64", "excluded-namespaces": "a,b", "image-pull-secrets": "reg", "proxy-cpu-limit": "1"}},
	} {
		got := read(injector(c.values))
		maps.DeleteFunc(got, func(key string, _ any) bool { return c.want[key] == nil })
		if !maps.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.values, got, c.want)
		}
	}
}

// The Service of the host proxies leads to the proxy of the caller's own node, and there is none without proxies.
func TestHostService(t *testing.T) {
	s := all[corev1.Service](render(t, "mesh", nil))["tulle-host"]
	if *s.Spec.InternalTrafficPolicy != corev1.ServiceInternalTrafficPolicyLocal || s.Spec.Ports[0].Port != 4140 || !maps.Equal(s.Spec.Selector, map[string]string{
		"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "host"}) {
		t.Errorf("the Service is %+v", s.Spec)
	}
	if s := all[corev1.Service](render(t, "mesh", map[string]any{"host": map[string]any{"enabled": false}}))["tulle-host"]; s != nil {
		t.Error("a Service without host proxies")
	}
}

// The namespace in which the injector tries itself: its pods are asked about, and nobody but the controller needs it.
func TestProbe(t *testing.T) {
	objects := render(t, "mesh", injector(map[string]any{"probe": true}))
	ns := all[corev1.Namespace](objects)["mesh-probe"]
	if ns == nil || ns.Labels["tulle.dev/inject"] != "enabled" || ns.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Fatalf("the namespace is %+v", ns)
	}
	role := all[rbacv1.Role](objects)["tulle-probe"]
	if role.Namespace != "mesh-probe" || len(role.Rules) != 1 || !slices.Equal(role.Rules[0].Resources, []string{"pods"}) || !slices.Equal(role.Rules[0].Verbs, []string{"create"}) {
		t.Errorf("the role is %+v", role)
	}
	if text := all[corev1.ConfigMap](objects)["tulle-controller"].Data["controller.yaml"]; !strings.Contains(text, "\nprobe-namespace: mesh-probe\n") {
		t.Errorf("the settings are\n%s", text)
	}
	if ns := all[corev1.Namespace](render(t, strings.Repeat("a", 63), injector(map[string]any{"probe": true})))[strings.Repeat("a", 57)+"-probe"]; ns == nil {
		t.Error("a long name makes one that is too long")
	}
	if ns := all[corev1.Namespace](render(t, "mesh", injector(map[string]any{"probe": false}))); len(ns) != 1 {
		t.Errorf("namespaces %v", slices.Collect(maps.Keys(ns)))
	}
}
