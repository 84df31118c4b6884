package linkerd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/sidecar/linkerd"
)

// router is a configuration whose one router has these keys.
func router(keys string) string {
	return "routers:\n- protocol: http\n  " + strings.ReplaceAll(keys, "\n", "\n  ") + "\n  servers: [{}]"
}

func h2(keys string) string { return strings.Replace(router(keys), "http", "h2", 1) }

func top(keys string) string { return router("label: a") + "\n" + keys }

func TestWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		// The whole.
		{"", "f:1: config must have at least one router"},
		{"# nothing", "f:1: config must have at least one router"},
		{"{}", "f:1: config must have at least one router"},
		{"routers: []", "f:1: config must have at least one router"},
		{"- a", "f:1: "},
		{"routers: {a: b}", "f:1: routers: it must be a list of routers"},
		{"routers: [", "f: yaml:"},
		{"routers: []\nrouters: []", "f:2: routers"},
		{top("admim: {}"), "f:5: admim is not a key of a Linkerd 1.x configuration; did you mean admin?"},
		// Routers.
		{"routers: [{servers: [{}]}]", "f:1: routers[0].protocol is not set, allowed: http, h2"},
		{"routers: [{protocol: thrift}]", "f:1: routers[0].protocol: thrift is not here: Thrift is not spoken"},
		{"routers: [{protocol: htpp}]", `"htpp" is none; did you mean http?`},
		{"routers: [{protocol: http}]", "f:1: routers[0]: router 'http' has no servers"},
		{"routers: [{protocol: http, label: x, servers: []}]", "router 'x' has no servers"},
		{router("label: ''"), "routers[0].label: it is empty"},
		{router("x: 1") + "\n- protocol: http\n  servers: [{port: 1}]", "f:5: routers[1]: Multiple routers with the label http"},
		{router("baseDtab: /a=>/b"), "f:3: routers[0].baseDtab is not a key of a Linkerd 1.x configuration"},
		{router("timeoutMs: 5"), "routers[0].timeoutMs is not a key"},
		{router("responseClassifier: {kind: io.l5d.http.nonRetryable5XX}"), "routers[0].responseClassifier is not a key"},
		{router("enableProbation: true"), "routers[0].enableProbation is not a key"},
		{router("clinet: {}"), "f:3: routers[0].clinet is not a key of a Linkerd 1.x configuration; did you mean client?"},
		{router("h2AccessLog: x"), "routers[0].h2AccessLog is not known here: it is for protocol h2"},
		{h2("httpAccessLog: x"), "routers[0].httpAccessLog is not known here: it is for protocol http"},
		{router("streamingEnabled: false\nstreamAfterContentLengthKB: 5"), "f:3: routers[0]: conflicting streaming options"},
		{router("announcers: []"), "routers[0].announcers is refused"},
		{router("dstPrefix: svc"), "routers[0].dstPrefix: '/' expected"},
		{router("bindingTimeoutMs: soon"), `routers[0].bindingTimeoutMs: "soon" is not a whole number`},
		{router("bindingCache: {paths: 0}"), "routers[0].bindingCache.paths: 0 is out of range"},
		// Rules are pointed at where they are wrong.
		{router("dtab: |\n  /a => /b ;\n  /c => d ;"), "f:5: routers[0].dtab: "},
		{router("dtab: [a]"), "f:3: routers[0].dtab: it must be a single value"},
		// Servers.
		{"routers: [{protocol: http, servers: [{port: 70000}]}]", "routers[0].servers[0].port: 70000 is out of range: 0 to 65535"},
		{"routers: [{protocol: http, servers: [{ip: everywhere}]}]", `routers[0].servers[0].ip: "everywhere" is no IP address`},
		{"routers: [{protocol: http, servers: [{}, {}]}]", "f:1: routers[0].servers[1]: Server conflict on port 4140"},
		{"routers: [{protocol: http, servers: [{port: 9990}]}]", "Server conflict on port 9990"},
		{"routers: [{protocol: http, servers: [{announce: [x]}]}]", "routers[0].servers[0].announce is refused"},
		{"routers: [{protocol: http, servers: [{tls: {certPath: a}}]}]", "routers[0].servers[0].tls.keyPath is not set"},
		{"routers:\n- protocol: http\n  servers:\n  - overrides: mesh", `f:4: routers[0].servers[0].overrides: "mesh" is neither everyone nor local`},
		{"routers: [{protocol: http, servers: [{overrides: true}]}]", "routers[0].servers[0].overrides: true is not text but read as true or false; quotes make it text"},
		// Clients.
		{router("client: {tls: {disableValidation: true, clientAuth: {certPath: a, keyPath: b}}}"), "incompatible"},
		{router("client: {tls: {commonName: a, trustCerts: [b], trustCertsBundle: c}}"), "incompatible"},
		{router("client: {tls: {}}"), "commonName"},
		{router("client: {requestAuthorizers: []}"), "routers[0].client.requestAuthorizers is refused"},
		{router("client: {loadBalancer: {kind: ewna}}"), `"ewna" is none; did you mean ewma?`},
		{router("client: {kind: io.l5d.static, configs: [{prefix: svc}]}"), "does not begin with /"},
		{router("client: {kind: io.l5d.static, configs: [{prefix: /a//}]}"), "empty element"},
		// Identifiers.
		{router("identifier: []"), "f:3: routers[0].identifier: it is empty"},
		{router("identifier: {kind: io.l5d.header.path}"), "io.l5d.header.path is not here: it is for protocol h2"},
		{h2("identifier: {kind: io.l5d.path}"), "io.l5d.path is not here: it is for protocol http"},
		{h2("identifier: {kind: io.l5d.header.path, segments: 0}"), "routers[0].identifier.segments: 0 is out of range"},
		{router("identifier: {kind: io.l5d.static}"), "routers[0].identifier.path is not set"},
		{router("identifier: {kind: io.l5d.header, header: 'a b'}"), `"a b" is no name of a header`},
		{router("identifier: {kind: io.l5d.k8s.istio}"), "Istio's rules are not read"},
		// Interpreters.
		{router("interpreter: {kind: io.l5d.namerd}"), "routers[0].interpreter.dst is not set"},
		{router("interpreter: {kind: io.l5d.namerd, dst: /#/namerd}"), "routers[0].interpreter.dst: /#/namerd is no address of a namerd: /$/inet/<host>/<port>"},
		{router("interpreter: {kind: io.l5d.namerd.http, dst: /$/inet/a/4180}"), "io.l5d.namerd.http is experimental and must be enabled: experimental: true"},
		{router("interpreter: {kind: io.l5d.mesh, dst: /$/inet/a/4321, root: /a/b}"), "must be one element, such as /default"},
		{router("interpreter: {kind: io.l5d.mesh, dst: /$/inet/a/4321, namespace: a}"), "routers[0].interpreter.namespace is not known here: it is of kind io.l5d.k8s.configMap, io.l5d.namerd or io.l5d.namerd.http, and this is io.l5d.mesh"},
		{router("interpreter: {kind: io.l5d.namerd, dst: /$/inet/a/4181, tls: {caCert: b}}"), "routers[0].interpreter.tls.commonName is not set"},
		{router("interpreter: {kind: io.l5d.namerd, dst: /$/inet/a/4181, tls: {commonName: ''}}"), "routers[0].interpreter.tls: commonName is empty"},
		{router("interpreter: {kind: io.l5d.namerd, dst: /$/inet/a/4181, tls: {commonName: a, caCert: b, trustCerts: [c]}}"), "f:3: routers[0].interpreter.tls: caCert, trustCertsBundle and trustCerts are incompatible"},
		{router("interpreter: {kind: io.l5d.namerd, dst: /$/inet/a/4181, tls: {commonName: a, disableValidation: true}}"), "tls.disableValidation is refused: rules of whoever answers"},
		{router("interpreter: {kind: io.l5d.namerd, dst: /$/inet/a/4181, tls: {commonName: a, clientAuth: {}}}"), "tls.clientAuth is refused: no certificate is shown"},
		{router("interpreter: {kind: io.l5d.namerd, dst: /$/inet/a/4180, tokenFile: b}"), "f:3: routers[0].interpreter: tokenFile without tls would show the token to whoever listens on the way to a:4180; set tls, or tokenInClear: true"},
		{router("interpreter: {kind: io.l5d.k8s.configMap, name: a, filename: b}"), "io.l5d.k8s.configMap is experimental and must be enabled: experimental: true"},
		{router("interpreter: {kind: io.l5d.k8s.configMap, experimental: true, filename: b}"), "routers[0].interpreter.name is not set"},
		{router("interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: b}"), "routers[0].interpreter.filename is not set"},
		{router("interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: a_b, filename: b}"), `f:3: routers[0].interpreter.name: "a_b" is no name of a ConfigMap`},
		{router("interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: a, filename: b/c}"), `f:3: routers[0].interpreter.filename: "b/c" is no key of a ConfigMap`},
		{router("interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: a, filename: b, namespace: a.b}"), `f:3: routers[0].interpreter.namespace: "a.b" is no name of a namespace of Kubernetes`},
		{router("interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: a, filename: .}"), `"." is no key of a ConfigMap`},
		{router("interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: a, filename: ..}"), `".." is no key of a ConfigMap`},
		{router("interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: a, filename: ..b}"), `"..b" is no key of a ConfigMap`},
		{router("interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: a, filename: " + strings.Repeat("b", 254) + "}"), "is no key of a ConfigMap"},
		{router("interpreter: {kind: io.l5d.k8s.configmap}"), `"io.l5d.k8s.configmap" is none; did you mean io.l5d.k8s.configMap?`},
		{router("interpreter: {kind: io.l5d.fs, dtabFile: ''}"), "it is empty, and must be the path of a file of rules"},
		{router("interpreter: {kind: default, transformers: [{kind: io.l5d.port}]}"), "routers[0].interpreter.transformers[0].port is not set"},
		// The rest.
		{top("namers: [{kind: io.l5d.consul}]"), "namers[0].kind: io.l5d.consul is not here: not supported"},
		{top("telemetry: [{kind: io.l5d.recentRequests}]"), "telemetry[0].sampleRate is not set"},
		{top("telemetry: [{kind: io.l5d.statsd}]"), "io.l5d.statsd is experimental and must be enabled"},
		{top("telemetry: [{kind: io.l5d.prometeus}]"), "did you mean io.l5d.prometheus?"},
		{top("admin: {tls: {}}"), "f:5: admin.tls is refused"},
		{top("admin: {security: {controlEnabled: false}}"), "admin.security.controlEnabled: false is refused"},
		{top("admin: {security: {pathBlacklist: [a]}}"), "admin.security.pathBlacklist is refused"},
		{top("usage: {enabled: maybe}"), `usage.enabled: "maybe" is not true or false`},
	} {
		cfg, err := linkerd.Parse("f", []byte(c.text))
		if err == nil || cfg != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n got %v\nwant %s", c.text, err, c.want)
		}
	}
}

// The controller lets a proxy follow so many keys and no more; one key of two routers is one.
func TestTooManyConfigMaps(t *testing.T) {
	text := "routers:\n"
	for i := range api.MaxConfigMaps + 2 {
		text += fmt.Sprintf("- {protocol: http, label: r%d, interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: rules, filename: key%d}, servers: [{port: %d}]}\n", i, max(i-1, 0), 5000+i)
		_, err := linkerd.Parse("f", []byte(text))
		if i <= api.MaxConfigMaps && err != nil {
			t.Fatalf("%d routers: %v", i+1, err)
		}
		if want := "f:83: routers[81].interpreter: its key is one too many: a proxy follows 80 keys of ConfigMaps at most; put rules into fewer keys, or run the routers in two proxies"; i > api.MaxConfigMaps && fmt.Sprint(err) != want {
			t.Errorf("%d routers:\n got %v\nwant %s", i+1, err, want)
		}
	}
}

// All that is wrong is said at once.
func TestAllAtOnce(t *testing.T) {
	_, err := linkerd.Parse("f", []byte(router("dstPrefix: svc\nclient: {tls: {}}")+"\nnamers: [{kind: x}]"))
	if got := strings.Count(fmt.Sprint(err), "f:"); got != 3 {
		t.Errorf("%d lines: %v", got, err)
	}
}

func TestNoEffect(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{top("admin: {httpIdentifierPort: 9991, workerThreads: 2}"), "f:5: admin.httpIdentifierPort has no effect; f:5: admin.workerThreads has no effect"},
		{top("admin: {security: {uiEnabled: true, pathWhitelist: [a]}}"), "f:5: admin.security.pathWhitelist has no effect"},
		{top("usage: {orgId: x, enabled: false}"), ""},
		{top("usage: {enabled: true}"), "f:5: usage.enabled has no effect"},
		{top("telemetry: [{kind: io.l5d.zipkin, host: z, sampleRate: 1.0}]"), "f:5: telemetry[0].kind io.l5d.zipkin has no effect"},
		{top("namers: [{kind: io.l5d.k8s, host: localhost, port: 8001}]"), "f:5: namers[0].host has no effect; f:5: namers[0].port has no effect"},
		{router("bindingCache: {paths: 10, trees: 1000, bounds: 1000}"), ""},
		{router("bindingCache: {trees: 10, bounds: 10}"), "f:3: routers[0].bindingCache.trees has no effect; f:3: routers[0].bindingCache.bounds has no effect"},
		{router("originator: false\nexperimental: true"), ""},
		{router("originator: true"), "f:3: routers[0].originator has no effect"},
		{router("compressionLevel: 0\nstreamingEnabled: true"), ""},
		{router("compressionLevel: -1"), "f:3: routers[0].compressionLevel has no effect"},
		{router("interpreter: {kind: io.l5d.namerd.http, experimental: true, dst: /$/inet/a/4180}"), ""},
		{router("interpreter: {kind: io.l5d.namerd, dst: /$/inet/a/4100}"), "f:3: routers[0].interpreter.dst: namerd is asked over HTTP, at its port 4180 in place of 4100"},
		{router("interpreter: {kind: io.l5d.mesh, dst: /$/inet/a/4321}"), "f:3: routers[0].interpreter.dst: namerd is asked over HTTP, at its port 4180 in place of 4321"},
		{router("interpreter: {kind: io.l5d.namerd, dst: /$/inet/a/4180, failureThreshold: {minPeriodMs: 5000, closeTimeoutMs: 4000}}"),
			"f:3: routers[0].interpreter.failureThreshold.minPeriodMs has no effect; f:3: routers[0].interpreter.failureThreshold.closeTimeoutMs has no effect"},
		{router("interpreter: {kind: io.l5d.mesh, dst: /$/inet/a/4180, initialStreamWindowSizeKB: 1024}"), "f:3: routers[0].interpreter.initialStreamWindowSizeKB has no effect"},
		{router("interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: a, filename: b, host: localhost, port: 8001}"),
			"f:3: routers[0].interpreter.host has no effect; f:3: routers[0].interpreter.port has no effect"},
		{router("interpreter: {kind: io.l5d.mesh, dst: /$/inet/a/80}"), "f:3: routers[0].interpreter.dst: namerd is asked over HTTP, so port 80 must be the one of its httpController, usually 4180"},
	} {
		cfg, err := linkerd.Parse("f", []byte(c.text))
		if err != nil {
			t.Errorf("%s\n%v", c.text, err)
			continue
		}
		var got []string
		for _, w := range cfg.Warnings {
			text, _, _ := strings.Cut(w.String(), " has no effect: ")
			if text != w.String() {
				text += " has no effect"
			}
			got = append(got, text)
		}
		if got := strings.Join(got, "; "); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.text, got, c.want)
		}
	}
}

func TestMissing(t *testing.T) {
	for _, c := range []struct{ text, router, server string }{
		{router("label: a"), "", ""},
		{h2("label: a"), "f:2: routers[0].protocol: h2 is not spoken yet", ""},
		{router("identifier: {kind: io.l5d.ingress, namespace: a}"), "f:3: routers[0].identifier.kind: io.l5d.ingress is not there yet: Ingress rules are not read", ""},
		{router("identifier: [{kind: io.l5d.path}, {kind: io.l5d.ingress}]"), "f:3: routers[0].identifier[1].kind: io.l5d.ingress is not there yet: Ingress rules are not read", ""},
		{"routers:\n- protocol: http\n  servers:\n  - tls: {certPath: a, keyPath: b}", "", "f:4: routers[0].servers[0].tls: TLS is not spoken by servers yet"},
	} {
		cfg, err := linkerd.Parse("f", []byte(c.text))
		if err != nil {
			t.Errorf("%s\n%v", c.text, err)
			continue
		}
		var of, at string
		for _, w := range cfg.Routers[0].Missing {
			of += w.String()
		}
		for _, w := range cfg.Routers[0].Servers[0].Missing {
			at += w.String()
		}
		if of != c.router || at != c.server {
			t.Errorf("%s\nmisses %q and %q", c.text, of, at)
		}
	}
}

// What holds where a file says nothing is what Linkerd 1.x documents.
func TestDefaults(t *testing.T) {
	c, err := linkerd.Parse("f", []byte("routers:\n- {protocol: http, servers: [{}]}\n- {protocol: h2, servers: [{}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Admin != "127.0.0.1:9990" || c.ShutdownGrace != 10*time.Second || len(c.Warnings) > 0 {
		t.Errorf("%+v", c)
	}
	for i, want := range []struct{ protocol, address, header string }{{"http", "127.0.0.1:4140", "host"}, {"h2", "127.0.0.1:4142", ":authority"}} {
		r := c.Routers[i]
		if r.Label != want.protocol || r.Protocol != want.protocol || r.Servers[0].Address != want.address || r.Prefix.String() != "/svc" ||
			!reflect.DeepEqual(r.Identifiers, []linkerd.Identifier{{Kind: linkerd.HeaderToken, Header: want.header}}) {
			t.Errorf("%+v", r)
		}
		if r.Interpreter.Kind != linkerd.Default || r.BindingTimeout != 10*time.Second ||
			r.Cache != (linkerd.Cache{Paths: 1000, Clients: 1000, IdleTTL: 10 * time.Minute}) {
			t.Errorf("%+v", r)
		}
	}
}

// JSON is read too, indented by tabs and with slashes that are escaped as well.
func TestJSON(t *testing.T) {
	c, err := linkerd.Parse("f", []byte("{\n\t\"routers\": [{\"protocol\": \"http\", \"dtab\": \"\\/svc=>\\/srv\", \"servers\": [{\"port\": 0}, {\"port\": 0}]}]\n}"))
	if err != nil || len(c.Routers) != 1 || len(c.Routers[0].Servers) != 2 || c.Routers[0].Dtab.String() != "/svc=>/srv" {
		t.Errorf("%+v %v", c, err)
	}
}

func TestInterpreters(t *testing.T) {
	for text, want := range map[string]linkerd.Interpreter{
		"{kind: io.l5d.k8s.configMap, experimental: true, name: rules.v1, filename: dtab}":               {Kind: linkerd.ConfigMap, Namespace: "default", Name: "rules.v1", Key: "dtab"},
		"{kind: io.l5d.k8s.configMap, experimental: true, name: a, filename: X_y.dtab, namespace: shop}": {Kind: linkerd.ConfigMap, Namespace: "shop", Name: "a", Key: "X_y.dtab"},
		"{kind: io.l5d.namerd, dst: /$/inet/namerd.shop.svc/4100, namespace: a}":                         {Kind: linkerd.Namerd, Address: "namerd.shop.svc:4180", Namespace: "a", RetryMin: 5 * time.Second, RetryMax: 10 * time.Minute},
		"{kind: io.l5d.namerd, dst: /$/inet/a/4181, tls: {commonName: b, trustCerts: [c, d]}, tokenFile: e}": {Kind: linkerd.Namerd, Address: "a:4181", Namespace: "default", RetryMin: 5 * time.Second, RetryMax: 10 * time.Minute,
			TLS: linkerd.TLS{CommonName: "b", Trust: "c\nd"}, TokenFile: "e"},
		"{kind: io.l5d.mesh, dst: /$/inet/a/4181, tls: {commonName: b, caCert: c}}": {Kind: linkerd.Namerd, Address: "a:4181", Namespace: "default", RetryMin: time.Second, RetryMax: 10 * time.Minute,
			TLS: linkerd.TLS{CommonName: "b", Trust: "c"}},
		"{kind: io.l5d.namerd, dst: /$/inet/127.1/4180, tokenFile: e}":                 {Kind: linkerd.Namerd, Address: "127.0.0.1:4180", Namespace: "default", RetryMin: 5 * time.Second, RetryMax: 10 * time.Minute, TokenFile: "e"},
		"{kind: io.l5d.namerd, dst: /$/inet/a/4180, tokenFile: e, tokenInClear: true}": {Kind: linkerd.Namerd, Address: "a:4180", Namespace: "default", RetryMin: 5 * time.Second, RetryMax: 10 * time.Minute, TokenFile: "e", TokenInClear: true},
		"{kind: io.l5d.namerd, dst: /$/inet/127.1/5000}":                               {Kind: linkerd.Namerd, Address: "127.0.0.1:5000", Namespace: "default", RetryMin: 5 * time.Second, RetryMax: 10 * time.Minute},
		"{kind: io.l5d.mesh, dst: /$/inet/4321, root: /b, retry: {maxSeconds: 9}}":     {Kind: linkerd.Namerd, Address: "127.0.0.1:4180", Namespace: "b", RetryMin: time.Second, RetryMax: 9 * time.Second},
		"{kind: io.l5d.fs, dtabFile: rules.dtab}":                                      {Kind: linkerd.File, File: "rules.dtab"},
	} {
		c, err := linkerd.Parse("f", []byte(router("interpreter: "+text)))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := c.Routers[0].Interpreter; got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
}

// A slash at the end of a prefix is nothing.
func TestPrefixWithSlash(t *testing.T) {
	c, err := linkerd.Parse("f", []byte(router(`client: {kind: io.l5d.static, configs: [{prefix: "/%/io.l5d.port/4141/", requestAttemptTimeoutMs: 300}]}`)))
	if err != nil {
		t.Fatal(err)
	}
	p := c.Routers[0].Servers[0].Policy
	for name, want := range map[string]time.Duration{"/%/io.l5d.port/4141/#/io.l5d.k8s/a/http/b": 300 * time.Millisecond, "/#/io.l5d.k8s/a/http/b": 0} {
		if got := p.Client(name).AttemptTimeout; got != want {
			t.Errorf("%s has %s", name, got)
		}
	}
}

// Certificates must be there, rules may come later.
func TestAbsentFiles(t *testing.T) {
	there := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := linkerd.Parse("f", fmt.Appendf(nil, "routers:\n- protocol: http\n  interpreter: {kind: io.l5d.fs, dtabFile: /nowhere/rules}\n  servers:\n  - tls:\n      certPath: %s\n      keyPath: /nowhere/key\n", there))
	if err != nil {
		t.Fatal(err)
	}
	if all := c.Absent(); len(all) != 1 || all[0].String() != "f:7: routers[0].servers[0].tls.keyPath: open /nowhere/key: no such file or directory" {
		t.Error(all)
	}
}

// No text makes it panic, and what is accepted is whole.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(examples + "/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(content))
	}
	f.Add(`{"routers": [{"protocol": "http", "servers": [{}]}]}`)
	f.Add("routers: &a [*a]")
	f.Add("namers:\nrouters: [{protocol: h2, servers: [~]}, ~]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := linkerd.Parse("f", []byte(text))
		if (c == nil) == (err == nil) {
			t.Fatalf("%v %v", c, err)
		}
		if err != nil {
			return
		}
		if len(c.Routers) == 0 {
			t.Error("it has no router")
		}
		for _, r := range c.Routers {
			if len(r.Servers) == 0 || len(r.Identifiers) == 0 || r.Label == "" || r.Protocol != linkerd.HTTP && len(r.Missing) == 0 {
				t.Errorf("%+v", r)
			}
		}
	})
}
