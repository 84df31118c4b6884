// Package docs_test holds the documentation against the programs: whatever a page
// shows of a dtab or of YAML is read by the parser that would read it.
//
// Each block says in its first line what it is, such as ```dtab or ```yaml policy, the
// words that readers lists. A block that says nothing, or that is indented so that it
// could not, fails if it looks like a dtab or YAML.
package docs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/namerd"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/naming/rewrite"
	"github.com/tulle-mesh/tulle/sidecar/linkerd"
	"github.com/tulle-mesh/tulle/sidecar/policy"
)

// readers are the kinds of blocks, and who reads them; nil for those that nobody does.
func readers() map[string]func(file string, content []byte) error {
	return map[string]func(string, []byte) error{
		"dtab":            func(_ string, content []byte) error { return readDtab(string(content)) },
		"yaml policy":     readPolicy,
		"yaml namers":     readNamers,
		"yaml linkerd":    readLinkerd,
		"yaml namerd":     readNamerd,
		"yaml values":     readValues,
		"yaml kubernetes": readObjects,
		"json":            func(_ string, content []byte) error { return json.Unmarshal(content, new(any)) },
		"sh":              nil,
		"text":            nil,
	}
}

func readDtab(text string) error {
	d, err := naming.ParseDtab(text)
	if err == nil && len(d) == 0 {
		err = errors.New("there is no rule in it")
	}
	return err
}

func readPolicy(file string, content []byte) error {
	p, err := policy.Parse(file, content)
	if err == nil {
		err = noWarnings(p.Warnings)
	}
	return err
}

func readNamers(file string, content []byte) error {
	namers, warnings, err := registry.Parse(file, content)
	if err != nil {
		return err
	}
	if err := noWarnings(warnings); err != nil {
		return err
	}
	_, err = registry.New(registry.Config{Namers: namers, Distinct: true, Source: nowhere{}})
	return err
}

// nowhere is a source of addresses that has none.
type nowhere struct{}

func (nowhere) Replicas(string) (*watch.Value[naming.Replicas], func()) {
	return watch.New(naming.Replicas{}), func() {}
}

func readLinkerd(file string, content []byte) error {
	_, err := linkerd.Parse(file, content)
	return err
}

func readNamerd(file string, content []byte) error {
	_, err := namerd.Parse(file, content)
	return err
}

// noWarnings is an error if a page shows what has no effect.
func noWarnings[W fmt.Stringer](warnings []W) error {
	var errs []error
	for _, w := range warnings {
		errs = append(errs, errors.New(w.String()))
	}
	return errors.Join(errs...)
}

// readValues holds values against the chart's schema, and the texts in them against their
// readers.
func readValues(file string, content []byte) error {
	var values map[string]any
	if err := yaml.UnmarshalStrict(content, &values); err != nil {
		return err
	}
	if _, err := manifests.Render("tulle", values); err != nil {
		return err
	}
	var texts struct {
		Dtabs          map[string]string
		Policy, Namers string
	}
	if err := yaml.Unmarshal(content, &texts); err != nil {
		return err
	}
	for name, text := range texts.Dtabs {
		if err := readDtab(text); err != nil {
			return fmt.Errorf("dtabs.%s: %w", name, err)
		}
	}
	return errors.Join(readPolicy(file+": policy", []byte(texts.Policy)), readNamers(file+": namers", []byte(texts.Namers)))
}

// dtabObject is an object dtabs.l5d.io as people write it.
type dtabObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Dentries          []struct {
		Prefix string `json:"prefix"`
		Dst    string `json:"dst"`
	} `json:"dentries"`
}

// readObjects decodes objects of Kubernetes, of cert-manager and of ours as the API
// server would, and refuses fields that they do not have.
func readObjects(_ string, content []byte) error {
	known := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(known), certmanager.AddToScheme(known)); err != nil {
		return err
	}
	decoder := serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
	for _, doc := range regexp.MustCompile(`(?m)^---[ \t]*$`).Split(string(content), -1) {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		var o dtabObject
		if err := yaml.Unmarshal([]byte(doc), &o); err == nil && o.APIVersion == "l5d.io/v1alpha1" && o.Kind == "DTab" {
			if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
				return err
			}
			for _, d := range o.Dentries {
				if err := readDtab(d.Prefix + "=>" + d.Dst); err != nil {
					return err
				}
			}
			continue
		}
		if _, _, err := decoder.Decode([]byte(doc), nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// block is a piece of a page that is shown as it is.
type block struct {
	line    int
	kind    string // what its first line says; "" for nothing
	content []byte
}

// blocks returns the blocks of a page, those between ``` and those that are indented.
func blocks(text string) (all []block, err error) {
	var b *block
	fenced, blank := false, true
	for i, line := range strings.Split(text, "\n") {
		marker, isFence := strings.CutPrefix(strings.TrimLeft(line, " "), "```")
		indented := strings.HasPrefix(line, "    ")
		switch {
		case fenced && isFence:
			b, fenced = nil, false
		case isFence:
			all = append(all, block{line: i + 1, kind: strings.TrimSpace(marker)})
			b, fenced = &all[len(all)-1], true
		case fenced:
			b.content = append(b.content, line+"\n"...)
		case b != nil && (indented || strings.TrimSpace(line) == ""):
			b.content = append(b.content, strings.TrimPrefix(line, "    ")+"\n"...)
		case indented && blank:
			all = append(all, block{line: i + 1, content: []byte(line[4:] + "\n")})
			b = &all[len(all)-1]
		default:
			b = nil
		}
		blank = strings.TrimSpace(line) == ""
	}
	if fenced {
		return nil, fmt.Errorf("the block at line %d has no end", b.line)
	}
	return all, nil
}

// pages returns the documentation.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files := []string{"../README.md", "../CONTRIBUTING.md"}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[file] = string(text)
	}
	return all
}

func TestBlocks(t *testing.T) {
	known := readers()
	read := 0
	for file, text := range pages(t) {
		all, err := blocks(text)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for _, b := range all {
			where := fmt.Sprintf("%s:%d", file, b.line)
			if b.kind == "" {
				if kind := looksLike(b.content); kind != "" {
					t.Errorf("%s: the block looks like %s; begin it with ``` and one of %q", where, kind, kinds(known))
				}
				continue
			}
			reader, ok := known[b.kind]
			if !ok {
				t.Errorf("%s: nobody reads a block that begins with ```%s; want one of %q", where, b.kind, kinds(known))
			} else if reader != nil {
				read++
				if err := reader(where, b.content); err != nil {
					t.Errorf("%s: the program would refuse it: %v\n%s", where, err, b.content)
				}
			}
		}
	}
	if read < 15 {
		t.Errorf("only %d blocks were found and read", read)
	}
}

func kinds(known map[string]func(string, []byte) error) []string {
	var all []string
	for k := range known {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// yamlLine is what YAML of ours begins with; commands and headers do not.
var yamlLine = regexp.MustCompile(`^(- )?[a-z][A-Za-z0-9._-]*:( |$)`)

// looksLike returns what a block that does not say it is likely to be.
func looksLike(content []byte) string {
	if d, err := naming.ParseDtab(string(content)); err == nil && len(d) > 0 {
		return "a dtab"
	}
	first, _, _ := bytes.Cut(bytes.TrimSpace(content), []byte("\n"))
	var v any
	if yamlLine.Match(first) && yaml.Unmarshal(content, &v) == nil {
		return "YAML"
	}
	return ""
}

func TestLooksLike(t *testing.T) {
	for text, want := range map[string]string{
		"/a => /b | /c":                       "a dtab",
		"# rules\n/a=>/b;\n":                  "a dtab",
		"policy: |\n  client: {}":             "YAML",
		"- kind: io.l5d.fs":                   "YAML",
		"curl -H 'l5d-dtab: /a=>/b' http://x": "",
		"--- Router: outgoing ---":            "",
		"Forwarded: by=_5;for=_b;host=cart":   "",
		"":                                    "",
	} {
		if got := looksLike([]byte(text)); got != want {
			t.Errorf("%q looks like %q, want %q", text, got, want)
		}
	}
}

// What the chart comes with is read as values that users write are.
func TestChartValues(t *testing.T) {
	const file = "../manifests/chart/values.yaml"
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := readValues(file, content); err != nil {
		t.Error(err)
	}
}

// table returns the rows of the table with that head, whose cells are code.
func table(t *testing.T, page, head string) [][2]string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+head+"\n")
	if !ok {
		t.Fatalf("there is no table %s", head)
	}
	var rows [][2]string
	row := regexp.MustCompile("^\\| `([^`]*)` \\| (.*) \\|$")
	for _, line := range strings.Split(rest, "\n")[1:] {
		m := row.FindStringSubmatch(line)
		if m == nil {
			break
		}
		unescape := strings.NewReplacer(`\|`, "|")
		rows = append(rows, [2]string{unescape.Replace(m[1]), unescape.Replace(m[2])})
	}
	if len(rows) < 3 {
		t.Fatalf("the table %s has %d rows", head, len(rows))
	}
	return rows
}

// What names.md says that trees come to is what they come to.
func TestTreesInNames(t *testing.T) {
	for _, row := range table(t, pages(t)["names.md"], "| tree | comes to |") {
		tree, err := naming.ParseTree(row[0])
		if err != nil {
			t.Error(err)
			continue
		}
		bound, err := naming.Bind(naming.Dtab{{Prefix: naming.Prefix{"t"}, Dst: tree}}, naming.Path{"t"}, func(p naming.Path) naming.Resolution {
			if strings.HasPrefix(p[0], "ok") {
				return naming.Resolution{Bound: &naming.Bound{ID: p}}
			}
			return naming.Resolution{}
		})
		if got := "`" + shown(bound).String() + "`"; err != nil || got != row[1] {
			t.Errorf("%s comes to %s, %v; the page says %s", row[0], got, err, row[1])
		}
	}
}

// shown returns a bound tree as it would be written.
func shown(t naming.BoundTree) naming.Tree {
	switch t.Kind {
	case naming.BoundLeaf:
		return naming.Leaf(t.Leaf.ID.Join(t.Leaf.Residual...))
	case naming.BoundFail:
		return naming.Fail
	case naming.BoundEmpty:
		return naming.Empty
	case naming.BoundUnion:
		var u naming.Union
		for _, b := range t.Branches {
			u = append(u, naming.Weighted{Weight: b.Weight, Tree: shown(b.Tree)})
		}
		return u
	}
	return naming.Neg
}

// What names.md says that built-in namers make of a name is what they make of it.
func TestBuiltInNamesInNames(t *testing.T) {
	_, page, _ := strings.Cut(pages(t)["names.md"], "\n## What is built in\n")
	for _, row := range table(t, page, "| name | leads to |") {
		p, err := naming.ParsePath(row[0])
		if err != nil {
			t.Error(err)
			continue
		}
		switch r := rewrite.Resolve(p); {
		case r.Err != nil || r == (naming.Resolution{}):
			t.Errorf("%s leads to nothing, %v", row[0], r.Err)
		case r.Bound != nil && strings.HasPrefix(row[1], "`"), r.Tree != nil && "`"+r.Tree.String()+"`" != row[1]:
			t.Errorf("%s leads to %v %v, the page says %s", row[0], r.Tree, r.Bound, row[1])
		}
	}
}

// Links between pages lead somewhere.
func TestLinks(t *testing.T) {
	all := pages(t)
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	anchors := func(text string) map[string]bool {
		found := map[string]bool{}
		for _, m := range heading.FindAllStringSubmatch(text, -1) {
			found[strings.ReplaceAll(anchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
		}
		return found
	}
	for file, text := range all {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			path, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			target, to := text, file
			if path != "" {
				to = filepath.Join(filepath.Dir(file), path)
				f, err := os.Open(to)
				if err != nil {
					t.Errorf("%s: %s leads nowhere: %v", file, m[1], err)
					continue
				}
				content, _ := io.ReadAll(f)
				f.Close()
				target = string(content)
			}
			if fragment != "" && !anchors(target)[fragment] {
				t.Errorf("%s: %s leads nowhere: %s has no such heading", file, m[1], to)
			}
		}
	}
}
