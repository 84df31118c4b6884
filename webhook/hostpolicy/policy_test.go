package hostpolicy

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"

	"github.com/tulle-mesh/tulle/webhook"
)

func TestGenerate(t *testing.T) {
	cfg := webhook.Config{HostAddress: "service", HostService: "tulle-host.mesh.svc", MeshNamespace: "mesh", ExcludedNamespaces: []string{"batch"}, OutgoingPort: 4150}
	text := func() string {
		objects, err := Alone(cfg)
		if err != nil {
			t.Fatal(err)
		}
		out, err := json.Marshal(objects)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	first := text()
	for range 5 {
		if text() != first {
			t.Fatal("another text for the same configuration")
		}
	}
	cfg.OutgoingPort = 4140
	if text() == first {
		t.Error("the same text for another configuration")
	}
	objects, err := Generate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	policy := objects[0].(*admission.MutatingAdmissionPolicy)
	if got := policy.Spec.MatchConstraints.NamespaceSelector.MatchExpressions[1].Values; !slices.Contains(got, "mesh") || !slices.Contains(got, "batch") || !slices.Contains(got, "kube-system") {
		t.Errorf("the namespaces left out are %s", got)
	}
	if policy.Spec.Variables[0].Expression != `"http://tulle-host.mesh.svc:4140"` {
		t.Errorf("the proxy is %s", policy.Spec.Variables[0].Expression)
	}
}

func TestGenerateNothing(t *testing.T) {
	for want, cfg := range map[string]webhook.Config{
		"default mode":                   {DefaultMode: "x"},
		"Service is not set":             {HostAddress: "service"},
		`refers to $(MY_IP), allowed`:    {HostAddress: "$(MY_IP)"},
		"outgoing port is 80, allowed: ": {OutgoingPort: 80},
	} {
		for name, generate := range map[string]func() error{
			"Generate": func() error { _, err := Generate(cfg); return err },
			"Alone":    func() error { _, err := Alone(cfg); return err },
			"Done":     func() error { _, err := Done(cfg); return err },
		} {
			if err := generate(); !errors.Is(err, webhook.ErrConfig) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of %+v: %v, expected %q", name, cfg, err, want)
			}
		}
	}
}

// Done is true of what the injector writes for pods that the policy does, and of nothing else.
func TestDone(t *testing.T) {
	a, _, err := ask(webhook.Config{})
	if err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(grammarText(t, a))
	status := func(cfg webhook.Config, mode, containers string) string {
		raw := `{"metadata":{"labels":{"tulle.dev/mode":"x"},"annotations":{"tulle.dev/on-conflict":"override"}},"spec":{"containers":[` + containers + `]}}`
		res, err := webhook.Inject([]byte(raw), webhook.Namespace{Name: "shop", Labels: map[string]string{webhook.LabelInject: "enabled", webhook.LabelMode: mode}}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		var patch []struct {
			Path  string
			Value json.RawMessage
		}
		if err := json.Unmarshal(res.Patch, &patch); err != nil {
			t.Fatal(err)
		}
		for _, op := range patch {
			var s string
			if op.Path == "/metadata/annotations/tulle.dev~1status" && json.Unmarshal(op.Value, &s) == nil {
				return s
			}
		}
		t.Fatalf("no status in %s", res.Patch)
		return ""
	}
	sidecars := webhook.Config{ProxyImage: "p", ControllerURL: "https://c", ControllerCA: "-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n"}
	const env = `{"name":"a","env":[{"name":"A"},{"name":"no_proxy","value":"x"},{"name":"NODE_NAME","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}}]}`
	for name, tt := range map[string]struct {
		status string
		done   bool
	}{
		"plain":          {status(webhook.Config{}, "host", `{"name":"a"},{"name":"b-c"}`), true},
		"with undo":      {status(webhook.Config{}, "host", env+`,{"name":"istio-proxy"},{"name":"b"}`), true},
		"all left":       {status(webhook.Config{}, "host", `{"name":"istio-proxy"}`), true},
		"replaced":       {status(webhook.Config{}, "host", `{"name":"a","env":[{"name":"http_proxy","value":"http://corp:3128"}]}`), false},
		"another config": {status(webhook.Config{OutgoingPort: 4150}, "host", `{"name":"a"}`), false},
		"sidecar":        {status(sidecars, "sidecar", `{"name":"a"}`), false},
		"marked":         {status(webhook.Config{}, "host", `{"name":"a"}`) + " ", false},
		"cut":            {strings.TrimSuffix(status(webhook.Config{}, "host", `{"name":"a"}`), "}"), false},
		"none":           {"", false},
	} {
		if pattern.MatchString(tt.status) != tt.done {
			t.Errorf("%s: %s is done: %v", name, tt.status, !tt.done)
		}
	}
}

// grammarText is the regular expression that CEL makes of its literals: 'in which \\ is \' + "json" + r'raw'.
func grammarText(t *testing.T, a answer) string {
	t.Helper()
	parts := strings.SplitN(a.grammar(a.hash), " + ", 3)
	var hash string
	if err := json.Unmarshal([]byte(parts[1]), &hash); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.Trim(parts[0], "'"), `\\`, `\`) + hash + strings.TrimSuffix(strings.TrimPrefix(parts[2], "r'"), "'")
}
