// Package balance chooses one endpoint of a replica set for each request.
//
// It knows nothing of addresses, connections or failures: an Endpoint carries
// whatever value its user gives it, and its user says when it is closed. The
// slow path builds a Picker when the set or the configuration changes. A Picker
// is immutable; load and latency live in the endpoints, which outlive pickers,
// so a change of the set forgets nothing. Nothing here locks, allocates or
// reads a clock while requests run: now is in monotonic nanoseconds since any
// fixed moment, the same one everywhere.
//
//	p := balance.NewPicker(balance.Config{Kind: balance.EWMA}, endpoints, old)
//	e := p.Pick(now, nil)
//	e.Begin(now)
//	… // send the request
//	e.End(later, later-now)
package balance

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Endpoint is one member of a replica set. All methods may be called at any
// time from any goroutine. One endpoint belongs to pickers of one configuration
// at a time.
type Endpoint[T any] struct {
	load   atomic.Int64  // requests in flight
	until  atomic.Int64  // closed before that
	cost   atomic.Uint64 // see cost.go
	rate   atomic.Uint64 // float64: halvings of the cost per tick
	weight atomic.Uint64 // float64
	rank   uint64        // the place among others in an aperture, random

	Value T
}

// NewEndpoint returns an open endpoint without load or history. Its weight is
// its share of the traffic in relation to the other endpoints; one of weight 0
// gets requests only while no other endpoint is open. A weight that is negative
// or not a number counts as 1; others are taken into the range of a float32.
func NewEndpoint[T any](value T, weight float64) *Endpoint[T] {
	e := &Endpoint[T]{Value: value, rank: rand.Uint64()}
	e.setDecay(defaultDecay)
	e.SetWeight(weight)
	return e
}

// SetWeight changes the weight for the pickers made from now on.
func (e *Endpoint[T]) SetWeight(weight float64) {
	switch {
	case !(weight >= 0):
		weight = 1
	case weight > 0: // or sums would overflow
		weight = min(max(weight, math.SmallestNonzeroFloat32), math.MaxFloat32)
	}
	e.weight.Store(math.Float64bits(weight))
}

// Weight returns the weight.
func (e *Endpoint[T]) Weight() float64 { return math.Float64frombits(e.weight.Load()) }

// Begin counts a request in.
func (e *Endpoint[T]) Begin(now int64) { e.load.Add(1) }

// End counts a request out that Begin counted in. The latency in nanoseconds is
// how long the endpoint took to answer, or to be given up on by a timeout. It is
// negative if there is nothing to learn from the request: it failed, or its
// caller left. A fast failure makes an endpoint no more attractive.
func (e *Endpoint[T]) End(now, latency int64) {
	e.Learn(now, latency)
	e.Leave()
}

// Learn and Leave are the two halves of End, for an answer that has begun and
// takes its time.
func (e *Endpoint[T]) Learn(now, latency int64) {
	if latency < 0 {
		e.hold(now)
		return
	}
	e.learn(now, latency)
}

// Leave is the other half.
func (e *Endpoint[T]) Leave() { e.load.Add(-1) }

// Load returns the number of requests in flight.
func (e *Endpoint[T]) Load() int64 { return e.load.Load() }

// Latency returns what the endpoint is taken to need for an answer at present:
// its peak-EWMA latency, 0 without history. It is meant for people to look at.
func (e *Endpoint[T]) Latency(now int64) time.Duration {
	word := e.cost.Load()
	if word == 0 {
		return 0
	}
	return time.Duration(costAt(word, now, math.Float64frombits(e.rate.Load())))
}

// CloseUntil keeps requests from the endpoint before t while others are open.
// With math.MaxInt64 it stays closed until Open.
func (e *Endpoint[T]) CloseUntil(t int64) { e.until.Store(t) }

// Open ends a CloseUntil.
func (e *Endpoint[T]) Open() {
	if e.until.Load() != 0 {
		e.until.Store(0)
	}
}

// Available reports whether the endpoint is open.
func (e *Endpoint[T]) Available(now int64) bool { return e.until.Load() <= now }
