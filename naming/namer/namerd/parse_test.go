package namerd_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/namerd"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// article is the namerd of the article on deployments without a pause.
const article = `admin:
  ip: 0.0.0.0
  port: 9991
storage:
  kind: io.l5d.k8s
  host: localhost
  port: 8001
  namespace: default
namers:
- kind: io.l5d.k8s
  host: localhost
  port: 8001
interfaces:
- kind: io.l5d.thriftNameInterpreter
  ip: 0.0.0.0
  port: 4100
- kind: io.l5d.httpController
  ip: 0.0.0.0
  port: 4180
`

// with is a configuration that is right, with these keys beside.
func with(keys string) string {
	return "storage: {kind: io.l5d.inMemory}\ninterfaces: [{kind: io.l5d.httpController}]\n" + keys
}

// stored has this storage, opened these interfaces, and lists begin in line 2.
func stored(storage string) string {
	return "interfaces: [{kind: io.l5d.httpController}]\nstorage: " + storage
}

func opened(interfaces string) string {
	return "storage: {kind: io.l5d.inMemory}\ninterfaces:\n" + interfaces
}

func dtab(t *testing.T, text string) naming.Dtab {
	t.Helper()
	d, err := naming.ParseDtab(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParse(t *testing.T) {
	memory := namerd.Storage{Kind: namerd.InMemory}
	base := func() namerd.Config {
		return namerd.Config{File: "f", Admin: "127.0.0.1:9991", Grace: 10 * time.Second, Storage: memory, Servers: []namerd.Server{{Address: "127.0.0.1:4180", Line: 2}}}
	}
	kubernetes := registry.Namer{Kind: registry.Kubernetes, Prefix: naming.Path{"io.l5d.k8s"}}
	for name, c := range map[string]struct {
		text string
		want func(*namerd.Config)
	}{
		"defaults": {with(""), func(*namerd.Config) {}},
		"JSON with tabs": {"{\n\t\"storage\": {\"kind\": \"io.l5d.inMemory\"}, \"interfaces\":\n\t[\n\t\t{\"kind\": \"io.l5d.httpController\"}\n\t]\n}\n",
			func(c *namerd.Config) { c.Servers[0].Line = 4 }},
		"JSON with slashes escaped": {`{"storage": {"kind": "io.l5d.inMemory", "namespaces": {"a": "\/svc=>\/srv"}}, "interfaces": [{"kind": "io.l5d.httpController"}]}`,
			func(c *namerd.Config) {
				c.Storage.Namespaces, c.Servers[0].Line = map[string]naming.Dtab{"a": dtab(t, "/svc=>/srv")}, 1
			}},
		"the article's": {article, func(c *namerd.Config) {
			c.Admin, c.AdminLine, c.Kubernetes = "0.0.0.0:9991", 2, "localhost:8001"
			c.Storage = namerd.Storage{Kind: namerd.Kubernetes, Namespace: "default"}
			c.Namers = []registry.Namer{kubernetes}
			c.Servers = []namerd.Server{{Address: "0.0.0.0:4180", Line: 17}}
			c.Warnings = []document.Warning{{File: "f", Line: 14, Text: "interfaces[0].kind io.l5d.thriftNameInterpreter has no effect: " +
				"Thrift is not spoken: proxies of Tulle ask over HTTP, and those of Linkerd 1.x do with the interpreter io.l5d.namerd.http"}}
		}},
		"administration": {with("admin: {ip: localhost, port: 0, shutdownGraceMs: 500}"), func(c *namerd.Config) { c.Admin, c.AdminLine, c.Grace = "127.0.0.1:0", 3, 500*time.Millisecond }},
		"rules in memory": {stored("\n  kind: io.l5d.inMemory\n  namespaces:\n    internal: |\n      /srv => /#/io.l5d.k8s/default/http ; # all\n      /svc => /srv ;\n    empty: ''"), func(c *namerd.Config) {
			c.Storage.Namespaces = map[string]naming.Dtab{"internal": dtab(t, "/srv=>/#/io.l5d.k8s/default/http;/svc=>/srv"), "empty": nil}
			c.Servers[0].Line = 1
		}},
		"files": {stored("{kind: io.l5d.fs, rootDir: /var/dtabs}"), func(c *namerd.Config) {
			c.Storage, c.Servers[0].Line = namerd.Storage{Kind: namerd.Files, Dir: "/var/dtabs"}, 1
		}},
		"objects": {stored("{kind: io.l5d.k8s, experimental: true}"), func(c *namerd.Config) {
			c.Storage, c.Servers[0].Line, c.Kubernetes = namerd.Storage{Kind: namerd.Kubernetes, Namespace: "default"}, 1, "localhost:8001"
		}},
		"objects elsewhere": {stored("{kind: io.l5d.k8s, host: '::1', port: 80, namespace: shop}"), func(c *namerd.Config) {
			c.Storage, c.Servers[0].Line, c.Kubernetes = namerd.Storage{Kind: namerd.Kubernetes, Namespace: "shop"}, 1, "[::1]:80"
		}},
		"two spellings of this machine": {stored("{kind: io.l5d.k8s, host: 127.0.0.1}\nnamers: [{kind: io.l5d.k8s}]"), func(c *namerd.Config) {
			c.Storage, c.Servers[0].Line, c.Kubernetes = namerd.Storage{Kind: namerd.Kubernetes, Namespace: "default"}, 1, "127.0.0.1:8001"
			c.Namers = []registry.Namer{kubernetes}
		}},
		"namers": {with("namers:\n- {kind: io.l5d.k8s.ns, experimental: true, envVar: HERE, host: kube.test, port: 80}\n" +
			"- kind: io.l5d.rewrite\n  prefix: /whole\n  pattern: /{name}\n  name: /srv/{name}\n  transformers: [{kind: io.l5d.port, port: 4141}]\n" +
			"- &fs {kind: io.l5d.fs, rootDir: disco}"), func(c *namerd.Config) {
			c.Kubernetes = "kube.test:80"
			c.Namers = []registry.Namer{
				{Kind: registry.KubernetesHere, Prefix: naming.Path{"io.l5d.k8s.ns"}, EnvVar: "HERE"},
				{Kind: registry.Rewrite, Prefix: naming.Path{"whole"}, Pattern: "/{name}", Name: "/srv/{name}", Transformers: []registry.Transformer{{Kind: registry.Port, Port: "4141"}}},
				{Kind: registry.Files, Prefix: naming.Path{"io.l5d.fs"}, RootDir: "disco"},
			}
		}},
		"a transformer's Kubernetes": {with("namers: [{kind: io.l5d.fs, rootDir: d, transformers: [&p {kind: io.l5d.k8s.daemonset, namespace: a, service: b, port: c, k8sHost: kube.test}, {kind: io.l5d.localhost}]}]"), func(c *namerd.Config) {
			c.Kubernetes = "kube.test:8001"
			c.Namers = []registry.Namer{{Kind: registry.Files, Prefix: naming.Path{"io.l5d.fs"}, RootDir: "d", Transformers: []registry.Transformer{
				{Kind: registry.DaemonSet, Namespace: "a", Service: "b", Port: "c"}, {Kind: registry.Localhost}}}}
		}},
		"servers": {opened("- {kind: io.l5d.httpController, ip: '::', port: 0, access: rbac}\n- {kind: io.l5d.httpController, access: open}\n- kind: io.l5d.httpController\n" +
			"  port: 4181\n  tls: {certPath: c, keyPath: k, intermediateCertsPath: i, caCertPath: a, requireClientAuth: true}"), func(c *namerd.Config) {
			c.Kubernetes = "localhost:8001"
			c.Servers = []namerd.Server{
				{Address: "[::]:0", Access: namerd.AccessRBAC, Line: 3}, {Address: "127.0.0.1:4180", Access: namerd.AccessOpen, Line: 4},
				{Address: "127.0.0.1:4181", Line: 5, TLS: namerd.TLS{CertFile: "c", KeyFile: "k", IntermediatesFile: "i", CAFile: "a", RequireClient: true}},
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := namerd.Parse("f", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			want := base()
			c.want(&want)
			if diff := cmp.Diff(&want, got, cmpopts.IgnoreUnexported(namerd.Config{}), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What is wrong is said with file, line and key, all of it at once, and what would be right.
func TestWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "f:1: storage is not set, such as storage: {kind: io.l5d.k8s} or storage: {kind: io.l5d.inMemory}\n" +
			"f:1: interfaces is not set; the HTTP API needs one: interfaces: [{kind: io.l5d.httpController, port: 4180}]"},
		{"# nothing\n---\n", "f:1: storage is not set, …\nf:1: interfaces is not set; …"},
		{"{}", "f:1: storage is not set, …\nf:1: interfaces is not set; …"},
		{"- a", "f:1: it must hold keys and values"},
		{"storage: [", "f: yaml: …"},
		{with("---\na: b"), "f:3: a second document begins, there must be one"},
		{with("storage: {}"), "f:3: storage is set twice, first in line 1"},
		{with("interface: []"), "f:3: interface is not a key of a namerd configuration; did you mean interfaces?"},
		{with("routers: []"), "f:3: routers is not known here: it is of a linkerd.yaml, which tulle-proxy runs"},
		{with("usage: {}"), "f:3: usage is not known here: it is of a linkerd.yaml, which tulle-proxy runs"},
		// Storage.
		{stored(""), "f:2: storage: it has no value, and must have a kind, allowed: io.l5d.inMemory, io.l5d.k8s, io.l5d.fs"},
		{stored("{}"), "f:2: storage.kind is not set, allowed: io.l5d.inMemory, io.l5d.k8s, io.l5d.fs"},
		{"x: &a {kind: io.l5d.inMemory}\n" + stored("{<<: *a}"), "f:1: x is not a key of a namerd configuration\n" +
			"f:3: storage: merge keys (<<) are not taken: write the keys themselves, or an alias for the whole value"},
		{opened("- &a {kind: io.l5d.httpController}\n- {kind: io.l5d.httpController, tls: {<<: *a}}"),
			"f:4: interfaces[1].tls: merge keys (<<) are not taken: …"},
		{stored("io.l5d.k8s"), "f:2: storage: it must hold keys and values"},
		{stored("{kind: io.l5d.inmemry}"), `f:2: storage.kind: "io.l5d.inmemry" is none; did you mean io.l5d.inMemory? Allowed: io.l5d.inMemory, io.l5d.k8s, io.l5d.fs`},
		{stored("{kind: io.l5d.zk, zkAddrs: []}"), "f:2: storage.kind: io.l5d.zk is not here: dtabs can be objects of Kubernetes, by kind io.l5d.k8s, or files of a directory, " +
			"by kind io.l5d.fs with rootDir; namerctl copies them from one namerd to another"},
		{stored("{kind: io.l5d.etcd, experimental: true}"), "f:2: storage.kind: io.l5d.etcd is not here: dtabs can be …"},
		{stored("{kind: io.l5d.consul}"), "f:2: storage.kind: io.l5d.consul is not here: dtabs can be …"},
		{stored("{kind: io.l5d.inMemory, namespace: a}"), "f:2: storage.namespace is not known here: it is of kind io.l5d.k8s, and this is io.l5d.inMemory"},
		{stored("{kind: io.l5d.inMemory, namespaces: [a]}"), "f:2: storage.namespaces: it must hold keys and values"},
		{stored("{kind: io.l5d.inMemory, namespaces: {Shop: /a=>/b}}"), `f:2: storage.namespaces.Shop: "Shop" is no name of a dtab: up to 63 lower-case letters, digits and hyphens`},
		{stored("{kind: io.l5d.inMemory, namespaces: {shop: }}"), "f:2: storage.namespaces.shop: it must be a text of rules, such as /svc => /#/io.l5d.k8s/default/http"},
		{stored("{kind: io.l5d.inMemory, namespaces: {shop: [{prefix: /a, dst: /b}]}}"), "f:2: storage.namespaces.shop: it must be a text of rules, …"},
		{stored("\n  kind: io.l5d.inMemory\n  namespaces:\n    shop: |\n      /a => /b ;\n      /c => d ;\n    pay: /x"),
			"f:7: storage.namespaces.shop: a path, '(', '~', '!' or '$' expected but 'd' found at '/c => [d] ;'\nf:8: storage.namespaces.pay: '=>' expected but end of input found at '/x[]'"},
		{stored("{kind: io.l5d.k8s, namespace: My Shop}"), `f:2: storage.namespace: "My Shop" is no name of a namespace: up to 63 lower-case letters, digits and hyphens`},
		{stored("{kind: io.l5d.k8s, host: 'http://kube'}"), `f:2: storage.host: "http://kube" is no host: a name or an IP address, without a port`},
		{stored("{kind: io.l5d.k8s, host: ''}"), "f:2: storage.host: it is empty, and must be a host, such as localhost"},
		{stored("{kind: io.l5d.k8s, port: '8001'}"), `f:2: storage.port: "8001" is not a whole number`},
		{stored("{kind: io.l5d.fs}"), "f:2: storage.rootDir is not set, which kind io.l5d.fs needs"},
		{stored("{kind: io.l5d.fs, rootDir: ''}"), "f:2: storage.rootDir: it is empty, and must be a directory"},
		// Namers.
		{with("namers: {}"), "f:3: namers: it must be a list of namers, each with a kind"},
		{with("namers: [{kind: io.l5d.consul}]"), "f:3: namers[0].kind: io.l5d.consul is not here: not supported; …"},
		{with("namers: [{kind: io.l5d.k8ss}]"), `f:3: namers[0].kind: "io.l5d.k8ss" is none; did you mean io.l5d.k8s? …`},
		{with("namers:\n- kind: io.l5d.k8s\n- {kind: io.l5d.fs, rootDir: d, prefix: /io.l5d.k8s/shop}"), "f:5: namers[1].prefix: /io.l5d.k8s/shop and /io.l5d.k8s of namers[0] in line 4 overlap; each must be its own"},
		{with("namers: [{kind: io.l5d.k8s, prefix: /}]"), "f:3: namers[0].prefix: / would take all names; it needs an element"},
		{with("namers: [{kind: io.l5d.k8s, transformers: [{kind: io.l5d.port}]}]"), "f:3: namers[0].transformers[0].port is not set, which kind io.l5d.port needs"},
		// Where Kubernetes is.
		{stored("{kind: io.l5d.k8s}\nnamers:\n- kind: io.l5d.k8s\n  port: 80"), "f:4: namers[0]: the API of Kubernetes is at localhost:80 here and at localhost:8001 for storage in line 2; there is one for all"},
		{with("namers:\n- kind: io.l5d.k8s\n  host: kube.test\n  transformers:\n  - {kind: io.l5d.k8s.daemonset, namespace: a, service: b, port: c}"),
			"f:7: namers[0].transformers[0]: the API of Kubernetes is at localhost:8001 here and at kube.test:8001 for namers[0] in line 4; there is one for all"},
		// Interfaces.
		{"storage: {kind: io.l5d.inMemory}\ninterfaces:", "f:2: interfaces: it must be a list of interfaces, each with a kind"},
		{"storage: {kind: io.l5d.inMemory}\ninterfaces: []", "f:2: interfaces: it is empty; the HTTP API needs one: interfaces: [{kind: io.l5d.httpController, port: 4180}]"},
		{opened("- kind: io.l5d.thriftNameInterpreter\n- kind: io.l5d.mesh"), "f:3: interfaces: none of them is opened here; the HTTP API needs one: interfaces: [{kind: io.l5d.httpController, port: 4180}]"},
		{opened("- {}"), "f:3: interfaces[0].kind is not set, allowed: io.l5d.httpController, io.l5d.thriftNameInterpreter, io.l5d.mesh"},
		{opened("- {kind: io.l5d.httpControler}"), `f:3: interfaces[0].kind: "io.l5d.httpControler" is none; did you mean io.l5d.httpController? …`},
		{opened("- {kind: io.l5d.destination}"), "f:3: interfaces[0].kind: io.l5d.destination is not here: it is for proxies of Linkerd 2; leave it out"},
		{opened("- {kind: io.l5d.httpController, cache: {}}"), "f:3: interfaces[0].cache is not known here: it is of kind io.l5d.thriftNameInterpreter, and this is io.l5d.httpController"},
		{opened("- {kind: io.l5d.httpController, ip: everywhere}"), `f:3: interfaces[0].ip: "everywhere" is no IP address, such as 127.0.0.1 or 0.0.0.0`},
		{opened("- {kind: io.l5d.httpController, port: 70000}"), "f:3: interfaces[0].port: 70000 is out of range: 0 to 65535"},
		{opened("- {kind: io.l5d.httpController, access: all}"), `f:3: interfaces[0].access: "all" is neither open, which lets everyone in, nor rbac, which asks for a token of Kubernetes`},
		{opened("- {kind: io.l5d.httpController, tls: {certPath: a}}"), "f:3: interfaces[0].tls.keyPath is not set"},
		{opened("- {kind: io.l5d.httpController, tls: {certPath: '', keyPath: b}}"), "f:3: interfaces[0].tls.certPath: it is empty, and must be the path of a file"},
		{opened("- {kind: io.l5d.httpController, tls: {certPath: a, keyPath: b, requireClientAuth: true}}"),
			"f:3: interfaces[0].tls: requireClientAuth needs caCertPath, the authority of clients' certificates"},
		{opened("- {kind: io.l5d.httpController, socketOptions: {noDelay: 1}}"), "f:3: interfaces[0].socketOptions.noDelay: 1 is not true or false"},
		{opened("- kind: io.l5d.httpController\n- kind: io.l5d.thriftNameInterpreter\n  cache: {bindingCacheActiv: 1}"),
			"f:5: interfaces[1].cache.bindingCacheActiv is not a key of a namerd configuration; did you mean bindingCacheActive?"},
		{opened("- kind: io.l5d.httpController\n- {kind: io.l5d.mesh, ip: 0.0.0.0, port: 4180}"), "f:4: interfaces[1]: Server conflict on port 4180: interfaces[0] listens at 127.0.0.1:4180"},
		{opened("- {kind: io.l5d.httpController, ip: 0.0.0.0, port: 9991}"), "f:3: interfaces[0]: Server conflict on port 9991: admin listens at 127.0.0.1:9991"},
		// What linkerd.yaml has too.
		{with("admin: {tls: {}}"), "f:3: admin.tls is refused: …"},
		{with("admin: {prot: 1}"), "f:3: admin.prot is not a key of a namerd configuration; did you mean port?"},
		{with("telemetry: {}"), "f:3: telemetry: it must be a list of telemeters"},
		{with("telemetry: [{kind: io.l5d.prometeus}]"), `f:3: telemetry[0].kind: "io.l5d.prometeus" is none; did you mean io.l5d.prometheus? …`},
	} {
		cfg, err := namerd.Parse("f", []byte(c.text))
		if cfg != nil || !fits(fmt.Sprint(err), c.want) {
			t.Errorf("%s\n got %v\nwant %s", c.text, err, c.want)
		}
	}
}

// fits reports whether text is want, in which a … ends a line that may go on.
func fits(text, want string) bool {
	lines, wants := strings.Split(text, "\n"), strings.Split(want, "\n")
	if len(lines) != len(wants) {
		return false
	}
	for i, line := range lines {
		begin, open := strings.CutSuffix(wants[i], "…")
		if !strings.HasPrefix(line, begin) || !open && line != begin {
			return false
		}
	}
	return true
}

func TestNoEffect(t *testing.T) {
	const thrift = "interfaces[1].kind io.l5d.thriftNameInterpreter has no effect: Thrift is not spoken: proxies of Tulle ask over HTTP, and those of Linkerd 1.x do with the interpreter io.l5d.namerd.http"
	for _, c := range []struct{ text, want string }{
		{with("namers: [{kind: io.l5d.k8s, host: localhost, port: 8001}]\nadmin: {security: {uiEnabled: true}}"), ""},
		{with("admin: {httpIdentifierPort: 9992, workerThreads: 2}"), "f:3: admin.httpIdentifierPort has no effect: …\nf:3: admin.workerThreads has no effect: threads are the runtime's"},
		{with("telemetry:\n- {kind: io.l5d.zipkin, host: z, sampleRate: 0.5}\n- kind: io.l5d.prometheus"),
			"f:4: telemetry[0].kind io.l5d.zipkin has no effect: requests of the API are not traced\nf:5: telemetry[1].kind io.l5d.prometheus has no effect: metrics are at /metrics …"},
		{with("namers: [{kind: io.l5d.k8s, transformers: [{kind: io.l5d.k8s.daemonset, namespace: a, service: b, port: c, hostNetwork: true}]}]"),
			"f:3: namers[0].transformers[0].hostNetwork has no effect: …"},
		{opened("- kind: io.l5d.httpController\n- {kind: io.l5d.thriftNameInterpreter, cache: {bindingCacheActive: 5, addrCacheInactiveTTLSecs: 0}, socketOptions: {backlog: 5}, tls: {certPath: a, keyPath: b}}"),
			"f:4: " + thrift},
		{opened("- kind: io.l5d.httpController\n- {kind: io.l5d.mesh, ip: 0.0.0.0}"), "f:4: interfaces[1].kind io.l5d.mesh has no effect: namerd's gRPC is not spoken: …"},
		{opened("- {kind: io.l5d.httpController, socketOptions: {noDelay: true, reuseAddr: true, reusePort: false, keepAlive: true}}"), ""},
		{opened("- kind: io.l5d.httpController\n  socketOptions:\n    noDelay: false\n    reuseAddr: false\n    reusePort: true\n    keepAlive: false\n    backlog: 9\n    writeTimeoutMs: 5\n    readTimeoutMs: 5"),
			"f:5: interfaces[0].socketOptions.noDelay has no effect: …\nf:6: interfaces[0].socketOptions.reuseAddr has no effect: …\nf:7: interfaces[0].socketOptions.reusePort has no effect: …\n" +
				"f:8: interfaces[0].socketOptions.keepAlive has no effect: …\nf:9: interfaces[0].socketOptions.backlog has no effect: …\n" +
				"f:10: interfaces[0].socketOptions.writeTimeoutMs has no effect: …\nf:11: interfaces[0].socketOptions.readTimeoutMs has no effect: …"},
		{opened("- {kind: io.l5d.httpController, tls: {certPath: a, keyPath: b, ciphers: [x], protocols: [TLSv1.2]}}"),
			"f:3: interfaces[0].tls.ciphers has no effect: versions and ciphers of TLS are those that Go holds to be safe\nf:3: interfaces[0].tls.protocols has no effect: …"},
	} {
		cfg, err := namerd.Parse("f", []byte(c.text))
		if err != nil {
			t.Errorf("%s\n%v", c.text, err)
			continue
		}
		var got []string
		for _, w := range cfg.Warnings {
			got = append(got, w.String())
		}
		if !fits(strings.Join(got, "\n"), c.want) {
			t.Errorf("%s\n got %s\nwant %s", c.text, strings.Join(got, "\n"), c.want)
		}
	}
}

// Certificates of what is opened must be there.
func TestAbsentFiles(t *testing.T) {
	there := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := namerd.Parse("f", fmt.Appendf(nil, opened("- kind: io.l5d.httpController\n  tls:\n    certPath: %s\n    keyPath: /nowhere/key\n- {kind: io.l5d.mesh, tls: {certPath: /nowhere/c, keyPath: /nowhere/k}}"), there))
	if err != nil {
		t.Fatal(err)
	}
	if all := c.Absent(); len(all) != 1 || all[0].String() != "f:6: interfaces[0].tls.keyPath: open /nowhere/key: no such file or directory" {
		t.Error(all)
	}
}

// No text makes it panic, what is accepted is whole, and a registry can be made of it.
func FuzzParse(f *testing.F) {
	f.Add(article)
	f.Add(with("namers: &a [*a]"))
	f.Add(with("namers: [&a {kind: io.l5d.fs, rootDir: a, transformers: [&t {kind: io.l5d.const, path: /a}, *t]}, *a]"))
	f.Add(stored("{kind: io.l5d.inMemory, namespaces: {a: /svc=>/b}}"))
	f.Add("{\"interfaces\": [{\"kind\": \"io.l5d.mesh\"},\t~], \"storage\": ~}")
	f.Add(opened("- {kind: io.l5d.httpController, tls: {certPath: a, keyPath: b}, access: rbac}"))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := namerd.Parse("f", []byte(text))
		if (c == nil) == (err == nil) {
			t.Fatalf("%v %v", c, err)
		}
		if err != nil {
			return
		}
		if len(c.Servers) == 0 || c.Storage.Kind == "" || c.Storage.Kind == namerd.Kubernetes && c.Kubernetes == "" {
			t.Errorf("%+v", c)
		}
		for _, s := range c.Servers {
			if (s.TLS == namerd.TLS{}) != (s.TLS.CertFile == "") || s.Line == 0 {
				t.Errorf("%+v", s)
			}
		}
		if _, err := json.Marshal(c.Said()); err != nil {
			t.Error(err)
		}
		c.Absent()
		c.AbsentAddresses()
		if _, err := registry.New(registry.Config{Namers: c.Namers, Distinct: true, Source: nowhere{}, Getenv: func(string) string { return "here" }}); err != nil {
			t.Error(err)
		}
	})
}

// nowhere is a source of addresses that has none.
type nowhere struct{}

func (nowhere) Replicas(string) (*watch.Value[naming.Replicas], func()) {
	return watch.New(naming.Replicas{}), func() {}
}
