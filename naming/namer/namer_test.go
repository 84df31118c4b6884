package namer_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/namer/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// source is a Source whose states the test sets, and which counts who follows what.
type source struct {
	mu       sync.Mutex
	replicas map[string]*watch.Value[naming.Replicas]
	pods     map[string]*watch.Value[[]api.Pod]
	users    map[string]int
}

func newSource() *source {
	return &source{replicas: map[string]*watch.Value[naming.Replicas]{}, pods: map[string]*watch.Value[[]api.Pod]{}, users: map[string]int{}}
}

func (s *source) name(id string) *watch.Value[naming.Replicas] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.replicas[id] == nil {
		s.replicas[id] = &watch.Value[naming.Replicas]{}
	}
	return s.replicas[id]
}

func (s *source) node(name string) *watch.Value[[]api.Pod] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[name] == nil {
		s.pods[name] = &watch.Value[[]api.Pod]{}
	}
	return s.pods[name]
}

func (s *source) use(what string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[what]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.users[what]--
	}
}

func (s *source) usersOf(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[what]
}

func (s *source) Replicas(id naming.Path) (*watch.Value[naming.Replicas], func()) {
	return s.name(id.String()), s.use(id.String())
}

func (s *source) Pods(node string) (*watch.Value[[]api.Pod], func()) {
	return s.node(node), s.use(node)
}

// network is a network in memory, on which listeners come and go.
type network struct {
	mu       sync.Mutex
	listener *listener
	conns    []*pipe
	dials    int
}

type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *listener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

// pipe is an end of a connection that can be cut off without either end being told.
type pipe struct {
	net.Conn
	dead chan struct{}
	cut  func()
}

func (p *pipe) Write(b []byte) (int, error) {
	select {
	case <-p.dead:
		return len(b), nil // into the void
	default:
		return p.Conn.Write(b)
	}
}

func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listener
	n.dials++
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Err: io.EOF}
	}
	a, b := net.Pipe()
	dead := make(chan struct{})
	cut := sync.OnceFunc(func() { close(dead) })
	near, far := &pipe{a, dead, cut}, &pipe{b, dead, cut}
	select {
	case l.conns <- far:
		n.mu.Lock()
		n.conns = append(n.conns, near)
		n.mu.Unlock()
		return near, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Err: io.EOF}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *network) dialled() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

// cut makes every present connection fall silent.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.cut()
	}
}

// refuse makes every later dial fail.
func (n *network) refuse() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listener = nil
}

// serve runs a server of h on the network until stop is called.
func (n *network) serve(h http.Handler) (stop func()) {
	l := &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	n.listener = l
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	s := &http.Server{
		Handler:     h,
		Protocols:   new(http.Protocols),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, 0),
	}
	s.Protocols.SetUnencryptedHTTP2(true)
	s.Protocols.SetHTTP1(true)
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }()
	return sync.OnceFunc(func() {
		n.refuse()
		cancel()
		s.Close()
		<-done
	})
}

// start runs a client on the network until stop is called.
func (n *network) start(t *testing.T, hello api.Hello, inUse ...func() []api.Name) (c *client.Client, stop func()) {
	t.Helper()
	cfg := client.Config{URL: "http://namer:4181", Hello: hello, Logger: quiet, Dial: n.dial}
	if len(inUse) > 0 {
		cfg.InUse = inUse[0]
	}
	return n.startWith(t, cfg)
}

func (n *network) startWith(t *testing.T, cfg client.Config) (c *client.Client, stop func()) {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return c, sync.OnceFunc(func() {
		begin := time.Now() // virtual
		cancel()
		if err := <-done; err != nil || time.Since(begin) > 0 {
			t.Errorf("Run returned %v after %v", err, time.Since(begin))
		}
	})
}

func memory(t testing.TB, seed map[string]string) *namer.Memory {
	t.Helper()
	m, err := namer.NewMemory(seed)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func dtab(t *testing.T, s string) naming.Dtab {
	t.Helper()
	d, err := naming.ParseDtab(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// put writes the dtab of the namespace default.
func put(s namer.Store, rules string) error {
	d, err := naming.ParseDtab(rules)
	if err == nil {
		_, err = s.Put(context.Background(), "default", namer.Change{Dtab: d})
	}
	return err
}
