package bind_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/namerd"
)

// known is what namerd's namers know.
type known map[string]*watch.Value[naming.Replicas]

func (k known) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	if v := k[id]; v != nil {
		return v, func() {}
	}
	return watch.New(naming.Replicas{State: naming.StateNeg}), func() {}
}

// pipes is a network in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
	case <-ctx.Done():
	}
	return nil, errors.New("connection refused")
}

func rules(t *testing.T, text string) naming.Dtab {
	t.Helper()
	d, err := naming.ParseDtab(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A Binder whose names a namerd binds: by its rules, then the router's, then the
// request's; with the endpoints that it says, behind a transformer of the proxy's own.
func TestNamerdBinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const v1, v2 = "/#/edge/shop/http/cart-v1", "/#/edge/shop/http/cart-v2"
		at := func(a string) naming.Replicas { return naming.Of(naming.Endpoint{Address: a, Weight: 1}) }
		theirs := known{
			"/#/io.l5d.k8s/shop/http/cart-v1": watch.New(at("10.0.0.1:80")),
			"/#/io.l5d.k8s/shop/http/cart-v2": watch.New(at("10.0.0.2:80")),
		}
		store, err := namer.NewMemory(map[string]string{"shop": "/srv => /#/edge/shop/http ; /svc/cart => /srv/cart-v1"})
		if err != nil {
			t.Fatal(err)
		}
		namers, err := registry.New(registry.Config{
			Namers: []registry.Namer{{Kind: registry.Kubernetes, Prefix: naming.Path{"edge"}}}, Source: theirs,
		})
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: namer.NewAPI(namer.APIConfig{Store: store, Registry: namers, Logger: slog.New(slog.DiscardHandler)})}
		network := &pipes{make(chan net.Conn), make(chan struct{})}

		client, err := namerd.New(namerd.Config{Address: "namerd.test:4180", Namespace: "shop", Dial: network.dial})
		if err != nil {
			t.Fatal(err)
		}
		ours, err := registry.New(registry.Config{Remote: true, Source: client})
		if err != nil {
			t.Fatal(err)
		}
		port, err := ours.Transformation([]registry.Transformer{{Kind: registry.Port, Port: "4141"}})
		if err != nil {
			t.Fatal(err)
		}
		own := rules(t, "/svc/web => /svc/cart")
		b := bind.New(bind.Config{Dtab: watch.New(&own), Names: watch.New[bind.Names](ours), Transform: port, Remote: client})

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{}, 3)
		for _, run := range []func(context.Context) error{client.Run, ours.Run, b.Run} {
			go func() { run(ctx); ended <- struct{}{} }()
		}
		defer func() {
			cancel()
			for range cap(ended) {
				<-ended
			}
			server.Close()
		}()

		name := func(id, override string) *bind.Name {
			t.Helper()
			n, err := b.Name("default", []byte(id), rules(t, override), clock.Now())
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		expect := func(n *bind.Name, want string) {
			t.Helper()
			tree, err := n.Resolve(ctx)
			if want = "/%/io.l5d.port/4141" + want; err != nil || tree.Leaf.ID.String() != want {
				t.Errorf("%s is %s, %v; want %s", n.Service, tree.Leaf.ID, err, want)
			}
		}

		// Before namerd is there, requests wait as long as they may.
		cart, began := name("cart", ""), time.Now()
		if _, err := cart.Resolve(ctx); !errors.Is(err, bind.ErrTimeout) || time.Since(began) != bind.DefaultTimeout {
			t.Errorf("without namerd: %v after %s", err, time.Since(began))
		}
		go server.Serve(network)
		time.Sleep(time.Minute)
		expect(cart, v1)
		expect(name("web", ""), v1)
		over := name("web", "/svc/cart => /srv/cart-v2")
		expect(over, v2)
		replicas, release := ours.Replicas("/%/io.l5d.port/4141" + v1)
		defer release()
		synctest.Wait()
		if got := replicas.Get(); !got.Equal(at("10.0.0.1:4141")) {
			t.Errorf("the endpoints are %+v", got)
		}

		// A write moves names before their next use, and what a request says still wins.
		write := func(text string) {
			t.Helper()
			if _, err := store.Put(ctx, "shop", namer.Change{Dtab: rules(t, text)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		write("/srv => /#/edge/shop/http ; /svc/cart => /srv/cart-v2 | /srv/cart-v1")
		expect(cart, v2)
		expect(name("web", ""), v2)
		expect(name("web", "/svc/cart => /srv/cart-v1"), v1)
		theirs["/#/io.l5d.k8s/shop/http/cart-v2"].Set(naming.Replicas{State: naming.StateNeg})
		synctest.Wait()
		expect(cart, v1)

		// It goes, and nothing changes.
		server.Close()
		time.Sleep(5 * time.Minute)
		expect(cart, v1)
		if got := replicas.Get(); !got.Equal(at("10.0.0.1:4141")) {
			t.Errorf("without namerd the endpoints are %+v", got)
		}
	})
}
