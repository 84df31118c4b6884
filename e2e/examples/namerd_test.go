package examples

import (
	"context"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

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

// The rules are namerd's, and what world-v2 leaves behind when it goes; then namerd goes too.
func TestNamerd(t *testing.T) {
	p := newPipeline(t)
	p.deploy()
	for range 5 {
		if a := p.want(p.front, map[string]string{"Host": "any.host"}, 200, "world"); !sentence.MatchString(a.body) {
			t.Errorf("%q", a.body)
		}
		p.want(p.front, map[string]string{"Host": "any.host", "l5d-dtab": try}, 200, "earth")
	}
	stop := p.load()
	p.write("/tmp/world-v2 | /tmp/world-v1", "/tmp/world-v2 | /tmp/world-v1")
	p.settled("the new world", "earth", "earth")
	p.index.DeleteSlice("default", "world-v2-127.0.1.30") // and the old one, without the new
	p.eventually("the old world", func() bool { return strings.Contains(p.get(p.front, "/", nil).body, "world") })
	p.stop()
	for range 20 {
		p.want(p.front, map[string]string{"Host": "any.host"}, 200, "world")
	}
	stop()
	// What namerd is not there to tell again, it said before.
	if a := p.get(p.node("a").admin, "/namer_state", nil); a.status != 200 || !strings.Contains(a.body, `"connected": false`) || !strings.Contains(a.body, p.at) {
		t.Errorf("%s", a.body)
	}
}
