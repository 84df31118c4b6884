package client

import (
	"cmp"
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// What holds where a Config says nothing; Linkerd 1.x has the same defaults.
const (
	DefaultLimit   = 1000
	DefaultIdleTTL = 10 * time.Minute
)

// Source follows replica sets.
type Source interface {
	Replicas(id string) (value *watch.Value[naming.Replicas], release func())
}

// Config is what a Set works with.
type Config struct {
	Source  Source
	Pools   *pool.Set
	Policy  *watch.Value[*policy.Policy] // never nil inside
	Metrics *telemetry.Metrics
	// Limit is how many clients are kept, so that callers who invent names cannot
	// fill the memory; and as many more that only guests have asked for. Those whose
	// replica sets are being waited for are kept in any case. 0: DefaultLimit.
	Limit   int
	IdleTTL time.Duration // how long an unused client follows its replica set; 0: DefaultIdleTTL
}

// Set holds the clients in use. It is safe for concurrent use.
type Set struct {
	cfg     Config
	clients atomic.Pointer[map[string]*Client] // copied on write, under mu
	mu      sync.Mutex
}

// NewSet returns an empty set.
func NewSet(cfg Config) *Set {
	cfg.Limit, cfg.IdleTTL = cmp.Or(cfg.Limit, DefaultLimit), cmp.Or(cfg.IdleTTL, DefaultIdleTTL)
	s := &Set{cfg: cfg}
	s.clients.Store(&map[string]*Client{})
	return s
}

// Get returns the client of a bound name, and follows the name from then on. A
// guest is a request that came to the name by rules of its own: its clients take no
// other client's place. It does not block; for a known name it takes no lock.
func (s *Set) Get(id string, guest bool) *Client {
	if c := (*s.clients.Load())[id]; c != nil && (guest || !c.guest.Load()) {
		return c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clients := maps.Clone(*s.clients.Load())
	c := clients[id]
	switch {
	case c == nil:
		c = newClient(s, id)
		c.guest.Store(guest)
		clients[id] = c
	case guest || !c.guest.Load():
		return c
	default:
		c.guest.Store(false)
	}
	s.trim(clients, c)
	s.clients.Store(&clients)
	return c
}

// trim makes room if there are too many of c's like.
func (s *Set) trim(clients map[string]*Client, c *Client) {
	if idlest := excess(clients, c, s.cfg.Limit); idlest != nil {
		delete(clients, idlest.ID)
		s.forget(idlest) // requests that have its picker still end well
	}
}

// enter and leave are around a wait for c's replica set, in which c is not forgotten. It
// is false if c has been.
func (s *Set) enter(c *Client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Closed() {
		return false
	}
	c.waiting++
	return true
}

func (s *Set) leave(c *Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.waiting--
	c.used.Store(clock.Now())
	// Who waits may have made more than there are to be.
	if known := *s.clients.Load(); c.waiting == 0 && len(known) > s.cfg.Limit {
		clients := maps.Clone(known)
		s.trim(clients, c)
		s.clients.Store(&clients)
	}
}

// excess returns who has to leave if c has just become one too many: of its like,
// the one that is idle for longest. Nobody has to who is waited for.
func excess(clients map[string]*Client, c *Client, limit int) (idlest *Client) {
	n := 0
	for _, v := range clients {
		if v.guest.Load() != c.guest.Load() {
			continue
		}
		n++
		if v != c && v.waiting == 0 && (idlest == nil || v.used.Load() < idlest.used.Load()) {
			idlest = v
		}
	}
	if n <= limit {
		return nil
	}
	return idlest
}

// Run makes changes of the policy hold and forgets idle clients until ctx ends,
// and then all of them.
func (s *Set) Run(ctx context.Context) error {
	tick := time.NewTicker(min(time.Minute, max(s.cfg.IdleTTL/2, time.Second)))
	defer tick.Stop()
	for {
		p, changed := s.cfg.Policy.Watch()
		s.adopt(p)
		select {
		case <-changed:
		case <-tick.C:
			s.sweep(clock.Now() - int64(s.cfg.IdleTTL))
		case <-ctx.Done():
			s.end()
			return nil
		}
	}
}

func (s *Set) adopt(p *policy.Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range *s.clients.Load() {
		next := p.Client(id)
		c.adopt(&next)
	}
}

// sweep forgets what was not used since then.
func (s *Set) sweep(since int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := map[string]*Client{}
	for id, c := range *s.clients.Load() {
		if c.waiting == 0 && c.used.Load() < since {
			s.forget(c)
			continue
		}
		kept[id] = c
	}
	s.clients.Store(&kept)
}

// forget closes a client and takes what was counted of it out of the export.
func (s *Set) forget(c *Client) {
	c.close()
	s.cfg.Metrics.ForgetClient(c.Metrics)
}

// end closes all clients. What was counted stays, for whoever looks a last time.
func (s *Set) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range *s.clients.Load() {
		c.close()
	}
	s.clients.Store(&map[string]*Client{})
}
