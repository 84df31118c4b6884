// Package deadline reads, merges, tightens and writes the time by which the
// caller of a request wants its answer: the header l5d-ctx-deadline.
//
// It reads no clock and stops nothing. A deadline travels between machines, so
// all times here are the wall clock's, in nanoseconds since the Unix epoch; the
// clocks of nodes are assumed close.
//
// Invariant: merging and tightening never move a deadline to a later time.
//
//	var d deadline.Deadline
//	for each value of the header {
//		d.Merge(value)
//	}
//	d.Tighten(now, totalTimeout)
//	if d.Expired(now) { … }
//	head = d.AppendTo(head)
package deadline

import (
	"math"
	"strconv"
	"time"
)

// Header carries a deadline from a proxy to the next: two decimal numbers of
// nanoseconds and one space between, "<timestamp> <deadline>".
const Header = "l5d-ctx-deadline"

// Deadline is a point in time and when it was decided on. The zero value is no
// deadline. It is a value of two words and a flag; concurrent use is up to
// whoever holds it.
type Deadline struct {
	// Stamp is when a proxy last set or tightened the deadline.
	Stamp int64
	// At is when the answer must be there.
	At int64
	// Known is false if there is no deadline.
	Known bool
}

// Parse returns the deadline of a header value. It is not Known unless value is
// two unsigned decimal numbers below 2⁶³ with exactly one space between.
func Parse(value []byte) Deadline {
	stamp, n := number(value)
	if n == 0 || n == len(value) || value[n] != ' ' {
		return Deadline{}
	}
	rest := value[n+1:]
	at, n := number(rest)
	if n == 0 || n != len(rest) {
		return Deadline{}
	}
	return Deadline{Stamp: stamp, At: at, Known: true}
}

// number reads the digits that b begins with and returns how many they are, or
// 0 if there are none or their number is too large.
func number(b []byte) (int64, int) {
	var v int64
	for i, c := range b {
		if c < '0' || c > '9' {
			return v, i
		}
		digit := int64(c - '0')
		if v > (math.MaxInt64-digit)/10 {
			return 0, 0
		}
		v = v*10 + digit
	}
	return v, len(b)
}

// Merge tightens d by a value of the header, one of several perhaps, and
// reports whether it could be read. One that cannot changes nothing.
func (d *Deadline) Merge(value []byte) bool {
	other := Parse(value)
	d.with(other)
	return other.Known
}

// with merges two deadlines: the latest stamp, the earliest time.
func (d *Deadline) with(other Deadline) {
	switch {
	case !other.Known:
	case !d.Known:
		*d = other
	default:
		d.Stamp = max(d.Stamp, other.Stamp)
		d.At = min(d.At, other.At)
	}
}

// Tighten makes the deadline timeout from now, if it was none or later. A
// timeout of 0 or less is no timeout and changes nothing.
func (d *Deadline) Tighten(now int64, timeout time.Duration) {
	if timeout <= 0 {
		return
	}
	at := int64(math.MaxInt64)
	if now <= at-int64(timeout) {
		at = now + int64(timeout)
	}
	d.with(Deadline{Stamp: now, At: at, Known: true})
}

// Expired reports whether the deadline has come: an answer can only be late.
func (d Deadline) Expired(now int64) bool { return d.Known && d.At <= now }

// Left returns the time until the deadline, 0 if it has passed, and the longest
// duration there is without one.
func (d Deadline) Left(now int64) time.Duration {
	switch {
	case !d.Known:
		return math.MaxInt64
	case d.At <= now:
		return 0
	case now < 0 && d.At > math.MaxInt64+now:
		return math.MaxInt64
	}
	return time.Duration(d.At - now)
}

// AppendTo appends the value to send onward to b: nothing without a deadline.
func (d Deadline) AppendTo(b []byte) []byte {
	if !d.Known {
		return b
	}
	b = strconv.AppendInt(b, d.Stamp, 10)
	b = append(b, ' ')
	return strconv.AppendInt(b, d.At, 10)
}
