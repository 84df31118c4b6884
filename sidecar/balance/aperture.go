package balance

import (
	"math"
	"sync/atomic"
)

// aperture is the size of the part of a set that gets requests. Every pick
// leaves the load of the endpoints it has looked at; sixteen times in a
// SmoothWindow one pick makes the average of these samples the load of the
// whole aperture, smooths it, and sets the size so that the load per endpoint
// is between LowLoad and HighLoad. The idea is Finagle's LoadBand; it sums all
// requests instead of sampling them.
type aperture struct {
	sample atomic.Uint64 // since folded: sum of loads << countBits | number of loads
	folded atomic.Int64  // when samples were last made a load
	total  atomic.Uint64 // float64: smoothed requests in flight
	width  atomic.Int64  // number of endpoints
}

const (
	countBits = 24
	folds     = 16 // per SmoothWindow
)

// size is the number of endpoints in use, of n.
func (a *aperture) size(least, n int) int {
	return min(max(int(a.width.Load()), least), n)
}

// observe takes in that count endpoints out of an aperture of n have a load.
func (a *aperture) observe(now int64, n int, load int64, count int, cfg *Config) {
	sample := uint64(max(load, 0))<<countBits | uint64(count)
	sum := a.sample.Add(sample)
	last := a.folded.Load()
	since := now - last
	if since < int64(cfg.SmoothWindow)/folds || !a.folded.CompareAndSwap(last, now) {
		return
	}
	a.sample.Store(0)
	if since > int64(cfg.SmoothWindow) {
		sum = sample // what was before a long silence is over
	}
	seen := float64(sum>>countBits) / float64(sum&(1<<countBits-1)) * float64(n)
	total := math.Float64frombits(a.total.Load())
	total += (seen - total) * -math.Expm1(-float64(since)/float64(cfg.SmoothWindow))
	a.total.Store(math.Float64bits(total))
	switch size := float64(n); {
	case total >= size*cfg.HighLoad:
		a.width.Store(int64(math.Floor(total/cfg.HighLoad)) + 1)
	case total <= size*cfg.LowLoad:
		a.width.Store(int64(math.Ceil(total/cfg.LowLoad)) - 1)
	}
}
