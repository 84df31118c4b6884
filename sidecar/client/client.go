// Package client keeps what belongs to one bound name: its endpoints with
// their load and their failures, the connections to them, and the budget for
// sending again what did not reach them.
//
// It does not choose names and does not send requests. A Client follows its
// replica set and its policy, and publishes an immutable picker each time one of
// them changes; endpoints that stay keep their load, latency, failures and
// connections. What an endpoint that leaves is still answering is finished.
//
//	set := client.NewSet(client.Config{…})
//	c := set.Get("/#/io.l5d.k8s/default/http/world", false)
//	picker, err := c.Picker(ctx)
//	e, probe := c.Pick(picker, now, nil)
//	e.Begin(now)
//	… // send the request
//	c.Finish(e, probe, later, client.Verdict{Latency: later - now})
package client

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/accrual"
	"github.com/tulle-mesh/tulle/sidecar/balance"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/retry"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

const (
	// avoidFor is how long an endpoint that could not be connected to is passed
	// over: one that refuses fast has little load and would be picked again and
	// again.
	avoidFor = 2 * time.Second
	// maxAvoided bounds how long one is passed over that has been refusing for
	// long, where the policy says fail fast.
	maxAvoided = 32 * time.Second
)

// Hop is an endpoint and the connections that lead to it, directly or through
// the proxy in front of it.
type Hop struct {
	Endpoint naming.Endpoint
	Pool     *pool.Pool

	accrual *accrual.Accrual
	refused atomic.Int32 // failed connections in a row
}

// owner is a bound name of one router. A client that is made again for it finds the
// connections of the one before.
type owner struct {
	set *Set
	id  string
}

// Endpoint is a hop with its load.
type Endpoint = balance.Endpoint[*Hop]

// Picker chooses among the endpoints of one moment.
type Picker = balance.Picker[*Hop]

// Client is one bound name. It is safe for concurrent use.
type Client struct {
	ID string
	// Requeues pays for sending again what reached no application.
	Requeues *retry.Budget
	Metrics  *telemetry.Client

	set     *Set
	owner   any // of its connections: an owner
	value   *watch.Value[naming.Replicas]
	release func()
	used    atomic.Int64 // in the time of package clock
	waiting int          // how many are in Picker for the first replica set; guarded by set.mu
	picker  atomic.Pointer[Picker]
	policy  atomic.Pointer[policy.Client]
	guest   atomic.Bool // only guests have asked for it; set with set.mu held

	mu        sync.Mutex
	endpoints map[naming.Endpoint]*Endpoint // by endpoint without its weight
	closed    atomic.Bool                   // set with mu held
}

// Policy returns what holds for this client now, not to be changed.
func (c *Client) Policy() *policy.Client { return c.policy.Load() }

// Known reports whether the replica set has ever been known.
func (c *Client) Known() bool { return c.picker.Load() != nil }

// Closed reports whether the client has been forgotten: it follows its replica
// set no more, and Set.Get makes another.
func (c *Client) Closed() bool { return c.closed.Load() }

// update publishes a picker for the present replica set.
func (c *Client) update() {
	c.mu.Lock()
	defer c.mu.Unlock()
	replicas := c.value.Get()
	if c.closed.Load() || replicas.State == naming.StatePending {
		return
	}
	p := c.policy.Load()
	next := make(map[naming.Endpoint]*Endpoint, len(replicas.Endpoints))
	list := make([]*Endpoint, 0, len(replicas.Endpoints))
	for _, e := range replicas.Endpoints {
		weight := e.Weight
		e.Weight = 0
		known := c.endpoints[e]
		if known == nil {
			known = balance.NewEndpoint(c.hop(e, p), weight)
		}
		known.SetWeight(weight)
		next[e] = known
		list = append(list, known)
	}
	for e, known := range c.endpoints {
		if next[e] == nil {
			c.set.cfg.Pools.Release(known.Value.Pool)
		}
	}
	c.endpoints = next
	c.picker.Store(balance.NewPicker(balancer(p), list, c.picker.Load()))
}

func (c *Client) hop(e naming.Endpoint, p *policy.Client) *Hop {
	target := pool.Target{Address: e.Address, Owner: c.owner}
	if e.Hop != naming.HopNone {
		target.Address, target.Identity = e.Via, e.Identity
	}
	h := &Hop{Endpoint: e, Pool: c.set.cfg.Pools.Acquire(target), accrual: accrual.New(ejection(p), rand.Float64)}
	h.Pool.SetLimits(limits(p))
	return h
}

// adopt makes a policy hold, and keeps what was learnt under the one before.
func (c *Client) adopt(p *policy.Client) {
	if old := c.policy.Swap(p); old != nil && *old == *p {
		return
	}
	c.Requeues.SetConfig(budget(p.RequeueBudget))
	c.mu.Lock()
	for _, e := range c.endpoints {
		if until, changed := e.Value.accrual.SetConfig(ejection(p)); changed {
			e.CloseUntil(until)
		}
		e.Value.Pool.SetLimits(limits(p))
	}
	c.mu.Unlock()
	c.update()
}

// ErrClosed is returned by Picker of a client that was forgotten before its replica set
// was known; Set.Get makes another.
var ErrClosed = errors.New("the proxy has forgotten this client")

// Picker returns the current picker. Until the replica set is known for the
// first time it waits for it, or for ctx; meanwhile the client is in use.
func (c *Client) Picker(ctx context.Context) (*Picker, error) {
	if p := c.picker.Load(); p != nil {
		return p, nil
	}
	if !c.set.enter(c) {
		return nil, ErrClosed
	}
	defer c.set.leave(c)
	if _, err := c.value.Wait(ctx, func(r naming.Replicas) bool { return r.State != naming.StatePending }); err != nil {
		return nil, err
	}
	c.update() // the hook may not have run yet
	if p := c.picker.Load(); p != nil {
		return p, nil
	}
	return nil, ErrClosed
}

// Current returns the current picker, or nil while the replica set is not known,
// and counts as a use of the client.
func (c *Client) Current(now int64) *Picker {
	c.used.Store(now)
	return c.picker.Load()
}

// Pick returns an endpoint of p that is not among tried, and whether the request
// is the probe of an endpoint that has been ejected; nil if there is none, or
// none below its limit of requests: then busy is true. Every Pick of an endpoint
// needs a Begin of it and one Finish.
func (c *Client) Pick(p *Picker, now int64, tried []*Endpoint) (e *Endpoint, probe, busy bool) {
	limit := int64(c.policy.Load().MaxConcurrentRequests)
	var space [8]*Endpoint
	var waits *Endpoint // for the verdict of a probe that has just begun
	for {
		e = p.Pick(now, tried)
		if e == nil {
			return waits, false, busy && waits == nil
		}
		if limit > 0 && e.Load() >= limit {
			busy = true
		} else {
			admitted, probe := e.Value.accrual.Admit(now)
			if probe {
				e.CloseUntil(math.MaxInt64) // until this request has told how it is
				c.Metrics.Probed.Inc()
			}
			// All ejected: one of them is used nevertheless.
			if admitted || !e.Available(now) {
				return e, probe, false
			}
			waits = e
		}
		if len(tried) == 0 {
			tried = space[:0]
		}
		tried = append(tried[:len(tried):len(tried)], e)
	}
}

// Verdict is how an attempt ended.
type Verdict struct {
	Failed bool // as the response classifier, or the connection, has it
	// Unknown is true if nothing can be said of the endpoint: the caller left.
	Unknown bool
	// Latency in nanoseconds, of an answer or of waiting in vain for one; negative
	// if there was neither.
	Latency int64
}

// Finish takes in how an attempt ended.
func (c *Client) Finish(e *Endpoint, probe bool, now int64, v Verdict) {
	c.Judge(e, probe, now, v)
	e.Leave()
}

// Judge is Finish for an attempt whose answer has begun; e.Leave follows when the
// answer is complete.
func (c *Client) Judge(e *Endpoint, probe bool, now int64, v Verdict) {
	e.Learn(now, v.Latency)
	c.Observe(e, probe, now, v)
}

// Observe is the half of Judge that counts failures.
func (c *Client) Observe(e *Endpoint, probe bool, now int64, v Verdict) {
	if v.Unknown {
		if probe {
			e.Value.accrual.Release(true)
			e.Open()
		}
		return
	}
	until, changed := e.Value.accrual.Observe(now, !v.Failed, probe)
	if !changed {
		return
	}
	e.CloseUntil(until)
	if until != 0 { // it may be over already, if the time is none
		c.Metrics.Ejected.Inc()
	} else {
		c.Metrics.Revived.Inc()
	}
}

// Refused notes that an endpoint could not be connected to, or that its proxy
// could not deliver. It is called after Finish.
func (c *Client) Refused(e *Endpoint, now int64) {
	avoid := avoidFor
	if n := e.Value.refused.Add(1); c.policy.Load().FailFast {
		avoid = min(time.Second<<min(n-1, 10), maxAvoided)
	}
	if e.Available(now) {
		e.CloseUntil(now + int64(avoid))
	}
}

// Reached notes that an endpoint has taken a request.
func (c *Client) Reached(e *Endpoint) {
	if e.Value.refused.Load() != 0 {
		e.Value.refused.Store(0)
	}
}

// Cause says why there are no endpoints, if the source does.
func (c *Client) Cause() string { return c.value.Get().Cause }

func (c *Client) close() {
	c.release()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed.Store(true)
	for _, e := range c.endpoints {
		c.set.cfg.Pools.Release(e.Value.Pool)
	}
	c.endpoints = nil
}

func newClient(s *Set, id string) *Client {
	p := s.cfg.Policy.Get().Client(id)
	value, release := s.cfg.Source.Replicas(id)
	c := &Client{ID: id, Requeues: retry.NewBudget(budget(p.RequeueBudget)), Metrics: s.cfg.Metrics.Client(id), set: s, owner: owner{s, id}, value: value}
	c.policy.Store(&p)
	c.used.Store(clock.Now())
	unhook := value.Notify(c.update)
	c.release = func() { unhook(); release() }
	c.update()
	return c
}
