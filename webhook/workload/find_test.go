package workload

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Templates are found by their shape.
func TestParse(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"pod", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: b}\nspec: {containers: [{name: a}]}", "1:1 Pod b/a  "},
		{"pod of another group", "apiVersion: x/v1\nkind: Pod\nspec: {containers: [{name: a}]}", ""},
		{"pod template", "kind: PodTemplate\nmetadata: {generateName: a-}\ntemplate: {spec: {containers: [{name: a}]}}", "1:1 PodTemplate /a- template "},
		{"deployment config", "kind: DeploymentConfig\nspec: {template: {spec: {containers: [{name: a}]}}}", "1:1 DeploymentConfig / spec.template "},
		{"cron job", "kind: CronJob\nspec: {jobTemplate: {spec: {template: {spec: {containers: [{name: a}]}}}}}", "1:1 CronJob / spec.jobTemplate.spec.template "},
		{"roles", "kind: JobSet\nspec:\n  replicatedJobs:\n  - template: {spec: {template: {spec: {containers: [{name: a}]}}}}\n  - template: {spec: {template: {spec: {containers: [{name: b}]}}}}",
			"1:1 JobSet / spec.replicatedJobs[0].template.spec.template 1:1 JobSet / spec.replicatedJobs[1].template.spec.template "},
		{"named roles", "kind: PyTorchJob\nspec: {r: {Worker: {template: {spec: {containers: [{name: a}]}}}}}", "1:1 PyTorchJob / spec.r.Worker.template "},
		{"other words", "kind: Flink\nspec: {jobManager: {podTemplate: {spec: {containers: [{name: a}]}}}}", "1:1 Flink / spec.jobManager.podTemplate "},
		{"containers of something else", "kind: Prometheus\nspec: {containers: [{name: a}]}", ""},
		{"pattern", "kind: ClusterPolicy\nspec: {rules: [{pattern: {spec: {template: {spec: {containers: [{name: '*'}]}}}}}]}", ""},
		{"no containers", "kind: Deployment\nspec: {template: {spec: {containers: []}}}", ""},
		{"schema", "kind: CustomResourceDefinition\nspec: {template: {properties: {spec: {properties: {containers: {type: array}}}}}}", ""},
		{"documents", "# none\n---\n---\nkind: A\nspec: {template: {spec: {containers: [{name: a}]}}}\n--- 5\n---\n- a\n", "2:4 A / spec.template "},
		{"lists", `{"kind":"List","items":[null,5,{"kind":"PodList","items":[{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"a"}]}}]}]}`, "1:1 Pod /  "},
		{"items of the list's kind", "apiVersion: v1\nkind: PodList\nitems:\n- spec: {containers: [{name: a}]}\n- {kind: X, spec: {containers: [{name: a}]}}", "1:4 Pod /  "},
		{"items of a list of workloads", `{"apiVersion":"apps/v1","kind":"DeploymentList","items":[{"metadata":{"name":"b"},"spec":{"template":{"spec":{"containers":[{"name":"a"}]}}}}]}`, "1:1 Deployment /b spec.template "},
		{"items of no kind", "kind: List\nitems: [{spec: {template: {spec: {containers: [{name: a}]}}}}]", ""},
		{"in a template", "kind: A\nspec: {template: {spec: {containers: [{name: a}], template: {spec: {containers: [{name: a}]}}}}}", "1:1 A / spec.template "},
		{"in an alias", "kind: A\nx: &x {spec: {containers: [{name: a}]}}\nspec: {template: *x, b: {<<: {template: *x}}}", "1:1 A / spec.template 1:1 A / spec.b.template "},
		{"nothing", "", ""},
		{"a chart's notes", "hello", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Parse("f", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, o := range f.Templates {
				got += fmt.Sprintf("%d:%d %s %s/%s %s ", o.Document, o.Line, o.Kind, o.Namespace, o.Name, o.Path)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// What is no template only for the name of a container is noted, once.
func TestPassed(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"knative", "kind: Service\nmetadata: {name: a}\nspec:\n  template:\n    spec:\n      containers:\n      - image: i\n", "1:7 Service /a spec.template spec.containers[0] has no name; "},
		{"a variable", "kind: A\nspec: {template: {spec: {containers: [{name: a}, {name: '${NAME}'}]}}}", `1:2 A / spec.template the name "${NAME}" of spec.containers[1] is none that Kubernetes allows; `},
		{"a number", "kind: A\nspec: {template: {spec: {containers: [{name: 5}]}}}", `1:2 A / spec.template the name of spec.containers[0] is none that Kubernetes allows; `},
		{"a pod", "---\napiVersion: v1\nkind: Pod\nspec: {containers: [{image: i}]}", "1:4 Pod /  spec.containers[0] has no name; "},
		{"an alias", "kind: A\nspec: {template: &t {spec: {containers: [{image: i}]}}, b: {template: *t}}", "1:2 A / spec.template spec.containers[0] has no name; "},
		{"something else", "kind: CustomResourceDefinition\nspec: {template: {spec: {containers: {type: array}}}, b: {template: {spec: {containers: [a]}}}}", ""},
		{"a template", "kind: A\nspec: {template: {spec: {containers: [{name: a}]}}}", ""},
	} {
		f, err := Parse("f", []byte(c.text))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := ""
		for _, p := range f.Passed {
			got += fmt.Sprintf("%d:%d %s %s/%s %s %s; ", p.Document, p.At, p.Kind, p.Namespace, p.Name, p.Path, p.Why)
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// The values are those that Kubernetes reads.
func TestValues(t *testing.T) {
	f, err := Parse("f", []byte("a: yes\nb: 0o7\nc: 010\nd: 1_000\ne: 2001-01-01\nf: ~\ng:\nh: !!str 5\ni: 'x'\nj: 1e3\nk: off\nl: >\n  a\n  b\n5: x\ntrue: y\nm: &m {n: 1}\no: {<<: *m, p: 2}\nq: *m\n---\n"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Values()
	if err != nil || len(got) != 2 || got[1] != nil {
		t.Fatal(got, err)
	}
	var v any
	if err := json.Unmarshal(got[0], &v); err != nil {
		t.Fatal(err)
	}
	one := map[string]any{"n": 1.}
	want := map[string]any{"a": true, "b": 7., "c": 8., "d": 1000., "e": "2001-01-01", "f": nil, "g": nil, "h": "5", "i": "x", "j": 1000.,
		"k": false, "l": "a b\n", "5": "x", "true": true, "m": one, "o": map[string]any{"n": 1., "p": 2.}, "q": one}
	if diff := cmp.Diff(any(want), v); diff != "" {
		t.Error(diff)
	}
}

// Errors say where.
func TestErrors(t *testing.T) {
	bomb := "kind: X\na0: &a0 [x, x]\n"
	for i := range 40 {
		bomb += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	for _, c := range []struct{ name, text, want string }{
		{"f.yaml", "a: 1\n---\na: b: c\n", "f.yaml:3: document 2: this is no YAML: mapping values are not allowed in this context"},
		{"f.yaml", "kind: Pod\napiVersion: v1\nmetadata: {name: {{ .Release.Name }}}\nspec: {containers: [{name: a}]}", "f.yaml:3:36: the key of this value is no text; it looks like a template, render it first, as by helm template"},
		{"f.yaml", "a: b\nc: {{ .Values.x }}\n{{ end }}", "f.yaml:3: this is no YAML: could not find expected ':'; it looks like a template, render it first, as by helm template"},
		{"f.json", "{\"a\": 1\n \"b\": 2}", `f.json:2:2: '"' is found where a comma or '}' is expected`},
		{"f.json", `{"a": yes}`, "f.json:1:7: yes is no value; texts need quotes"},
		{"f.json", `{} {"a": "x`, "f.json:1:10: document 2: the quote that begins here does not end"},
		{"f", "a: \xff", "f:1:4: this is no UTF-8 text"},
		{"f", "kind: X\nspec:\n  template:\n    spec:\n      containers: [{name: a, env: !x y}]", "f:5:38: this value has a tag or a form that JSON, and so Kubernetes, does not know"},
		{"f", "kind: X\nspec:\n  template:\n    a: 1\n    a: 2\n    spec:\n      containers: [{name: a}]", `f:5:8: the key "a" is there twice`},
		{"f", bomb, "f:7:10: the aliases make too much of this object"},
		{"f", "kind: X\na: {template: &t {spec: {containers: [{name: a, x: *t}]}}}", "f:2:52: an alias cannot be part of what it names"},
		{"f", strings.Repeat("[", 3000), "f:1: this is no YAML: "},
	} {
		_, err := Parse(c.name, []byte(c.text))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%.40q: got %v\nwant %s", c.text, err, c.want)
		}
	}
}
