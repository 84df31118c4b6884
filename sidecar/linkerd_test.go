package sidecar

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/logtest"
)

// A configuration of Linkerd 1.x: several routers and servers, rules of their own
// and of a file, and one router that cannot be served yet.
func TestLinkerdConfiguration(t *testing.T) {
	_, red := backend(t, "red")
	_, blue := backend(t, "blue")
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "disco"), []byte("localhost "+blue), 0o600); err != nil {
		t.Fatal(err)
	}
	stored := write(t, "stored.dtab", "/svc => /$/inet/127.1/"+red+" ; /svc/none => $")
	addresses, ports := freePorts(t, 5)
	out, second, in, filed, pages := addresses[0], addresses[1], addresses[2], addresses[3], addresses[4]
	file := write(t, "linkerd.yaml", `
admin: {ip: 127.0.0.1, port: `+ports[4]+`}
usage: {enabled: true}
namers:
- kind: io.l5d.fs
  rootDir: `+root+`
routers:
- protocol: http
  label: out
  egress: {allow: [api.test, 127.0.0.0/8]}
  dtab: /svc => /#/io.l5d.fs ; /svc/red => /$/inet/127.1/`+red+` ; /svc/away => /$/inet/192.0.2.1/80 ;
  servers:
  - {ip: 127.0.0.1, port: `+ports[0]+`}
  - {ip: 0.0.0.0, port: `+ports[1]+`}
- protocol: http
  label: in
  dstPrefix: /entry
  identifier: {kind: io.l5d.path, segments: 1, consume: true}
  dtab: /entry => /#/io.l5d.fs ;
  servers: [{ip: 127.0.0.1, port: `+ports[2]+`, clearContext: true}]
- protocol: http
  label: filed
  interpreter: {kind: io.l5d.fs, dtabFile: `+stored+`}
  dtab: /svc/blue => /#/io.l5d.fs/disco ;
  servers: [{ip: 127.0.0.1, port: `+ports[3]+`}]
- protocol: h2
  label: grpc
  servers: [{port: 4340}]
`)
	var log logtest.Buffer
	cfg := DefaultConfig()
	cfg.Config = file
	serve(t, cfg, pages, slog.New(slog.NewTextHandler(&log, nil)))

	for _, c := range []struct {
		address, host string
		headers       []string
		status        int
		body          string
	}{
		{out, "disco", nil, 200, "blue /svc/disco"},
		{out, "red", nil, 200, "red /svc/red"},
		{out, "away", nil, 403, "T206: add the host or its network to egress.allow"},
		{out, "nobody", nil, 502, "service name: /svc/nobody"},
		{out, "nobody", nil, 502, "T201: check that a rule above is for this name"},
		{second, "red", nil, 200, "red /svc/red"},
		// As Linkerd has it, everybody's rules count, but not past clearContext.
		{second, "disco", []string{"l5d-dtab", "/svc/disco => /svc/red"}, 200, "red /svc/disco"},
		// What the mesh's rules may lead to is no rule of Linkerd's.
		{out, "127.0.0.1:" + red, []string{"l5d-dtab", "/svc => /caller"}, 502, "T201"},
		{in + "/disco/x", "any", nil, 200, "blue /entry/disco"},
		{in + "/disco/x", "any", []string{"l5d-dtab", "/entry/disco => $"}, 200, "blue /entry/disco"},
		{filed, "red", nil, 200, "red /svc/red"},
		{filed, "blue", nil, 200, "blue /svc/blue"},
		{filed, "none", nil, 502, "which those of " + stored + " are among"},
	} {
		if status, body := ask(t, c.address, c.host, c.headers...); status != c.status || !strings.Contains(body, c.body) {
			t.Errorf("%s of %s %v: %d %q, want %d %q", c.host, c.address, c.headers, status, body, c.status, c.body)
		}
	}
	if err := os.WriteFile(stored, []byte("/svc => /#/io.l5d.fs/disco"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new rules", func() bool { _, body := ask(t, filed, "red"); return body == "blue /svc/red" })

	for page, wants := range map[string][]string{
		"/admin/ready":                {"ready; 1 of the routers and servers of " + file + " are not served"},
		"/admin/dtab":                 {"# router out\n/svc=>/#/io.l5d.fs;", "# router filed\n/svc=>/#/io.l5d.fs/disco;/svc/blue=>"},
		"/admin/dtab?router=in":       {"/entry=>/#/io.l5d.fs\n"},
		"/admin/policy?router=in":     {`"clearContext": true`},
		"/config.json":                {`"usage"`, `"label": "grpc"`, `"missing"`, file + ":", `"mode": "standalone"`},
		"/metrics":                    {`router="out",service="/svc/disco"`, `router="in",service="/entry/disco"`, `router="filed"`},
		"/bound-names.json":           {`"/#/io.l5d.fs/disco"`, `"/$/inet/127.1/` + red + `"`},
		"/namer_state/io.l5d.fs.json": {`"in"`, `"out"`, `"filed"`, "127.0.0.1:" + blue},
		"/delegator.json?namespace=out&path=/svc/red":       {`"id":"/$/inet/127.1/` + red + `"`},
		"/delegator.json?namespace=filed&path=/svc/x":       {`"id":"/#/io.l5d.fs/disco"`},
		"/delegator.json?namespace=out&path=/svc/red&dtab=": {`{"type":"neg","path":"/svc/red"}`},
		"/delegator.json?path=/%23/io.l5d.fs/disco":         {`"id":"/#/io.l5d.fs/disco"`},
		"/delegator.json?namespace=out&path=/caller/x":      {`{"type":"neg","path":"/caller/x"}`},
		"/delegator.json?path=/caller/x":                    {`{"type":"neg","path":"/caller/x"}`},
	} {
		for _, want := range wants {
			if status, body := ask(t, pages+page, ""); status != 200 || !strings.Contains(body, want) {
				t.Errorf("%s has no %s: %d\n%s", page, want, status, body)
			}
		}
	}
	said := log.String()
	for text, times := range map[string]int{"l5d-dtab": 1, "router out: whoever reaches 0.0.0.0:" + ports[1] + " may": 1, "usage": 1, "level=ERROR": 1} {
		if n := strings.Count(said, text); n != times {
			t.Errorf("the log has %q %d times, want %d:\n%s", text, n, times, said)
		}
	}
}

// Whose rules count at a server is the server's to say, and everybody's do otherwise.
func TestOverridesOfLinkerd(t *testing.T) {
	_, red := backend(t, "red")
	_, blue := backend(t, "blue")
	addresses, ports := freePorts(t, 6)
	file := write(t, "linkerd.yaml", `
admin: {port: `+ports[0]+`}
routers:
- protocol: http
  dtab: /svc => /$/inet/127.1/`+red+` ; /blue => /$/inet/127.1/`+blue+` ;
  servers:
  - {ip: 0.0.0.0, port: `+ports[1]+`}
  - {ip: 0.0.0.0, port: `+ports[2]+`, overrides: everyone}
  - {ip: 0.0.0.0, port: `+ports[3]+`, overrides: local}
  - {ip: 0.0.0.0, port: `+ports[4]+`, overrides: local, clearContext: true}
  - {ip: 0.0.0.0, port: `+ports[5]+`, overrides: local}
`)
	cfg := DefaultConfig()
	cfg.Config = file
	r, err := Check(cfg)
	if err != nil || len(r.Lines) != 1 || !strings.HasPrefix(r.Lines[0], file+": warning: router http: whoever reaches 0.0.0.0:"+ports[1]+" may route") {
		t.Errorf("%v %+v", err, r)
	}
	// Who asks here is on this machine: the last server is told otherwise.
	serve(t, cfg, addresses[0], slog.New(slog.DiscardHandler), func(p *Proxy) {
		l := p.routes[0].servers[4]
		if !l.local("127.0.0.1") || l.local("198.51.100.1") {
			t.Error("it takes this machine for another, or another for this one")
		}
		l.local = func(string) bool { return false }
	})
	for i, want := range []string{1: "blue", 2: "blue", 3: "blue", 4: "red", 5: "red"} {
		for _, header := range []string{"l5d-dtab", "l5d-ctx-dtab"} {
			if want == "" {
				continue
			}
			if code, body := ask(t, addresses[i], "x", header, "/svc => /blue"); code != 200 || !strings.HasPrefix(body, want) {
				t.Errorf("%s at server %d: %d %s, want %s", header, i, code, body, want)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	const server = "  servers: [{port: 4140}]\n"
	for name, c := range map[string]struct {
		file   string
		served int
		lines  []string
		err    string
	}{
		"good":               {"routers:\n- protocol: http\n" + server, 1, nil, ""},
		"JSON":               {`{"routers": [{"protocol": "http", "dtab": "\/svc=>\/srv",` + "\n\t" + `"servers": [{"port": 4140}]}]}`, 1, nil, ""},
		"without effect":     {"usage: {enabled: true}\nrouters:\n- protocol: http\n" + server, 1, []string{"FILE:1: warning: usage"}, ""},
		"wrong":              {"routers:\n- protocol: http\n  dstPrefx: /svc\n" + server, 0, nil, "FILE:3: "},
		"partly":             {"routers:\n- protocol: http\n" + server + "- protocol: h2\n  servers: [{port: 4142}]\n", 1, []string{"FILE:4: missing: "}, ""},
		"nothing":            {"routers:\n- protocol: h2\n" + server, 0, []string{"FILE:2: missing: "}, ""},
		"needs a controller": {"namers: [{kind: io.l5d.k8s}]\nrouters:\n- protocol: http\n" + server, 1, []string{"warning: FILE: the namer io.l5d.k8s is about Services of Kubernetes"}, ""},
		"needs a controller for its rules": {"routers:\n- protocol: http\n  interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: rules, filename: dtab, host: a}\n" + server, 1,
			[]string{"FILE:3: warning: routers[0].interpreter.host has no effect", "warning: FILE: the interpreter io.l5d.k8s.configMap is about a ConfigMap of Kubernetes, which only Tulle's controller tells a proxy of: set --controller, "}, ""},
		"absent file": {"routers:\n- protocol: http\n  interpreter:\n    kind: io.l5d.namerd\n    dst: /$/inet/a/4181\n    tls:\n      commonName: a\n      caCert: /nowhere/ca\n" + server, 1,
			[]string{"FILE:8: absent: routers[0].interpreter.tls.caCert: open /nowhere/ca: no such file or directory; it must be there where the proxy runs"}, ""},
		"no certificate": {"routers:\n- protocol: http\n  interpreter:\n    kind: io.l5d.namerd\n    dst: /$/inet/a/4181\n    tls: {commonName: a, caCert: proxy.go}\n" + server, 0, nil,
			"FILE: router http: interpreter.tls: read certificates: proxy.go holds none in PEM"},
		"empty": {"", 0, nil, "FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.Config = write(t, "linkerd.yaml", c.file)
			named := func(s string) string { return strings.ReplaceAll(s, "FILE", cfg.Config) }
			r, err := Check(cfg)
			if c.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), named(c.err)) {
					t.Errorf("got %v, want %s", err, named(c.err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Served != c.served || len(r.Lines) != len(c.lines) {
				t.Fatalf("%+v", r)
			}
			for i, want := range c.lines {
				if !strings.HasPrefix(r.Lines[i], named(want)) {
					t.Errorf("%q, want %q", r.Lines[i], named(want))
				}
			}
			// What is merely checked may lack what is needed to run.
			_, err = New(cfg, slog.New(slog.DiscardHandler))
			if runs := c.served > 0 && !strings.HasPrefix(name, "needs a controller") && name != "absent file"; (err == nil) != runs {
				t.Errorf("to run it: %v", err)
			}
		})
	}
}

func TestConfigBesideOtherSettings(t *testing.T) {
	c := DefaultConfig()
	c.Config, c.Mode, c.Dtab, c.FsRoot, c.Policy = "a.yaml", "host", "/a => /b", "/etc", "p.yaml"
	err := c.Validate()
	for _, want := range []string{"mode is host beside config", "dtab is set beside config", "fs-root is set beside config", "policy is set beside config"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	c = DefaultConfig()
	c.Config = "a.yaml"
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}
