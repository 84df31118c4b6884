package webhook

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the goldens anew")

// TestGolden runs the cases of testdata/inject. Each is a txtar archive: namespace.yaml and pod.yaml go in,
// result.yaml and, if the pod was changed, injected.yaml come out.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/inject/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	covered := map[Reason]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in, want := map[string][]byte{}, map[string]string{}
			var kept []txtar.File
			for _, f := range ar.Files {
				if f.Name == "result.yaml" || f.Name == "injected.yaml" {
					want[f.Name] = string(f.Data)
					continue
				}
				kept = append(kept, f)
				in[f.Name] = f.Data
			}
			ns, cfg := enabled("shop"), testConfig()
			if text, ok := in["namespace.yaml"]; ok {
				ns = Namespace{}
				if err := yaml.UnmarshalStrict(text, &ns); err != nil {
					t.Fatal(err)
				}
			}
			if text, ok := in["config.yaml"]; ok {
				if err := yaml.UnmarshalStrict(text, &cfg); err != nil {
					t.Fatal(err)
				}
			}
			raw, err := yaml.YAMLToJSON(in["pod.yaml"])
			if err != nil {
				t.Fatal(err)
			}

			res := mustInject(t, raw, ns, cfg)
			covered[res.Reason] = true
			got := map[string]string{"result.yaml": summary(t, res)}
			if res.Patch != nil {
				patched := applied(t, raw, res)
				text, err := yaml.JSONToYAML(patched)
				if err != nil {
					t.Fatal(err)
				}
				got["injected.yaml"] = string(text)
				second := mustInject(t, patched, ns, cfg)
				if second.Reason != AlreadyInjected || second.Hash != res.Hash || second.Patch != nil {
					t.Errorf("the second pass is %s with patch %s", second.Reason, second.Patch)
				}
				if diff := cmp.Diff(pruned(tree(t, raw)), pruned(tree(t, uninjected(t, patched)))); diff != "" {
					t.Errorf("uninjected: (-before +after)\n%s", diff)
				}
			}
			if *update {
				ar.Files = append(kept, txtar.File{Name: "result.yaml", Data: []byte(got["result.yaml"])})
				if text, ok := got["injected.yaml"]; ok {
					ar.Files = append(ar.Files, txtar.File{Name: "injected.yaml", Data: []byte(text)})
				}
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	// The first three are the server's; the last are not given yet: whoever does, takes them off this list.
	others := []Reason{NotAPod, InvalidPod, InternalError, NotMeshed, UIDTaken, Architecture, PodSecurity}
	for _, r := range Reasons() {
		if !covered[r] && !slices.Contains(others, r) {
			t.Errorf("no case in testdata/inject ends with %s", r)
		}
	}
}

func summary(t *testing.T, res Result) string {
	t.Helper()
	text, err := yaml.Marshal(struct {
		Mode     Mode     `json:"mode,omitempty"`
		Reason   Reason   `json:"reason"`
		Message  string   `json:"message,omitempty"`
		Warnings []string `json:"warnings,omitempty"`
	}{res.Mode, res.Reason, res.Message, res.Warnings})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What no version of the Go types knows must survive, wherever it stands.
func TestUnknownFieldsSurvive(t *testing.T) {
	raw := []byte(`{"apiVersion":"v1","kind":"Pod","future":{"a":[1,2.50,1e3]},
		"metadata":{"name":"p","labels":{"app":"a"},"future":true},
		"spec":{"future":"x","containers":[{"name":"app","image":"i","future":{"deep":[{"n":12345678901234567890}]},
			"env":[{"name":"A","value":"1","future":{"x":"y"}},{"name":"no_proxy","value":"corp","future":1}]}],
			"initContainers":[{"name":"first","restartPolicy":"Sometimes","future":null}],
			"volumes":[{"name":"v","future":{"kind":"new"}}]}}`)
	for _, mode := range modes() {
		patched := applied(t, raw, mustInject(t, raw, enabled("shop", LabelMode, string(mode)), testConfig()))
		for _, want := range []string{
			`"future":{"a":[1,2.50,1e3]}`, `"future":true`, `"future":"x"`, `"future":{"deep":[{"n":12345678901234567890}]}`,
			`"future":{"x":"y"}`, `"future":1`, `"restartPolicy":"Sometimes"`, `"future":null`, `"future":{"kind":"new"}`,
		} {
			if !bytes.Contains(patched, []byte(want)) {
				t.Errorf("mode %s: lost %s in\n%s", mode, want, patched)
			}
		}
	}
}

// A webhook that runs after ours may add a container; the API server then asks again.
func TestSecondPassCompletes(t *testing.T) {
	for _, mode := range modes() {
		ns := enabled("shop", LabelMode, string(mode))
		raw := []byte(`{"metadata":{"name":"p"},"spec":{"containers":[{"name":"app"}]}}`)
		first := applied(t, raw, mustInject(t, raw, ns, testConfig()))
		pod := tree(t, first)
		spec := pod["spec"].(map[string]any)
		spec["containers"] = append(spec["containers"].([]any), map[string]any{"name": "late", "env": []any{map[string]any{"name": "A", "value": "$(B)"}}})
		again := marshal(t, pod)
		res := mustInject(t, again, ns, testConfig())
		if res.Patch == nil || bytes.Contains(res.Patch, []byte("/spec/containers/0")) || !bytes.Contains(res.Patch, []byte("/spec/containers/1/env/0")) {
			t.Errorf("mode %s: the second pass is %s, %s", mode, res.Reason, res.Patch)
		}
		third := mustInject(t, applied(t, again, res), ns, testConfig())
		if third.Reason != AlreadyInjected || third.Patch != nil {
			t.Errorf("mode %s: the third pass is %s, %s", mode, third.Reason, third.Patch)
		}
	}
}

// With another configuration, an earlier injection is taken out and done anew.
func TestEarlierInjectionIsReplaced(t *testing.T) {
	raw := []byte(`{"metadata":{"name":"p"},"spec":{"initContainers":[{"name":"i"}],"containers":[{"name":"app","env":[{"name":"A","value":"b"},{"name":"no_proxy","value":"corp"}]}]}}`)
	changed := testConfig()
	changed.OutgoingPort, changed.ProxyImage = 5140, "tulle.dev/tulle-proxy:new"
	for _, before := range modes() {
		for _, after := range modes() {
			patched := applied(t, raw, mustInject(t, raw, enabled("shop", LabelMode, string(before)), testConfig()))
			ns := enabled("shop", LabelMode, string(after))
			res := mustInject(t, patched, ns, changed)
			fresh := mustInject(t, raw, ns, changed)
			if res.Reason != fresh.Reason || res.Hash != fresh.Hash || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "replaced") {
				t.Errorf("%s to %s: %s with hash %s, %q; a fresh one is %s with hash %s", before, after, res.Reason, res.Hash, res.Warnings, fresh.Reason, fresh.Hash)
			}
			if diff := cmp.Diff(tree(t, applied(t, raw, fresh)), tree(t, applied(t, patched, res))); diff != "" {
				t.Errorf("%s to %s: (-fresh +replaced)\n%s", before, after, diff)
			}
		}
	}
	// A status without its sidecar is a copied annotation, and no injection.
	forged := []byte(`{"metadata":{"name":"p","annotations":{"tulle.dev/status":"{\"version\":\"v2\",\"mode\":\"sidecar\",\"hash\":\"x\"}"}},"spec":{"containers":[{"name":"app"}]}}`)
	if res := mustInject(t, forged, enabled("shop", LabelMode, "sidecar"), changed); res.Reason != InjectedSidecar {
		t.Errorf("a status without a sidecar gives %s", res.Reason)
	}
	// What another version wrote, this one cannot read.
	later := []byte(`{"metadata":{"name":"p","annotations":{"tulle.dev/status":"{\"version\":\"v3\",\"mode\":\"host\",\"hash\":\"x\"}"}},"spec":{"containers":[{"name":"app"}]}}`)
	if res := mustInject(t, later, enabled("shop"), changed); res.Reason != AlreadyInjected || res.Patch != nil || len(res.Warnings) != 1 {
		t.Errorf("a status of another version gives %+v", res)
	}
}

func TestHash(t *testing.T) {
	raw := []byte(`{"metadata":{"name":"p"},"spec":{"containers":[{"name":"app","resources":{"requests":{"cpu":"1"}}}]}}`)
	other := []byte(`{"metadata":{"name":"q"},"spec":{"containers":[{"name":"x","resources":{"requests":{"cpu":"1"}}},{"name":"y"}]}}`)
	sidecar := enabled("shop", LabelMode, "sidecar")
	base := mustInject(t, raw, sidecar, testConfig()).Hash
	if got := mustInject(t, other, sidecar, testConfig()).Hash; got != base {
		t.Errorf("two pods with one configuration have hashes %s and %s", base, got)
	}
	for name, change := range map[string]func(*Config){
		"image": func(c *Config) { c.ProxyImage += "2" }, "CA": func(c *Config) { c.ControllerCA += testCA },
		"port": func(c *Config) { c.AdminPort = 9991 }, "memory": func(c *Config) { c.MemoryLimit = "1Gi" },
	} {
		cfg := testConfig()
		change(&cfg)
		if got := mustInject(t, raw, sidecar, cfg).Hash; got == base {
			t.Errorf("another %s gives the same hash", name)
		}
	}
	if got := mustInject(t, raw, enabled("shop"), testConfig()).Hash; got == base {
		t.Error("the modes give one hash")
	}
}

func TestStatusAnnotation(t *testing.T) {
	raw := []byte(`{"metadata":{"name":"p"},"spec":{"initContainers":[{"name":"i"}],"containers":[{"name":"app"},{"name":"own","env":[{"name":"http_proxy","value":"http://corp:3128"}]}]}}`)
	res := mustInject(t, raw, enabled("shop", LabelMode, "sidecar"), testConfig())
	meta := tree(t, applied(t, raw, res))["metadata"].(map[string]any)
	var got Status
	if err := json.Unmarshal([]byte(meta["annotations"].(map[string]any)[AnnotationStatus].(string)), &got); err != nil {
		t.Fatal(err)
	}
	want := Status{Version: "v2", Mode: ModeSidecar, Hash: res.Hash, Proxy: "http://127.0.0.1:4140", Env: []string{"http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"},
		Containers: []string{"i", "app"}, Left: []string{"own"}, Added: []string{"tulle-proxy"}, Volumes: []string{"tulle-token"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], `"own"`) {
		t.Errorf("warnings: %q", res.Warnings)
	}
}

func TestInjectErrors(t *testing.T) {
	for name, raw := range map[string]string{
		"empty": ``, "not JSON": `{`, "null": `null`, "list": `[]`, "no containers": `{"spec":{}}`,
		"null container": `{"spec":{"containers":[null]}}`, "env is no list": `{"spec":{"containers":[{"name":"a","env":{}}]}}`,
		"labels are no map": `{"metadata":{"labels":[]},"spec":{"containers":[{"name":"a"}]}}`,
		"init without name": `{"spec":{"containers":[{"name":"a"}],"initContainers":[{}]}}`,
	} {
		if res, err := Inject([]byte(raw), enabled("shop"), testConfig()); err == nil {
			t.Errorf("%s: got %+v", name, res)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	if err := testConfig().Validate(); err != nil {
		t.Errorf("the test's configuration: %v", err)
	}
	bad := Config{DefaultMode: "both", OutgoingPort: 80, HostAddress: "$(HOSTNAME)", SidecarAddress: "$(NODE_NAME)",
		PullPolicy: "always", ControllerURL: "http://x", ControllerCA: "pem", CPURequest: "ten", MemoryLimit: "1XB"}
	err := bad.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`"both"`, "80", "$(HOSTNAME)", "$(NODE_NAME)", "proxy image", `"always"`, "https", "PEM", `"ten"`, `"1XB"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s:\n%v", want, err)
		}
	}
	// Host mode works without what only sidecars need.
	raw := []byte(`{"spec":{"containers":[{"name":"app"}]}}`)
	if res := mustInject(t, raw, enabled("shop"), Config{}); res.Reason != InjectedHost {
		t.Errorf("with an empty configuration: %s", res.Reason)
	}
	if _, err := Inject(raw, enabled("shop", LabelMode, "sidecar"), Config{}); err == nil {
		t.Error("an empty configuration makes sidecars")
	}
}

func BenchmarkInject(b *testing.B) {
	raw := []byte(`{"metadata":{"name":"p","labels":{"app":"a"}},"spec":{"containers":[{"name":"app","env":[{"name":"A","value":"b"}]}],"volumes":[{"name":"v"}]}}`)
	for _, mode := range modes() {
		b.Run(string(mode), func(b *testing.B) {
			ns := enabled("shop", LabelMode, string(mode))
			for b.Loop() {
				if _, err := Inject(raw, ns, testConfig()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
