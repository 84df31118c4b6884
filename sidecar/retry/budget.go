// Package retry decides how often and how fast a request may be sent again: a
// Budget ties retries to the traffic, so that a failing backend is not buried
// under them, and a Backoff spaces them.
//
// It does not know what a failure is, whether a request can be repeated, or to
// whom it goes; package classify and the router do. It reads no clock: now is
// in nanoseconds of any clock that does not go back, the process's monotonic
// time for example.
//
// Invariant: within the last TTL no more than MinPerSec × TTL retries were
// granted beyond what the requests of that time have paid for.
//
//	b := retry.NewBudget(retry.DefaultConfig)
//	b.Deposit(now)                      // one for every request
//	if failed && b.TryWithdraw(now) {
//		pause = backoff.Next(pause, rand.Int64N)
//		…                           // once more
package retry

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Config says what a budget grants. The words and numbers are Linkerd's
// (minRetriesPerSec, percentCanRetry, ttlSecs), which are Finagle's.
type Config struct {
	// MinPerSec × TTL retries are a reserve that needs no requests: for idle
	// services and those that have just begun.
	MinPerSec int
	// PercentCanRetry is how many retries each request pays for: 0.2 is one for
	// five requests, 2 is two for each. 0 leaves the reserve alone.
	PercentCanRetry float64
	// TTL is how long what a request has paid stays valid, and how long a retry
	// is held against the reserve.
	TTL time.Duration
}

// DefaultConfig is Linkerd's: a reserve of 100 retries, and one more for each
// five requests of the last ten seconds.
var DefaultConfig = Config{MinPerSec: 10, PercentCanRetry: 0.2, TTL: 10 * time.Second}

// The bounds that Validate holds, Finagle's.
const (
	MinTTL     = time.Second
	MaxTTL     = time.Minute
	MaxPercent = 1000
)

// Validate returns everything that is wrong with c, or nil.
func (c Config) Validate() error {
	var all []error
	if c.MinPerSec < 0 {
		all = append(all, fmt.Errorf("the retries per second must not be negative, and are %d", c.MinPerSec))
	}
	if !(c.PercentCanRetry >= 0 && c.PercentCanRetry <= MaxPercent) { // NaN too
		all = append(all, fmt.Errorf("the part of requests that can be retried must be between 0 and %d, and is %v", MaxPercent, c.PercentCanRetry))
	}
	if c.TTL < MinTTL || c.TTL > MaxTTL {
		all = append(all, fmt.Errorf("the time to live must be between %s and %s, and is %s", MinTTL, MaxTTL, c.TTL))
	}
	return errors.Join(all...)
}

// deposit is the tokens a request pays. A retry costs deposit / PercentCanRetry
// of them, a whole number, as in Finagle.
const deposit = 1000

// slices is how many parts the TTL is counted in.
const slices = 10

// Budget is a token bucket whose entries expire. At any time
//
//	tokens = reserve + 1000 × requests − cost × retries
//
// over the requests and retries of the last TTL. They are counted in slices of
// TTL/10, as in Finagle, so each counts for between 0.9 TTL and 1 TTL.
//
// All methods may be called at any time from any goroutine. Deposit is three
// atomic operations and takes no lock; TryWithdraw, needed only after a failure,
// takes one, so that two callers cannot both get the last token.
type Budget struct {
	state atomic.Pointer[state]
	mu    sync.Mutex // held to withdraw and to change state
}

// state is a config in the form that the arithmetic needs. It is immutable but
// for the counters behind ring.
type state struct {
	deposit, cost, reserve int64
	width                  int64 // of a slice, in nanoseconds
	ring                   *ring
}

type slot struct{ requests, retries counter }

type ring [slices]slot

// counter holds the number of a slice in its upper bits and what was counted in
// that slice in its lower ones, so that one atomic operation sees both. 28 bits
// hold 40 million a second for the longest slice, 36 bits two centuries of the
// shortest.
type counter struct{ word atomic.Uint64 }

const countBits = 28

func number(word uint64) int64 { return int64(word >> countBits) }
func count(word uint64) int64  { return int64(word & (1<<countBits - 1)) }

// add counts one in slice e. An e before the counter's slice, of a caller whose
// now is stale, counts there too.
func (c *counter) add(e int64) {
	for {
		w := c.word.Load()
		if e <= number(w) {
			c.word.Add(1) // if the slice has just ended, the next gets it: no harm
			return
		}
		if c.word.CompareAndSwap(w, uint64(e)<<countBits|1) {
			return
		}
	}
}

// since returns the count if its slice is among the last ones at slice e.
func (c *counter) since(e int64) int64 {
	w := c.word.Load()
	if e-number(w) >= slices {
		return 0
	}
	return count(w)
}

// NewBudget returns a budget with its reserve full. cfg must be valid.
func NewBudget(cfg Config) *Budget {
	b := &Budget{}
	b.state.Store(newState(cfg, nil))
	return b
}

func newState(cfg Config, old *state) *state {
	s := &state{deposit: deposit, cost: 1, width: max(int64(cfg.TTL)/slices, 1)}
	if cfg.PercentCanRetry > 0 {
		s.cost = int64(min(max(deposit/cfg.PercentCanRetry, 1), 1<<40))
	} else {
		s.deposit = 0 // only the reserve, of which each retry costs one
	}
	// Products stay below 2⁶², so that sums with any real traffic do not overflow.
	s.reserve = int64(min(math.Floor(float64(cfg.MinPerSec)*cfg.TTL.Seconds())*float64(s.cost), 1<<62))
	if old != nil && old.width == s.width {
		s.ring = old.ring
		return s
	}
	s.ring = &ring{}
	if old != nil {
		s.adopt(old)
	}
	return s
}

// adopt takes over what was counted in slices of another width.
func (s *state) adopt(old *state) {
	for i := range old.ring {
		from := &old.ring[i]
		to := func(e int64) *slot { return &s.ring[e%slices] }
		move(&from.requests, old.width, s.width, func(e int64) *counter { return &to(e).requests })
		move(&from.retries, old.width, s.width, func(e int64) *counter { return &to(e).retries })
	}
}

// move adds a counter to the one that its slice has in slices of another width,
// where the later of two slices wins.
func move(from *counter, width, into int64, to func(int64) *counter) {
	w := from.word.Load()
	if count(w) == 0 {
		return
	}
	e := number(w) * width / into
	c := to(e)
	switch have := c.word.Load(); {
	case number(have) < e || count(have) == 0:
		c.word.Store(uint64(e)<<countBits | uint64(count(w)))
	case number(have) == e:
		c.word.Add(uint64(count(w)))
	}
}

// SetConfig changes what the budget grants. The requests and retries of the
// last TTL stay counted, at the new prices. When the TTL changes, those of the
// same moment may be lost, and old ones are moved by at most a slice.
func (b *Budget) SetConfig(cfg Config) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Store(newState(cfg, b.state.Load()))
}

// slice returns the number of the slice that now is in.
func (s *state) slice(now int64) int64 { return max(now, 0) / s.width }

// Deposit pays for one request: for a service's budget any request, for a
// client's requeue budget one that succeeded.
func (b *Budget) Deposit(now int64) {
	s := b.state.Load()
	e := s.slice(now)
	s.ring[e%slices].requests.add(e)
}

// TryWithdraw reports whether one retry may be made now, and charges for it if
// so. If not, the budget is exhausted and the failure is to be returned.
func (b *Budget) TryWithdraw(now int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.state.Load()
	e := s.slice(now)
	if s.tokens(e) < s.cost {
		return false
	}
	s.ring[e%slices].retries.add(e)
	return true
}

// Balance returns how many retries could be made now.
func (b *Budget) Balance(now int64) int {
	s := b.state.Load()
	return int(max(s.tokens(s.slice(now)), 0) / s.cost)
}

func (s *state) tokens(e int64) int64 {
	sum := s.reserve
	for i := range s.ring {
		slot := &s.ring[i]
		sum += s.deposit*slot.requests.since(e) - s.cost*slot.retries.since(e)
	}
	return sum
}

// MaxRequeues returns how often one request may be requeued when its client's
// budget has this balance: a fifth of it, rounded up, so that no single request
// takes it all.
func MaxRequeues(balance int) int { return (balance + 4) / 5 }
