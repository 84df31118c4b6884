// Package client keeps what belongs to one bound name: its endpoints with
// their load, and the connections to them.
//
// It does not choose names and does not send requests. A Client follows its
// replica set and publishes an immutable picker each time the set changes;
// endpoints that stay keep their load and their connections.
//
//	set := client.NewSet(source, pools)
//	c := set.Get("/#/io.l5d.k8s/default/http/world")
//	picker, err := c.Picker(ctx)
package client

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/balance"
	"github.com/tulle-mesh/tulle/sidecar/pool"
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

// Hop is an endpoint and the connections that lead to it, directly or through
// the proxy in front of it.
type Hop struct {
	Endpoint naming.Endpoint
	Pool     *pool.Pool
}

// Endpoint is a hop with its load.
type Endpoint = balance.Endpoint[Hop]

// Picker chooses among the endpoints of one moment.
type Picker = balance.Picker[Hop]

// Client is one bound name. It is safe for concurrent use.
type Client struct {
	ID string

	pools   *pool.Set
	value   *watch.Value[naming.Replicas]
	release func()
	used    atomic.Int64 // Unix seconds
	picker  atomic.Pointer[Picker]

	mu        sync.Mutex
	endpoints map[naming.Endpoint]*Endpoint
	closed    bool
}

// update publishes a picker for the present replica set.
func (c *Client) update() {
	c.mu.Lock()
	defer c.mu.Unlock()
	replicas := c.value.Get()
	if c.closed || replicas.State == naming.StatePending {
		return
	}
	next := make(map[naming.Endpoint]*Endpoint, len(replicas.Endpoints))
	list := make([]*Endpoint, 0, len(replicas.Endpoints))
	for _, e := range replicas.Endpoints {
		known := c.endpoints[e]
		if known == nil {
			target := pool.Target{Address: e.Address}
			if e.Hop != naming.HopNone {
				target = pool.Target{Address: e.Via, Identity: e.Identity}
			}
			known = balance.NewEndpoint(Hop{Endpoint: e, Pool: c.pools.Acquire(target)}, e.Weight)
		}
		next[e] = known
		list = append(list, known)
	}
	for e, known := range c.endpoints {
		if next[e] == nil {
			c.pools.Release(known.Value.Pool)
		}
	}
	c.endpoints = next
	c.picker.Store(balance.NewPicker(balance.Config{}, list, c.picker.Load()))
}

// Picker returns the current picker. Until the replica set is known for the
// first time it waits for it, or for ctx.
func (c *Client) Picker(ctx context.Context) (*Picker, error) {
	c.used.Store(time.Now().Unix())
	if p := c.picker.Load(); p != nil {
		return p, nil
	}
	if _, err := c.value.Wait(ctx, func(r naming.Replicas) bool { return r.State != naming.StatePending }); err != nil {
		return nil, err
	}
	c.update() // the hook may not have run yet
	if p := c.picker.Load(); p != nil {
		return p, nil
	}
	return nil, errors.New("the proxy is stopping")
}

// Cause says why there are no endpoints, if the source does.
func (c *Client) Cause() string { return c.value.Get().Cause }

func (c *Client) close() {
	c.release()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, e := range c.endpoints {
		c.pools.Release(e.Value.Pool)
	}
	c.endpoints = nil
}

// Set holds the clients in use. It is safe for concurrent use.
type Set struct {
	source Source
	pools  *pool.Set

	clients atomic.Pointer[map[string]*Client] // copied on write, under mu
	mu      sync.Mutex
}

// NewSet returns an empty set.
func NewSet(source Source, pools *pool.Set) *Set {
	s := &Set{source: source, pools: pools}
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
	value, release := s.source.Replicas(id)
	c := &Client{ID: id, pools: s.pools, value: value}
	c.used.Store(time.Now().Unix())
	unhook := value.Notify(c.update)
	c.release = func() { unhook(); release() }
	c.update()
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

// Run forgets idle clients until ctx ends, and then all of them.
func (s *Set) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			s.sweep(now.Add(-idleFor))
		case <-ctx.Done():
			s.sweep(time.Now().Add(time.Hour))
			return nil
		}
	}
}

func (s *Set) sweep(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := map[string]*Client{}
	for id, c := range *s.clients.Load() {
		if c.used.Load() < t.Unix() {
			c.close()
			continue
		}
		kept[id] = c
	}
	s.clients.Store(&kept)
}
