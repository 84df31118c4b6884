package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table is a source that counts who follows its names.
type table struct {
	mu     sync.Mutex
	values map[string]*watch.Value[naming.Replicas]
	users  int
}

func (t *table) value(id string) *watch.Value[naming.Replicas] {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.values == nil {
		t.values = map[string]*watch.Value[naming.Replicas]{}
	}
	if t.values[id] == nil {
		t.values[id] = watch.New(naming.Replicas{})
	}
	return t.values[id]
}

func (t *table) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	v := t.value(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users++
	return v, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.users--
	}
}

func (t *table) following() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.users
}

func newSet(t *table) *Set {
	return NewSet(Config{
		Source: t, Policy: watch.New(policy.Default()), Metrics: telemetry.New(prometheus.NewRegistry()),
		Pools: pool.NewSet(func(context.Context, pool.Target) (net.Conn, error) { return nil, errors.New("unused") }),
	})
}

// forget closes all clients, used lately or not.
func forget(s *Set) { s.sweep(clock.Now() + int64(time.Hour)) }

func endpoint(address string) naming.Endpoint { return naming.Endpoint{Address: address, Weight: 1} }

func TestEndpointsKeepTheirLoad(t *testing.T) {
	names := &table{}
	s := newSet(names)
	c := s.Get("/a", false)
	if s.Get("/a", false) != c {
		t.Fatal("one name has two clients")
	}
	meshed := naming.Endpoint{Address: "10.0.0.2:80", Hop: naming.HopHost, Via: "10.9.9.9:4141", Identity: "spiffe://a/b", Weight: 1}
	names.value("/a").Set(naming.Of(endpoint("10.0.0.1:80"), meshed))
	p, err := c.Picker(t.Context())
	if err != nil || p.Len() != 2 {
		t.Fatal(p, err)
	}
	kept := p.All()[0]
	kept.Begin(0)
	if target := p.All()[1].Value.Pool.Target; target.Address != "10.9.9.9:4141" || target.Identity != "spiffe://a/b" {
		t.Errorf("an endpoint behind a proxy is dialled at %v", target)
	}
	names.value("/a").Set(naming.Of(endpoint("10.0.0.1:80"), endpoint("10.0.0.3:80")))
	p, _ = c.Picker(t.Context())
	if p.All()[0] != kept || kept.Load() != 1 || p.Len() != 2 {
		t.Error("an endpoint that stayed was made anew")
	}
	forget(s)
}

// Two bound names, or one name of two routers, have connections of their own wherever
// they lead; endpoints of one name behind one proxy have the same.
func TestClientsShareNoConnections(t *testing.T) {
	names := &table{}
	a := newSet(names)
	a.cfg.Pools = pool.NewSet(func(context.Context, pool.Target) (net.Conn, error) { c, _ := net.Pipe(); return c, nil })
	b := NewSet(a.cfg)
	behind := func(address string) naming.Endpoint {
		return naming.Endpoint{Address: address, Hop: naming.HopHost, Via: "10.9.9.9:4141", Identity: "spiffe://a/b", Weight: 1}
	}
	replicas := naming.Of(endpoint("10.0.0.1:80"), behind("10.0.0.2:80"), behind("10.0.0.3:80"))
	names.value("/one").Set(replicas)
	names.value("/two").Set(replicas)
	seen := map[*pool.Pool]string{}
	for _, c := range []*Client{a.Get("/one", false), a.Get("/two", false), b.Get("/one", false)} {
		p, err := c.Picker(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		pools := map[*pool.Pool]bool{}
		for _, e := range p.All() {
			pools[e.Value.Pool] = true
		}
		if len(pools) != 2 {
			t.Errorf("%s has %d pools for an address and a proxy", c.ID, len(pools))
		}
		for p := range pools {
			if other, ok := seen[p]; ok {
				t.Errorf("%s shares connections with %s", c.ID, other)
			}
			seen[p] = c.ID
		}
	}
	// A client that is made again finds the idle connections of the one before.
	connections := func() *pool.Pool {
		p, err := a.Get("/one", false).Picker(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return p.All()[0].Value.Pool
	}
	left, err := connections().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	connections().Put(left, clock.Now())
	forget(a)
	if found := connections().Get(); found != left {
		t.Errorf("a name that is used again finds %v", found)
	}
	left.Drop()
	forget(a)
	forget(b)
}

func TestPickerWaitsForTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := &table{}
		s := newSet(names)
		c := s.Get("/a", false)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Picker(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		go func() {
			time.Sleep(time.Second) // virtual
			names.value("/a").Set(naming.Replicas{State: naming.StateFailed, Cause: "no such place"})
		}()
		if p, err := c.Picker(t.Context()); err != nil || p.Len() != 0 || c.Cause() != "no such place" {
			t.Errorf("got %v, %v, %q", p, err, c.Cause())
		}
		forget(s)
	})
}

func TestClientsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := &table{}
		s := newSet(names)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Run(ctx) }()
		names.value("/keep").Set(naming.Of())
		for i := range 2 * DefaultLimit {
			if s.Get("/keep", false).Current(clock.Now()) == nil {
				t.Fatal("the client has no picker")
			}
			s.Get(fmt.Sprintf("/%d", i), false)
			time.Sleep(100 * time.Millisecond) // virtual: clients are told apart by when they were used
		}
		if n := len(*s.clients.Load()); n > DefaultLimit || names.following() != n {
			t.Errorf("%d clients follow %d names, want at most %d", n, names.following(), DefaultLimit)
		}
		if (*s.clients.Load())["/keep"] == nil {
			t.Error("the client in constant use was dropped")
		}
		time.Sleep(DefaultIdleTTL + 2*time.Minute)
		synctest.Wait()
		if n := len(*s.clients.Load()); n != 0 || names.following() != 0 {
			t.Errorf("after a long pause %d clients follow %d names", n, names.following())
		}
		cancel()
		<-done
	})
}

// Requests with rules of their own have as many clients as others, and push none of
// theirs out. Who comes without such rules makes a client one of the others.
func TestGuestsTakeNobodysPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		names := &table{}
		s := NewSet(Config{
			Source: names, Policy: watch.New(policy.Default()), Metrics: telemetry.New(reg), Limit: 10,
			Pools: pool.NewSet(func(context.Context, pool.Target) (net.Conn, error) { return nil, errors.New("unused") }),
		})
		var own []*Client
		for i := range 10 {
			own = append(own, s.Get(fmt.Sprintf("/%d", i), false))
		}
		var guest *Client
		for i := range 100 {
			time.Sleep(time.Second) // virtual
			guest = s.Get(fmt.Sprintf("/guest/%d", i), true)
			if s.Get("/3", true) != own[3] {
				t.Fatal("a guest has another client of a name that has one")
			}
		}
		for i, c := range own {
			if c.Closed() || s.Get(c.ID, false) != c {
				t.Errorf("the client %d had to go", i)
			}
		}
		if n := names.following(); n != 20 {
			t.Errorf("%d names are followed, want 20", n)
		}
		if s.Get(guest.ID, false) != guest || names.following() != 19 {
			t.Error("a client that others use, too, is not one of theirs")
		}
		if n, err := testutil.GatherAndCount(reg, "tulle_requeues_total"); err != nil || n != names.following() {
			t.Errorf("%d clients are exported, %d are there (%v)", n, names.following(), err)
		}
		forget(s)
		if n, err := testutil.GatherAndCount(reg); err != nil || n != 0 {
			t.Errorf("%d series are left (%v)", n, err)
		}
	})
}
