// Package clock has the time that the request path counts in.
//
// It is not for people or for other machines: a time.Time knows its day, and
// costs twice as much. Invariant: Now is above 0 and never goes back, and all of a
// process count from the same moment. It follows the virtual time of
// testing/synctest.
//
//	now := clock.Now()
//	took := time.Duration(clock.Now() - now)
package clock

import "time"

// before is how long ago the count began when the program started: virtual time
// is that of the year 2000, and must not be before it. 0 can mean "never".
const before = 50 * 365 * 24 * time.Hour

var start = time.Now().Add(-before)

// Now returns monotonic nanoseconds since some moment before the program's main.
func Now() int64 { return int64(time.Since(start)) }
