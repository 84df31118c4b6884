// Package archtest holds the laws of the repository as tests: which package may
// import which, what the proxy must not link, how long a file may be.
//
// To allow something new, change the table here together with its reason in
// docs/design. Invariant: a rule that no longer applies to any package fails
// too, so the table cannot rot.
package archtest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tulle-mesh/tulle/"

// layer says what the packages under a path may import of this module, by path
// prefix. The first layer whose path fits a package counts. Standard library and
// other modules are free unless forbid names them.
type layer struct {
	path   string
	may    []string
	forbid []string
}

var layers = []layer{
	// The top: programs and tests put everything together.
	{path: "cmd/tulle-proxy", may: []string{"sidecar", "internal"}, forbid: []string{"k8s.io/", "sigs.k8s.io/", "google.golang.org/grpc"}},
	// namerd alone: neither proxies nor certificates of the mesh, nor what is injected.
	{path: "cmd/tulle-namer", may: []string{"naming", "internal"}},
	{path: "cmd/helloworld", may: []string{"internal", "cmd/helloworld"}, forbid: []string{"k8s.io/"}},
	// The control plane and the CLI read a policy as the proxy does, so that all refuse the same.
	{path: "cmd", may: []string{"cmd/tulle", "manifests", "webhook", "naming", "certs", "sidecar/policy", "internal"}},
	{path: "e2e/cluster", may: []string{"e2e/cluster", "internal"}},
	{path: "e2e/soak", forbid: []string{"k8s.io/"}},
	{path: "e2e/bench/admission"},
	{path: "e2e/bench/fleet", may: []string{"naming", "internal"}},
	{path: "e2e/bench", may: []string{"e2e/bench", "e2e/cluster", "manifests", "certs/issuer", "naming", "sidecar/bind", "internal"}, forbid: []string{"k8s.io/"}},
	{path: "e2e", may: []string{"e2e/cluster", "manifests", "webhook", "naming", "certs", "sidecar", "internal"}},
	{path: "docs"}, // tests of what the pages show, nothing else
	// The planes do not know each other.
	{path: "manifests", may: []string{"internal"}},
	{path: "webhook/hostpolicy", may: []string{"webhook", "internal"}},
	{path: "webhook/settings", may: []string{"webhook", "internal"}},
	{path: "webhook/drift", may: []string{"webhook", "internal/feed"}},
	{path: "webhook/breakglass", may: []string{"webhook/drift"}},
	{path: "webhook/serving", may: []string{"webhook", "internal"}},
	{path: "webhook", may: []string{"internal"}},
	{path: "certs/issuer", may: []string{"certs", "internal"}},
	{path: "certs", may: []string{"internal"}, forbid: []string{"k8s.io/"}},
	// The proxy: the root puts it together, the router knows the order, the
	// parts know no other part.
	{path: "sidecar/wire", forbid: []string{"k8s.io/"}},
	{path: "sidecar/http1", may: []string{"sidecar/wire"}, forbid: []string{"k8s.io/", "net/http"}},
	{path: "sidecar/socket", may: []string{"internal/clock"}, forbid: []string{"k8s.io/", "net/http"}},
	{path: "sidecar/pool", may: []string{"sidecar/http1", "internal/clock"}, forbid: []string{"k8s.io/", "net/http"}},
	{path: "sidecar/accrual", forbid: []string{"k8s.io/", "net/http"}},
	{path: "sidecar/balance", forbid: []string{"k8s.io/", "net/http"}},
	{path: "sidecar/policy", may: []string{"naming", "internal"}, forbid: []string{"k8s.io/", "net/http"}},
	{path: "sidecar/linkerd", may: []string{"sidecar/policy", "naming", "internal"}, forbid: []string{"k8s.io/", "net/http"}},
	{path: "sidecar/classify", may: []string{"sidecar/wire"}, forbid: []string{"k8s.io/", "net"}},
	{path: "sidecar/deadline", forbid: []string{"k8s.io/", "net"}},
	{path: "sidecar/retry", forbid: []string{"k8s.io/", "net"}},
	{path: "sidecar/tracing", forbid: []string{"k8s.io/", "net"}},
	{path: "sidecar/tunnel", forbid: []string{"k8s.io/", "net/http"}},
	{path: "sidecar/forwarded", forbid: []string{"k8s.io/", "net"}},
	{path: "sidecar/accesslog", forbid: []string{"k8s.io/", "net"}},
	{path: "sidecar/handover", forbid: []string{"k8s.io/", "net/http"}},
	{path: "sidecar/capture", may: []string{"internal/metadata"}, forbid: []string{"k8s.io/", "net/http"}},
	{path: "sidecar/telemetry", forbid: []string{"k8s.io/"}},
	{path: "sidecar/admin", may: []string{"naming"}, forbid: []string{"k8s.io/"}},
	{path: "sidecar/bind", may: []string{"naming", "internal"}, forbid: []string{"k8s.io/"}},
	{path: "sidecar/namerd", may: []string{"naming", "internal/watch"}, forbid: []string{"k8s.io/"}},
	{path: "sidecar/client", may: []string{"naming", "sidecar/accrual", "sidecar/balance", "sidecar/policy", "sidecar/pool", "sidecar/retry", "sidecar/telemetry", "internal"}, forbid: []string{"k8s.io/"}},
	{path: "sidecar/router", may: []string{"sidecar", "naming", "internal"}, forbid: []string{"k8s.io/", "net/http"}},
	{path: "sidecar", may: []string{"sidecar", "naming", "certs", "internal"}, forbid: []string{"k8s.io/"}},
	// Names: the language is pure, the namer's Kubernetes is in one package.
	{path: "naming/kubernetes", may: []string{"naming", "internal/watch", "internal/feed"}},
	{path: "naming/delegator", may: []string{"naming"}, forbid: []string{"k8s.io/"}},
	{path: "naming/namer/namerd", may: []string{"naming", "internal/document", "internal/schema", "internal/l5d"}, forbid: []string{"k8s.io/", "net/http"}},
	{path: "naming/namer", may: []string{"naming", "internal/watch"}, forbid: []string{"k8s.io/"}},
	{path: "naming/dns", may: []string{"naming", "internal/watch"}, forbid: []string{"k8s.io/"}},
	{path: "naming/file", may: []string{"naming", "internal/watch"}, forbid: []string{"k8s.io/", "net/http"}},
	{path: "naming/registry", may: []string{"naming", "internal/watch", "internal/document", "internal/schema", "internal/l5d"}, forbid: []string{"k8s.io/", "net/http"}},
	{path: "naming/transform", may: []string{"naming"}, forbid: []string{"k8s.io/", "net/http", "net"}},
	{path: "naming/rewrite", may: []string{"naming"}, forbid: []string{"k8s.io/", "net/http"}},
	{path: "naming", forbid: []string{"k8s.io/", "net/http", "net", "os"}},
	// The leaves import nothing of ours, but for YAML that is read strictly and rules in it.
	{path: "internal/setting", may: []string{"internal/document"}},
	{path: "internal/schema/schematest", may: []string{"internal/schema"}},
	{path: "internal/schema", may: []string{"internal/document"}},
	{path: "internal/l5d", may: []string{"naming", "internal/document", "internal/schema"}, forbid: []string{"net/http"}},
	{path: "internal"},
}

// pkg is a package of the module and what its non-test files import.
type pkg struct {
	path    string // relative to the module
	imports []string
}

func under(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

// forbids reports whether an import is the named package, or below it if the
// name ends in a slash.
func forbids(name, imported string) bool {
	return imported == name || strings.HasSuffix(name, "/") && strings.HasPrefix(imported, name)
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", "e2e", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		all = append(all, pkg{strings.TrimPrefix(fields[0], module), fields[1:]})
	}
	return all
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestImportsGoDown(t *testing.T) {
	used := map[string]bool{}
	for _, p := range packages(t) {
		i := slices.IndexFunc(layers, func(l layer) bool { return under(p.path, l.path) })
		if i < 0 {
			t.Errorf("%s is in no layer; give it a row in layers", p.path)
			continue
		}
		l := layers[i]
		used[l.path] = true
		for _, imported := range p.imports {
			own, isOwn := strings.CutPrefix(imported, module)
			if isOwn && !slices.ContainsFunc(l.may, func(m string) bool { return under(own, m) }) {
				t.Errorf("%s imports %s, which the layer %q may not", p.path, own, l.path)
			}
			if slices.ContainsFunc(l.forbid, func(f string) bool { return forbids(f, imported) }) {
				t.Errorf("%s imports %s, which the layer %q forbids", p.path, imported, l.path)
			}
		}
	}
	for _, l := range layers {
		if !used[l.path] {
			t.Errorf("the layer %q has no package; remove its row", l.path)
		}
	}
}

// Linking client-go alone costs a proxy 15 MB of memory before any work.
func TestProxyLinksNoKubernetes(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/tulle-proxy")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		if strings.HasPrefix(dep, "k8s.io/") || strings.HasPrefix(dep, "sigs.k8s.io/") || strings.HasPrefix(dep, "google.golang.org/grpc") {
			t.Errorf("tulle-proxy links %s", dep)
		}
	}
}

// It finds methods by their names, so the linker leaves none out: a proxy would be a fifth larger, and a controller
// three quarters.
func TestNothingLinksHTMLTemplate(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/tulle-proxy", "./cmd/tulle-controller", "./cmd/tulle-namer")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	if slices.Contains(strings.Fields(string(out)), "html/template") {
		t.Error("a program in a pod links html/template")
	}
}

// goFiles yields every Go file of the repository, those of nested modules too.
func goFiles(t *testing.T, visit func(path string, content []byte)) {
	t.Helper()
	top := root(t)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "build" && filepath.Dir(path) == top) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		visit(rel, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

const maxLines = 800

func TestFilesAreShort(t *testing.T) {
	goFiles(t, func(path string, content []byte) {
		if n := bytes.Count(content, []byte("\n")); n > maxLines {
			t.Errorf("%s has %d lines, more than %d: split it by noun", path, n, maxLines)
		}
	})
}

// Every package says once what it is.
func TestPackageComments(t *testing.T) {
	comments := map[string]int{}
	goFiles(t, func(path string, content []byte) {
		dir := filepath.Dir(path)
		if strings.Contains(path, "testdata") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, content, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		if strings.HasSuffix(path, "_test.go") && strings.HasSuffix(f.Name.Name, "_test") {
			return
		}
		if _, ok := comments[dir]; !ok {
			comments[dir] = 0
		}
		if f.Doc != nil {
			comments[dir]++
		}
	})
	for dir, n := range comments {
		if n != 1 {
			t.Errorf("%s has %d package comments, want one", dir, n)
		}
	}
}

// init functions and panics outside Must… hide what a program does from whoever
// reads its main.
func TestNoInitNoPanic(t *testing.T) {
	goFiles(t, func(path string, content []byte) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, content, parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if fn.Name.Name == "init" && fn.Recv == nil {
				t.Errorf("%s: init function", fset.Position(fn.Pos()))
			}
			if strings.HasPrefix(fn.Name.Name, "Must") || strings.HasPrefix(fn.Name.Name, "must") {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "panic" {
						t.Errorf("%s: panic outside a Must function", fset.Position(call.Pos()))
					}
				}
				return true
			})
		}
	})
}
