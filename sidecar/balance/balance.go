// Package balance chooses one endpoint of a replica set for each request.
//
// It knows nothing of addresses or connections: an Endpoint carries whatever
// value its user gives it. The slow path builds a Picker when the set changes;
// a Picker is immutable, and the load counters live in the endpoints, which
// outlive pickers, so a change of the set forgets nothing.
//
//	p := balance.NewPicker(endpoints)
//	e := p.Pick(nil)
//	e.Begin()
//	defer e.End()
package balance

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// Endpoint is one member of a replica set. All methods may be called at any
// time from any goroutine.
type Endpoint[T any] struct {
	Value T

	load  atomic.Int64 // requests in flight
	until atomic.Int64 // nanoseconds since the Unix epoch; avoided before that
}

// NewEndpoint returns an endpoint without load.
func NewEndpoint[T any](value T) *Endpoint[T] { return &Endpoint[T]{Value: value} }

// Begin counts a request in.
func (e *Endpoint[T]) Begin() { e.load.Add(1) }

// End counts a request out.
func (e *Endpoint[T]) End() { e.load.Add(-1) }

// Load returns the number of requests in flight.
func (e *Endpoint[T]) Load() int64 { return e.load.Load() }

// Avoid keeps Pick away from the endpoint for d while there are others: it
// could not be reached.
func (e *Endpoint[T]) Avoid(d time.Duration) { e.until.Store(time.Now().Add(d).UnixNano()) }

// Forgive ends an Avoid: the endpoint answered.
func (e *Endpoint[T]) Forgive() {
	if e.until.Load() != 0 {
		e.until.Store(0)
	}
}

func (e *Endpoint[T]) avoided() bool {
	until := e.until.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// Picker chooses by the power of two choices (Mitzenmacher, 2001): of two
// endpoints taken at random, the one with fewer requests in flight. It is
// immutable and safe for concurrent use.
type Picker[T any] struct{ endpoints []*Endpoint[T] }

// NewPicker returns a picker over endpoints, which it keeps and must not be
// changed afterwards.
func NewPicker[T any](endpoints []*Endpoint[T]) *Picker[T] {
	return &Picker[T]{endpoints}
}

// Len returns the number of endpoints.
func (p *Picker[T]) Len() int { return len(p.endpoints) }

// All returns the endpoints, not to be changed.
func (p *Picker[T]) All() []*Endpoint[T] { return p.endpoints }

// Pick returns an endpoint that is not among tried, and prefers one that is not
// avoided. Where only avoided ones are left it returns one of them, because a
// guess is better than a certain failure; where all have been tried, nil.
func (p *Picker[T]) Pick(tried []*Endpoint[T]) *Endpoint[T] {
	n := len(p.endpoints)
	if n == 0 {
		return nil
	}
	if len(tried) == 0 {
		a, b := p.endpoints[rand.IntN(n)], p.endpoints[rand.IntN(n)]
		if b.Load() < a.Load() {
			a, b = b, a
		}
		if !a.avoided() {
			return a
		}
		if !b.avoided() {
			return b
		}
	}
	return p.scan(tried)
}

// scan is the slow path of Pick: the least loaded of those that remain, a
// random one of equals.
func (p *Picker[T]) scan(tried []*Endpoint[T]) *Endpoint[T] {
	var best *Endpoint[T]
	bestAvoided := false
	start := rand.IntN(len(p.endpoints))
	for i := range p.endpoints {
		e := p.endpoints[(start+i)%len(p.endpoints)]
		if slices.Contains(tried, e) {
			continue
		}
		avoided := e.avoided()
		better := best == nil || bestAvoided && !avoided || bestAvoided == avoided && e.Load() < best.Load()
		if better {
			best, bestAvoided = e, avoided
		}
	}
	return best
}
