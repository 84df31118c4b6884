package balance

import (
	"math"
	"time"
)

// The peak-EWMA cost of an endpoint is a latency in nanoseconds that jumps to a
// higher one at once and decays toward lower ones: with each answer of latency t
// after Δ, cost = t if t > cost, else cost·w + t·(1-w) with w = exp(-Δ/DecayTime).
// Between answers it decays toward 0, so that an endpoint that was slow once is
// tried again. From Finagle's PeakEwma; the average over uneven intervals is
// Eckner's, "Algorithms for Unevenly Spaced Time Series".
//
// Cost and time of the last answer share one word, so that they change
// together: a float32 above a count of ticks that wraps after three days. An
// endpoint that was idle for just as long seems fresh for one request; that is
// harmless. The zero word is an endpoint without history.

const (
	tickShift = 16 // a tick is 2¹⁶ ns = 66 µs

	// skew is how much older than the last answer the clock of another
	// processor may be: about 4 s of ticks. More is taken for a wrap.
	skew = 1 << 16

	// penalty is the cost of an endpoint that is still busy with its first
	// request: others are preferred until there is an answer.
	penalty = float64(math.MaxInt64 >> 16)

	// failedCost is the cost of an endpoint whose first request failed. Without
	// it such an endpoint would look idle and fast, and draw everything.
	failedCost = float32(time.Second)

	defaultDecay = 10 * time.Second
)

func ticks(now int64) uint32 { return uint32(now >> tickShift) }

func pack(cost float32, stamp uint32) uint64 {
	return uint64(math.Float32bits(cost))<<32 | uint64(stamp)
}

// age is the number of ticks from stamp to now, at least 0.
func age(now int64, stamp uint32) uint32 {
	d := ticks(now) - stamp
	if d > math.MaxUint32-skew {
		return 0
	}
	return d
}

// decay is what is left of 1 after ticks at a rate of halvings per tick. The
// power of two is within 0.02 %, in a third of the time that math.Exp takes.
func decay(ticks uint32, rate float64) float64 {
	x := float64(ticks) * rate
	if x >= 1000 {
		return 0
	}
	whole := uint64(x)
	f := x - float64(whole)
	power := 1 - f*(0.69181-f*(0.23155-f*0.03974))
	return power * math.Float64frombits((1023-whole)<<52)
}

// costAt is the cost in a word that is not zero. It is at least 1, so that a
// cost that has decayed away still weighs the requests in flight.
func costAt(word uint64, now int64, rate float64) float64 {
	cost := float64(math.Float32frombits(uint32(word >> 32)))
	return cost*decay(age(now, uint32(word)), rate) + 1
}

// ratePerTick is the rate at which what is left after d is 1/e.
func ratePerTick(d time.Duration) float64 { return math.Log2E * (1 << tickShift) / float64(d) }

func (e *Endpoint[T]) setDecay(d time.Duration) {
	e.rate.Store(math.Float64bits(ratePerTick(d)))
}

// learn takes the latency of an answer into the cost.
func (e *Endpoint[T]) learn(now, latency int64) {
	t := max(float32(latency), 1) // 0 would be no history
	for {
		old := e.cost.Load()
		cost := math.Float32frombits(uint32(old >> 32))
		next := t
		if t < cost {
			d := age(now, uint32(old))
			if d == 0 {
				return // weighs nothing
			}
			next += (cost - t) * float32(decay(d, math.Float64frombits(e.rate.Load())))
		}
		if e.cost.CompareAndSwap(old, pack(next, ticks(now))) {
			return
		}
	}
}

// hold puts the cost back to what it was at the last answer, because a request
// without an answer says nothing good about the endpoint.
func (e *Endpoint[T]) hold(now int64) {
	old := e.cost.Load()
	cost := math.Float32frombits(uint32(old >> 32))
	if old == 0 {
		cost = failedCost
	}
	// If another request has ended just now, its word is the better one.
	e.cost.CompareAndSwap(old, pack(cost, ticks(now)))
}
