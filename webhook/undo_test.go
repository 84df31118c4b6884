package webhook

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"pgregory.net/rapid"
)

// uninjected returns pod as Uninject leaves it.
func uninjected(t fataler, pod []byte) []byte {
	t.Helper()
	patch, err := Uninject(pod)
	if err != nil {
		t.Fatalf("uninject: %v\n%s", err, pod)
	}
	return applied(t, pod, Result{Patch: patch})
}

// pruned is v without what means nothing: nulls, and maps and lists that are empty.
func pruned(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			if p := pruned(value); p != nil {
				out[key] = p
			}
		}
		if len(out) > 0 {
			return out
		}
		return nil
	case []any:
		if len(v) == 0 {
			return nil
		}
		out := make([]any, len(v))
		for i, value := range v {
			out[i] = pruned(value)
		}
		return out
	case string:
		if v == "" {
			return nil // as Kubernetes has it, a value that is empty is one that is not there
		}
	}
	return v
}

func TestUninjectIsTheInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pod := genPod(t)
		for _, c := range slices.Concat(list(pod["spec"].(object)["initContainers"]), list(pod["spec"].(object)["containers"])) {
			if env := list(c.(object)["env"]); len(env) > 0 && rapid.IntRange(0, 3).Draw(t, "twice") == 0 { // which Kubernetes allows
				c.(object)["env"] = append(env, genEnvEntry(t, rapid.SampledFrom(env).Draw(t, "which").(object)["name"].(string)))
			}
		}
		raw, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		cfg := genConfig(t)
		ns := enabled("shop", LabelMode, string(rapid.SampledFrom(modes()).Draw(t, "mode")))
		res := mustInject(t, raw, ns, cfg)
		if res.Patch == nil {
			if patch, err := Uninject(raw); err != nil || patch != nil {
				t.Fatalf("a pod without an injection: %s, %v", patch, err)
			}
			return
		}
		patched := applied(t, raw, res)
		back := uninjected(t, patched)
		if diff := cmp.Diff(pruned(tree(t, raw)), pruned(tree(t, back))); diff != "" {
			t.Fatalf("(-before +after)\n%s\npatch %s", diff, res.Patch)
		}
		if patch, err := Uninject(back); err != nil || patch != nil {
			t.Fatalf("the second time: %s, %v", patch, err)
		}
		// And from one injection to any other, as if the first had never been.
		other := genConfig(t)
		mode := enabled("shop", LabelMode, string(rapid.SampledFrom(modes()).Draw(t, "other mode")))
		fresh, again := mustInject(t, raw, mode, other), mustInject(t, patched, mode, other)
		if again.Reason == AlreadyInjected {
			again.Reason = res.Reason
		}
		if fresh.Reason != again.Reason {
			t.Fatalf("a fresh pod is %s (%s), an injected one %s (%s)", fresh.Reason, fresh.Message, again.Reason, again.Message)
		}
		if fresh.Patch == nil {
			return
		}
		if diff := cmp.Diff(pruned(tree(t, applied(t, raw, fresh))), pruned(tree(t, applied(t, patched, again)))); diff != "" {
			t.Fatalf("(-fresh +again)\n%s", diff)
		}
	})
}

// Whatever the status says, Uninject takes nothing that does not look as Tulle has written it.
func TestUninjectLeavesWhatIsNotOurs(t *testing.T) {
	const pod = `{"metadata":{"name":"p","labels":{"tulle.dev/mode":"%MODE%"},"annotations":{"mine":"x","tulle.dev/status":%STATUS%}},"spec":{
		"initContainers":[{"name":"first"},{"name":"tulle-proxy","image":"mine"}],
		"containers":[{"name":"app","env":[{"name":"NODE_NAME","value":"n"},{"name":"http_proxy","value":"http://corp:3128"},
			{"name":"HTTP_PROXY","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}},{"name":"no_proxy","value":"corp,localhost"},{"name":"A","value":"b"}]}],
		"volumes":[{"name":"data"},{"name":"tulle-token"}],"imagePullSecrets":[{"name":"mine"}]}}`
	for name, status := range map[string]string{
		"everything is ours": `{"version":"v2","mode":"host","hash":"x","proxy":"http://p:1","env":["NODE_NAME","http_proxy","HTTP_PROXY","no_proxy","A"],"containers":["app"],
			"added":["first","tulle-proxy","app"],"volumes":["data"],"undo":{"annotations":{"mine":{"set":"y","was":"z"}},"env":{"other":{"added":["A"]}}}}`,
		"wild indices": `{"version":"v2","mode":"host","hash":"x","proxy":"http://p:1","containers":["app","none"],
			"undo":{"env":{"app":{"moved":{"A":-7,"none":3},"grown":{"no_proxy":-1,"A":99,"HTTP_PROXY":0},"was":{"http_proxy":{"value":"gone"},"A":{"value":"gone"}}}}}}`,
		"cuts the user's list": `{"version":"v2","mode":"host","hash":"x","proxy":"http://p:1","containers":["app"],"undo":{"env":{"app":{"grown":{"no_proxy":2}}}}}`,
	} {
		text, _ := json.Marshal(status)
		raw := []byte(strings.NewReplacer("%STATUS%", string(text), "%MODE%", "sidecar").Replace(pod))
		want := tree(t, raw)
		delete(want["metadata"].(object)["annotations"].(object), AnnotationStatus)
		if diff := cmp.Diff(want, tree(t, uninjected(t, raw))); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestUninjectErrors(t *testing.T) {
	for name, status := range map[string]string{
		"no JSON": "x", "no object": "[]", "no mode": `{"version":"v2","hash":"x"}`,
		"another version": `{"version":"v9","mode":"host","hash":"x"}`, "no sidecar": `{"version":"v2","mode":"sidecar","hash":"x","added":["tulle-proxy"]}`,
	} {
		raw := marshal(t, object{"metadata": object{"annotations": object{AnnotationStatus: status}}, "spec": object{"containers": []any{object{"name": "a"}}}})
		if patch, err := Uninject(raw); err == nil || patch != nil || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: %s, %v", name, patch, err)
		}
	}
	if _, err := Uninject([]byte(`{}`)); err == nil {
		t.Error("no error for what is no pod")
	}
}

// FuzzUninject: whatever the pod and its status, no panic, and a patch that applies.
func FuzzUninject(f *testing.F) {
	f.Add([]byte(`{"metadata":{"annotations":{"tulle.dev/status":"{\"version\":\"v2\",\"mode\":\"host\",\"hash\":\"x\",\"proxy\":\"http://p:1\",\"env\":[\"http_proxy\"],\"containers\":[\"a\"]}"}},"spec":{"containers":[{"name":"a","env":[{"name":"http_proxy","value":"http://p:1"}]}]}}`))
	f.Add([]byte(`{"metadata":{"annotations":{"tulle.dev/status":"{\"version\":\"v2\",\"mode\":\"host\",\"hash\":\"x\",\"containers\":[\"a\"],\"undo\":{\"env\":{\"a\":{\"moved\":{\"A\":9},\"was\":{\"B\":{\"valueFrom\":1}}}}}}"}},"spec":{"containers":[{"name":"a","env":[{"name":"A"},{"name":"B","value":"x"},null]}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		text, err := Uninject(raw)
		if err != nil || text == nil {
			return
		}
		patch, err := jsonpatch.DecodePatch(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := patch.Apply(raw); err != nil {
			t.Fatalf("%v\n%s\n%s", err, text, raw)
		}
	})
}
