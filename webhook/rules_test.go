package webhook

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// selection is one line of the truth table: who is injected, and in which mode.
type selection struct {
	namespace, nsMode string // labels of the namespace; "-" for none
	pod, podMode      string // the pod's label and annotation
	def               Mode
	want              Reason
	mode              Mode
}

// TestSelection is the truth table of docs/injection.md, with all that is beside it.
func TestSelection(t *testing.T) {
	host, sidecar := InjectedHost, InjectedSidecar
	for _, s := range []selection{
		// The namespace decides whether,
		{"-", "-", "-", "-", "", NotEnabled, ""},
		{"disabled", "-", "-", "-", "", NotEnabled, ""},
		{"enabled", "-", "-", "-", "", host, ModeHost},
		{"best-effort", "-", "-", "-", "", host, ModeHost},
		{"true", "-", "-", "-", "", InvalidInject, ""},
		{"", "-", "-", "-", "", InvalidInject, ""},
		{"Enabled", "-", "-", "-", "", InvalidInject, ""},
		// the pod can only leave,
		{"-", "-", "true", "-", "", NotEnabled, ""},
		{"disabled", "-", "true", "sidecar", "", NotEnabled, ""},
		{"enabled", "-", "true", "-", "", host, ModeHost},
		{"enabled", "-", "false", "-", "", OptedOut, ""},
		{"best-effort", "-", "false", "-", "", OptedOut, ""},
		{"-", "-", "false", "-", "", OptedOut, ""},
		{"enabled", "-", "no", "-", "", InvalidInject, ""},
		{"enabled", "-", "", "-", "", InvalidInject, ""},
		// and nothing that is wrong counts where nobody asks.
		{"nonsense", "nonsense", "false", "nonsense", "", OptedOut, ""},
		{"disabled", "nonsense", "no", "nonsense", "", NotEnabled, ""},
		{"enabled", "nonsense", "false", "nonsense", "", OptedOut, ""},

		// The mode is the pod's, else the namespace's, else the cluster's.
		{"enabled", "-", "-", "-", ModeSidecar, sidecar, ModeSidecar},
		{"enabled", "-", "-", "-", ModeNone, ModeIsNone, ""},
		{"enabled", "sidecar", "-", "-", "", sidecar, ModeSidecar},
		{"enabled", "sidecar", "-", "-", ModeHost, sidecar, ModeSidecar},
		{"enabled", "host", "-", "-", ModeNone, host, ModeHost},
		{"enabled", "none", "-", "-", ModeHost, ModeIsNone, ""},
		{"enabled", "sidecar", "-", "host", ModeSidecar, host, ModeHost},
		{"enabled", "host", "-", "sidecar", ModeHost, sidecar, ModeSidecar},
		{"enabled", "none", "-", "sidecar", ModeNone, sidecar, ModeSidecar},
		{"enabled", "sidecar", "true", "none", ModeSidecar, ModeIsNone, ""},
		{"enabled", "nonsense", "-", "sidecar", ModeHost, sidecar, ModeSidecar},
		{"enabled", "nonsense", "-", "-", ModeHost, InvalidMode, ""},
		{"enabled", "host", "-", "nonsense", ModeHost, InvalidMode, ""},
		{"enabled", "host", "-", "", ModeHost, InvalidMode, ""},
		{"enabled", "", "-", "-", ModeHost, InvalidMode, ""},
		{"enabled", "host", "-", "Host", ModeHost, InvalidMode, ""},
	} {
		t.Run(fmt.Sprintf("%s,%s,%s,%s,%s", s.namespace, s.nsMode, s.pod, s.podMode, s.def), func(t *testing.T) {
			set := func(pairs ...string) map[string]string {
				m := map[string]string{}
				for i := 0; i < len(pairs); i += 2 {
					if pairs[i+1] != "-" {
						m[pairs[i]] = pairs[i+1]
					}
				}
				return m
			}
			ns := Namespace{Name: "shop", Labels: set(LabelInject, s.namespace, LabelMode, s.nsMode)}
			raw := marshal(t, object{
				"metadata": object{"labels": set(LabelInject, s.pod), "annotations": set(AnnotationMode, s.podMode)},
				"spec":     object{"containers": []any{object{"name": "app"}}}})
			cfg := testConfig()
			cfg.DefaultMode = s.def
			res, steps, err := Explain(raw, ns, cfg)
			if err != nil || res.Reason != s.want || res.Mode != s.mode {
				t.Fatalf("got %q, %s: %s, %v; want %q, %s", res.Mode, res.Reason, res.Message, err, s.mode, s.want)
			}
			if res.Reason.Denies() != (res.Message != "") || res.Reason.Denies() && !strings.Contains(res.Message, "allowed: ") {
				t.Errorf("denies: %v, message: %q", res.Reason.Denies(), res.Message)
			}
			checkSteps(t, res, steps)
			// Excluded is excluded, whatever else is said.
			ns.Name = "kube-system"
			if res := mustInject(t, raw, ns, cfg); res.Reason != NamespaceExcluded {
				t.Errorf("in kube-system: %s", res.Reason)
			}
		})
	}
}

// checkSteps holds steps to what Explain promises of them.
func checkSteps(t *testing.T, res Result, steps []Step) {
	t.Helper()
	table := rules()
	for i, step := range steps {
		if step.Rule != table[i].name || step.Said == "" || step.Decided != (i == len(steps)-1) {
			t.Errorf("step %d is %+v, of rule %s", i, step, table[i].name)
		}
	}
	if len(steps) == 0 {
		t.Error("no steps")
	} else if last := steps[len(steps)-1]; res.Message != "" && last.Said != res.Message {
		t.Errorf("the last step says %q, the message is %q", last.Said, res.Message)
	}
}

func TestExcludedNamespaces(t *testing.T) {
	raw := []byte(`{"metadata":{"annotations":{"tulle.dev/mode":"host"}},"spec":{"containers":[{"name":"app"}]}}`)
	cfg := testConfig()
	cfg.MeshNamespace, cfg.ExcludedNamespaces = "mesh", []string{"legacy"}
	for _, name := range []string{"kube-system", "kube-public", "kube-node-lease", "cert-manager", "mesh", "legacy"} {
		if res := mustInject(t, raw, enabled(name), cfg); res.Reason != NamespaceExcluded || res.Patch != nil {
			t.Errorf("namespace %s: %s", name, res.Reason)
		}
	}
	if res := mustInject(t, raw, enabled("tulle"), cfg); res.Reason != InjectedHost {
		t.Errorf("namespace tulle of a mesh in another namespace: %s", res.Reason)
	}
}

// Every annotation that people may write has values that are refused, with the key, the value and the allowed ones.
func TestEveryKeyIsChecked(t *testing.T) {
	for _, key := range Annotations() {
		for _, mode := range modes() {
			annotations := object{key: "?\x07" + strings.Repeat("x", 300)}
			raw := marshal(t, object{"metadata": object{"annotations": annotations}, "spec": object{"containers": []any{object{"name": "app"}}}})
			res := mustInject(t, raw, enabled("shop", LabelMode, string(mode)), testConfig())
			if !res.Reason.Denies() || !strings.Contains(res.Message, key) || !strings.Contains(res.Message, `"?\a`) ||
				!strings.Contains(res.Message, "allowed: ") || !strings.Contains(res.Message, "hint: ") {
				t.Errorf("%s in mode %s: %s, %q", key, mode, res.Reason, res.Message)
			}
			if len(res.Message) > 1000 {
				t.Errorf("%s in mode %s: a message of %d bytes", key, mode, len(res.Message))
			}
		}
	}
}

// What Explain says is what Inject does; and it says something of each rule, and of each container.
func TestExplain(t *testing.T) {
	raw := []byte(`{"metadata":{"name":"p","annotations":{"tulle.dev/skip-containers":"quiet"}},"spec":{"initContainers":[{"name":"first"}],
		"containers":[{"name":"app"},{"name":"quiet"},{"name":"istio-proxy"},{"name":"own","env":[{"name":"http_proxy","value":"http://corp:3128"}]}]}}`)
	for _, mode := range modes() {
		ns := enabled("shop", LabelMode, string(mode))
		res, steps, err := Explain(raw, ns, testConfig())
		if err != nil || len(steps) != len(rules()) {
			t.Fatalf("%v, %d steps", err, len(steps))
		}
		checkSteps(t, res, steps)
		if same := mustInject(t, raw, ns, testConfig()); string(same.Patch) != string(res.Patch) || same.Hash != res.Hash || same.Reason != res.Reason {
			t.Errorf("mode %s: Inject and Explain differ", mode)
		}
		last := steps[len(steps)-1].Said
		for container, word := range map[string]string{"first": "gets", "app": "gets", "quiet": "skipped", "istio-proxy": "another mesh", "own": "left alone"} {
			if i := strings.Index(last, fmt.Sprintf("container %q", container)); i < 0 || !strings.Contains(strings.Split(last[i:], ";")[0], word) {
				t.Errorf("mode %s: nothing about %s being %s in %q", mode, container, word, last)
			}
		}
	}
	redirected := []byte(`{"metadata":{"annotations":{"tulle.dev/capture":"redirect"}},"spec":{"containers":[{"name":"app"}]}}`)
	if res, steps, err := Explain(redirected, enabled("shop", LabelMode, "sidecar"), testConfig()); err != nil || res.Patch == nil || steps[len(steps)-1].Said == "" {
		t.Errorf("with a redirect the last step says nothing: %+v, %v", steps, err)
	}
}

func TestBounded(t *testing.T) {
	long := strings.Repeat("ü", 200)
	var many []string
	for i := range 50 {
		many = append(many, fmt.Sprintf("%d %s", i, long), "twice")
	}
	got := bounded(many)
	sum := 0
	seen := map[string]bool{}
	for _, w := range got {
		sum += len(w)
		if len(w) > maxWarning || seen[w] || strings.ToValidUTF8(w, "") != w {
			t.Errorf("warning %q", w)
		}
		seen[w] = true
	}
	if sum > maxWarnings || len(got) < 10 || !strings.Contains(got[len(got)-1], "more warnings") {
		t.Errorf("%d warnings of %d bytes, the last: %s", len(got), sum, got[len(got)-1])
	}
	if got := bounded([]string{"a", "b", "a"}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q", got)
	}
	if bounded(nil) != nil {
		t.Error("warnings from nothing")
	}
}

func TestUnknownKeys(t *testing.T) {
	for key, want := range map[string]string{
		"tulle.dev/mod": "tulle.dev/mode", "tulle.dev/outgoing": "tulle.dev/outgoing-port", "tulle.dev/skipports": "tulle.dev/skip-ports",
		"tulle.dev/onconflict": "tulle.dev/on-conflict", "tulle.dev/proxy-cpu": "tulle.dev/proxy-cpu-request", "tulle.dev/something-else": "",
	} {
		raw := marshal(t, object{"metadata": object{"annotations": object{key: "x"}}, "spec": object{"containers": []any{object{"name": "app"}}}})
		warnings := mustInject(t, raw, enabled("shop"), testConfig()).Warnings
		if len(warnings) != 1 || !strings.Contains(warnings[0], key) || strings.Contains(warnings[0], "mean "+want+"?") != (want != "") {
			t.Errorf("%s: %q", key, warnings)
		}
	}
	// Ours, and those of others, are not unknown.
	raw := marshal(t, object{"metadata": object{"labels": object{"app": "x"}, "annotations": object{"example.com/mod": "x"}}, "spec": object{"containers": []any{object{"name": "app"}}}})
	if warnings := mustInject(t, raw, enabled("shop"), testConfig()).Warnings; len(warnings) > 0 {
		t.Errorf("warnings %q", warnings)
	}
	if keys := Annotations(); len(slices.Compact(slices.Sorted(slices.Values(keys)))) != len(keys) {
		t.Error("an annotation is listed twice")
	}
}

func TestHostAddress(t *testing.T) {
	raw := []byte(`{"spec":{"containers":[{"name":"app"}]}}`)
	for address, want := range map[string]string{
		"": "http://$(TULLE_HOST_IP):4140", "auto": "http://$(TULLE_HOST_IP):4140", "hostIP": "http://$(TULLE_HOST_IP):4140",
		"hostIPv6": "http://[$(TULLE_HOST_IP)]:4140", "nodeName": "http://$(NODE_NAME):4140",
		"service": "http://tulle-host.tulle.svc:4140", "$(NODE_NAME).nodes.example": "http://$(NODE_NAME).nodes.example:4140",
	} {
		cfg := testConfig()
		cfg.HostAddress, cfg.HostService = address, "tulle-host.tulle.svc"
		res := mustInject(t, raw, enabled("shop"), cfg)
		env := tree(t, applied(t, raw, res))["spec"].(object)["containers"].([]any)[0].(object)["env"].([]any)
		if env[0].(object)["name"] != "NODE_NAME" || env[2].(object)["value"] != want || env[3].(object)["value"] != want {
			t.Errorf("%q: %v", address, env)
		}
	}
	cfg := testConfig()
	cfg.HostAddress, cfg.HostService = "service", "tulle-host.tulle.svc"
	for pod, want := range map[string]int{
		`"hostNetwork":true,"dnsPolicy":"ClusterFirst"`: 2, `"hostNetwork":true,"dnsPolicy":"Default"`: 2, `"hostNetwork":true,"dnsPolicy":"ClusterFirstWithHostNet"`: 1,
		`"dnsPolicy":"Default"`: 1, `"dnsPolicy":"ClusterFirst"`: 0, `"dnsPolicy":"None"`: 0,
	} {
		raw := []byte(`{"spec":{` + pod + `,"containers":[{"name":"app"}]}}`)
		if res := mustInject(t, raw, enabled("shop"), cfg); len(res.Warnings) != want || res.Reason != InjectedHost {
			t.Errorf("%s: %s, %q", pod, res.Reason, res.Warnings)
		}
	}
	cfg.HostService = ""
	if _, err := Inject(raw, enabled("shop"), cfg); err == nil || !strings.Contains(err.Error(), "Service") {
		t.Errorf("service without one: %v", err)
	}
}
