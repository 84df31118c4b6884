//go:build e2e

package soak

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// fault is what the failing backend did to a request, as bits.
type fault = uint32

const (
	serverError fault = 1 << iota // a 500
	hangUp                        // no answer: the connection ends
	reset                         // or is reset
	brokenHead                    // an answer that ends inside its head
	brokenBody                    // an answer that ends inside its body
	garbage                       // no HTTP
	stall                         // nothing at all, until the proxy gives up
	early                         // a 500 before the body was read
)

// ledger holds what was done for each request, and what its client saw.
type ledger struct {
	effects []atomic.Uint32 // how often an application took the whole request
	faults  []atomic.Uint32
	failing string // the address of the failing backend

	done, failed, hidden atomic.Int64

	mu         sync.Mutex
	violations []string
	count      int
}

func newLedger(n int) *ledger {
	return &ledger{effects: make([]atomic.Uint32, n), faults: make([]atomic.Uint32, n)}
}

// outcome is what a client saw. A nil err is an answer that arrived whole.
type outcome struct {
	status int
	code   string // tulle-code
	text   string // the answer's body, if the status is not 200
	err    error
}

func (o *outcome) String() string {
	return fmt.Sprintf("status %d, code %q, error %v, %.300q", o.status, o.code, o.err, o.text)
}

// judge holds an outcome against what was done to the request.
func (l *ledger) judge(r *request, o *outcome) {
	l.done.Add(1)
	effects, faults := l.effects[r.id].Load(), l.faults[r.id].Load()
	if r.method == "POST" && effects > 1 {
		l.violate("POST %d took effect %d times", r.id, effects)
	}
	if o.err == nil && o.status == 200 {
		switch {
		case effects == 0:
			l.violate("%s %d was answered, and nobody took it", r.method, r.id)
		case r.method == "POST" && faults != 0:
			l.violate("POST %d was answered after the fault %b", r.id, faults)
		case faults != 0:
			l.hidden.Add(1)
		}
		return
	}
	l.failed.Add(1)
	switch {
	case faults&brokenBody != 0:
		// The client had a part of the answer already.
	case faults == 0 && !r.replayable() && effects == 0 && o.code == "T302" && strings.Contains(o.text, l.failing):
		// The failing backend stopped listening with the connection in its queue: to
		// the proxy it may have taken the request.
	case faults == 0:
		l.violate("%s %d failed, though nothing was done to it: %v", r.method, r.id, o)
	case r.replayable():
		l.violate("%s %d of %d bytes failed visibly by the fault %b: %v", r.method, r.id, r.size, faults, o)
	}
}

// violate notes what must not happen.
func (l *ledger) violate(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count++; len(l.violations) < 20 {
		l.violations = append(l.violations, fmt.Sprintf(format, args...))
	}
}

// faulty returns how many requests a fault was done to.
func (l *ledger) faulty() (n int) {
	for i := range l.faults {
		if l.faults[i].Load() != 0 {
			n++
		}
	}
	return n
}
