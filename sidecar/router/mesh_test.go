package router_test

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/router"
	"github.com/tulle-mesh/tulle/sidecar/socket"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// identified is a proxy's word that it has its certificate.
var identified = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// table is a namer whose answers a test sets. Names without one are Neg.
type table struct {
	mu     sync.Mutex
	values map[string]*watch.Value[naming.Replicas]
}

func (t *table) value(id string) *watch.Value[naming.Replicas] {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.values[id] == nil {
		t.values[id] = watch.New(naming.Replicas{State: naming.StateNeg})
	}
	return t.values[id]
}

func (t *table) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	return t.value(id), func() {}
}

func (t *table) Resolver(state func(id naming.Path) naming.Replicas) naming.Resolver {
	r, err := registry.New(registry.Config{Namers: registry.Default(), Source: t})
	if err != nil {
		return func(naming.Path) naming.Resolution { return naming.Resolution{Err: err} }
	}
	return r.Resolver(state)
}

// bound is what the Service of a name, or of name:port, in the namespace ns is
// bound to.
func bound(name string) string {
	if name, port, ok := strings.Cut(name, ":"); ok {
		return "/#/io.l5d.k8s/ns/" + port + "/" + name
	}
	return "/#/io.l5d.k8s/ns/http/" + name
}

// service sets the endpoints of a Service in the namespace ns.
func (t *table) service(name string, addresses ...string) {
	var all []naming.Endpoint
	for _, a := range addresses {
		all = append(all, naming.Endpoint{Address: a, Weight: 1})
	}
	t.value(bound(name)).Set(naming.Of(all...))
}

// mesh is an outgoing router with all it needs.
type mesh struct {
	table    *table
	dtab     *watch.Value[*naming.Dtab]
	policy   *watch.Value[*policy.Policy]
	registry *prometheus.Registry
	clients  *client.Set
	network  network
	address  string
	stop     func() // ends the router and waits for it
}

// network is where a mesh lives: the loopback interface, or a virtual one.
type network interface {
	listen(t *testing.T) net.Listener
	dial(ctx context.Context, address string) (net.Conn, error)  // as the router does
	visit(ctx context.Context, address string) (net.Conn, error) // as anybody else does
}

// start runs an outgoing router on a loopback address. What it does is said in
// the words of a policy file, all of whose parts are optional.
func start(t *testing.T, words ...string) *mesh {
	t.Helper()
	return startOn(t, newLoopback(t), router.OutgoingConfig{Grace: 5 * time.Second}, words...)
}

// startOn runs an outgoing router in a network; cfg is completed.
func startOn(t *testing.T, n network, cfg router.OutgoingConfig, words ...string) *mesh {
	t.Helper()
	return startBinding(t, n, cfg, bind.Config{}, words...)
}

// startBinding is startOn with names bound by these rules, which are completed.
func startBinding(t *testing.T, n network, cfg router.OutgoingConfig, rules bind.Config, words ...string) *mesh {
	t.Helper()
	base, err := naming.ParseDtab("/srv => /caller; /host => /srv; /svc => /host")
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{
		table: &table{values: map[string]*watch.Value[naming.Replicas]{}}, dtab: watch.New(&base), registry: prometheus.NewRegistry(),
		policy: watch.New(says(t, words...)), network: n,
	}
	metrics := telemetry.New(m.registry)
	pools := pool.NewSet(func(ctx context.Context, target pool.Target) (net.Conn, error) { return n.dial(ctx, target.Address) })
	rules.Dtab, rules.Names = m.dtab, watch.New[bind.Names](m.table)
	binder := bind.New(rules)
	m.clients = client.NewSet(client.Config{Source: m.table, Pools: pools, Policy: m.policy, Metrics: metrics, Limit: rules.Paths, IdleTTL: rules.IdleTTL})
	cfg.Binder, cfg.Clients, cfg.Metrics, cfg.Policy = binder, m.clients, metrics, m.policy
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	if cfg.Identified == nil {
		cfg.Identified = identified
	}
	if cfg.Namespace == nil {
		cfg.Namespace = func(context.Context, string) (string, error) { return "ns", nil }
	}
	out := router.NewOutgoing(cfg)
	ln := n.listen(t)
	m.address = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	served := make(chan error, 1)
	support, stopSupport := context.WithCancel(context.Background())
	wg.Go(func() { _ = binder.Run(support) })
	wg.Go(func() { _ = m.clients.Run(support) })
	wg.Go(func() { _ = pools.Run(support) })
	wg.Go(func() { served <- out.Serve(ctx, ln) })
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		stopSupport()
		wg.Wait()
	})
	t.Cleanup(m.stop)
	return m
}

// says returns the policy of these words, which have to be right.
func says(t *testing.T, words ...string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("policy.yaml", []byte(strings.Join(words, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// loopback is the network of the machine, with connections that know when their
// peer leaves and that can be parked.
type loopback struct{ poller *socket.Poller }

func newLoopback(t *testing.T) loopback {
	t.Helper()
	poller, err := socket.Open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = poller.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return loopback{poller}
}

func (l loopback) listen(t *testing.T) net.Listener {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := l.poller.Listener(tcp)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (l loopback) dial(ctx context.Context, address string) (net.Conn, error) {
	return l.poller.Dial(ctx, address)
}

func (l loopback) visit(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

// client returns one that sends all its requests through the router.
func (m *mesh) client(t *testing.T) *http.Client {
	transport := &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: m.address}), DisableCompression: true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return m.network.visit(ctx, address) },
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// count returns the sum of a metric's series whose labels have these values.
func (m *mesh) count(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, s := range f.GetMetric() {
			if f.GetName() == name && matches(s.GetLabel(), labels) {
				sum += s.GetCounter().GetValue() + s.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func matches(labels []*dto.LabelPair, want []string) bool {
	found := 0
	for _, l := range labels {
		for i := 0; i < len(want); i += 2 {
			if l.GetName() == want[i] && l.GetValue() == want[i+1] {
				found++
			}
		}
	}
	return 2*found == len(want)
}

// record is what handlers have seen, in order.
type record[T any] struct {
	mu  sync.Mutex
	all []T
}

func (r *record[T]) add(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, v)
}

func (r *record[T]) get() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// backend serves h on a loopback address.
func backend(t *testing.T, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// rawBackend serves each connection on a loopback address by h, and closes it
// when h returns or the test ends.
func rawBackend(t *testing.T, h func(net.Conn, *bufio.Reader)) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveRaw(t, ln, h)
	return ln.Addr().String()
}

func serveRaw(t *testing.T, ln net.Listener, h func(net.Conn, *bufio.Reader)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			wg.Go(func() {
				h(conn, bufio.NewReader(conn))
				_ = conn.Close()
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// refusing returns an address that nobody listens on.
func refusing(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}
