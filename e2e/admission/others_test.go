//go:build e2e

package admission

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/serving"
)

// other starts another mutating webhook, for the pods of one namespace, which changes them as change says: a JSON patch of
// what it wants, or nothing. By its name the API server asks it before ours or after.
func other(t *testing.T, name, namespace string, change func(corev1.Pod) []map[string]any) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		var pod corev1.Pod
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || json.Unmarshal(review.Request.Object.Raw, &pod) != nil {
			http.Error(w, fmt.Sprint(err), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		if ops := change(pod); len(ops) > 0 {
			kind := admissionv1.PatchTypeJSONPatch
			review.Response.Patch, _ = json.Marshal(ops)
			review.Response.PatchType = &kind
		}
		review.Request = nil
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	url, fail, none, again := server.URL, registrationv1.Fail, registrationv1.SideEffectClassNone, registrationv1.IfNeededReinvocationPolicy
	hooks := api.Client().AdmissionregistrationV1().MutatingWebhookConfigurations()
	if _, err := hooks.Create(t.Context(), &registrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []registrationv1.MutatingWebhook{{
			Name: name + ".example.com", FailurePolicy: &fail, SideEffects: &none, ReinvocationPolicy: &again, AdmissionReviewVersions: []string{"v1"},
			ClientConfig:      registrationv1.WebhookClientConfig{URL: &url, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}},
			Rules: []registrationv1.RuleWithOperations{{Operations: []registrationv1.OperationType{registrationv1.Create},
				Rule: registrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}},
		}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hooks.Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// Other webhooks before ours and after it add containers and variables and change images. In the end each container has
// what it needs once, in the right order, and what others did is there.
func TestOtherWebhooks(t *testing.T) {
	m := install(t, values("self"))
	m.start(t, "only", serving.Config{})
	m.amongOthers(t)
}

func (m *mesh) amongOthers(t *testing.T) {
	t.Helper()
	for name, change := range map[string]func(corev1.Pod) []map[string]any{
		"a container": func(p corev1.Pod) []map[string]any {
			if slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == "theirs" }) {
				return nil
			}
			return []map[string]any{{"op": "add", "path": "/spec/containers/0", "value": map[string]any{"name": "theirs", "image": "theirs", "securityContext": p.Spec.Containers[len(p.Spec.Containers)-1].SecurityContext}}}
		},
		"an init container": func(p corev1.Pod) []map[string]any {
			if slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == "theirs" }) {
				return nil
			}
			theirs := map[string]any{"name": "theirs", "image": "theirs"}
			if len(p.Spec.InitContainers) == 0 {
				return []map[string]any{{"op": "add", "path": "/spec/initContainers", "value": []any{theirs}}}
			}
			return []map[string]any{{"op": "add", "path": "/spec/initContainers/0", "value": theirs}}
		},
		"a variable": func(p corev1.Pod) []map[string]any {
			var ops []map[string]any
			for i, c := range p.Spec.Containers {
				if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "THEIRS" }) {
					continue
				}
				theirs := map[string]any{"name": "THEIRS", "value": "$(NODE_NAME)"}
				if len(c.Env) == 0 {
					ops = append(ops, map[string]any{"op": "add", "path": fmt.Sprintf("/spec/containers/%d/env", i), "value": []any{theirs}})
				} else {
					ops = append(ops, map[string]any{"op": "add", "path": fmt.Sprintf("/spec/containers/%d/env/0", i), "value": theirs})
				}
			}
			return ops
		},
		"no_proxy": func(p corev1.Pod) []map[string]any {
			var ops []map[string]any
			for i, c := range p.Spec.Containers {
				for j, e := range c.Env {
					if e.Name == "no_proxy" && !strings.HasSuffix(e.Value, ",theirs.example") {
						ops = append(ops, map[string]any{"op": "replace", "path": fmt.Sprintf("/spec/containers/%d/env/%d/value", i, j), "value": e.Value + ",theirs.example"})
					}
				}
			}
			return ops
		},
		"a registry": func(p corev1.Pod) []map[string]any {
			var ops []map[string]any
			for field, list := range map[string][]corev1.Container{"initContainers": p.Spec.InitContainers, "containers": p.Spec.Containers} {
				for i, c := range list {
					if !strings.HasPrefix(c.Image, "mirror.example/") {
						ops = append(ops, map[string]any{"op": "replace", "path": fmt.Sprintf("/spec/%s/%d/image", field, i), "value": "mirror.example/" + c.Image})
					}
				}
			}
			return ops
		},
	} {
		for _, when := range []string{"a-before", "z-after"} {
			t.Run(name+" "+when, func(t *testing.T) {
				ns := namespace(t, map[string]string{webhook.LabelInject: webhook.NamespaceEnabled})
				other(t, when, ns, change)
				await(t, "both webhooks to be asked", func(ctx context.Context) (bool, string) {
					pod, err := api.Client().CoreV1().Pods(ns).Create(ctx, app(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
					if err != nil {
						return false, err.Error()
					}
					raw, err := json.Marshal(pod)
					if err != nil {
						return false, err.Error()
					}
					return pod.Labels[webhook.LabelMode] == "host" && (strings.Contains(string(raw), "theirs") || strings.Contains(string(raw), "THEIRS") ||
						strings.Contains(string(raw), "mirror.example") || name == "no_proxy" && when == "a-before"), string(raw)
				})
				pod, err := api.Client().CoreV1().Pods(ns).Create(t.Context(), app(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
					var names []string
					for _, e := range c.Env {
						names = append(names, e.Name)
					}
					at := func(name string) int { return slices.Index(names, name) }
					if at("http_proxy") < 0 || at("TULLE_HOST_IP") < 0 || at("TULLE_HOST_IP") > at("http_proxy") || at("NODE_NAME") != 0 {
						t.Errorf("container %s has %v", c.Name, names)
					}
					if sorted := slices.Sorted(slices.Values(names)); len(slices.Compact(sorted)) != len(names) {
						t.Errorf("container %s has a variable twice: %v", c.Name, names)
					}
				}
				raw, err := json.Marshal(pod)
				if err != nil {
					t.Fatal(err)
				}
				where := webhook.Namespace{Name: ns, Labels: map[string]string{webhook.LabelInject: webhook.NamespaceEnabled}}
				if res, err := webhook.Inject(raw, where, m.settings.Config("")); err != nil || res.Patch != nil {
					t.Errorf("something is missing: %v, %s", err, res.Patch)
				}
				// What is ours can be taken out again; what is theirs, and what they made theirs, stays.
				undo, err := webhook.Uninject(raw)
				if err != nil {
					t.Fatal(err)
				}
				p, err := jsonpatch.DecodePatch(undo)
				if err != nil {
					t.Fatal(err)
				}
				back, err := p.Apply(raw)
				if err != nil {
					t.Fatal(err)
				}
				for _, ours := range []string{"tulle.dev/", "http_proxy", "TULLE_HOST_IP", `"NODE_NAME"`} {
					if strings.Contains(string(back), ours) {
						t.Errorf("%s stays in %s", ours, back)
					}
				}
				for _, theirs := range []string{"theirs", "THEIRS", "mirror.example"} {
					if strings.Contains(string(raw), theirs) && !strings.Contains(string(back), theirs) {
						t.Errorf("%s is gone from %s", theirs, back)
					}
				}
			})
		}
	}
}
