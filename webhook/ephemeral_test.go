package webhook

import (
	"strings"
	"testing"
)

func TestEphemeral(t *testing.T) {
	base := object{"metadata": object{"name": "p"}, "spec": object{"containers": []any{object{"name": "app"}}}}
	for _, mode := range modes() {
		pod := applied(t, marshal(t, base), mustInject(t, marshal(t, base), enabled("shop", LabelMode, string(mode)), testConfig()))
		with := func(containers ...any) []byte {
			p := tree(t, pod)
			p["spec"].(object)["ephemeralContainers"] = containers
			return marshal(t, p)
		}
		own := object{"name": "own", "env": []any{object{"name": "http_proxy", "value": "http://corp:3128"}}}
		taken := object{"name": "taken", "env": []any{object{"name": "TULLE_HOST_IP", "value": "x"}}}
		res, err := InjectEphemeral(with(object{"name": "old"}), with(object{"name": "old"}, object{"name": "new"}, own, taken))
		if err != nil || res.Mode != mode || res.Reason.Denies() || res.Patch == nil {
			t.Fatalf("%s: %+v, %v", mode, res, err)
		}
		patched := applied(t, with(object{"name": "old"}, object{"name": "new"}, own, taken), res)
		spec := tree(t, patched)["spec"].(object)
		got := spec["ephemeralContainers"].([]any)
		app, _ := spec["containers"].([]any)[0].(object)["env"].([]any)
		if fresh, _ := got[1].(object)["env"].([]any); len(got) != 4 || len(fresh) == 0 || len(fresh) != len(app) {
			t.Errorf("%s: the ephemeral container has %v, the app %v", mode, fresh, app)
		}
		if len(got[0].(object)) != 1 || len(got[2].(object)["env"].([]any)) != 1 {
			t.Errorf("%s: what runs already, or has its own proxy, was changed: %v", mode, got)
		}
		if want := map[Mode]int{ModeHost: 2, ModeSidecar: 1}[mode]; len(res.Warnings) != want {
			t.Errorf("%s: warnings %q", mode, res.Warnings)
		}
		again, err := InjectEphemeral(with(object{"name": "old"}), patched)
		if err != nil || again.Patch != nil || again.Reason != AlreadyInjected {
			t.Errorf("%s: the second pass is %s, %v: %s", mode, again.Reason, err, again.Patch)
		}
	}
	// An annotation that somebody has changed since chooses no proxy.
	forged := tree(t, applied(t, marshal(t, base), mustInject(t, marshal(t, base), enabled("shop"), testConfig())))
	annotations := forged["metadata"].(object)["annotations"].(object)
	annotations[AnnotationStatus] = strings.ReplaceAll(annotations[AnnotationStatus].(string), "http://$(TULLE_HOST_IP):4140", "http://evil:1")
	forged["spec"].(object)["ephemeralContainers"] = []any{object{"name": "new"}}
	if res, err := InjectEphemeral(nil, marshal(t, forged)); err != nil || res.Reason != NotMeshed || res.Patch != nil {
		t.Errorf("a forged status: %+v, %v", res, err)
	}
	raw := marshal(t, base)
	if res, err := InjectEphemeral(nil, raw); err != nil || res.Reason != NotMeshed || res.Patch != nil {
		t.Errorf("a pod without injection: %+v, %v", res, err)
	}
	if _, err := InjectEphemeral(nil, []byte(`{`)); err == nil {
		t.Error("no error for what is no pod")
	}
}

func TestServerAnswersEphemeral(t *testing.T) {
	s, _ := newTestServer(t)
	pod := []byte(`{"metadata":{"name":"p"},"spec":{"containers":[{"name":"app"}]}}`)
	injected := applied(t, pod, mustInject(t, pod, enabled("shop"), testConfig()))
	debugged := strings.Replace(string(injected), `"spec":{`, `"spec":{"ephemeralContainers":[{"name":"debug"}],`, 1)
	review := func(object string) string {
		return strings.NewReplacer(`"operation":"CREATE"`, `"operation":"UPDATE","subResource":"ephemeralcontainers"`).Replace(reviewOf(object, "shop"))
	}
	if res := answer(t, post(s, review(debugged))); !res.Allowed || !strings.Contains(string(res.Patch), "/spec/ephemeralContainers/0/env") || res.AuditAnnotations["mode"] != "host" {
		t.Errorf("got %+v, %s", res, res.Patch)
	}
	// Nothing keeps anybody from debugging.
	for _, object := range []string{`{}`, `null`, string(pod), `{"spec":{"containers":{}}}`} {
		if res := answer(t, post(s, review(object))); !res.Allowed || res.Patch != nil || res.AuditAnnotations["reason"] != "not_meshed" {
			t.Errorf("%s: %+v", object, res)
		}
	}
}
