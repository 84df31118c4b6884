package retry

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Backoff is the pause before each retry of a request: decorrelated jitter
// between Min and Max ("Exponential Backoff and Jitter", M. Brooker, 2015), which
// is a constant pause where they are equal. The zero value never pauses.
// It is a value without state: the caller remembers the pause before.
type Backoff struct{ Min, Max time.Duration }

// Constant returns the backoff that always pauses for d.
func Constant(d time.Duration) Backoff { return Backoff{d, d} }

// Validate returns everything that is wrong with b, or nil.
func (b Backoff) Validate() error {
	var all []error
	if b.Min < 0 {
		all = append(all, fmt.Errorf("the shortest pause must not be negative, and is %s", b.Min))
	}
	if b.Max < b.Min {
		all = append(all, fmt.Errorf("the longest pause, %s, must not be below the shortest, %s", b.Max, b.Min))
	}
	if b.Min == 0 && b.Max > 0 {
		all = append(all, errors.New("the shortest pause must be above 0, or no pause ever grows"))
	}
	return errors.Join(all...)
}

// Next returns the pause after previous, which is 0 before the first retry:
// first Min, then at random between Min and three times previous, at most Max.
// random(n) returns a number from 0 to n-1, as rand.Int64N does; it is asked
// only if there is a choice.
func (b Backoff) Next(previous time.Duration, random func(n int64) int64) time.Duration {
	if previous < b.Min || b.Min >= b.Max {
		return b.Min
	}
	top := int64(math.MaxInt64 - 1)
	if previous < math.MaxInt64/3 {
		top = 3 * int64(previous)
	}
	span := top - int64(b.Min)
	if span <= 0 {
		return b.Min
	}
	return min(b.Min+time.Duration(random(span+1)), b.Max)
}
