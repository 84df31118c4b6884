package check

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/webhook/workload"
)

// The page has a row for each code, in order, and no other; so has the list in the program for each constant, and each is
// used.
func TestCodesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/check.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []Code
	for _, m := range regexp.MustCompile(`(?m)^\| (T\d+) \| \S`).FindAllSubmatch(text, -1) {
		rows = append(rows, Code(m[1]))
	}
	if diff := cmp.Diff(Codes(), rows); diff != "" {
		t.Errorf("docs/check.md (-program +page)\n%s", diff)
	}
	other, err := os.ReadFile("../../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range Codes() {
		if strings.Contains(string(other), string(c)) {
			t.Errorf("%s is a code of a proxy, too", c)
		}
	}
	// How often each constant is named: where it is declared, in Codes, and where it is found.
	named := map[string]int{}
	var constants []string
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if id, ok := n.Type.(*ast.Ident); ok && id.Name == "Code" {
					constants = append(constants, n.Names[0].Name)
				}
			case *ast.Ident:
				named[n.Name]++
			}
			return true
		})
	}
	if len(constants) != len(Codes()) {
		t.Errorf("%d constants, %d codes", len(constants), len(Codes()))
	}
	for _, c := range constants {
		if named[c] < 3 {
			t.Errorf("nothing ever finds %s", c)
		}
	}
}

// offline checks files, and returns the result of -o json.
func offline(t *testing.T, text string, args ...string) (map[string][]Finding, string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := Command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append([]string{"-f", file, "-o", "json"}, args...))
	err := cmd.Execute()
	var result struct{ Sections []Result }
	if e := json.NewDecoder(&out).Decode(&result); e != nil {
		t.Fatalf("%v: %v", e, err)
	}
	found := map[string][]Finding{}
	for _, s := range result.Sections {
		for _, f := range s.Findings {
			found[string(f.Code)] = append(found[string(f.Code)], f)
		}
		if len(s.Unchecked) > 0 {
			t.Errorf("not looked at: %q", s.Unchecked)
		}
	}
	return found, file, err
}

const (
	joinedNamespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {tulle.dev/inject: enabled}}\n---\n"
	deployment      = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop, labels: {OWN}, annotations: {OWNA}}\nspec:\n  template:\n    metadata: {labels: {app: web, LABELS}, annotations: {ANNOTATIONS}}\n    spec: {containers: [{name: app, image: app}]}\n"
)

// Each thing that people write wrong has its finding, and what is right has none.
func TestLint(t *testing.T) {
	web := func(place, keys string) string {
		text := joinedNamespace + deployment
		text = strings.Replace(text, place, keys, 1)
		for _, p := range []string{"OWNA", "OWN", ", LABELS", "LABELS", "ANNOTATIONS"} {
			text = strings.Replace(text, p, "", 1)
		}
		return text
	}
	ns := func(labels, annotations string) string {
		return "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {" + labels + "}, annotations: {" + annotations + "}}\n"
	}
	for name, c := range map[string]struct {
		text string
		want Code
		says string
	}{
		"nothing":             {ns("", ""), "", ""},
		"joined":              {web("", ""), "", ""},
		"best effort":         {ns("tulle.dev/inject: best-effort, tulle.dev/mode: sidecar", ""), "", ""},
		"inject true":         {ns(`tulle.dev/inject: "true"`, ""), WrongNamespace, "write tulle.dev/inject: enabled"},
		"inject false":        {ns(`tulle.dev/inject: "false"`, ""), WrongNamespace, "write tulle.dev/inject: disabled"},
		"annotated false":     {ns("", `tulle.dev/inject: "False"`), NoEffect, "write tulle.dev/inject: disabled in metadata.labels instead"},
		"mode no":             {ns(`tulle.dev/inject: enabled, tulle.dev/mode: "no"`, ""), WrongNamespace, "write tulle.dev/mode: none"},
		"inject Enabled":      {ns("tulle.dev/inject: Enabled", ""), WrongNamespace, "allowed: enabled, best-effort, disabled"},
		"mode":                {ns("tulle.dev/inject: enabled, tulle.dev/mode: hosts", ""), WrongNamespace, "write tulle.dev/mode: host"},
		"namespace typo":      {ns("tulle.dev/injects: enabled", ""), NoEffect, "did you mean tulle.dev/inject?"},
		"namespace annotated": {ns("", "tulle.dev/inject: enabled"), NoEffect, "only counts as a label"},
		"annotated and right": {ns("tulle.dev/inject: enabled", "tulle.dev/inject: enabled"), NoEffect, "remove it"},
		"annotation typo":     {ns("", "tulle.dev/injct: please"), NoEffect, "write tulle.dev/inject: enabled in metadata.labels instead"},
		"another domain":      {web("ANNOTATIONS", "tulle.io/mode: sidecar"), NoEffect, "did you mean tulle.dev/mode?"},
		"typo and no label":   {web("LABELS", `tulle.dev/skip-port: "80"`), NoEffect, "write tulle.dev/skip-ports at spec.template.metadata.annotations"},
		"Istio too":           {ns("tulle.dev/inject: enabled, istio-injection: enabled", ""), TwoMeshes, "Istio"},
		"Istio off":           {ns("tulle.dev/inject: enabled, istio-injection: disabled", ""), "", ""},
		"Linkerd too":         {ns("tulle.dev/inject: enabled", "linkerd.io/inject: enabled"), TwoMeshes, "Linkerd"},
		"Istio alone":         {ns("istio-injection: enabled", ""), "", ""},
		"pod opts out":        {web("LABELS", `tulle.dev/inject: "false"`), "", ""},
		"pod mode":            {web("ANNOTATIONS", "tulle.dev/mode: sidecar"), "", ""},
		"on the Deployment":   {web("OWNA", "tulle.dev/mode: sidecar"), NoEffect, "spec.template.metadata.annotations"},
		"label of Deployment": {web("OWN", `tulle.dev/inject: "false"`), NoEffect, "spec.template.metadata.labels"},
		"mode of Deployment":  {web("OWN", "tulle.dev/mode: sidecar"), NoEffect, "spec.template.metadata.annotations"},
		"pod typo":            {web("ANNOTATIONS", `tulle.dev/skip-port: "80"`), NoEffect, "did you mean tulle.dev/skip-ports?"},
		"annotation as label": {web("LABELS", `tulle.dev/capture: env`), NoEffect, "only counts as an annotation"},
		"label as annotation": {web("ANNOTATIONS", `tulle.dev/inject: "false"`), NoEffect, "only counts as a label"},
		"wrong port":          {web("ANNOTATIONS", `tulle.dev/outgoing-port: "80"`), WouldBeDenied, "allowed: 1024 to 65535"},
		"wrong mode":          {web("ANNOTATIONS", `tulle.dev/mode: node`), WouldBeDenied, "allowed: "},
		"wrong opt-out":       {web("LABELS", `tulle.dev/inject: "no"`), WouldBeDenied, "allowed: true, false"},
		"pod of Istio":        {web("LABELS", `sidecar.istio.io/inject: "true"`), TwoMeshes, "Istio"},
		"not joined":          {strings.Replace(web("LABELS", `tulle.dev/inject: "true"`), "enabled", "disabled", 1), NotJoined, "tulle.dev/inject: enabled"},
		"unknown namespace":   {strings.TrimPrefix(web("ANNOTATIONS", `tulle.dev/mode: node`), joinedNamespace), WouldBeDenied, "if their namespace has joined"},
		"its mode is good":    {strings.TrimPrefix(web("ANNOTATIONS", `tulle.dev/mode: sidecar`), joinedNamespace), "", ""},
		"Tulle's own":         {strings.ReplaceAll(ns("tulle.dev/x: y", ""), "shop", "tulle"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			found, file, err := offline(t, c.text)
			if c.want == "" {
				if err != nil || len(found) > 0 {
					t.Errorf("%v, %+v", err, found)
				}
				return
			}
			var f *fault.Error
			if !errors.As(err, &f) || f.ExitCode() != fault.ExitFindings {
				t.Errorf("the error is %v", err)
			}
			if len(found) != 1 || len(found[string(c.want)]) != 1 {
				t.Fatalf("found %+v, want %s once", found, c.want)
			}
			got := found[string(c.want)][0]
			if !strings.Contains(got.Message+" "+got.Fix, c.says) || got.Fix == "" || !strings.HasPrefix(got.Object, file+":") {
				t.Errorf("it says %+v, want %q", got, c.says)
			}
		})
	}
}

// In a cluster the fix moves the key with one command.
func TestFixMovesKeys(t *testing.T) {
	for value, want := range map[string]string{
		"sidecar": `kubectl patch -n shop deployment/web --type=merge -p '{"metadata":{"annotations":{"tulle.dev/mode":null}},"spec":{"template":{"metadata":{"annotations":{"tulle.dev/mode":"sidecar"}}}}}'`,
		"it's":    "kubectl edit -n shop deployment/web  # move it to spec.template.metadata.annotations",
	} {
		r := &report{}
		r.section("x")
		l := &linter{report: r, mesh: "tulle"}
		n, err := l.live("apps/v1", "Deployment", listOf(map[string]any{
			"metadata": map[string]any{"name": "web", "namespace": "shop", "annotations": map[string]any{"tulle.dev/mode": value}},
			"spec":     map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "app"}}}}},
		}))
		if err != nil || n != 1 || len(r.last().Findings) != 1 || r.last().Findings[0].Fix != want {
			t.Errorf("%d, %v, %+v", n, err, r.last().Findings)
		}
	}
}

// So it does for keys of a namespace, and what is right already stays.
func TestFixOfNamespaces(t *testing.T) {
	for _, c := range []struct {
		labels, annotations map[string]string
		want                string
	}{
		{map[string]string{"tulle.dev/injects": "enabled"}, nil, "kubectl label namespace shop tulle.dev/inject=enabled\nkubectl label namespace shop tulle.dev/injects-"},
		{nil, map[string]string{"tulle.dev/inject": "$(reboot)"}, "kubectl label namespace shop tulle.dev/inject=enabled\nkubectl annotate namespace shop tulle.dev/inject-"},
		{map[string]string{"tulle.dev/inject": "enabled"}, map[string]string{"tulle.dev/inject": "disabled"}, "kubectl annotate namespace shop tulle.dev/inject-"},
		{nil, map[string]string{"tulle.dev/zzz": "x"}, "kubectl annotate namespace shop tulle.dev/zzz-"},
	} {
		l := &linter{report: &report{}, mesh: "tulle"}
		l.section("x")
		l.namespace(workload.Object{Kind: "Namespace", Name: "shop", Labels: c.labels, Annotations: c.annotations}, "")
		if f := l.last().Findings; len(f) != 1 || f[0].Code != NoEffect || f[0].Fix != c.want {
			t.Errorf("%v %v: %+v", c.labels, c.annotations, f)
		}
	}
}

func TestExpired(t *testing.T) {
	now := time.Now()
	certificate := func(until time.Time) []byte {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: until}, &x509.Certificate{}, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	old, fresh := certificate(now.Add(-time.Hour)), certificate(now.Add(time.Hour))
	for _, c := range []struct {
		bundle []byte
		want   string
	}{{nil, "holds no certificate"}, {[]byte("x"), "holds no certificate"}, {old, "ran out at "}, {fresh, ""}, {slices.Concat(old, fresh), ""}} {
		if got := expired(c.bundle, now); !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestCertificate(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	state := func(ready string, ends, renewal time.Duration) certificate {
		var cert certificate
		cert.Metadata.Name = "tulle-ca"
		cert.Status.NotAfter, cert.Status.RenewalTime = now.Add(ends), now.Add(renewal)
		cert.Status.Conditions = append(cert.Status.Conditions, struct{ Type, Status, Reason, Message string }{"Ready", ready, "Because", "of that"})
		return cert
	}
	for _, c := range []struct {
		cert certificate
		want Code
	}{
		{state("True", 48*time.Hour, 24*time.Hour), ""},
		{state("True", 48*time.Hour, -time.Minute), ""},
		{state("True", 48*time.Hour, -2*time.Hour), CertificateEnds},
		{state("True", -time.Second, -2*time.Hour), CertificateEnds},
		{state("False", 48*time.Hour, 24*time.Hour), CertificateUnready},
		{certificate{}, CertificateUnready},
	} {
		ch := &checker{report: &report{}}
		ch.section("x")
		ch.certificate(c.cert, now)
		var got Code
		if f := ch.last().Findings; len(f) > 0 {
			got = f[0].Code
		}
		if got != c.want {
			t.Errorf("%+v: %q, want %q", c.cert, got, c.want)
		}
	}
}

func TestPort(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: v1.ObjectMeta{Name: "x"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "TULLE_ADMIN", Value: "[::]:9991"}}}}}}
	if a, b := port(p, "TULLE_ADMIN", "9990"), port(p, "TULLE_OUTGOING", "4140"); a != "9991" || b != "4140" {
		t.Errorf("%s, %s", a, b)
	}
}
