package inject

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/settings"
	"github.com/tulle-mesh/tulle/webhook/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs a command and returns what it wrote.
func run(t *testing.T, cmd *cobra.Command, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, talk bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&talk)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(t.Context())
	return out.String(), talk.String(), err
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func same(t *testing.T, what string, a, b []byte) {
	t.Helper()
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil || !reflect.DeepEqual(x, y) {
		t.Errorf("%s: got %s\nwant %s", what, a, b)
	}
}

const ca = "-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n"

// odd is what is not in the example of the manifests.
const odd = `kind: List
apiVersion: v1
items:
- apiVersion: batch/v1
  kind: CronJob
  metadata: {name: night, namespace: hello}
  spec:
    jobTemplate:
      spec:
        template:
          metadata:
            annotations: {tulle.dev/mode: sidecar} # for now
          spec:
            restartPolicy: Never
            initContainers:
            - {name: init, image: i, env: [{name: no_proxy, value: corp.test}]}
            containers:
            - name: job
              image: j
              env: # its own
                # a
                - name: A
                  value: "1"
                - name: HTTP_PROXY
                  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
            volumes:
            - emptyDir: {}
              name: tmp
---
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "world"}, "spec": {"hostNetwork": true, "containers": [{"name": "p", "env": []}]}}
`

// What the command makes of a template is what the webhook makes of its pod, and uninject finds back.
func TestAsTheWebhook(t *testing.T) {
	caFile := file(t, "ca.crt", ca)
	for name, text := range map[string]string{"hello.yaml": string(manifests.HelloWorld()), "odd.yaml": odd} {
		for _, mode := range []string{"", "host", "sidecar"} {
			args := []string{"-f", file(t, name, text), "--controller-ca", caFile}
			if mode != "" {
				args = append(args, "--mode", mode)
			}
			out, talk, err := run(t, Command(), "", args...)
			if err != nil {
				t.Fatalf("%v\n%s", err, talk)
			}
			src := source{mesh: "tulle"}
			controller, err := src.rendered()
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := settings.Parse("controller.yaml", controller)
			if err != nil {
				t.Fatal(err)
			}
			before, err := workload.Parse(name, []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			after, err := workload.Parse(name, []byte(out))
			if err != nil {
				t.Fatal(err)
			}
			in := &injector{known: map[string]webhook.Namespace{}, made: map[string]webhook.Namespace{}}
			in.learn([]*workload.File{before})
			for i, tpl := range before.Templates {
				ns, err := in.lookup(t.Context(), tpl.Namespace)
				if err != nil {
					t.Fatal(err)
				}
				res, err := webhook.Inject(tpl.JSON, joinedNamespace(ns, mode), parsed.Config(ca))
				if err != nil {
					t.Fatal(err)
				}
				want := tpl.JSON
				if res.Patch != nil {
					patch, err := jsonpatch.DecodePatch(res.Patch)
					if err != nil {
						t.Fatal(err)
					}
					if want, err = patch.Apply(tpl.JSON); err != nil {
						t.Fatal(err)
					}
				}
				same(t, name+" "+tpl.Name, after.Templates[i].JSON, want)
			}
			back, talk, err := run(t, UninjectCommand(), out, "-f", "-")
			if err != nil {
				t.Fatalf("%v\n%s", err, talk)
			}
			want := text
			if name == "odd.yaml" { // what was empty may be gone
				want = strings.Replace(want, `"p", "env": []}`, `"p"}`, 1)
			}
			if back != want {
				if name == "hello.yaml" {
					t.Errorf("%s in mode %s does not come back:\n%s", name, mode, back)
				}
				original, _ := before.Values()
				again, err := workload.Parse(name, []byte(back))
				if err != nil {
					t.Fatal(err)
				}
				returned, _ := again.Values()
				for i := range original {
					same(t, name, bytes.ReplaceAll(returned[i], []byte(`,"env":[]`), nil), bytes.ReplaceAll(original[i], []byte(`,"env":[]`), nil))
				}
			}
		}
	}
}

// A template without metadata has none again.
func TestWithoutMetadata(t *testing.T) {
	const text = "kind: DaemonSet\nspec:\n  template:\n    spec: # of the pod\n      containers:\n      - name: a\n"
	there, _, err := run(t, Command(), text, "-f", "-")
	if err != nil || !strings.Contains(there, "  template:\n    metadata:\n      annotations:\n") {
		t.Fatal(there, err)
	}
	if back, _, err := run(t, UninjectCommand(), there, "-f", "-"); err != nil || back != text {
		t.Fatal(back, err)
	}
}

// Several texts become one that is read as all of them.
func TestJoined(t *testing.T) {
	const y, j = "a: 1\n", `{"a": 1}`
	for _, c := range []struct {
		form  string
		texts []string
		want  string
	}{
		{"", []string{"\uFEFFa: 1"}, "\uFEFFa: 1"},
		{"", []string{"a: 1", "\uFEFFb: 2\n"}, "a: 1\n---\nb: 2\n"},
		{"", []string{y, "# c\n---\nb: 2\n"}, "a: 1\n# c\n---\nb: 2\n"},
		{"", []string{y, "# c\nb: 2\n"}, "a: 1\n---\n# c\nb: 2\n"},
		{"", []string{"a: |\n  x", y}, "a: |-\n  x\n---\na: 1\n"},
		{"", []string{"a: |+\n  x", "", y}, "a: |-\n  x\n---\na: 1\n"},
		{"", []string{y, "a: |\n  x"}, "a: 1\n---\na: |\n  x"},
		{"", []string{j, j}, "{\"a\": 1}\n{\"a\": 1}"},
		{"", []string{y, j, "", "# nothing\n"}, "a: 1\n---\n{\"a\": 1}\n# nothing\n"},
		{asJSON, []string{y, "---\n" + y, j}, "{\n  \"a\": 1\n}\n{\n  \"a\": 1\n}\n{\"a\": 1}"},
		{asYAML, []string{j + j, y}, "a: 1\n---\na: 1\n---\na: 1\n"},
	} {
		var files []*workload.File
		var texts [][]byte
		for _, text := range c.texts {
			f, err := workload.Parse("f", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			files, texts = append(files, f), append(texts, []byte(text))
		}
		if got, err := joined(files, texts, c.form); err != nil || string(got) != c.want {
			t.Errorf("%q %q: got %q, want %q, %v", c.form, c.texts, got, c.want, err)
		}
	}
}

// As long as nothing is written, nothing is said to be injected.
func TestNothingHalfSaid(t *testing.T) {
	const good = "kind: Deployment\nmetadata: {name: web}\nspec: {template: {spec: {containers: [{name: a}]}}}\n"
	for name, c := range map[string]struct{ text, want, report string }{
		"an alias": {"kind: Deployment\nmetadata: {name: api, labels: &l {app: api}}\nspec: {template: {metadata: {labels: *l}, spec: {containers: [{name: a}]}}}\n",
			"alias", "stdin:5: deployment/api: would be injected (host)"},
		"a refusal": {"kind: Deployment\nmetadata: {name: api}\nspec: {template: {metadata: {annotations: {tulle.dev/mode: both}}, spec: {containers: [{name: a}]}}}\n",
			"1 of 2 pod templates are denied, so nothing is written", "stdin:5: deployment/api: denied: "},
	} {
		out, talk, err := run(t, Command(), good+"---\n"+c.text, "-f", "-")
		if out != "" || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q %v", name, out, err)
		}
		if strings.Contains(talk, ": injected") || !strings.Contains(talk, "stdin:1: deployment/web: would be injected (host)\n") || !strings.Contains(talk, c.report) {
			t.Errorf("%s: the report is\n%s", name, talk)
		}
		if out, talk, err = run(t, Command(), good, "-f", "-"); err != nil || out == "" || !strings.Contains(talk, "deployment/web: injected (host)\n") {
			t.Errorf("alone: %q %q %v", out, talk, err)
		}
	}
}

// What looks like a pod template is not passed over in silence.
func TestContainersWithoutNames(t *testing.T) {
	const knative = "kind: Service\nmetadata: {name: api}\nspec:\n  template:\n    spec:\n      containers:\n      - image: i\n"
	const line = "stdin:1: service/api: skipped: it is taken for no pod: spec.containers[0] has no name (line 7); give it one, or fill it in first\n"
	for name, cmd := range map[string]func() *cobra.Command{"injected": Command, "taken out": UninjectCommand} {
		out, talk, err := run(t, cmd(), knative, "-f", "-")
		if want := line + "Nothing is " + name + ": there are pod templates in this, but with containers that have no proper name.\n"; err != nil || out != knative || talk != want {
			t.Errorf("%q %q %v", out, talk, err)
		}
	}
	const good = "kind: Deployment\nmetadata: {name: web}\nspec: {template: {spec: {containers: [{name: a}]}}}\n"
	if _, talk, err := run(t, Command(), knative+"---\n"+good, "-f", "-"); err != nil || talk != line+"stdin:9: deployment/web: injected (host)\n" {
		t.Errorf("%q %v", talk, err)
	}
	if _, talk, err := run(t, ExplainCommand(), knative+"---\n"+good, "-f", "-", "--offline"); err != nil || talk != line {
		t.Errorf("explained: %q %v", talk, err)
	}
}

// Keys that have no effect where they are get a hint.
func TestLint(t *testing.T) {
	text := file(t, "x.yaml", `
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {tulle.dev/injected: enabled, istio-injection: enabled}
  annotations: {tulle.dev/inject: enabled}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
  annotations: {tulle.dev/mode: sidecar}
spec:
  template:
    metadata:
      labels: {app.kubernetes.io/part-of: tulle, tulle.dev/outgoing-port: "1"}
      annotations: {tulle.dev/inject: "true", tulle.dev/outgoing-prot: "1", linkerd.io/inject: enabled, example.com/a: b}
    spec:
      containers: [{name: a}]
`)
	out, _, err := run(t, ExplainCommand(), "", "-f", text, "--offline")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out) {
		if hint, ok := strings.CutPrefix(strings.TrimSpace(line), "hint: "); ok {
			got = append(got, hint)
		}
	}
	want := []string{
		"the label istio-injection of namespace shop is for Istio; Tulle goes by the label tulle.dev/inject",
		"the label tulle.dev/injected of namespace shop means nothing; is tulle.dev/inject meant?",
		"the annotation tulle.dev/inject of namespace shop means nothing: it must be a label",
		"the annotation tulle.dev/mode of deployment/web means nothing there: write it at spec.template.metadata",
		"the annotation linkerd.io/inject of the pod template is for Linkerd; Tulle goes by the label tulle.dev/inject",
		"the label tulle.dev/outgoing-port of the pod template means nothing: it must be an annotation",
		"the annotation tulle.dev/inject of the pod template means nothing: it must be a label",
		"the annotation tulle.dev/outgoing-prot of the pod template means nothing; is tulle.dev/outgoing-port meant?",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(out, "its pods are not in the mesh (not_enabled): namespace shop has no label tulle.dev/inject") {
		t.Error(out)
	}
}

// What the injector warns of itself is said once, and is no reason to keep quiet about another key.
func TestLintBesideWarnings(t *testing.T) {
	text := file(t, "x.yaml", `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {tulle.dev/inject: enabled}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, annotations: {tulle.dev/mode: sidecar}}
spec:
  template:
    metadata: {annotations: {tulle.dev/mod: sidecar}}
    spec: {containers: [{name: a}]}
`)
	out, _, err := run(t, ExplainCommand(), "", "-f", text, "--offline")
	if err != nil || !strings.HasSuffix(out, "\n"+
		"warning: the annotation tulle.dev/mod of the pod is not known and has no effect; did you mean tulle.dev/mode?\n"+
		"hint: the annotation tulle.dev/mode of deployment/web means nothing there: write it at spec.template.metadata\n") {
		t.Error(err, out)
	}
}

// Where nothing is injected, no key does anything, and none is worth a hint.
func TestNoHintsWhereExcluded(t *testing.T) {
	for namespace, set := range map[string]string{"tulle": "", "kube-system": "", "vault": "injector.excludedNamespaces={vault}", "shop": ""} {
		text := file(t, "x.yaml", `
apiVersion: v1
kind: Namespace
metadata: {name: `+namespace+`, labels: {tulle.dev/injected: enabled}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: tulle-controller, namespace: `+namespace+`, annotations: {tulle.dev/mode: host}}
spec:
  template:
    metadata: {annotations: {tulle.dev/settings-hash: "1"}}
    spec: {containers: [{name: a}]}
`)
		args := []string{"-f", text, "--offline"}
		if set != "" {
			args = append(args, "--set", set)
		}
		out, talk, err := run(t, ExplainCommand(), "", args...)
		if err != nil {
			t.Fatal(err, talk)
		}
		if strings.Contains(out, "hint:") != (namespace == "shop") {
			t.Errorf("%s:\n%s", namespace, out)
		}
	}
}

// A pod that would be refused is created all the same if nobody asks the injector.
func TestRefusedByNobody(t *testing.T) {
	e := &explainer{by: &injector{}}
	ns := webhook.Namespace{Name: "shop", Labels: map[string]string{webhook.LabelInject: "enabled"}}
	config := webhook.Config{MeshNamespace: "tulle", ControllerCA: ca}
	text := []byte(`{"metadata":{"annotations":{"tulle.dev/mode":"both"}},"spec":{"containers":[{"name":"a"}]}}`)
	for unasked, want := range map[bool]string{false: "it would not be created now: ", true: "it is not in the mesh; the injector would refuse it now, but the API server does not ask the injector (invalid_mode): "} {
		p, err := e.compare("web", text, ns, config, unasked)
		if err != nil {
			t.Fatal(err)
		}
		if p.State != stateDenied || !strings.HasPrefix(p.Said, want) {
			t.Errorf("got %+v, want %s", p, want)
		}
	}
}

// Command lines that are wrong say so before anything is read.
func TestMisuse(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 64, "tulle explain wants to know what to explain"},
		{[]string{"pod"}, 64, "tulle explain wants the name of a pod"},
		{[]string{"a", "b", "c"}, 64, `tulle explain does not know what to do with "c"`},
		{[]string{"pod", "x", "-f", "y"}, 64, `it is either -f or "pod"`},
		{[]string{"pod/x", "--offline"}, 64, "--offline goes with -f: what runs is in a cluster"},
		{[]string{"pod/x", "--set", "a=b"}, 64, "--values and --set are settings without a cluster, but what runs is in one"},
		{[]string{"-f", "y", "-o", "wide"}, 64, `-o "wide" is unknown`},
		{[]string{"pod/x"}, 1, "there is no way to a cluster: no kubeconfig names a cluster"},
		{[]string{"-f", "-"}, 1, "there are no pods and no pod templates in this"},
	} {
		out, _, err := run(t, ExplainCommand(), "", c.args...)
		f, ok := err.(*fault.Error)
		if !ok || f.ExitCode() != c.code || f.Error() != c.want || out != "" {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}
