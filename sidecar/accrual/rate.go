package accrual

import "math"

// Both averages are exponentially weighted, as in Finagle's success-rate
// policies, and are kept in one word each so that a success needs no lock: a
// float32 above a number, the requests so far for SuccessRate, the time of the
// last one for Windowed. The zero word is no history.

func pack(average float32, n uint32) uint64 {
	return uint64(math.Float32bits(average))<<32 | uint64(n)
}

func unpack(word uint64) (average float32, n uint32) {
	return math.Float32frombits(uint32(word >> 32)), uint32(word)
}

// count takes in 1 for a success or 0 for a failure. There are enough requests
// if there have been as many as the average looks at.
func (a *Accrual) count(r *rule, sample float32) (average float64, enough bool) {
	for {
		old := a.rate.Load()
		mean, n := unpack(old)
		if n == 0 {
			mean = sample
		}
		mean += (sample - mean) * r.gain
		n = min(n+1, uint32(r.Requests))
		if next := pack(mean, n); next == old || a.rate.CompareAndSwap(old, next) {
			return float64(mean), n >= uint32(r.Requests)
		}
	}
}

const (
	// tickShift makes ticks of 2²⁰ ns, about 1 ms. Requests in the same tick as
	// the one before weigh nothing: they are as good as one.
	tickShift = 20

	// skew is how much older than the last request the clock of another
	// processor may be: about 4 s of ticks. More is an age, as ticks wrap.
	skew = 1 << 12

	// The requests in a window are counted in slices of a fifth of it, four bits
	// a slice, below the number of the newest slice. A slice counts to
	// minRequests, which is enough to know, and then needs no more writing.
	slices    = 5
	sliceBits = 4
	sliceMask = 1<<sliceBits - 1
	slicesLen = slices * sliceBits
)

// slide takes in 1 for a success or 0 for a failure at now. There are enough
// requests if the window holds minRequests.
func (a *Accrual) slide(r *rule, now int64, sample float32) (average float64, enough bool) {
	requests := a.tally(now / r.slice)
	stamp := uint32(now>>tickShift) + 1 // so that no average makes a zero word
	for {
		old := a.rate.Load()
		mean, last := unpack(old)
		if old == 0 {
			mean, last = sample, stamp
		}
		age := stamp - last
		if age > math.MaxUint32-skew {
			age, stamp = 0, last
		}
		mean += (sample - mean) * float32(-math.Expm1(-float64(age)*(1<<tickShift)/float64(r.Window)))
		if next := pack(mean, stamp); next == old || a.rate.CompareAndSwap(old, next) {
			return float64(mean), requests >= minRequests
		}
	}
}

// tally counts a request in a slice and returns how many there were in the
// window that ends with it, or minRequests if more.
func (a *Accrual) tally(slice int64) int {
	for {
		old := a.counts.Load()
		newest, counts := int64(old>>slicesLen), old&(1<<slicesLen-1)
		if ahead := slice - newest; ahead >= slices {
			newest, counts = slice, 0
		} else if ahead > 0 {
			newest, counts = slice, counts<<(ahead*sliceBits)&(1<<slicesLen-1)
		}
		if counts&sliceMask < minRequests {
			counts++
		}
		if next := uint64(newest)<<slicesLen | counts; next == old || a.counts.CompareAndSwap(old, next) {
			sum := 0
			for ; counts != 0; counts >>= sliceBits {
				sum += int(counts & sliceMask)
			}
			return min(sum, minRequests)
		}
	}
}
