package sidecar

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/logtest"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// Rules of a ConfigMap, from the controller: they come before the router's, which come before those of a request;
// what cannot be read or does not parse is said, and changes nothing that is known.
func TestConfigMapRouter(t *testing.T) {
	_, red := backend(t, "red")
	_, blue := backend(t, "blue")
	rules := &watch.Value[*api.Rules]{}
	of := api.ConfigMap{Namespace: "shop", Name: "rules", Key: "dtab"}
	say := func(text, cause string) {
		r := &api.Rules{ConfigMap: of, Cause: cause}
		if text != "-" {
			r.Text = &text
		}
		rules.Set(r)
	}
	seen := &namer.Seen{}
	mesh, stopControl := control(t, nil, "127.0.0.1:1", func(c *namer.StreamConfig) {
		c.Seen = seen
		c.Rules = func(m api.ConfigMap) (*watch.Value[*api.Rules], func()) {
			if m != of {
				t.Errorf("asked for %s", m)
			}
			return rules, func() {}
		}
	})
	defer stopControl()
	addresses, ports := freePorts(t, 3)
	out, own, pages := addresses[0], addresses[1], addresses[2]
	file := write(t, "linkerd.yaml", `
admin: {ip: 127.0.0.1, port: `+ports[2]+`}
routers:
- protocol: http
  label: out
  dtab: /svc/own => /$/inet/127.1/`+blue+` ;
  bindingTimeoutMs: 500
  interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: rules, filename: dtab, namespace: shop}
  servers: [{ip: 127.0.0.1, port: `+ports[0]+`}]
- protocol: http
  label: again
  interpreter: {kind: io.l5d.k8s.configMap, experimental: true, name: rules, filename: dtab, namespace: shop}
  servers: [{ip: 127.0.0.1, port: `+ports[1]+`}]
`)
	var log logtest.Buffer
	cfg := DefaultConfig()
	cfg.Config, cfg.Controller, cfg.ControllerCA, cfg.TokenFile = file, mesh.Controller, mesh.ControllerCA, mesh.TokenFile
	p := serve(t, cfg, pages, slog.New(slog.NewTextHandler(&log, nil)))
	if got := p.configMaps(); !slices.Equal(got, []api.ConfigMap{of}) {
		t.Errorf("it asks for %v", got)
	}
	ready := func(want string) {
		t.Helper()
		eventually(t, want, func() bool { _, body := ask(t, pages+"/admin/ready", ""); return strings.Contains(body, want) })
	}
	answers := func(address, host, want string, headers ...string) {
		t.Helper()
		got := ""
		eventually(t, want, func() bool {
			code, body := ask(t, address, host, headers...)
			got = fmt.Sprint(code, " ", body)
			return strings.Contains(got, want)
		})
	}
	const unread = "the controller may not read ConfigMap shop/rules"
	ready("ready; the rules of router out are not known: the controller has not told of key dtab of ConfigMap shop/rules yet")
	say("-", unread)
	ready("ready; the rules of router out are not known: " + unread + "; the rules of router again are not known: " + unread)
	answers(pages+"/delegator.json?router=out&path=/svc/red", "", "503 the rules of router out are not known: "+unread)
	answers(out, "red", "T202: check that the controller answers, and may read the ConfigMap with the rules: key dtab of ConfigMap shop/rules")
	say("/svc=>/$/inet/127.1/"+red, "")
	answers(out, "x", "200 red /svc/x")
	answers(own, "x", "200 red /svc/x")
	answers(out, "own", "200 blue /svc/own")
	answers(out, "own", "200 red /svc/own", "l5d-dtab", "/svc/own => /svc/x")
	if _, body := ask(t, pages+"/admin/ready", ""); strings.Contains(body, "rules") {
		t.Errorf("it is ready, but %s", body)
	}
	say("/svc=>/$/inet/127.1/"+red, "key dtab of ConfigMap shop/rules does not parse")
	ready("the rules of router out are the last that were good: key dtab of ConfigMap shop/rules does not parse")
	answers(out, "x", "200 red /svc/x")
	say("/svc=>/$/inet/127.1/"+blue, "")
	answers(out, "x", "200 blue /svc/x")
	for page, want := range map[string]string{
		"/admin/dtab?router=out":                    "/svc=>/$/inet/127.1/" + blue + ";/svc/own=>/$/inet/127.1/" + blue,
		"/config.json":                              `"storedIn": "key dtab of ConfigMap shop/rules"`,
		"/delegator.json?namespace=out&path=/svc/x": `"id":"/$/inet/127.1/` + blue + `"`,
	} {
		if code, body := ask(t, pages+page, ""); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s has no %s: %d\n%s", page, want, code, body)
		}
	}
	say("", "") // deleted
	answers(out, "x", "502 ")
	answers(out, "x", "T201: check that a rule above, which those of key dtab of ConfigMap shop/rules are among")
	answers(out, "own", "200 blue /svc/own")
	say("/svc=>/$/inet/127.1/"+red, "")
	answers(out, "x", "200 red /svc/x")
	stopControl()
	eventually(t, "no controller", func() bool { return !p.namer.Connected() })
	answers(out, "new", "200 red /svc/new") // by the rules that it has
	said := log.String()
	for text, times := range map[string]int{"rules not known, names wait for them": 1, "rules not taken, the old ones stay": 1, "rules taken": 4} {
		if n := strings.Count(said, `msg="`+text); n != times {
			t.Errorf("the log has %q %d times, want %d:\n%s", text, n, times, said)
		}
	}
	// They are not names of the mesh's dtab, so no plan for that is about them.
	if names := append(p.inUse(), seen.Names("default")...); len(names) != 0 {
		t.Errorf("in use by the mesh's rules are %v", names)
	}
}
