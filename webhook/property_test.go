package webhook

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"pgregory.net/rapid"
)

type object = map[string]any

func genEnvEntry(t *rapid.T, name string) object {
	e := object{"name": name}
	field := func(path string) object { return object{"fieldRef": object{"fieldPath": path}} }
	switch name {
	case "NODE_NAME":
		if rapid.IntRange(0, 3).Draw(t, "node name") > 0 {
			e["valueFrom"] = field("spec.nodeName")
		} else {
			e["value"] = "mine"
		}
	case "TULLE_HOST_IP":
		e["valueFrom"] = field("status.hostIP")
	case "TULLE_POD_IP":
		e["valueFrom"] = field("status.podIP")
	case "http_proxy", "HTTP_PROXY":
		e["value"] = rapid.SampledFrom([]string{"http://$(TULLE_HOST_IP):4140", "http://127.0.0.1:4140", "http://corp:3128"}).Draw(t, "proxy")
	case "no_proxy", "NO_PROXY":
		switch rapid.IntRange(0, 3).Draw(t, "kind of no_proxy") {
		case 0:
			e["valueFrom"] = object{"configMapKeyRef": object{"name": "c", "key": "k"}}
		case 1: // neither: an empty value
		default:
			e["value"] = rapid.SampledFrom([]string{"", "a", "$(A),b", "localhost, *", ".svc ,", "x,169.254.169.254,"}).Draw(t, "no_proxy")
		}
	default:
		if rapid.Bool().Draw(t, "from") {
			e["valueFrom"] = object{"secretKeyRef": object{"name": "s", "key": "k"}}
		} else {
			e["value"] = rapid.String().Draw(t, "value")
		}
	}
	if rapid.IntRange(0, 5).Draw(t, "future") == 0 {
		e["future"] = rapid.String().Draw(t, "future of env")
	}
	return e
}

func genContainer(t *rapid.T, name string) object {
	c := object{"name": name, "image": rapid.StringMatching(`[a-z]{1,5}:[0-9]`).Draw(t, "image")}
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"A", "B", "C", "NODE_NAME", "TULLE_HOST_IP", "TULLE_POD_IP",
		"http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"}), 0, 6, rapid.ID[string]).Draw(t, "env names")
	switch {
	case len(names) > 0:
		env := []any{}
		for _, n := range names {
			env = append(env, genEnvEntry(t, n))
		}
		c["env"] = env
	case rapid.Bool().Draw(t, "empty env"):
		c["env"] = []any{}
	case rapid.Bool().Draw(t, "null env"):
		c["env"] = nil
	}
	if rapid.Bool().Draw(t, "args") {
		c["args"] = []any{rapid.String().Draw(t, "arg")}
	}
	if rapid.Bool().Draw(t, "future") {
		c["future"] = object{"n": rapid.Int().Draw(t, "n"), "s": rapid.String().Draw(t, "s")}
	}
	if rapid.Bool().Draw(t, "ports") {
		c["ports"] = []any{object{"containerPort": rapid.IntRange(8000, 8100).Draw(t, "port")}}
	}
	return c
}

func genPod(t *rapid.T) object {
	metadata := object{"generateName": "p-"}
	if rapid.Bool().Draw(t, "labels") {
		metadata["labels"] = object{"app": "a", "x/y~z": rapid.String().Draw(t, "label")}
	}
	switch rapid.IntRange(0, 4).Draw(t, "annotations") {
	case 0:
		metadata["annotations"] = nil
	case 1:
		metadata["annotations"] = object{"note": rapid.String().Draw(t, "annotation"), "kubectl.kubernetes.io/default-container": "app0"}
	case 2:
		metadata["annotations"] = object{
			AnnotationOnConflict:     rapid.SampledFrom([]string{ConflictLeave, ConflictChain, ConflictOverride}).Draw(t, "conflict"),
			AnnotationSkipContainers: rapid.SampledFrom([]string{"app0", "init0, app1", "other"}).Draw(t, "skip"),
		}
	case 3:
		metadata["annotations"] = genAsks(t)
	}
	if rapid.IntRange(0, 3).Draw(t, "own mode label") == 0 {
		metadata["labels"] = object{LabelMode: rapid.SampledFrom([]string{"host", "sidecar", "none", "x"}).Draw(t, "mode label"), LabelInject: "true"}
	}
	spec := object{}
	list := func(field, prefix string, low int) {
		n := rapid.IntRange(low, 3).Draw(t, field)
		if n == 0 && rapid.Bool().Draw(t, "absent") {
			return
		}
		containers := []any{}
		for i := range n {
			containers = append(containers, genContainer(t, prefix+strconv.Itoa(i)))
		}
		spec[field] = containers
	}
	list("initContainers", "init", 0)
	list("containers", "app", 1)
	if rapid.Bool().Draw(t, "volumes") {
		spec["volumes"] = []any{object{"name": "v", "emptyDir": object{}}}
	}
	if rapid.Bool().Draw(t, "pull secrets") {
		spec["imagePullSecrets"] = []any{object{"name": rapid.SampledFrom([]string{"mine", "mesh"}).Draw(t, "pull secret")}}
	}
	if rapid.Bool().Draw(t, "situation") {
		genSituation(t, spec)
	}
	if rapid.IntRange(0, 3).Draw(t, "host network") == 0 {
		spec["hostNetwork"] = true
	}
	return object{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "future": []any{nil, 1.5}}
}

func genConfig(t *rapid.T) Config {
	cfg := testConfig()
	cfg.SidecarAddress = rapid.SampledFrom([]string{"", "$(TULLE_POD_IP)"}).Draw(t, "sidecar address")
	cfg.HostAddress = rapid.SampledFrom([]string{"", "[$(TULLE_HOST_IP)]", "$(NODE_NAME)", "proxy.host"}).Draw(t, "host address")
	cfg.NativeSidecar = rapid.SampledFrom([]*bool{nil, new(true), new(false)}).Draw(t, "native")
	cfg.ImagePullSecrets = rapid.SampledFrom([][]string{nil, {"mesh"}, {"mesh", "more"}}).Draw(t, "config's pull secrets")
	return cfg
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		original := genPod(t)
		raw, err := json.Marshal(original)
		if err != nil {
			t.Fatal(err)
		}
		original = tree(t, raw)
		cfg := genConfig(t)
		mode := rapid.SampledFrom(modes()).Draw(t, "mode")
		ns := enabled("shop", LabelMode, string(mode))

		res := mustInject(t, raw, ns, cfg)
		if (res.Patch != nil) != (res.Reason == InjectedHost || res.Reason == InjectedSidecar || res.Reason == AppDefinesProxy) {
			t.Fatalf("reason %s with patch %s", res.Reason, res.Patch)
		}
		if res.Reason == EnvTaken && cfg.HostAddress != "$(NODE_NAME)" {
			t.Fatalf("nothing needs a variable that can be in the way: %s", res.Message)
		}
		if res.Patch == nil {
			return
		}
		patched := applied(t, raw, res)

		if len(res.Warnings) > 0 && len(strings.Join(res.Warnings, "")) > maxWarnings || slices.ContainsFunc(res.Warnings, func(w string) bool { return len(w) > maxWarning }) {
			t.Fatalf("the warnings are too long: %q", res.Warnings)
		}
		if second := mustInject(t, patched, ns, cfg); second.Reason != AlreadyInjected || second.Patch != nil || second.Hash != res.Hash {
			t.Fatalf("the second pass is %s with patch %s", second.Reason, second.Patch)
		}
		checkOnlyOurs(t, original, tree(t, patched))
	})
}

// checkOnlyOurs holds every promise about a patched pod that can be seen from outside.
func checkOnlyOurs(t *rapid.T, before, after object) {
	specBefore, specAfter := before["spec"].(object), after["spec"].(object)
	foreign := func(field string, is func(string) bool) []any {
		list, _ := specAfter[field].([]any)
		var out []any
		for _, e := range list {
			if !is(e.(object)["name"].(string)) {
				out = append(out, e)
			}
		}
		return out
	}
	ours := func(name string) bool { return strings.HasPrefix(name, "tulle-") }
	for _, field := range []string{"initContainers", "containers"} {
		was, _ := specBefore[field].([]any)
		is := foreign(field, ours)
		if len(is) != len(was) {
			t.Fatalf("%s: %d became %d", field, len(was), len(is))
		}
		for i := range is {
			envWas, _ := was[i].(object)["env"].([]any)
			envIs, _ := is[i].(object)["env"].([]any)
			checkEnvironment(t, envWas, envIs)
			is[i].(object)["env"] = envWas
		}
		for _, e := range list(specAfter[field]) {
			if env, ok := e.(object)["env"].([]any); ok && ours(e.(object)["name"].(string)) {
				checkEnvironment(t, nil, env)
			}
		}
		specAfter[field] = is
	}
	specAfter["volumes"] = foreign("volumes", ours)
	secrets := map[string]bool{}
	for i, e := range list(specAfter["imagePullSecrets"]) {
		if name := e.(object)["name"].(string); secrets[name] {
			t.Fatalf("pull secret %s is there twice", name)
		} else if secrets[name] = true; i < len(list(specBefore["imagePullSecrets"])) && !reflect.DeepEqual(e, list(specBefore["imagePullSecrets"])[i]) {
			t.Fatal("the user's pull secrets are not the first")
		}
	}
	specAfter["imagePullSecrets"] = specBefore["imagePullSecrets"]

	is, was := after["metadata"].(object), before["metadata"].(object)
	for field, keys := range map[string][]string{"labels": {LabelMode}, "annotations": {AnnotationStatus, "kubectl.kubernetes.io/default-container"}} {
		for i, key := range keys {
			m := is[field].(object)
			if _, ok := m[key]; !ok && i == 0 {
				t.Fatalf("%s lacks %s", field, key)
			}
			if delete(m, key); was[field] != nil {
				delete(was[field].(object), key)
			}
		}
	}
	if before, after := pruned(before), pruned(after); !reflect.DeepEqual(before, after) {
		t.Fatalf("more changed than what is ours:\n%v\n%v", before, after)
	}
}

func list(v any) []any { l, _ := v.([]any); return l }

// checkEnvironment compares an environment before and after.
func checkEnvironment(t *rapid.T, before, after []any) {
	known := map[string]bool{"KUBERNETES_SERVICE_HOST": true} // set by the kubelet
	was := map[string]object{}
	for _, e := range before {
		was[e.(object)["name"].(string)] = e.(object)
	}
	for _, e := range after {
		entry := e.(object)
		name := entry["name"].(string)
		if known[name] {
			t.Fatalf("%s is there twice, or after what refers to it", name)
		}
		value, _ := entry["value"].(string)
		if old := was[name]; old == nil || !reflect.DeepEqual(old, entry) {
			for _, ref := range references(strings.TrimPrefix(value, stringOf(old["value"]))) {
				if !known[ref] && ref != "A" { // A is in texts of the user's that are copied
					t.Fatalf("%s=%q refers to %s, which is not defined before it", name, value, ref)
				}
			}
		}
		known[name] = true
	}
	// What the user had, apart from the variables that may move or grow, is as it was and in its order.
	ours := []string{"NODE_NAME", "TULLE_HOST_IP", "TULLE_POD_IP", "http_proxy", "HTTP_PROXY"}
	keep := func(env []any) []any {
		var out []any
		for _, e := range env {
			entry := e.(object)
			name := entry["name"].(string)
			if slices.Contains(ours, name) || was[name] == nil {
				continue
			}
			if name == "no_proxy" || name == "NO_PROXY" {
				if !strings.HasPrefix(stringOf(entry["value"]), stringOf(was[name]["value"])) {
					t.Fatalf("%s lost the user's text: %v", name, entry)
				}
				entry = object{"name": name}
			}
			out = append(out, entry)
		}
		return out
	}
	if !reflect.DeepEqual(keep(before), keep(after)) {
		t.Fatalf("the user's environment changed:\n%v\n%v", before, after)
	}
}

func stringOf(v any) string { s, _ := v.(string); return s }

// A pod that passes Pod Security "restricted" passes it with either injection.
func TestPodSecurityRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	container := object{"name": "app", "image": "app:1", "securityContext": object{
		"allowPrivilegeEscalation": false, "capabilities": object{"drop": []any{"ALL"}, "add": []any{"NET_BIND_SERVICE"}}}}
	for name, podContext := range map[string]object{
		"plain":    {"runAsNonRoot": true, "seccompProfile": object{"type": "RuntimeDefault"}},
		"one user": {"runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 2000, "seccompProfile": object{"type": "RuntimeDefault"}},
	} {
		raw := marshal(t, object{"metadata": object{"name": "p"}, "spec": object{
			"automountServiceAccountToken": false, "securityContext": podContext, "containers": []any{container}}})
		for _, mode := range modes() {
			patched := applied(t, raw, mustInject(t, raw, enabled("shop", LabelMode, string(mode)), testConfig()))
			var pod corev1.Pod
			if err := json.Unmarshal(patched, &pod); err != nil {
				t.Fatal(err)
			}
			for _, res := range evaluator.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec) {
				if !res.Allowed {
					t.Errorf("%s, mode %s: %s: %s", name, mode, res.ForbiddenReason, res.ForbiddenDetail)
				}
			}
			for _, c := range pod.Spec.InitContainers {
				if len(c.SecurityContext.Capabilities.Add) != 0 {
					t.Errorf("mode %s: the sidecar has the app's capabilities", mode)
				}
			}
		}
	}
}

// FuzzInject: whatever the pod, an answer and no panic; and a patch that applies and is complete.
func FuzzInject(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"p","annotations":{"tulle.dev/mode":"sidecar"}},"spec":{"containers":[{"name":"a","env":[{"name":"no_proxy","value":"\""}]}]}}`))
	f.Add([]byte(`{"metadata":{"annotations":{"tulle.dev/status":"{}"}},"spec":{"initContainers":null,"containers":[{"name":"a","env":[null]}],"volumes":[null]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, mode := range modes() {
			ns := enabled("shop", LabelMode, string(mode))
			res, err := Inject(raw, ns, testConfig())
			if err != nil {
				continue
			}
			if res.Reason.Denies() && (res.Patch != nil || res.Message == "") {
				t.Fatalf("denied: %+v", res)
			}
			if res.Patch == nil {
				continue
			}
			second, err := Inject(applied(t, raw, res), ns, testConfig())
			if err != nil || second.Patch != nil {
				t.Fatalf("the second pass is %+v, %v", second, err)
			}
		}
	})
}
