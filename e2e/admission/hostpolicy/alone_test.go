//go:build e2e

package hostpolicy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/hostpolicy"
)

// alone puts the policies of a mesh without a webhook into the API server.
func alone(t *testing.T, cfg webhook.Config, labels map[string]string) *mesh {
	t.Helper()
	objects, err := hostpolicy.Alone(cfg)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, objects[len(objects)-2:]...)
	m := start(t, cfg, labels)
	wrong := namespace(t, map[string]string{webhook.LabelInject: "wrong"})
	eventually(t, "the refusals are in force", func() bool {
		_, err := create(t.Context(), m.client, wrong, []byte(`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"a"}]}}`))
		return isRefusal(err)
	})
	return m
}

// What is refused where there is no webhook, in which words.
func TestRefusals(t *testing.T) {
	m := alone(t, webhook.Config{}, enabled("host"))
	spaces := map[string]map[string]string{
		"enabled":      enabled("host"),
		"best-effort":  {webhook.LabelInject: webhook.NamespaceBestEffort},
		"disabled":     {webhook.LabelInject: webhook.NamespaceDisabled, webhook.LabelMode: "x"},
		"label wrong":  {webhook.LabelInject: "true"},
		"mode wrong":   enabled("Host"),
		"mode sidecar": enabled("sidecar"),
		"none":         {},
	}
	names := map[string]string{}
	for name, labels := range spaces {
		names[name] = namespace(t, labels)
	}
	const plain = `"containers":[{"name":"app","image":"app"}]`
	for _, tt := range []struct{ space, meta, spec, says string }{
		{"enabled", ``, plain, ""},
		{"enabled", `"annotations":{"tulle.dev/mode":"none"}`, plain, ""},
		{"enabled", `"labels":{"tulle.dev/inject":"false"},"annotations":{"tulle.dev/mode":"x"}`, plain, ""},
		{"enabled", `"annotations":{"tulle.dev/mode":"x"}`, `"os":{"name":"windows"},` + plain, ""},
		{"enabled", `"labels":{"tulle.dev/inject":"no"}`, plain, `the pod's label tulle.dev/inject is "no", allowed: true, false`},
		{"enabled", `"annotations":{"tulle.dev/mode":"x"}`, plain, `the pod's annotation tulle.dev/mode is "x", allowed: host, sidecar, none`},
		{"enabled", `"annotations":{"tulle.dev/mode":"sidecar"}`, plain, `no injector for sidecars`},
		{"enabled", `"annotations":{"tulle.dev/skip-ports":"80","tulle.dev/outgoing-port":"4150","tulle.dev/capture":"env"}`, plain, `annotations tulle.dev/outgoing-port, tulle.dev/skip-ports as they are`},
		{"enabled", `"annotations":{"tulle.dev/skip-containers":"a,"}`, plain, `annotations tulle.dev/skip-containers as`},
		{"enabled", `"annotations":{"tulle.dev/status":"{\"version\":\"v2\",\"mode\":\"host\",\"hash\":\"0\"}"}`, plain, `annotations tulle.dev/status as`},
		{"enabled", ``, `"containers":[{"name":"app","image":"app","env":[{"name":"TULLE_HOST_IP","value":"x"}]}]`, `a container defines TULLE_HOST_IP or NODE_NAME in its own way`},
		{"best-effort", ``, plain, ""},
		{"best-effort", `"labels":{"tulle.dev/inject":"no"}`, plain, `allowed: true, false`},
		{"best-effort", `"annotations":{"tulle.dev/mode":"x"}`, plain, `allowed: host, sidecar, none`},
		{"best-effort", `"annotations":{"tulle.dev/mode":"sidecar"}`, plain, ""},
		{"best-effort", `"annotations":{"tulle.dev/skip-ports":"80"}`, plain, ""},
		{"disabled", `"annotations":{"tulle.dev/mode":"x"}`, plain, ""},
		{"label wrong", ``, plain, `is "true", allowed: enabled, best-effort, disabled`},
		{"label wrong", `"labels":{"tulle.dev/inject":"false"}`, plain, ""},
		{"mode wrong", ``, plain, `is "Host", allowed: host, sidecar, none`},
		{"mode sidecar", ``, plain, `no injector for sidecars`},
		{"mode sidecar", `"annotations":{"tulle.dev/mode":"host"}`, plain, ""},
		{"none", `"annotations":{"tulle.dev/mode":"x"}`, plain, ""},
	} {
		pod := fmt.Sprintf(`{"metadata":{"name":"a",%s},"spec":{%s}}`, tt.meta, tt.spec)
		pod = strings.Replace(pod, `"a",}`, `"a"}`, 1)
		_, err := create(t.Context(), m.client, names[tt.space], []byte(pod))
		switch {
		case tt.says == "" && err != nil:
			t.Errorf("namespace %s: %s is refused: %v", tt.space, pod, err)
		case tt.says != "" && (!isRefusal(err) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "hint: ")):
			t.Errorf("namespace %s: %s: %v, expected %q and a hint", tt.space, pod, err, tt.says)
		}
	}
}

// No pod of host mode starts outside of the mesh, and none is refused that the policy does.
func TestRefusalsOfGeneratedPods(t *testing.T) {
	m := alone(t, webhook.Config{}, enabled("host"))
	rapid.Check(t, func(t *rapid.T) {
		raw, err := json.Marshal(genPod(t, "http://$(TULLE_HOST_IP):4140"))
		if err != nil {
			t.Fatal(err)
		}
		read, want := m.byWebhook(t, raw)
		if read == nil {
			t.Skip("no pod")
		}
		got := m.byPolicy(raw)
		switch left := hostpolicy.Leaves(read.Annotations, m.cfg, want.res); {
		case want.res.Reason.Denies() || want.res.Patch != nil && left != "":
			if !isRefusal(got.err) {
				t.Fatalf("the webhook says %s, %s, but the pod is not refused: %v\n%s", want.res.Reason, left, got.err, raw)
			}
		case want.res.Patch == nil:
			if got.err != nil || same(got.pod) != same(read) {
				t.Fatalf("the webhook says %s, but the pod is not taken as it is: %v\n%s", want.res.Reason, got.err, raw)
			}
		case got.err != nil || same(got.pod) != same(want.pod):
			t.Fatalf("%v, by the policy:\n%s\nby the webhook:\n%s", got.err, same(got.pod), same(want.pod))
		}
	})
}

// Others add containers, before and after: those get their environment too.
func TestReinvocation(t *testing.T) {
	m := start(t, webhook.Config{}, enabled("host"))
	other := func(name string) (*admission.MutatingAdmissionPolicy, *admission.MutatingAdmissionPolicyBinding) {
		return &admission.MutatingAdmissionPolicy{
				TypeMeta:   metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingAdmissionPolicy"},
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: admission.MutatingAdmissionPolicySpec{
					MatchConstraints: &admission.MatchResources{
						ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"add": name}},
						ResourceRules: []admission.NamedRuleWithOperations{{RuleWithOperations: admission.RuleWithOperations{
							Operations: []admission.OperationType{admission.Create},
							Rule:       admission.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
						}}},
					},
					FailurePolicy:      new(admission.Fail),
					ReinvocationPolicy: admission.NeverReinvocationPolicy,
					Mutations: []admission.Mutation{{PatchType: admission.PatchTypeJSONPatch, JSONPatch: &admission.JSONPatch{
						Expression: `object.spec.containers.exists(c, c.name == 'added') ? [] : [JSONPatch{op: 'add', path: '/spec/containers/0', value: {'name': 'added', 'image': 'added'} }]`}}},
				},
			}, &admission.MutatingAdmissionPolicyBinding{
				TypeMeta:   metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingAdmissionPolicyBinding"},
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec:       admission.MutatingAdmissionPolicyBindingSpec{PolicyName: name},
			}
	}
	for _, name := range []string{"a-first", "z-last"} {
		policy, binding := other(name)
		apply(t, policy, binding)
		pod := []byte(`{"metadata":{"name":"a","labels":{"add":"` + name + `"}},"spec":{"containers":[{"name":"app","image":"app","env":[{"name":"no_proxy","value":"x"}]}]}}`)
		added := []byte(`{"metadata":{"name":"a","labels":{"add":"` + name + `"}},"spec":{"containers":[{"name":"added","image":"added"},{"name":"app","image":"app","env":[{"name":"no_proxy","value":"x"}]}]}}`)
		eventually(t, "the other policy is in force", func() bool {
			got, err := create(t.Context(), m.client, m.bare, pod)
			return err == nil && len(got.Spec.Containers) == 2
		})
		_, want := m.byWebhook(t, added)
		if got := m.byPolicy(pod); got.err != nil || same(got.pod) != same(want.pod) {
			t.Errorf("%s: %v, by the policy:\n%s\nby the webhook:\n%s", name, got.err, same(got.pod), same(want.pod))
		}
	}
}

// Pods of a size that people make cost the policy little of what the API server allows. One beyond that is left to the
// webhook or, where there is none, refused; in a best-effort namespace it starts outside of the mesh.
func TestCost(t *testing.T) {
	m := alone(t, webhook.Config{}, enabled("host"))
	pod := func(containers, entries int, value string) []byte {
		var list []any
		for i := range containers {
			env := []any{object{"name": "no_proxy", "value": strings.Repeat(value, 40)}}
			for j := range entries {
				env = append(env, object{"name": fmt.Sprintf("V%d", j), "value": value})
			}
			env = append(env, object{"name": "NODE_NAME", "valueFrom": object{"fieldRef": object{"fieldPath": "spec.nodeName"}}})
			list = append(list, object{"name": fmt.Sprintf("app%d", i), "image": "app", "env": env})
		}
		text, err := json.Marshal(object{"metadata": object{"name": "a"}, "spec": object{"containers": list}})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if left := m.check(t, pod(20, 100, "some.host.example,")); left != "" {
		t.Errorf("20 containers with 100 variables each are left alone: %s", left)
	}
	huge := pod(1500, 2, "x")
	if got := m.byPolicy(huge); !isRefusal(got.err) || !strings.Contains(got.err.Error(), "too large") {
		t.Errorf("1500 containers: %v, expected a refusal that says they are too many", got.err)
	}
	free := namespace(t, map[string]string{webhook.LabelInject: webhook.NamespaceBestEffort})
	if got, err := create(t.Context(), m.client, free, huge); err != nil || got.Labels[webhook.LabelMode] != "" {
		t.Errorf("in a best-effort namespace: %v, %v", err, got)
	}
}
