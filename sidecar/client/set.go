package client

import (
	"context"
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

// idleFor is how long an unused client follows its replica set.
const idleFor = 10 * time.Minute

// maxClients bounds the set, so that callers who invent names cannot fill the
// memory. Linkerd 1.x has the same default.
const maxClients = 1000

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
}

// Set holds the clients in use. It is safe for concurrent use.
type Set struct {
	cfg     Config
	clients atomic.Pointer[map[string]*Client] // copied on write, under mu
	mu      sync.Mutex
}

// NewSet returns an empty set.
func NewSet(cfg Config) *Set {
	s := &Set{cfg: cfg}
	s.clients.Store(&map[string]*Client{})
	return s
}

// Get returns the client of a bound name, and follows the name from then on.
// It does not block; for a known name it takes no lock.
func (s *Set) Get(id string) *Client {
	if c := (*s.clients.Load())[id]; c != nil {
		return c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.clients.Load()
	if c := old[id]; c != nil {
		return c
	}
	c := newClient(s, id)
	clients := make(map[string]*Client, len(old)+1)
	var idlest *Client
	for k, v := range old {
		clients[k] = v
		if idlest == nil || v.used.Load() < idlest.used.Load() {
			idlest = v
		}
	}
	if len(clients) >= maxClients {
		delete(clients, idlest.ID)
		idlest.close() // requests that have its picker still end well
	}
	clients[id] = c
	s.clients.Store(&clients)
	return c
}

// Run makes changes of the policy hold and forgets idle clients until ctx ends,
// and then all of them.
func (s *Set) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		p, changed := s.cfg.Policy.Watch()
		s.adopt(p)
		select {
		case <-changed:
		case <-tick.C:
			s.sweep(clock.Now() - int64(idleFor))
		case <-ctx.Done():
			s.sweep(clock.Now() + int64(time.Hour))
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
		if c.used.Load() < since {
			c.close()
			continue
		}
		kept[id] = c
	}
	s.clients.Store(&kept)
}
