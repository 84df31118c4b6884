package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/registry"
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

// A router whose names a namerd binds: rules and endpoints are its, what requests say
// goes along, and it may go away.
func TestNamerdRouter(t *testing.T) {
	backend := func(name string) (address, port string) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, name, " ", r.Header.Get("l5d-dst-service"))
		}))
		t.Cleanup(s.Close)
		_, port = hostPort(t, s.Listener.Addr().String())
		return s.Listener.Addr().String(), port
	}
	red, _ := backend("red")
	_, blue := backend("blue")
	known := one{"/#/io.l5d.k8s/shop/http/red", watch.New(naming.Of(naming.Endpoint{Address: red, Weight: 1, Hop: naming.HopHost, Via: "192.0.2.1:1"}))}
	namers, err := registry.New(registry.Config{Namers: registry.Default(), Source: known})
	if err != nil {
		t.Fatal(err)
	}
	store, err := namer.NewMemory(map[string]string{"shop": "/svc => /#/io.l5d.k8s/shop/http"})
	if err != nil {
		t.Fatal(err)
	}
	there := httptest.NewServer(namer.NewAPI(namer.APIConfig{Store: store, Registry: namers, Logger: slog.New(slog.DiscardHandler)}))
	defer there.Close()
	_, port := hostPort(t, there.Listener.Addr().String())
	out, pages := freePort(t), freePort(t)
	_, outPort := hostPort(t, out)
	_, pagesPort := hostPort(t, pages)
	file := write(t, "linkerd.yaml", `
admin: {ip: 127.0.0.1, port: `+pagesPort+`}
routers:
- protocol: http
  label: out
  dtab: /svc/own => /svc/red ;
  interpreter: {kind: io.l5d.namerd.http, experimental: true, dst: /$/inet/127.1/`+port+`, namespace: shop}
  servers:
  - {ip: 127.0.0.1, port: `+outPort+`}
`)
	cfg := DefaultConfig()
	cfg.Config = file
	p, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "ready", func() bool { status, _ := ask(t, pages+"/admin/ready", ""); return status == 200 })
	for _, c := range []struct{ host, dtab, want string }{
		{"red", "", "200 red /svc/red"},
		{"own", "", "200 red /svc/own"},
		{"red", "/svc/red => /$/inet/127.1/" + blue, "200 blue /svc/red"},
		{"none", "", "502"},
		{"red", "/svc/red => /$/inet/169.254.169.254/80", "the proxy does not go to 169.254.169.254"}, // though namerd would
	} {
		code, body := ask(t, out, c.host, "l5d-dtab", c.dtab)
		if got := fmt.Sprint(code, " ", body); !strings.Contains(got, c.want) {
			t.Errorf("%s by %q: %s, want %s", c.host, c.dtab, got, c.want)
		}
	}
	there.CloseClientConnections()
	there.Listener.Close()
	if code, body := ask(t, out, "red"); code != 200 {
		t.Errorf("without namerd: %d %s", code, body)
	}
}
