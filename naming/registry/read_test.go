package registry_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// read reads namers as they stand in a larger file.
func read(t testing.TB, text string) []registry.Namer {
	t.Helper()
	r := document.Reader{File: "linkerd.yaml"}
	namers := registry.ReadNamers(&r, "namers", r.Root([]byte(text)))
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return namers
}

func readTransformers(t testing.TB, text string) []registry.Transformer {
	t.Helper()
	r := document.Reader{File: "linkerd.yaml"}
	transformers := registry.ReadTransformers(&r, "transformers", r.Root([]byte(text)))
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return transformers
}

func TestReadNamers(t *testing.T) {
	r := document.Reader{File: "linkerd.yaml"}
	got := registry.ReadNamers(&r, "namers", r.Root([]byte(`
- kind: io.l5d.k8s
  host: localhost
  port: 8001
  experimental: true
- {kind: io.l5d.k8s, prefix: /io.l5d.k8s.ds, labelSelector: example.org/version, transformers: [
    {kind: io.l5d.k8s.daemonset, k8sHost: localhost, k8sPort: 8001, namespace: default, port: incoming, service: l5d, hostNetwork: true}]}
- kind: io.l5d.k8s.ns
  envVar: NS
- kind: io.l5d.k8s.external
- kind: io.l5d.fs
  rootDir: disco
- kind: io.l5d.rewrite
  prefix: /flip
  pattern: "/{a}/{b}"
  name: "/dst/{b}/{a}"
  transformers:
  - {kind: io.l5d.k8s.localnode, hostNetwork: true, matchSubnet: true}
  - {kind: io.l5d.localhost, prefix: /local}
  - {kind: io.l5d.port, port: 9000}
  - {kind: io.l5d.specificHost, host: "::1"}
  - {kind: io.l5d.const, path: /#/flip}
  - {kind: io.l5d.replace, path: /$/nil}
`)))
	want := []registry.Namer{
		{Kind: registry.Kubernetes, Prefix: naming.Path{"io.l5d.k8s"}},
		{Kind: registry.Kubernetes, Prefix: naming.Path{"io.l5d.k8s.ds"}, LabelSelector: "example.org/version", Transformers: []registry.Transformer{
			{Kind: registry.DaemonSet, Namespace: "default", Service: "l5d", Port: "incoming"}}},
		{Kind: registry.KubernetesHere, Prefix: naming.Path{"io.l5d.k8s.ns"}, EnvVar: "NS"},
		{Kind: registry.KubernetesExternal, Prefix: naming.Path{"io.l5d.k8s.external"}},
		{Kind: registry.Files, Prefix: naming.Path{"io.l5d.fs"}, RootDir: "disco"},
		{Kind: registry.Rewrite, Prefix: naming.Path{"flip"}, Pattern: "/{a}/{b}", Name: "/dst/{b}/{a}", Transformers: []registry.Transformer{
			{Kind: registry.LocalNode, HostNetwork: true, Subnet: true},
			{Kind: registry.Localhost, Prefix: naming.Path{"local"}},
			{Kind: registry.Port, Port: "9000"},
			{Kind: registry.SpecificHost, Host: "::1"},
			{Kind: registry.Const, Path: naming.Path{"#", "flip"}},
			{Kind: registry.Replace, Path: naming.Path{"$", "nil"}},
		}},
	}
	if err := r.Err(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %+v\nwant %+v", err, got, want)
	}
	var warnings []string
	for _, w := range r.Warnings() {
		text, _, _ := strings.Cut(w.String(), " has no effect: ")
		warnings = append(warnings, text)
	}
	if got, want := strings.Join(warnings, "; "), "linkerd.yaml:3: namers[0].host; linkerd.yaml:4: namers[0].port; "+
		"linkerd.yaml:7: namers[1].transformers[0].k8sHost; linkerd.yaml:7: namers[1].transformers[0].k8sPort; linkerd.yaml:7: namers[1].transformers[0].hostNetwork"; got != want {
		t.Errorf("it warns\n%s\nwant\n%s", got, want)
	}
}

// A namerd is told where Kubernetes is by each part that asks there, and what is wrong elsewhere
// hides none of it.
func TestReadOwnNamers(t *testing.T) {
	r := document.Reader{File: "namerd.yaml"}
	namers, apis := registry.ReadOwnNamers(&r, "namers", r.Root([]byte(`
- kind: io.l5d.consul
- &k8s {kind: io.l5d.k8s, host: kube.test}
- {kind: io.l5d.fs, rootDir: disco, transformers: [
    {kind: io.l5d.localhost}, &ds {kind: io.l5d.k8s.daemonset, k8sPort: 80, namespace: a, port: b, service: c}]}
- {kind: io.l5d.k8s.ns, port: 81, transformers: [*ds]}
- *k8s
`)))
	var got []string
	for _, api := range apis {
		got = append(got, fmt.Sprintf("%d: %s at %s", api.Node.Line, api.Path, api.Address))
	}
	want := []string{
		"3: namers[1] at kube.test:8001", "5: namers[2].transformers[1] at localhost:80", "6: namers[3] at localhost:81",
		"5: namers[3].transformers[0] at localhost:80", "3: namers[4] at kube.test:8001",
	}
	if !slices.Equal(got, want) || len(namers) != 4 || len(r.Warnings()) != 0 {
		t.Errorf("%q %v %v", got, namers, r.Warnings())
	}
	wrong := "namerd.yaml:2: namers[0].kind: io.l5d.consul is not here: not supported; addresses of other registries can be kept in files, which io.l5d.fs follows, or in Services without selectors\n" +
		"namerd.yaml:3: namers[4].prefix: /io.l5d.k8s and /io.l5d.k8s of namers[1] in line 3 overlap; each must be its own"
	if err := r.Err(); err == nil || err.Error() != wrong {
		t.Errorf("got %v\nwant %s", err, wrong)
	}
}

func TestReadWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"a: b":                                                                       "f:1: namers: it must be a list of namers",
		"- prefix: /x":                                                               "f:1: namers[0].kind is not set, allowed: io.l5d.k8s, ",
		"- {kind: io.l5d.k8z}":                                                       `f:1: namers[0].kind: "io.l5d.k8z" is none; did you mean io.l5d.k8s? Allowed: `,
		"- {kind: io.l5d.consul}":                                                    "f:1: namers[0].kind: io.l5d.consul is not here: not supported; addresses of other registries can be kept in files",
		"- {kind: io.l5d.dnssrv}":                                                    "not supported; names of DNS",
		"- {kind: io.l5d.k8s, labelSelecter: a}":                                     "f:1: namers[0].labelSelecter is not a key of this file; did you mean labelSelector?",
		"- {kind: io.l5d.k8s, rootDir: a}":                                           "f:1: namers[0].rootDir is not known here: it is of kind io.l5d.fs, and this is io.l5d.k8s",
		"- {kind: io.l5d.k8s, prefix: edge}":                                         "f:1: namers[0].prefix: '/' expected but 'e' found at '[e]dge'",
		"- {kind: io.l5d.k8s, labelSelector: a=b}":                                   `f:1: namers[0].labelSelector: "a=b" is not the name of a label alone`,
		"- {kind: io.l5d.k8s, port: many}":                                           "namers[0].port",
		"- {kind: io.l5d.k8s, experimental: x}":                                      "namers[0].experimental",
		"- {kind: io.l5d.fs}":                                                        "f:1: namers[0].rootDir is not set, which kind io.l5d.fs needs",
		"- {kind: io.l5d.rewrite, prefix: /x}":                                       "f:1: namers[0].pattern is not set, which kind io.l5d.rewrite needs",
		`- {kind: io.l5d.rewrite, pattern: "/{a}", name: "/x/{b}"}`:                  `f:1: namers[0]: name "/x/{b}" is no path, with what pattern /{a} captures in it`,
		"- {kind: io.l5d.k8s, transformers: [{kind: io.l5d.k8s.daemonset}]}":         "f:1: namers[0].transformers[0].namespace is not set",
		"- {kind: io.l5d.k8s, transformers: [{kind: io.l5d.k8s.deamonset}]}":         `f:1: namers[0].transformers[0].kind: "io.l5d.k8s.deamonset" is none; did you mean io.l5d.k8s.daemonset?`,
		"- {kind: io.l5d.k8s, transformers: [{kind: io.l5d.port, port: 0}]}":         `namers[0].transformers[0].port: "0" is no port from 1 to 65535`,
		"- {kind: io.l5d.k8s, transformers: [{kind: io.l5d.const, path: /svc}]}":     "namers[0].transformers[0].path: path /svc must begin with /#/ or /$/",
		"- {kind: io.l5d.k8s, transformers: [{kind: io.l5d.specificHost, host: a}]}": `host: "a" is no IP address`,
		"- {kind: io.l5d.k8s, transformers: [{kind: io.l5d.localhost, prefix: /}]}":  "prefix / must have elements",
	} {
		r := document.Reader{File: "f"}
		namers := registry.ReadNamers(&r, "namers", r.Root([]byte(text)))
		if err := r.Err(); err == nil || !strings.Contains(err.Error(), want) || len(namers) > 0 {
			t.Errorf("%s:\n got %v, %v\nwant %s", text, err, namers, want)
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "io.l5d.fs io.l5d.k8s.external io.l5d.k8s",
		"# nothing":                              "io.l5d.fs io.l5d.k8s.external io.l5d.k8s",
		"[]":                                     "io.l5d.fs io.l5d.k8s.external io.l5d.k8s",
		"- {kind: io.l5d.k8s, prefix: /edge}":    "io.l5d.fs io.l5d.k8s.external io.l5d.k8s edge",
		"- {kind: io.l5d.k8s, labelSelector: v}": "io.l5d.fs io.l5d.k8s.external io.l5d.k8s",
		"- {kind: io.l5d.fs, prefix: /files}":    "io.l5d.fs io.l5d.k8s.external io.l5d.k8s files",
		"- {kind: io.l5d.rewrite, prefix: /x, pattern: /, name: /y}": "io.l5d.fs io.l5d.k8s.external io.l5d.k8s x",
	} {
		namers, _, err := registry.Parse("namers.yaml", []byte(text))
		var all []string
		for _, n := range namers {
			all = append(all, n.Prefix.String()[1:])
		}
		if got := strings.Join(all, " "); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
		if _, err := registry.New(registry.Config{Namers: namers, Distinct: true, Source: newSource()}); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"- {kind: io.l5d.fs, rootDir: /x}":                                     "namers.yaml:1: namers[0].rootDir is refused: the directory is a setting of each proxy",
		"- kind: io.l5d.k8s.ns":                                                "namers[0].kind: io.l5d.k8s.ns is not here: proxies of the mesh are in many namespaces",
		"- {kind: io.l5d.k8s, prefix: /}":                                      "namers.yaml:1: namers[0].prefix: / would take all names",
		"- {kind: io.l5d.k8s, prefix: /a}\n- kind: io.l5d.k8s\n  prefix: /a/b": "namers.yaml:3: namers[1].prefix: /a/b and /a of namers[0] in line 1 overlap",
		"- {kind: io.l5d.k8s, prefix: /#/io.l5d.y}":                            "namers.yaml:1: namers[0].prefix: names of a namer begin with /# by themselves: write /io.l5d.y",
		"- {kind: io.l5d.k8s, prefix: '/#'}":                                   "namers.yaml:1: namers[0].prefix: names of a namer begin with /# by themselves: write /io.l5d.k8s",
		"-":                                                                    "namers.yaml:1: namers[0]: it has no value, and must have a kind, allowed: io.l5d.k8s, ",
		"- {kind: io.l5d.k8s, transformers: [{kind: io.l5d.k8s.localnode}]}": "namers.yaml:1: the transformer io.l5d.k8s.localnode depends on where a process runs",
		"- {kind: io.l5d.k8s, sort: x}":                                      "namers[0].sort is not a key of a namer",
		"a: [":                                                               "namers.yaml: yaml:",
	} {
		if _, _, err := registry.Parse("namers.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("- {kind: io.l5d.k8s, prefix: /edge, labelSelector: v}\n- kind: io.l5d.rewrite\n  pattern: '/{a}'\n  name: '/{a}'\n")
	f.Add("- {kind: io.l5d.k8s, transformers: [{kind: io.l5d.k8s.daemonset, namespace: a, service: b, port: c}, {kind: io.l5d.const, path: /$/nil}]}")
	f.Fuzz(func(t *testing.T, text string) {
		namers, _, err := registry.Parse("f", []byte(text))
		if err != nil {
			return
		}
		// What is accepted can be served, but for prefixes of transformers that collide.
		_, err = registry.New(registry.Config{Namers: namers, Distinct: true, Source: newSource()})
		if err != nil && !strings.Contains(err.Error(), "is that of another transformer") {
			t.Errorf("%q: %v", text, err)
		}
	})
}
