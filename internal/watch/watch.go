// Package watch holds the latest value of something that changes, for many readers.
//
// It is not a queue: a reader that is slow sees the newest value and may miss the ones
// between, and nobody ever waits for a reader. That is what routing state wants: what
// matters about a dtab or a replica set is what it is now.
//
// Invariant: after the last Set, every reader that keeps looking sees that value.
//
//	v := watch.New(1)
//	go v.Set(2)
//	for {
//		n, changed := v.Watch()
//		fmt.Println(n)
//		<-changed // closed by the next Set, even if it happened before we got here
//	}
package watch

import (
	"context"
	"sync"
	"sync/atomic"
)

// Value is a variable that can be read without a lock and watched for change. All methods
// may be called concurrently. The zero Value holds the zero T. A Value must not be copied
// after first use, and what it holds must not be modified once set.
type Value[T any] struct {
	state atomic.Pointer[state[T]]

	mu    sync.Mutex // serialises Set, guards hooks
	hooks []*hook
}

// state is immutable but for its channel, which is closed when a newer state replaces it.
type state[T any] struct {
	value   T
	changed chan struct{}
}

type hook struct{ f func() }

// New returns a Value that holds v.
func New[T any](v T) *Value[T] {
	var w Value[T]
	w.state.Store(&state[T]{value: v, changed: make(chan struct{})})
	return &w
}

// load returns the present state, making the first one of a zero Value.
func (w *Value[T]) load() *state[T] {
	if s := w.state.Load(); s != nil {
		return s
	}
	w.state.CompareAndSwap(nil, &state[T]{changed: make(chan struct{})})
	return w.state.Load()
}

// Get returns the current value. It takes no lock and does not allocate.
func (w *Value[T]) Get() T {
	return w.load().value
}

// Set replaces the value, wakes everyone who watches and runs the hooks of Notify. It does
// not compare: callers who want equal values suppressed do so before.
func (w *Value[T]) Set(v T) {
	next := &state[T]{value: v, changed: make(chan struct{})}
	w.mu.Lock()
	w.load()
	old := w.state.Swap(next)
	hooks := w.hooks
	w.mu.Unlock()
	close(old.changed)
	for _, h := range hooks {
		h.f()
	}
}

// Watch returns the current value and a channel that is closed by the next Set.
func (w *Value[T]) Watch() (T, <-chan struct{}) {
	s := w.load()
	return s.value, s.changed
}

// Wait blocks until ok accepts the value, and returns it; or until ctx ends, and returns
// the value then current with the cause of ctx.
func (w *Value[T]) Wait(ctx context.Context, ok func(T) bool) (T, error) {
	for {
		v, changed := w.Watch()
		if ok(v) {
			return v, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return w.Get(), context.Cause(ctx)
		}
	}
}

// Notify calls f after every Set, on the goroutine of the Set, until stop is called; a call
// under way when stop returns may still finish. It is for those who follow thousands of
// values and cannot spare a goroutine for each. f must be quick and must not call back
// into the owner of the value: mark something and signal.
func (w *Value[T]) Notify(f func()) (stop func()) {
	h := &hook{f}
	w.mu.Lock()
	// A new slice every time: Set ranges over the old one without the lock.
	w.hooks = append(w.hooks[:len(w.hooks):len(w.hooks)], h)
	w.mu.Unlock()
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		kept := make([]*hook, 0, len(w.hooks))
		for _, x := range w.hooks {
			if x != h {
				kept = append(kept, x)
			}
		}
		w.hooks = kept
	}
}
