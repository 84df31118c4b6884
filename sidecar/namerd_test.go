package sidecar

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/logtest"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/admin"
)

// one is a source that knows one name.
type one struct {
	id    string
	value *watch.Value[naming.Replicas]
}

func (o one) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	if id == o.id {
		return o.value, func() {}
	}
	return watch.New(naming.Replicas{State: naming.StateNeg}), func() {}
}

// redAt is the API of a namerd whose rules are about red alone, which is at an address.
func redAt(t *testing.T, address string) http.Handler {
	t.Helper()
	known := one{"/#/io.l5d.k8s/shop/http/red", watch.New(naming.Of(naming.Endpoint{Address: address, Weight: 1, Hop: naming.HopHost, Via: "192.0.2.1:1"}))}
	namers, err := registry.New(registry.Config{Namers: registry.Default(), Source: known})
	if err != nil {
		t.Fatal(err)
	}
	store, err := namer.NewMemory(map[string]string{"shop": "/svc => /#/io.l5d.k8s/shop/http"})
	if err != nil {
		t.Fatal(err)
	}
	return namer.NewAPI(namer.APIConfig{Store: store, Registry: namers, Logger: slog.New(slog.DiscardHandler)})
}

// A router whose names a namerd binds: rules and endpoints are its, what requests say
// goes along, and it may go away.
func TestNamerdRouter(t *testing.T) {
	red, _ := backend(t, "red")
	_, blue := backend(t, "blue")
	there := httptest.NewServer(redAt(t, red))
	defer there.Close()
	_, port := hostPort(t, there.Listener.Addr().String())
	addresses, ports := freePorts(t, 3)
	out, moved, pages := addresses[0], addresses[2], addresses[1]
	file := write(t, "linkerd.yaml", `
admin: {ip: 127.0.0.1, port: `+ports[1]+`}
routers:
- protocol: http
  label: out
  dtab: /svc/own => /svc/red ;
  bindingTimeoutMs: 700
  interpreter: {kind: io.l5d.namerd.http, experimental: true, dst: /$/inet/127.1/`+port+`, namespace: shop}
  servers:
  - {ip: 127.0.0.1, port: `+ports[0]+`}
- protocol: http
  label: moved
  egress: {allow: []}
  interpreter: {kind: io.l5d.namerd, dst: /$/inet/127.1/`+port+`, namespace: shop, transformers: [{kind: io.l5d.port, port: `+blue+`}]}
  servers:
  - {ip: 127.0.0.1, port: `+ports[2]+`}
`)
	cfg := DefaultConfig()
	cfg.Config = file
	serve(t, cfg, pages, slog.New(slog.DiscardHandler))
	for _, c := range []struct{ host, dtab, want string }{
		{"red", "", "200 red /svc/red"},
		{"own", "", "200 red /svc/own"},
		{"red", "/svc/red => /$/inet/127.1/" + blue, "200 blue /svc/red"},
		{"none", "", "T201: the namerd at 127.0.0.1:" + port + " says what names mean: check that its namespace shop "},
		{"red", "/svc/red => /$/inet/169.254.169.254/80", "to the machine that asks"}, // though namerd would
	} {
		code, body := ask(t, out, c.host, "l5d-dtab", c.dtab)
		if got := fmt.Sprint(code, " ", body); !strings.Contains(got, c.want) {
			t.Errorf("%s by %q: %s, want %s", c.host, c.dtab, got, c.want)
		}
	}
	for query, want := range map[string]string{
		"router=out&path=/svc/red":                        `200 {"type":"delegate","path":"/svc/red","delegate":{"type":"leaf"`,
		"router=out&path=/svc/own":                        `"dentry":{"prefix":"/svc/own","dst":"/svc/red"}`,
		"router=out&path=/svc/own&dtab=/svc=>/$/fail":     `"type":"fail"`,
		"router=in&path=/svc/own":                         `400 no router has the label "in"; there are: out, moved`,
		"namespace=moved&path=/svc/red":                   `"type":"transformation"`,
		"router=out&path=/svc/red&dtab=/svc/x=>/svc/blue": `"addrs":[{"ip":"127.0.0.1"`,
	} {
		code, body := ask(t, pages+"/delegator.json?"+strings.ReplaceAll(query, "=>", "%3D%3E"), "")
		if got := fmt.Sprint(code, " ", body); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	if code, body := ask(t, moved, "red"); code != 200 || body != "blue /svc/red" {
		t.Errorf("at another port: %d %s", code, body)
	}
	if code, body := ask(t, moved, "red", "l5d-dtab", "/svc/red => /$/inet/127.1/"+blue); code != 403 || !strings.Contains(body, "does not go to 127.1:"+blue+": it is outside") {
		t.Errorf("outside: %d %s", code, body)
	}
	if _, body := ask(t, pages+"/config.json", ""); !strings.Contains(body, `"namerd": "127.0.0.1:`+port+`"`) {
		t.Error(body)
	}
	there.CloseClientConnections()
	there.Listener.Close()
	if code, body := ask(t, out, "red"); code != 200 {
		t.Errorf("without namerd: %d %s", code, body)
	}
	if _, body := ask(t, out, "never"); !strings.Contains(body, "T202: check that the namerd at 127.0.0.1:"+port+" answers") {
		t.Errorf("what nobody has said: %s", body)
	}
	if code, body := ask(t, pages+"/delegator.json?router=out&path=/svc/red", ""); code != 502 || !strings.HasPrefix(body, "names are bound by the namerd at 127.0.0.1:"+port) {
		t.Errorf("asked about a name without namerd: %d %s", code, body)
	}
}

// Routers of one namerd that was not there at the start: what is not known is said, and all know it once one does.
func TestNamerdComesLater(t *testing.T) {
	red, _ := backend(t, "red")
	addresses, ports := freePorts(t, 4)
	pages := addresses[3]
	router := func(i int, retry string) string {
		return fmt.Sprintf(`
- protocol: http
  label: r%d
  bindingTimeoutMs: 200
  interpreter: {kind: io.l5d.namerd, dst: /$/inet/127.1/%s, namespace: shop, retry: %s}
  servers: [{port: %s}]`, i, ports[2], retry, ports[i])
	}
	cfg := DefaultConfig()
	cfg.Config = write(t, "linkerd.yaml", "admin: {port: "+ports[3]+"}\nrouters:"+router(0, "{baseSeconds: 1, maxSeconds: 1}")+router(1, "{baseSeconds: 600}"))
	serve(t, cfg, pages, slog.New(slog.DiscardHandler))
	for _, out := range addresses[:2] {
		if code, body := ask(t, out, "red"); code != 502 || !strings.Contains(body, "T202: ") {
			t.Errorf("without namerd: %d %s", code, body)
		}
	}
	_, ready := ask(t, pages+"/admin/ready", "")
	if !regexp.MustCompile(`^ready; the namerd of router r0, 127\.0\.0\.1:\d+, has not been heard since the start \d+s ago: its names are not known; the namerd of router r1, `).MatchString(ready) {
		t.Error(ready)
	}
	var state struct{ Namers []admin.Namer }
	_, body := ask(t, pages+"/namer_state", "")
	if err := json.Unmarshal([]byte(body), &state); err != nil || len(state.Namers) != 2 || state.Namers[0].Router != "r0" || state.Namers[1].Router != "r1" || state.Namers[1].Namespace != "shop" {
		t.Errorf("%v %s", err, body)
	}
	ln, err := net.Listen("tcp", addresses[2])
	if err != nil {
		t.Fatal(err)
	}
	there := &http.Server{Handler: redAt(t, red)}
	done := make(chan struct{})
	go func() { defer close(done); _ = there.Serve(ln) }()
	t.Cleanup(func() { _ = there.Close(); <-done })
	for _, out := range addresses[:2] {
		eventually(t, "namerd is found", func() bool { code, _ := ask(t, out, "red"); return code == 200 })
	}
	_ = there.Close()
	eventually(t, "namerd is missed", func() bool {
		_, ready := ask(t, pages+"/admin/ready", "")
		return strings.Count(ready, " is away: routing goes on with what was known") == 2
	})
}

// A namerd behind TLS that asks who it is: as long as it refuses, the proxy says so, and
// a token that is replaced is taken up.
func TestNamerdThatAsksWho(t *testing.T) {
	red, _ := backend(t, "red")
	api := redAt(t, red)
	there := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer new" {
			http.Error(w, "the token is too old", http.StatusUnauthorized)
			return
		}
		api.ServeHTTP(w, r)
	}))
	t.Cleanup(there.Close)
	_, port := hostPort(t, there.Listener.Addr().String())
	ca := write(t, "ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: there.Certificate().Raw})))
	token := write(t, "token", "old\n")
	for name, tokenFile := range map[string]string{"named": "tokenFile: " + token, "its own": ""} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(token, []byte("old\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			addresses, ports := freePorts(t, 2)
			out, pages := addresses[0], addresses[1]
			cfg := DefaultConfig()
			if tokenFile == "" {
				cfg.TokenFile = token
			}
			cfg.Config = write(t, "linkerd.yaml", `
admin: {port: `+ports[1]+`}
routers:
- protocol: http
  interpreter:
    kind: io.l5d.namerd
    dst: /$/inet/127.1/`+port+`
    namespace: shop
    retry: {baseSeconds: 1, maxSeconds: 1}
    tls: {commonName: example.com, caCert: `+ca+`}
    `+tokenFile+`
  servers: [{port: `+ports[0]+`}]
`)
			var log logtest.Buffer
			serve(t, cfg, pages, slog.New(slog.NewTextHandler(&log, nil)))
			if code, body := ask(t, out, "red"); code != 502 || !strings.Contains(body, "401 Unauthorized: the token is too old") {
				t.Errorf("refused: %d %s", code, body)
			}
			for page, want := range map[string]string{
				"/admin/ready": "ready; the namerd of router http, 127.0.0.1:" + port + ", refused: namerd answered 401 Unauthorized: the token is too old (hint: ",
				"/namer_state": `too old (hint: `,
				"/metrics":     `tulle_namerd_connected{router="http"} 0`,
			} {
				if _, body := ask(t, pages+page, ""); !strings.Contains(body, want) {
					t.Errorf("%s has no %s:\n%s", page, want, body)
				}
			}
			if said := log.String(); !strings.Contains(said, `error="refused: `) || !strings.Contains(said, "hint=") || strings.Contains(said, "old\n") {
				t.Errorf("the log says\n%s", said)
			}
			if err := os.WriteFile(token, []byte("new\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the new token", func() bool { code, _ := ask(t, out, "red"); return code == 200 })
			if _, body := ask(t, pages+"/metrics", ""); !strings.Contains(body, `tulle_namerd_connected{router="http"} 1`) || strings.Contains(body, `tulle_namerd_refusals_total{router="http"} 0`) {
				t.Error("the metrics do not say that it is connected, and was refused")
			}
			if _, body := ask(t, pages+"/admin/ready", ""); body != "ready\n" {
				t.Error(body)
			}
		})
	}
}
