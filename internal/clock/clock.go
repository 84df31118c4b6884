// Package clock has the time that the request path counts in.
//
// It is not for people or for other machines: a time.Time knows its day, and
// costs twice as much. Invariant: Now never goes back, and all of a process
// count from the same moment. It follows the virtual time of testing/synctest.
//
//	now := clock.Now()
//	took := time.Duration(clock.Now() - now)
package clock

import "time"

var start = time.Now()

// Now returns monotonic nanoseconds since some moment before the program's main.
func Now() int64 { return int64(time.Since(start)) }
