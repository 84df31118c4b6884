package http1

import "sync"

// Readers and Writers borrow their buffers and hold none while they are idle. A
// connection that waits for its next request then costs no more than its
// structs, and the buffer in use is the one that the cache still knows.
const (
	smallSize = 4 << 10  // a head, nearly always
	largeSize = 64 << 10 // a body: few system calls, and still within the cache
)

// The pools hold no state, only memory, so every Reader and Writer shares them.
// The Go runtime empties them when nobody borrows.
var (
	small = sync.Pool{New: func() any { return new([smallSize]byte) }}
	large = sync.Pool{New: func() any { return new([largeSize]byte) }}
)

// borrow returns a buffer of at least n bytes.
func borrow(n int) []byte {
	switch {
	case n <= smallSize:
		return small.Get().(*[smallSize]byte)[:]
	case n <= largeSize:
		return large.Get().(*[largeSize]byte)[:]
	}
	return make([]byte, n)
}

// giveBack ends the use of a buffer that was borrowed, and of all slices of it.
func giveBack(b []byte) {
	switch cap(b) {
	case smallSize:
		small.Put((*[smallSize]byte)(b[:smallSize]))
	case largeSize:
		large.Put((*[largeSize]byte)(b[:largeSize]))
	}
}
