package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admission "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/webhook"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tulle": main})
}

// TestScripts runs the command lines of testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// code N: run the rest, in the folder of this test, and expect that exit code.
			"code": func(ts *testscript.TestScript, _ bool, args []string) {
				stdout, stderr := new(strings.Builder), new(strings.Builder)
				got := execute(context.Background(), "tulle", args[1:], strings.NewReader(""), stdout, stderr)
				if want := args[0]; want != map[int]string{0: "0", fault.ExitFailed: "1", fault.ExitUsage: "64"}[got] {
					ts.Fatalf("exit code %d, want %s\n%s", got, want, stderr)
				}
			},
		},
	})
}

func TestKubectlPlugin(t *testing.T) {
	var out strings.Builder
	if code := execute(context.Background(), "kubectl-tulle", []string{"install", "--help"}, nil, &out, &out); code != 0 || !strings.Contains(out.String(), "kubectl tulle install") {
		t.Errorf("exit code %d:\n%s", code, out.String())
	}
}

func documents(text []byte) [][]byte {
	var docs [][]byte
	for _, d := range strings.Split("\n"+string(text), "\n---\n") {
		docs = append(docs, []byte(d))
	}
	return docs
}

// The manifest must keep the injector away from the namespaces it excludes itself.
func TestExcludedNamespacesAgree(t *testing.T) {
	text, err := manifests.Render("mesh", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range documents(text) {
		var config admission.MutatingWebhookConfiguration
		if yaml.Unmarshal(doc, &config) != nil || config.Name != "tulle-injector" {
			continue
		}
		for _, entry := range config.Webhooks {
			if !slices.ContainsFunc(entry.NamespaceSelector.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
				return e.Key == "kubernetes.io/metadata.name" && e.Operator == metav1.LabelSelectorOpNotIn && slices.Equal(e.Values, webhook.ExcludedNamespaces("mesh"))
			}) {
				t.Errorf("entry %s of the manifest selects %v, the injector excludes %v", entry.Name, entry.NamespaceSelector, webhook.ExcludedNamespaces("mesh"))
			}
		}
		return
	}
	t.Fatal("no webhook in the output")
}

// The pods of the example go through the injector and still fit their namespaces.
func TestExampleIsInjected(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	namespaces := map[string]webhook.Namespace{}
	injected := map[webhook.Reason]int{}
	for _, doc := range documents(manifests.HelloWorld()) {
		var ns corev1.Namespace
		if yaml.Unmarshal(doc, &ns) == nil && ns.Kind == "Namespace" {
			namespaces[ns.Name] = webhook.Namespace{Name: ns.Name, Labels: ns.Labels}
		}
		var d appsv1.Deployment
		if yaml.Unmarshal(doc, &d) != nil || d.Kind != "Deployment" {
			continue
		}
		raw, err := json.Marshal(corev1.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: d.Spec.Template.Spec})
		if err != nil {
			t.Fatal(err)
		}
		res, err := webhook.Inject(raw, namespaces[d.Namespace], webhook.Config{
			ProxyImage: "proxy", ControllerURL: "https://c:1", ControllerCA: "-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n",
		})
		if err != nil || len(res.Warnings) > 0 {
			t.Fatalf("%s/%s: %+v, %v", d.Namespace, d.Name, res, err)
		}
		injected[res.Reason]++
		patch, err := jsonpatch.DecodePatch(res.Patch)
		if err != nil {
			t.Fatal(err)
		}
		patched, err := patch.Apply(raw)
		if err != nil {
			t.Fatal(err)
		}
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict(patched, &pod); err != nil {
			t.Fatal(err)
		}
		for _, r := range evaluator.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec) {
			if !r.Allowed {
				t.Errorf("%s/%s: %s: %s", d.Namespace, d.Name, r.ForbiddenReason, r.ForbiddenDetail)
			}
		}
	}
	if injected[webhook.InjectedHost] != 3 || injected[webhook.InjectedSidecar] != 3 {
		t.Errorf("injected %v", injected)
	}
}

// Every example in the help of a command must be in a script; those of demo are not, because it needs the other
// programs, built.
func TestExamplesAreTested(t *testing.T) {
	var scripts strings.Builder
	files, _ := filepath.Glob("testdata/script/*.txtar")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		scripts.Write(text)
	}
	for _, cmd := range commands() {
		if cmd.Name() == "demo" {
			continue
		}
		for line := range strings.Lines(cmd.Example) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " |")
			if line != "" && !strings.Contains(scripts.String(), "exec "+line+"\n") {
				t.Errorf("no script runs %q", line)
			}
		}
	}
}
