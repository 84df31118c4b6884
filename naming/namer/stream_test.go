package namer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/namer/client"
)

const (
	world = "/#/io.l5d.k8s/default/80/world"
	other = "/#/io.l5d.k8s/default/80/other"
)

func at(address string) naming.Replicas {
	return naming.Of(naming.Endpoint{Address: address, Weight: 1})
}

var sidecar = api.Hello{Proxy: "web-0", Node: "n1", Mode: api.ModeSidecar, DtabNamespace: "default"}

func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, src, n := memory(t, map[string]string{"default": "/svc=>/a"}), newSource(), &network{}
		stopServer := n.serve(namer.NewStream(namer.StreamConfig{Store: store, Source: src, Logger: quiet}))
		defer stopServer()
		c, stop := n.start(t, sidecar)
		defer stop()

		<-c.Synced()
		if got := c.Dtab().Get().String(); got != "/svc=>/a" || !c.Connected() {
			t.Fatalf("the dtab is %q, connected %v", got, c.Connected())
		}
		if c.Pods().Get() != nil || src.usersOf("n1") != 0 {
			t.Error("a sidecar is sent pods")
		}

		// A name: pending, neg, bound; and the dtab meanwhile.
		replicas, release := c.Replicas(world)
		synctest.Wait()
		if s := replicas.Get().State; s != naming.StatePending || src.usersOf(world) != 1 {
			t.Fatalf("state %v, %d users", s, src.usersOf(world))
		}
		for _, r := range []naming.Replicas{{State: naming.StateNeg}, at("10.0.0.1:80"), naming.Of(), at("10.0.0.2:80")} {
			src.name(world).Set(r)
			synctest.Wait()
			if got := replicas.Get(); !got.Equal(r) {
				t.Fatalf("got %+v, want %+v", got, r)
			}
		}
		if err := put(store, "/svc=>/b"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := c.Dtab().Get().String(); got != "/svc=>/b" {
			t.Fatalf("the dtab is %q", got)
		}
		// Weights arrive as they were stored, and so do changes that two decimals do not show.
		for _, rules := range []string{"/svc=>0.001*/a & 0.999*/b", "/svc=>0.002*/a & 0.998*/b"} {
			if err := put(store, rules); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := c.Dtab().Get().Exact(); got != rules {
				t.Fatalf("the dtab is %q, want %q", got, rules)
			}
		}

		// What the namer ceases to know stays known.
		src.name(world).Set(naming.Replicas{})
		src.name(world).Set(naming.Replicas{State: naming.StateFailed, Cause: "x"})
		synctest.Wait()
		if got := replicas.Get(); !got.Equal(at("10.0.0.2:80")) {
			t.Fatalf("got %+v", got)
		}

		// Two users share a value, the last one to release ends the watch.
		again, release2 := c.Replicas(world)
		if again != replicas {
			t.Error("a name has two values")
		}
		release()
		release()
		synctest.Wait()
		if src.usersOf(world) != 1 {
			t.Fatal("unwatched though in use")
		}
		release2()
		synctest.Wait()
		if src.usersOf(world) != 0 {
			t.Fatal("still watched")
		}

		// Released and asked for again at once: the namer repeats what it knows.
		src.name(world).Set(at("10.0.0.3:80"))
		_, r1 := c.Replicas(world)
		synctest.Wait()
		r1()
		v, r2 := c.Replicas(world)
		defer r2()
		synctest.Wait()
		if got := v.Get(); !got.Equal(at("10.0.0.3:80")) || src.usersOf(world) != 1 {
			t.Fatalf("got %+v, %d users", got, src.usersOf(world))
		}

		// A name that is none.
		bad, r3 := c.Replicas("world")
		defer r3()
		synctest.Wait()
		if got := bad.Get(); got.State != naming.StateFailed || !strings.Contains(got.Cause, "expected but 'w' found") {
			t.Fatalf("got %+v", got)
		}

		// A deleted namespace is an empty dtab.
		if err := store.Delete(t.Context(), "default", ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := c.Dtab().Get().String(); got != "" {
			t.Fatalf("the dtab is %q", got)
		}

		// A quiet hour is no dead peer.
		dials := n.dialled()
		time.Sleep(time.Hour) // virtual
		if !c.Connected() || n.dialled() != dials {
			t.Fatalf("connected %v after a quiet hour, %d more connections", c.Connected(), n.dialled()-dials)
		}
		stop()
		synctest.Wait()
		if src.usersOf(world) != 0 {
			t.Fatal("a proxy that is gone is still served")
		}
	})
}

func TestStreamPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, src, n := memory(t, nil), newSource(), &network{}
		defer n.serve(namer.NewStream(namer.StreamConfig{Store: store, Source: src, Logger: quiet}))()
		hello := sidecar
		hello.Mode = api.ModeHost
		c, stop := n.start(t, hello)
		defer stop()
		synctest.Wait()
		if c.Dtab().Get() == nil || c.Pods().Get() != nil {
			t.Fatalf("dtab %v, pods %v before pods are known", c.Dtab().Get(), c.Pods().Get())
		}
		select {
		case <-c.Synced():
			t.Fatal("synced without pods")
		default:
		}
		src.node("n1").Set([]api.Pod{})
		<-c.Synced()
		if c.Pods().Get() == nil {
			t.Fatal("no pods is not known from not knowing")
		}
		pods := []api.Pod{{IP: "10.0.0.1", Namespace: "a", Name: "x"}}
		src.node("n1").Set(pods)
		synctest.Wait()
		if got := c.Pods().Get(); !slices.Equal(got, pods) {
			t.Fatalf("got %v", got)
		}
		stop()
		synctest.Wait()
		if src.usersOf("n1") != 0 {
			t.Fatal("pods are still watched")
		}
	})
}

// The policy is there before the dtab is, changes live, and stays while there is
// no namer, or one that does not know it.
func TestStreamPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{}
		serve := func(policy *watch.Value[[]byte]) (stop func()) {
			return n.serve(namer.NewStream(namer.StreamConfig{Store: memory(t, nil), Source: newSource(), Policy: policy, Logger: quiet}))
		}
		c, stop := n.start(t, sidecar) // nobody is there yet
		defer stop()
		early, sets := false, 0
		c.Dtab().Notify(func() { early = c.Policy().Get() == nil })
		c.Policy().Notify(func() { sets++ })
		expect := func(text string, changes int) {
			t.Helper()
			time.Sleep(4 * time.Second) // virtual; enough to connect again
			synctest.Wait()
			if got := c.Policy().Get(); got == nil || got.Text != text || got.Version == "" || sets != changes {
				t.Fatalf("the policy is %+v after %d changes, want %q after %d", got, sets, text, changes)
			}
		}

		text := watch.New([]byte("a: <&>\n"))
		stopServer := serve(text)
		expect("a: <&>\n", 1)
		if early {
			t.Error("the dtab came before the policy")
		}
		first := c.Policy().Get().Version
		text.Set([]byte("b"))
		expect("b", 2)
		if c.Policy().Get().Version == first {
			t.Error("another text has the same version")
		}
		for _, policy := range []*watch.Value[[]byte]{watch.New([]byte("b")), {}, nil} {
			stopServer()
			expect("b", 2)
			stopServer = serve(policy)
			expect("b", 2)
			if !c.Connected() {
				t.Fatal("not connected")
			}
		}
		stopServer()
		defer serve(watch.New([]byte{}))()
		expect("", 3)
	})
}

// What a namer of a later version says, an earlier proxy passes over; so does an
// earlier namer with a later proxy's words.
func TestLaterVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{}
		heard := make(chan api.Hello, 1)
		stream := namer.NewStream(namer.StreamConfig{Store: memory(t, nil), Source: newSource(), Logger: quiet,
			Admit: func(*http.Request) (namer.Guest, error) {
				return namer.Guest{May: func(hello api.Hello) error { heard <- hello; return nil }}, nil
			}})
		defer n.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(strings.NewReader(`{"hello":{"proxy":"new","later":{"a":1}},"later":2}`+"\n"+`{"later":[]}`+"\n"), r.Body), r.Body}
			io.WriteString(w, `{"later":{"text":"x"}}`+"\n"+`{"policy":{"text":"p","version":"v","later":[1]}}`+"\n")
			stream.ServeHTTP(w, r)
		}))()
		c, stop := n.start(t, sidecar)
		defer stop()
		<-c.Synced()
		if p := c.Policy().Get(); p == nil || p.Text != "p" || (<-heard).Proxy != "new" || !c.Connected() {
			t.Errorf("the policy is %+v", p)
		}
	})
}

// The namer goes and comes back, empty-handed at first.
func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, src, n := memory(t, map[string]string{"default": "/svc=>/a"}), newSource(), &network{}
		src.name(world).Set(at("10.0.0.1:80"))
		stopServer := n.serve(namer.NewStream(namer.StreamConfig{Store: store, Source: src, Logger: quiet}))
		c, stop := n.start(t, sidecar)
		defer stop()
		replicas, release := c.Replicas(world)
		defer release()
		<-c.Synced()
		synctest.Wait()

		stopServer()
		synctest.Wait()
		if c.Connected() {
			t.Fatal("connected to a server that is gone")
		}
		before := n.dialled()
		time.Sleep(10 * time.Minute) // virtual
		if tries := n.dialled() - before; tries < 200 || tries > 600 {
			t.Errorf("%d attempts in ten minutes", tries)
		}
		late, release2 := c.Replicas(other) // asked for while nobody is there
		defer release2()
		if got := replicas.Get(); !got.Equal(at("10.0.0.1:80")) || c.Dtab().Get().String() != "/svc=>/a" || late.Get().State != naming.StatePending {
			t.Fatalf("what was known is lost: %+v, %s", got, c.Dtab().Get())
		}

		fresh := newSource()
		store = memory(t, map[string]string{"default": "/svc=>/b"})
		defer n.serve(namer.NewStream(namer.StreamConfig{Store: store, Source: fresh, Logger: quiet}))()
		time.Sleep(4 * time.Second) // virtual; at most one and a half of the longest wait
		if got := replicas.Get(); !c.Connected() || !got.Equal(at("10.0.0.1:80")) || c.Dtab().Get().String() != "/svc=>/b" {
			t.Fatalf("connected %v, %+v, %s", c.Connected(), got, c.Dtab().Get())
		}
		fresh.name(world).Set(at("10.0.0.2:80"))
		fresh.name(other).Set(naming.Replicas{State: naming.StateNeg})
		synctest.Wait()
		if !replicas.Get().Equal(at("10.0.0.2:80")) || late.Get().State != naming.StateNeg {
			t.Fatalf("got %+v, %+v", replicas.Get(), late.Get())
		}
	})
}

// A server whose context ends lets go of its streams by itself.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, n := newSource(), &network{}
		ctx, cancel := context.WithCancel(t.Context())
		stopServer := n.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			namer.NewStream(namer.StreamConfig{Store: memory(t, nil), Source: src, Logger: quiet}).ServeHTTP(w, r.WithContext(ctx))
		}))
		defer stopServer()
		c, stop := n.start(t, sidecar)
		defer stop()
		_, release := c.Replicas(world)
		defer release()
		<-c.Synced()
		synctest.Wait()
		begin := time.Now()
		n.refuse()
		cancel()
		synctest.Wait()
		if src.usersOf(world) != 0 || c.Connected() || time.Since(begin) > 0 {
			t.Errorf("%d users, connected %v after %v", src.usersOf(world), c.Connected(), time.Since(begin))
		}
	})
}

// A peer that vanishes without a word is noticed by both sides.
func TestDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, src, n := memory(t, map[string]string{"default": ""}), newSource(), &network{}
		defer n.serve(namer.NewStream(namer.StreamConfig{Store: store, Source: src, Logger: quiet}))()
		c, stop := n.start(t, sidecar)
		defer stop()
		replicas, release := c.Replicas(world)
		defer release()
		<-c.Synced()
		synctest.Wait()
		n.cut()
		src.name(world).Set(at("10.0.0.1:80")) // lost on the way
		synctest.Wait()
		if replicas.Get().State != naming.StatePending {
			t.Fatal("the connection is not cut")
		}
		time.Sleep(api.Silence + 2*time.Second) // virtual
		if got := replicas.Get(); !c.Connected() || !got.Equal(at("10.0.0.1:80")) || n.dialled() != 2 {
			t.Fatalf("connected %v, %+v, %d connections", c.Connected(), got, n.dialled())
		}
		if users := src.usersOf(world); users != 1 {
			t.Fatalf("%d users: the server has not noticed", users)
		}
	})
}

// A proxy that reads nothing is dropped, and holds nobody up meanwhile.
func TestStuckProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, src, n := memory(t, map[string]string{"default": ""}), newSource(), &network{}
		defer n.serve(namer.NewStream(namer.StreamConfig{Store: store, Source: src, Logger: quiet}))()
		conn, err := n.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		lines := `{"hello":{"proxy":"stuck","dtabNamespace":"default"}}` + "\n" + `{"watch":"` + world + `"}` + "\n"
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: namer\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", api.WatchPath, len(lines), lines)
		c, stop := n.start(t, sidecar)
		defer stop()
		replicas, release := c.Replicas(world)
		defer release()
		<-c.Synced()
		for i := range 100 {
			r := at(fmt.Sprintf("10.0.0.%d:80", i))
			src.name(world).Set(r)
			synctest.Wait()
			if got := replicas.Get(); !got.Equal(r) {
				t.Fatalf("got %+v, want %+v", got, r)
			}
		}
		time.Sleep(api.Silence + time.Second) // virtual
		synctest.Wait()
		if users := src.usersOf(world); users != 1 {
			t.Fatalf("%d users", users)
		}
	})
}

// Many changes in a row arrive as the last one, and equal ones not at all.
func TestLatestValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, src, n := memory(t, map[string]string{"default": ""}), newSource(), &network{}
		defer n.serve(namer.NewStream(namer.StreamConfig{Store: store, Source: src, Logger: quiet}))()
		c, stop := n.start(t, sidecar)
		defer stop()
		replicas, release := c.Replicas(world)
		defer release()
		<-c.Synced()
		synctest.Wait()
		var sets atomic.Int32
		replicas.Notify(func() { sets.Add(1) })
		for i := range 10_000 {
			src.name(world).Set(at(fmt.Sprintf("10.0.0.1:%d", i)))
		}
		synctest.Wait()
		if got := replicas.Get(); !got.Equal(at("10.0.0.1:9999")) {
			t.Fatalf("got %+v", got)
		}
		before := sets.Load()
		for range 100 {
			src.name(world).Set(at("10.0.0.1:9999"))
		}
		synctest.Wait()
		if sets.Load() != before {
			t.Error("an equal state is published")
		}
	})
}

type statusError int

func (e statusError) Error() string   { return "try later" }
func (e statusError) StatusCode() int { return int(e) }

func TestAdmit(t *testing.T) {
	for _, c := range []struct {
		name, method, body string
		admit              error
		status             int
		want               string
	}{
		{"GET", "GET", "", nil, 405, "POST"},
		{"nothing", "POST", "", nil, 400, "EOF"},
		{"no JSON", "POST", "hello\n", nil, 400, "invalid character"},
		{"no hello", "POST", `{"watch":"/a"}` + "\n", nil, 400, "no hello"},
		{"a long line", "POST", `{"watch":"` + strings.Repeat("x", api.MaxLine), nil, 400, "too long"},
		{"refused", "POST", `{"hello":{"node":"n2"}}` + "\n", errors.New("not your node"), 403, "not your node"},
		{"unavailable", "POST", `{"hello":{"node":"n2"}}` + "\n", fmt.Errorf("ask: %w", statusError(503)), 503, "try later"},
		{"admitted", "POST", `{"hello":{"node":"n2"}}` + "\n", nil, 200, `{"dtab":`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var token string
			src := newSource()
			h := namer.NewStream(namer.StreamConfig{Store: memory(t, nil), Source: src, Logger: quiet, Admit: func(r *http.Request) (namer.Guest, error) {
				token = r.Header.Get("Authorization")
				return namer.Guest{May: func(hello api.Hello) error {
					if hello.Node != "n2" {
						t.Errorf("hello is %+v", hello)
					}
					return c.admit
				}}, nil
			}})
			server := httptest.NewServer(h)
			defer server.Close()
			request, err := http.NewRequest(c.method, server.URL+api.WatchPath, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer t")
			response, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode != c.status || !strings.Contains(string(body), c.want) {
				t.Fatalf("got %d %s, want %d …%s…", response.StatusCode, body, c.status, c.want)
			}
			if c.admit != nil && token != "Bearer t" {
				t.Errorf("the token is %q", token)
			}
		})
	}
}

// The real thing once: TLS, ALPN, TCP.
func TestTLS(t *testing.T) {
	src := newSource()
	src.name(world).Set(at("10.0.0.1:80"))
	h := namer.NewStream(namer.StreamConfig{Store: memory(t, map[string]string{"default": "/svc=>/a"}), Source: src, Logger: quiet,
		Admit: func(r *http.Request) (namer.Guest, error) {
			if r.ProtoMajor != 2 || r.Header.Get("Authorization") != "Bearer secret" {
				return namer.Guest{}, fmt.Errorf("%s with %q", r.Proto, r.Header)
			}
			return namer.Guest{}, nil
		}})
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	c, err := client.New(client.Config{
		URL: server.URL + "/", TLS: server.Client().Transport.(*http.Transport).TLSClientConfig, Hello: sidecar, Logger: quiet,
		Token: func() (string, error) { return "secret", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	replicas, release := c.Replicas(world)
	defer release()
	if _, err := replicas.Wait(ctx, func(r naming.Replicas) bool { return r.Equal(at("10.0.0.1:80")) }); err != nil {
		t.Fatal(err)
	}
	<-c.Synced()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestClientConfig(t *testing.T) {
	for _, u := range []string{"", "controller:4181", "ftp://x", "https://", "://"} {
		if _, err := client.New(client.Config{URL: u, Logger: quiet}); err == nil {
			t.Errorf("URL %q is accepted", u)
		}
	}
}
