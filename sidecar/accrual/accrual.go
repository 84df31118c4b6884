// Package accrual is failure accrual, also called circuit breaking: it takes an
// endpoint that keeps failing out of the balancer, and lets it back in after one
// request has shown that it works again.
//
// It sends no probes of its own and knows no balancer: an Accrual belongs to one
// endpoint, is told how its requests end, and says until when to close it. An
// endpoint is alive; or ejected for a time; or, when the time is over, half-open
// until a probe, which is an ordinary request, has succeeded (alive) or failed
// (ejected for longer). There is never more than one probe at a time. As long as
// all is well it takes no lock and allocates nothing. now is in monotonic
// nanoseconds, by the same clock everywhere.
//
//	admitted, probe := a.Admit(now) // not admitted: try another endpoint
//	if probe {
//		e.CloseUntil(math.MaxInt64) // to others, until there is a verdict
//	}
//	… // send the request
//	if until, changed := a.Observe(now, success, probe); changed {
//		e.CloseUntil(until)
//	}
package accrual

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is a way to tell that an endpoint keeps failing.
type Kind uint8

const (
	// None never ejects.
	None Kind = iota
	// Consecutive ejects after Failures failures in a row.
	Consecutive
	// SuccessRate ejects when the average success of about the last Requests
	// requests falls below SuccessRate, once there have been that many.
	SuccessRate
	// Windowed ejects when the average success over about the last Window falls
	// below SuccessRate, if there were at least five requests in it.
	Windowed
)

// minRequests is how many requests a window must hold for its average to count.
const minRequests = 5

// reviveAfter is how many answers in a row, all of them successes, bring an
// ejected endpoint back without a probe. They come from an endpoint that gets
// requests because all are ejected: if it had to wait for its probe, the first
// one to be probed would get the traffic of all. It is too many for the few good
// answers that were still under way when a bad endpoint was ejected.
const reviveAfter = 10

// Config says when an endpoint is ejected and for how long. The zero Config
// ejects never.
type Config struct {
	Kind        Kind
	Failures    int           // Consecutive; at least 1
	SuccessRate float64       // SuccessRate and Windowed; 0 to 1
	Requests    int           // SuccessRate; at least 1
	Window      time.Duration // Windowed; at least 1 ms
	Backoff     Backoff
}

// Backoff is how long an endpoint stays ejected: Min at first, twice as long
// after each failed probe, Max at most; of that at least half and the rest at
// random ("equal jitter"), so that proxies do not probe in step. Where Max is
// not above Min it is Min each time, without jitter.
type Backoff struct{ Min, Max time.Duration }

// after is the time for an ejection that follows n failed probes; r is at least
// 0 and less than 1.
func (b Backoff) after(n int, r float64) time.Duration {
	if b.Max <= b.Min {
		return max(b.Min, 0)
	}
	d := max(b.Min, 1)
	for ; n > 0 && d < b.Max; n-- {
		if d > b.Max/2 {
			d = b.Max
		} else {
			d *= 2
		}
	}
	return d/2 + time.Duration(r*float64(d-d/2))
}

// Accrual is the history of failures of one endpoint. It is safe for concurrent
// use.
type Accrual struct {
	rule  atomic.Pointer[rule]
	until atomic.Int64 // 0: alive; else the end of the ejection

	failures atomic.Int64  // Consecutive: in a row
	rate     atomic.Uint64 // SuccessRate, Windowed: see rate.go
	counts   atomic.Uint64 // Windowed: see rate.go

	random func() float64

	mu        sync.Mutex // held to change until, and for what follows
	ejections int        // since the endpoint was last alive
	successes int        // in a row while ejected
	probing   bool
}

// rule is a Config and what follows from it.
type rule struct {
	Config
	gain  float32 // SuccessRate: what a request weighs in the average
	slice int64   // Windowed: nanoseconds of a slice of the window
}

func newRule(cfg Config) *rule {
	cfg.Failures = max(cfg.Failures, 1)
	cfg.Requests = max(cfg.Requests, 1)
	cfg.Window = max(cfg.Window, time.Millisecond)
	return &rule{
		Config: cfg,
		gain:   float32(-math.Expm1(-1 / float64(cfg.Requests))),
		slice:  int64(cfg.Window) / slices,
	}
}

// New returns the accrual of an endpoint that is alive. The random numbers are
// at least 0 and less than 1; the function is called from any goroutine, as
// rand.Float64 may be.
func New(cfg Config, random func() float64) *Accrual {
	a := &Accrual{random: random}
	a.rule.Store(newRule(cfg))
	return a
}

// SetConfig changes the configuration. History is kept as long as the kind
// stays. An ejected endpoint stays so until the time it was told, except that
// None brings it back: the results are those of Observe.
func (a *Accrual) SetConfig(cfg Config) (closeUntil int64, changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.rule.Swap(newRule(cfg))
	if old.Kind != cfg.Kind {
		a.forget()
	}
	if cfg.Kind == None && a.until.Load() != 0 {
		a.revive()
		return 0, true
	}
	return a.until.Load(), false
}

// Admit reports whether the endpoint may get a request, and whether that request
// is its probe. To every probe belongs one Observe or Release. A request that is
// not admitted may be sent nevertheless if there is no other endpoint; it is no
// probe.
func (a *Accrual) Admit(now int64) (admitted, probe bool) {
	until := a.until.Load()
	if until == 0 {
		return true, false
	}
	if now < until {
		return false, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch until := a.until.Load(); {
	case until == 0:
		return true, false
	case now < until || a.probing:
		return false, false
	}
	a.probing = true
	return true, true
}

// Observe takes in how a request ended. If changed, the endpoint is to be closed
// until closeUntil, or open if that is 0; it is always so after a probe.
func (a *Accrual) Observe(now int64, success, probe bool) (closeUntil int64, changed bool) {
	if !probe && a.until.Load() == 0 {
		r := a.rule.Load()
		if r.Kind == None {
			return 0, false
		}
		if success {
			a.succeeded(r, now)
			return 0, false
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.rule.Load()
	if probe {
		a.probing = false
	}
	until := a.until.Load()
	switch {
	case until == 0 && success:
		a.succeeded(r, now)
		return 0, probe
	case until == 0:
		if !a.failed(r, now) {
			return 0, probe
		}
		return a.eject(r, now), true
	case probe && success:
		a.revive()
		return 0, true
	case probe:
		return a.eject(r, now), true
	case !success:
		a.successes = 0
		return until, false
	}
	// While a probe is under way, it alone decides.
	if a.successes++; a.successes < reviveAfter || a.probing {
		return until, false
	}
	a.revive()
	return 0, true
}

// Release ends a probe without a verdict, because its caller left or it was not
// sent. Open the endpoint then: the next request is its probe. With probe false
// it does nothing.
func (a *Accrual) Release(probe bool) {
	if !probe {
		return
	}
	a.mu.Lock()
	a.probing = false
	a.mu.Unlock()
}

// eject begins an ejection, or a longer one after a failed probe.
func (a *Accrual) eject(r *rule, now int64) int64 {
	until := max(now+int64(r.Backoff.after(a.ejections, a.random())), 1)
	a.ejections++
	a.successes = 0
	a.until.Store(until)
	return until
}

// revive makes the endpoint alive, without a past.
func (a *Accrual) revive() {
	a.ejections, a.successes = 0, 0
	a.forget()
	a.until.Store(0)
}

func (a *Accrual) forget() {
	a.failures.Store(0)
	a.rate.Store(0)
	a.counts.Store(0)
}

// succeeded takes in a success of an endpoint that is alive.
func (a *Accrual) succeeded(r *rule, now int64) {
	switch r.Kind {
	case Consecutive:
		if a.failures.Load() != 0 {
			a.failures.Store(0)
		}
	case SuccessRate:
		a.count(r, 1)
	case Windowed:
		a.slide(r, now, 1)
	}
}

// failed takes in a failure of an endpoint that is alive, and reports whether it
// was one too many.
func (a *Accrual) failed(r *rule, now int64) bool {
	switch r.Kind {
	case Consecutive:
		return a.failures.Add(1) >= int64(r.Failures)
	case SuccessRate:
		average, enough := a.count(r, 0)
		return enough && average < r.SuccessRate
	case Windowed:
		average, enough := a.slide(r, now, 0)
		return enough && average < r.SuccessRate
	}
	return false
}
