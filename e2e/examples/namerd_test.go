package examples

import (
	"context"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/helloworld"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// leaves makes the index of the lab a registry's source.
type leaves struct{ l *lab }

func (s leaves) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	path, err := naming.ParsePath(id)
	if err != nil {
		s.l.t.Error(err)
	}
	return s.l.index.Replicas(path)
}

// namerd serves namerd's HTTP API for the cluster until stop is called.
func (l *lab) namerd(store namer.Store) (address string, stop func()) {
	l.t.Helper()
	names, err := registry.New(registry.Config{Namers: registry.Default(), Source: leaves{l}})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- names.Run(ctx) }()
	server := httptest.NewUnstartedServer(namer.NewAPI(namer.APIConfig{Store: store, Registry: names, Logger: slog.New(slog.DiscardHandler)}))
	server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	server.Start()
	stop = sync.OnceFunc(func() {
		cancel()
		server.CloseClientConnections()
		server.Close()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(stop)
	return server.Listener.Addr().String(), stop
}

// The rules are namerd's; a pipeline shifts traffic by them, and namerd may go.
func TestNamerd(t *testing.T) {
	l := newLab(t)
	for _, n := range []string{"a", "b"} {
		l.place(n, 4140, 4141, 4142)
	}
	l.daemons("incoming", 4141, "a", "b")
	l.helloWorld("a", "b")
	l.service("world-v2", corev1.ServicePort{Name: "http", Port: 7778})
	l.app("world-v2", "b", "127.0.1.30", helloworld.Config{Text: "earth"})
	const before = "/srv => /#/io.l5d.k8s/default/http ; /host => /srv ; /tmp => /srv ; /svc => /host ; /host/world => "
	store, err := namer.NewMemory(map[string]string{
		"external": "/host => /#/io.l5d.k8s/default/http/hello ; /svc/* => /host",
		"internal": before + "/srv/world-v1",
	})
	if err != nil {
		t.Fatal(err)
	}
	address, stop := l.namerd(store)
	for _, n := range []string{"a", "b"} {
		l.proxy(l.configuration("namerd", n, func(c map[string]any) {
			for _, r := range c["routers"].([]any) {
				in := r.(map[string]any)["interpreter"].(map[string]any)
				in["dst"] = "/$/inet/" + strings.Replace(address, ":", "/", 1)
			}
		}), n)
	}
	front := l.node("a").ports[4142]
	const try = "/host/world => /tmp/world-v2"
	for range 5 {
		if a := l.want(front, map[string]string{"Host": "any.host"}, 200, "world"); !sentence.MatchString(a.body) {
			t.Errorf("%q", a.body)
		}
		l.want(front, map[string]string{"Host": "any.host", "l5d-dtab": try}, 200, "earth")
	}

	// Under load, a tenth, then everything.
	var stopped atomic.Bool
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			for !stopped.Load() {
				l.want(front, map[string]string{"Host": "any.host"}, 200, "Hello")
			}
		})
	}
	write := func(dst string) {
		t.Helper()
		dtab, err := naming.ParseDtab(before + dst)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Put(t.Context(), "internal", namer.Change{Dtab: dtab}); err != nil {
			t.Fatal(err)
		}
	}
	write("1 * /tmp/world-v2 & 9 * /tmp/world-v1")
	seen := map[bool]bool{}
	l.eventually("both worlds", func() bool {
		seen[strings.Contains(l.get(front, "/", nil).body, "earth")] = true
		return len(seen) == 2
	})
	write("/tmp/world-v2 | /tmp/world-v1")
	earths := 0
	l.eventually("the new world", func() bool {
		if strings.Contains(l.get(front, "/", nil).body, "earth") {
			earths++
		} else {
			earths = 0
		}
		return earths == 20
	})
	l.index.DeleteSlice("default", "world-v2-127.0.1.30") // and the old one, without the new
	l.eventually("the old world", func() bool { return strings.Contains(l.get(front, "/", nil).body, "world") })
	stop()
	for range 20 {
		l.want(front, map[string]string{"Host": "any.host"}, 200, "world")
	}
	stopped.Store(true)
	load.Wait()
	// What namerd is not there to tell again, it said before.
	if a := l.get(l.node("a").admin, "/namer_state", nil); a.status != 200 || !strings.Contains(a.body, `"connected": false`) || !strings.Contains(a.body, address) {
		t.Errorf("%s", a.body)
	}
}
