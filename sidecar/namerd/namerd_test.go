package namerd_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/namerd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is what namerd's namers know; nothing but what a test sets.
type source struct {
	mu     sync.Mutex
	values map[string]*watch.Value[naming.Replicas]
	users  map[string]int
}

func (s *source) of(id string) *watch.Value[naming.Replicas] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values[id] == nil {
		s.values[id] = &watch.Value[naming.Replicas]{}
	}
	return s.values[id]
}

func (s *source) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	v := s.of(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[id]++
	return v, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.users[id]--
	}
}

func (s *source) usersOf(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[id]
}

// cluster is a namerd of ours behind a network in memory.
type cluster struct {
	t *testing.T
	*source
	store *namer.Memory
	api   http.Handler
	tls   *tls.Config // nil for clear text

	mu     sync.Mutex
	server *http.Server // nil while namerd is away
	accept chan net.Conn
	conns  atomic.Int32 // that are open
	dials  atomic.Int32
}

const (
	v1    = "/#/io.l5d.k8s/shop/http/cart-v1"
	v2    = "/#/io.l5d.k8s/shop/http/cart-v2"
	rules = "/srv=>/#/io.l5d.k8s/shop/http;/svc=>/srv;/svc/cart=>/srv/cart-v1"
)

func newCluster(t *testing.T) *cluster {
	store, err := namer.NewMemory(map[string]string{"shop": rules})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, store: store, source: &source{values: map[string]*watch.Value[naming.Replicas]{}, users: map[string]int{}}}
	names, err := registry.New(registry.Config{Namers: registry.Default(), Source: c.source})
	if err != nil {
		t.Fatal(err)
	}
	c.api = namer.NewAPI(namer.APIConfig{Store: store, Registry: names, Logger: slog.New(slog.DiscardHandler)})
	c.of(v1).Set(at("10.0.0.1:80"))
	c.of(v2).Set(at("10.0.0.2:80"))
	return c
}

func at(address string) naming.Replicas {
	return naming.Of(naming.Endpoint{Address: address, Weight: 1})
}

func (c *cluster) write(text string) {
	c.t.Helper()
	d, err := naming.ParseDtab(text)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.store.Put(c.t.Context(), "shop", namer.Change{Dtab: d}); err != nil {
		c.t.Fatal(err)
	}
}

var errAway = errors.New("connection refused")

// end is one end of a connection, and counts itself.
type end struct {
	net.Conn
	gone func()
}

func (e end) Close() error { e.gone(); return e.Conn.Close() }

func (c *cluster) dial(ctx context.Context, _, address string) (net.Conn, error) {
	c.dials.Add(1)
	c.mu.Lock()
	accept := c.accept
	c.mu.Unlock()
	if accept == nil {
		return nil, errAway
	}
	client, server := net.Pipe()
	select {
	case accept <- server:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.conns.Add(1)
	return end{client, sync.OnceFunc(func() { c.conns.Add(-1) })}, nil
}

// listener gives a server the connections of accept.
type listener struct {
	accept chan net.Conn
	done   chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accept:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

// up makes namerd answer; down cuts all its connections.
func (c *cluster) up() {
	l := &listener{accept: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: c.api}
	if c.tls != nil {
		go server.Serve(tls.NewListener(l, c.tls))
	} else {
		go server.Serve(l)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server, c.accept = server, l.accept
}

func (c *cluster) down() {
	c.mu.Lock()
	server := c.server
	c.server, c.accept = nil, nil
	c.mu.Unlock()
	if server != nil {
		server.Close()
	}
	if c.tls != nil {
		time.Sleep(6 * time.Second) // TLS says goodbye for five
	}
	synctest.Wait()
}

// client runs a Client until stop is called.
func (c *cluster) client(configure func(*namerd.Config)) (n *namerd.Client, stop func()) {
	c.t.Helper()
	cfg := namerd.Config{Address: "namerd.test:4180", Namespace: "shop", Dial: c.dial}
	if configure != nil {
		configure(&cfg)
	}
	n, err := namerd.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Run(ctx); err != nil {
			c.t.Error(err)
		}
	}()
	return n, func() { cancel(); <-done }
}

// name is a name that is followed.
type name struct {
	get     func() (naming.BoundTree, error)
	release func()
	changes atomic.Int32
}

func (c *cluster) bind(n *namerd.Client, path, extra string) *name {
	c.t.Helper()
	p, err := naming.ParsePath(path)
	if err != nil {
		c.t.Fatal(err)
	}
	d, err := naming.ParseDtab(extra)
	if err != nil {
		c.t.Fatal(err)
	}
	x := &name{}
	x.get, x.release = n.Bind(p, d, func() { x.changes.Add(1) })
	return x
}

func (n *name) String() string {
	tree, err := n.get()
	if err != nil {
		return "error: " + err.Error()
	}
	return show(tree)
}

func show(t naming.BoundTree) string {
	switch t.Kind {
	case naming.BoundLeaf:
		return strings.TrimSuffix(t.Leaf.ID.String()+"+"+t.Leaf.Residual.String(), "+/")
	case naming.BoundUnion:
		var all []string
		for _, b := range t.Branches {
			all = append(all, fmt.Sprintf("%v*%s", b.Weight, show(b.Tree)))
		}
		return strings.Join(all, " & ")
	}
	return [...]string{"pending", "neg", "fail", "empty"}[t.Kind]
}

func (c *cluster) expect(what string, got, want any) {
	c.t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		c.t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

func TestNamesAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.up()
		defer c.down()
		n, stop := c.client(nil)
		defer stop()
		cart := c.bind(n, "/svc/cart/x", "")
		override := c.bind(n, "/svc/cart", "/svc/cart=>/srv/cart-v2")
		third := c.bind(n, "/svc/cart", "/svc/cart=>1.125*/srv/cart-v1&/srv/cart-v2")
		synctest.Wait()
		c.expect("a name", cart, v1+"+/x")
		c.expect("an override", override, v2)
		c.expect("weights", third, "1.125*"+v1+" & 1*"+v2)
		c.expect("changes", cart.changes.Load(), 1)
		c.expect("connections", c.conns.Load(), 3)

		c.of(v1).Set(at("10.0.0.9:80"))
		synctest.Wait()
		c.expect("changes after endpoints changed", cart.changes.Load(), 1)
		for _, step := range []struct{ dst, want string }{
			{"/srv/cart-v2 & 9.5*/srv/cart-v1", "1*" + v2 + "+/x & 9.5*" + v1 + "+/x"},
			{"/srv/cart-v2 | /srv/cart-v1", v2 + "+/x"}, {"~", "neg"}, {"$", "empty"}, {"!", "fail"}, {"/srv/cart-v1", v1 + "+/x"},
		} {
			c.write("/srv=>/#/io.l5d.k8s/shop/http;/svc/cart=>" + step.dst)
			synctest.Wait()
			c.expect(step.dst, cart, step.want)
		}
		c.expect("the override", override, v2)

		// An error keeps what is known, and what is right again is found.
		c.write("/svc=>/svc")
		synctest.Wait()
		c.expect("endless rules", cart, v1+"+/x")
		fresh := c.bind(n, "/svc/new", "")
		synctest.Wait()
		c.expect("a new name by endless rules", fresh, "error: namerd: Max recursion level: 100 reached in Namer lookup")
		c.write("/svc/new=>" + v1 + ";/svc/cart=>" + v2)
		time.Sleep(31 * time.Second)
		synctest.Wait()
		c.expect("after the rules were put right", fresh, v1)
		c.expect("after the rules were put right", cart, v2+"+/x")

		// Of two who follow the same, one goes.
		again := c.bind(n, "/svc/cart/x", "")
		open := c.conns.Load()
		c.expect("known already", again, v2+"+/x")
		cart.release()
		cart.release()
		synctest.Wait()
		c.expect("connections after one of two went", c.conns.Load(), open)
		again.release()
		override.release()
		third.release()
		fresh.release()
		synctest.Wait()
		c.expect("connections after all went", c.conns.Load(), 0)
		c.expect("followed by namerd", c.usersOf(v2), 0)
	})
}

func TestReplicasAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.up()
		defer c.down()
		n, stop := c.client(nil)
		defer stop()
		c.of(v1).Set(naming.Of(
			naming.Endpoint{Address: "10.0.0.1:80", Weight: 2, Node: "n1", Hop: naming.HopHost, Via: "10.0.1.1:4141", Identity: "spiffe://x/ns/y/sa/z"},
			naming.Endpoint{Address: "[fd00::1]:80", Weight: 1}))
		replicas, release := n.Replicas(v1)
		defer release()
		synctest.Wait()
		c.expect("endpoints", replicas.Get(), naming.Of(
			naming.Endpoint{Address: "10.0.0.1:80", Weight: 2, Node: "n1"}, naming.Endpoint{Address: "[fd00::1]:80", Weight: 1}))

		c.of(v1).Set(naming.Replicas{State: naming.StateFailed, Cause: "no luck"})
		synctest.Wait()
		c.expect("after namerd cannot tell", len(replicas.Get().Endpoints), 2)
		c.of(v1).Set(at("10.0.0.3:80"))
		time.Sleep(31 * time.Second)
		synctest.Wait()
		c.expect("after it can", replicas.Get(), at("10.0.0.3:80"))
		// Whether there is another way is for the tree to say, which follows.
		c.of(v1).Set(naming.Replicas{State: naming.StateNeg})
		synctest.Wait()
		c.expect("gone", replicas.Get(), naming.Replicas{State: naming.StatePending})
		for _, next := range []naming.Replicas{naming.Of(), at("10.0.0.4:80")} {
			c.of(v1).Set(next)
			synctest.Wait()
			c.expect("next", replicas.Get(), next)
		}

		c.of(v2).Set(naming.Replicas{State: naming.StateFailed, Cause: "no luck"})
		failed, leave := n.Replicas(v2)
		defer leave()
		refused, leaveToo := n.Replicas("no path")
		defer leaveToo()
		synctest.Wait()
		c.expect("failed", failed.Get(), naming.Replicas{State: naming.StateFailed, Cause: "no luck"})
		c.expect("refused", refused.Get().Cause, "namerd answered 400 Bad Request: Invalid path: '/' expected but 'n' found at '[n]o path'")
		c.of(v2).Set(at("10.0.0.2:80"))
		time.Sleep(31 * time.Second)
		synctest.Wait()
		c.expect("no more", failed.Get(), at("10.0.0.2:80"))
	})
}

// What is known stands while namerd is away, and what changed meanwhile is learnt.
func TestNamerdIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		var log bytes.Buffer
		n, stop := c.client(func(cfg *namerd.Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		defer stop()
		cart := c.bind(n, "/svc/cart", "")
		replicas, release := n.Replicas(v1)
		defer release()
		time.Sleep(time.Hour)
		synctest.Wait()
		c.expect("before the first word", cart, "pending")
		c.expect("before the first word", replicas.Get().State, naming.StatePending)
		if dials := c.dials.Load(); dials > 40 {
			t.Errorf("%d attempts in an hour", dials)
		}
		state := n.State()
		if state.Connected || !errors.Is(state.Err, errAway) {
			t.Errorf("the state is %+v", state)
		}
		c.up()
		defer c.down()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		c.expect("namerd came", cart, v1)
		c.expect("namerd came", replicas.Get(), at("10.0.0.1:80"))
		c.expect("connected", n.State().Connected, true)

		for range 3 {
			var gaps atomic.Int32
			unhook := replicas.Notify(func() {
				if len(replicas.Get().Endpoints) == 0 {
					gaps.Add(1)
				}
			})
			c.down()
			c.write(rules + ";/svc/cart=>/srv/cart-v2")
			c.of(v1).Set(at("10.0.0.7:80"))
			time.Sleep(time.Minute)
			c.expect("away", cart, v1)
			c.expect("away", replicas.Get().State, naming.StateBound)
			c.expect("connections", c.conns.Load(), 0)
			fresh := c.bind(n, "/svc/cart", "/a=>/b")
			c.up()
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			c.expect("back", cart, v2)
			c.expect("back", fresh, v2)
			c.expect("back", replicas.Get(), at("10.0.0.7:80"))
			c.expect("gaps", gaps.Load(), 0)
			fresh.release()
			unhook()
			c.write(rules)
			c.of(v1).Set(at("10.0.0.1:80"))
			synctest.Wait()
			c.expect("still followed", cart, v1)
			c.expect("still followed", replicas.Get(), at("10.0.0.1:80"))
			time.Sleep(time.Minute)
		}
		c.expect("lines when it was lost", strings.Count(log.String(), "namerd not connected"), 4)
		c.expect("lines when it was found", strings.Count(log.String(), "namerd connected"), 4)
	})
}

// A namerd that is replaced while it is followed is found again within a second, and
// everybody comes back once one is back.
func TestQuickReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.up()
		n, stop := c.client(nil)
		defer stop()
		cart := c.bind(n, "/svc/cart", "")
		time.Sleep(time.Minute)
		c.down()
		c.write(rules + ";/svc/cart=>/srv/cart-v2")
		c.up()
		time.Sleep(time.Second)
		synctest.Wait()
		c.expect("replaced", cart, v2)

		c.down()
		time.Sleep(2 * time.Hour) // the next attempt is minutes away
		c.up()
		defer c.down()
		c.write(rules)
		c.expect("not yet", cart, v2)
		other := c.bind(n, "/svc/other", "") // is asked for at once
		time.Sleep(time.Second)
		synctest.Wait()
		c.expect("somebody came back", cart, v1)
		other.release()
	})
}

// Clients that ask one namerd come back together, for routers of one proxy are to go by the same rules.
func TestReturnTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.up()
		first, stop := c.client(nil)
		defer stop()
		clients := []*namerd.Client{first}
		for range 2 {
			n, stop := c.client(func(cfg *namerd.Config) { cfg.Beside = clients[len(clients)-1] })
			defer stop()
			clients = append(clients, n)
		}
		var names []*name
		for _, n := range clients {
			names = append(names, c.bind(n, "/svc/cart", ""))
		}
		time.Sleep(time.Minute)
		for i, n := range clients {
			c.expect("at first", names[i], v1)
			c.down()
			time.Sleep(2 * time.Hour) // the next attempt is minutes away
			c.write(rules + ";/svc/cart=>/srv/cart-v2")
			c.up()
			other := c.bind(n, "/svc/other", "") // is asked for at once
			time.Sleep(time.Second)
			synctest.Wait()
			for _, cart := range names {
				c.expect(fmt.Sprint("client ", i, " came back"), cart, v2)
			}
			other.release()
			c.write(rules)
			synctest.Wait()
		}
		c.down()
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.up()
		defer c.down()
		n, stop := c.client(func(cfg *namerd.Config) { cfg.Streams = 2 })
		defer stop()
		a, b := c.bind(n, "/svc/cart", "/x=>/a"), c.bind(n, "/svc/cart", "/x=>/b")
		synctest.Wait()
		more := c.bind(n, "/svc/cart", "/x=>/c")
		replicas, release := n.Replicas(v1) // has room of its own
		defer release()
		synctest.Wait()
		c.expect("no room", more, "error: this proxy follows too many names at namerd at the moment")
		c.expect("replicas", replicas.Get(), at("10.0.0.1:80"))
		c.expect("connections", c.conns.Load(), 3)
		a.release()
		synctest.Wait()
		c.expect("room", more, v1)
		b.release()
		more.release()
	})
}

// A namerd that says what ours does not.
func TestStrangeAnswers(t *testing.T) {
	const leaf = `{"type":"leaf","bound":{"addr":{"type":"pending"},"id":"/#/x/a","path":"/"}}`
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"blank lines", 200, "\n" + leaf + "\r\n\n", "/#/x/a"},
		{"an answer that broke", 200, leaf + "\n{\"type\":\"ne", "/#/x/a"},
		{"a half answer alone", 200, `{"type":"neg"`, "pending"},
		{"alternatives", 200, `{"type":"alt","alt":[{"type":"neg"},` + leaf + "]}\n", "/#/x/a"},
		{"an error after an answer", 200, leaf + "\nboom\n", "/#/x/a"},
		{"an error", 200, "boom\n", "error: namerd: boom"},
		{"an unknown type", 200, "{\"type\":\"what\"}\n", `error: read a delegation: the type "what" is unknown`},
		{"no JSON", 200, "{what}\n", "error: read what namerd says: invalid character 'w' looking for beginning of object key string"},
		{"forbidden", 403, "no", "error: namerd answered 403 Forbidden: no"},
		{"no names", 501, "only dtabs", "error: namerd answered 501 Not Implemented: only dtabs"},
		{"unwell", 503, "later", "pending"},
		{"elsewhere", 302, "", "error: namerd answered 302 Found: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := make(chan string, 100)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
				asked <- r.Method + " " + r.RequestURI
			}))
			defer server.Close()
			n, err := namerd.New(namerd.Config{
				Address: server.URL + "/base/", Namespace: "a b", Retry: namerd.Retry{Base: time.Millisecond, Max: 2 * time.Millisecond},
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); n.Run(ctx) }()
			defer func() { cancel(); <-done }()
			x := &name{}
			x.get, x.release = n.Bind(naming.Path{"svc", "ä"}, naming.Dtab{{Prefix: naming.Prefix{"a"}, Dst: naming.Leaf{"b", "c"}}}, func() {})
			defer x.release()
			for range 3 { // it is asked again, whatever it said
				want := `GET /base/api/1/bind/a%20b?dtab=%2Fa%3D%3E%2Fb%2Fc&path=%2Fsvc%2F%5Cxc3%5Cxa4&watch=true`
				if got := <-asked; got != want {
					t.Fatalf("asked %s, want %s", got, want)
				}
			}
			if got := x.String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	for address, ok := range map[string]bool{
		"namerd.test:4180": true, "http://namerd.test:4180/x": true, "[fd00::1]:4180": true, "127.0.0.1:4180": true,
		"": false, "https://namerd.test:4180": false, "http://": false, "http://a?b=c": false, "http://u@a:1": false, "a b:1": false,
	} {
		if _, err := namerd.New(namerd.Config{Address: address}); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
		if address, cut := strings.CutPrefix(address, "http"); cut && ok {
			if _, err := namerd.New(namerd.Config{Address: "https" + address, TLS: &namerd.TLS{}}); err != nil {
				t.Errorf("https%s: %v", address, err)
			}
			if _, err := namerd.New(namerd.Config{Address: "http" + address, TLS: &namerd.TLS{}}); err == nil {
				t.Errorf("http%s is taken for an address with TLS", address)
			}
		}
	}
}
