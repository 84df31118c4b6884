package hostpolicy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/webhook"
)

var update = flag.Bool("update", false, "write the chart's template anew")

// Stand-ins for what the chart fills in. They are in quotes, and no value has a character that ends those.
const (
	proxy    = "@proxy@"
	hash     = "@hash@"
	mode     = "@mode@"
	excluded = "@excluded@"
)

// The chart's template is what Generate makes of values it does not know; go test ./webhook/hostpolicy -update writes it.
func TestTemplate(t *testing.T) {
	const file = "../../manifests/chart/templates/policy.yaml"
	want := template(t)
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the package writes: go test ./webhook/hostpolicy -update", file)
	}
}

func template(t *testing.T) []byte {
	t.Helper()
	a, _, err := ask(webhook.Config{})
	if err != nil {
		t.Fatal(err)
	}
	hashed := fingerprint(t, a)
	a.proxy, a.hash, a.mode = literal(proxy), literal(hash), literal(mode)

	var out strings.Builder
	out.WriteString(`{{- /* Host mode as a policy of the API server (docs/design/mutating-policy.md).
Written by "go test ./webhook/hostpolicy -update": change package webhook/hostpolicy instead. */}}
{{- define "tulle.hostModeProxy" }}
{{- $address := .Values.injector.hostAddress }}
{{- if eq $address "auto" }}
{{- fail "injector.hostModePolicy needs injector.hostAddress to be said, for only the controller sees what auto comes to: hostIP for nodes with IPv4 addresses, hostIPv6, nodeName, service, or an address" }}
{{- end }}
{{- $named := dict "hostIP" "$(TULLE_HOST_IP)" "hostIPv6" "[$(TULLE_HOST_IP)]" "nodeName" "$(NODE_NAME)" "service" (printf "tulle-host.%s.svc" .Release.Namespace) }}
{{- printf "http://%s:` + a.ports[0] + `" (get $named $address | default $address) }}
{{- end }}
{{- define "tulle.hostModeHash" }}
{{- $proxy := include "tulle.hostModeProxy" . }}
{{- $needed := list }}
{{- range regexFindAll "[$][(][^)]*[)]" $proxy -1 }}
{{- $needed = append $needed (. | trimPrefix "$(" | trimSuffix ")") }}
{{- end }}
{{- printf ` + literal(hashed) + ` (empty $needed | ternary "null" (toJson $needed)) $proxy | sha256sum | trunc 16 }}
{{- end }}
{{- define "tulle.hostModeDone" -}}
` + strings.ReplaceAll(a.done(), hash, `{{ include "tulle.hostModeHash" . }}`) + `
{{- end }}
{{- if and (not .Values.injector.webhook) (not .Values.injector.hostModePolicy) }}
{{- fail "injector.webhook is false: without injector.hostModePolicy nothing would bring pods into the mesh" }}
{{- end }}
{{- if .Values.injector.hostModePolicy }}
{{- $excluded := concat (list "kube-system" "kube-public" "kube-node-lease" "cert-manager" .Release.Namespace) .Values.injector.excludedNamespaces | uniq }}
{{- if and .Values.injector.probe .Values.injector.webhook }}{{ $excluded = append $excluded (include "tulle.probeNamespace" .) }}{{ end }}
`)
	names := []string{excluded}
	for i, o := range a.policy(names) {
		if i > 0 {
			out.WriteString("---\n")
		}
		out.WriteString(document(t, o))
	}
	out.WriteString("{{- if not .Values.injector.webhook }}\n")
	for _, o := range a.refusals(names) {
		out.WriteString("---\n" + document(t, o))
	}
	out.WriteString("{{- end }}\n{{- end }}\n")
	return []byte(out.String())
}

// document writes one object with the chart's fillings.
func document(t *testing.T, o runtime.Object) string {
	t.Helper()
	text, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("{{")) {
		t.Fatalf("an expression has two opening braces in a row, which the chart takes for its own:\n%s", text)
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
		switch {
		case strings.TrimSpace(line) == `- '`+excluded+`'`:
			out.WriteString(indent + "{{- range $excluded }}\n" + indent + "- {{ . | quote }}\n" + indent + "{{- end }}\n")
		case strings.HasPrefix(line, "  name: "):
			out.WriteString(line + "  labels:\n    {{- include \"tulle.labels\" (dict \"root\" . \"component\" \"injector\") | nindent 4 }}\n")
		default:
			out.WriteString(line)
		}
	}
	return strings.NewReplacer(
		proxy, `{{ include "tulle.hostModeProxy" . }}`,
		hash, `{{ include "tulle.hostModeHash" . }}`,
		mode, `{{ .Values.injector.defaultMode }}`,
	).Replace(out.String())
}

// fingerprint is the text whose hash is the injection's, with verbs for what of the proxy's URL is in it.
func fingerprint(t *testing.T, a answer) string {
	t.Helper()
	text := `{"Version":"v2","Mode":"host","Ports":{"outgoing":` + a.ports[0] + `,"incoming":` + a.ports[1] + `,"admin":` + a.ports[2] + `},` +
		`"Plan":{"env":{"fields":[{"name":"NODE_NAME","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"spec.nodeName"}}},` +
		`{"name":"TULLE_HOST_IP","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"status.hostIP"}}}],` +
		`"needed":%s,"proxy":"%s","bypass":` + literal(strings.Join(a.bypass, ",")) + `}}}`
	sum := sha256.Sum256([]byte(strings.NewReplacer("%s\",", "http://$(TULLE_HOST_IP):"+a.ports[0]+"\",", "%s,", `["TULLE_HOST_IP"],`).Replace(text)))
	if got := literal(hex.EncodeToString(sum[:8])); got != a.hash {
		t.Fatalf("the webhook hashes something else than\n%s\nits hash is %s, not %s: adapt this text to webhook's fingerprint", text, a.hash, got)
	}
	return text
}
