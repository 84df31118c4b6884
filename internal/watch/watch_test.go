package watch_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestZeroValue(t *testing.T) {
	var v watch.Value[int]
	n, changed := v.Watch()
	if n != 0 || v.Get() != 0 {
		t.Fatalf("zero value holds %d, %d", n, v.Get())
	}
	v.Set(7)
	<-changed
	if v.Get() != 7 {
		t.Fatalf("after Set(7): %d", v.Get())
	}
}

// A change between Watch and the receive is not lost.
func TestNoLostUpdate(t *testing.T) {
	v := watch.New(0)
	const writers, each = 4, 250
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				v.Set(v.Get() + 1)
			}
		})
	}
	go func() {
		wg.Wait()
		v.Set(-1)
	}()
	for {
		n, changed := v.Watch()
		if n == -1 {
			return
		}
		<-changed
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := watch.New("a")
		done := make(chan string)
		go func() {
			s, err := v.Wait(t.Context(), func(s string) bool { return s == "c" })
			if err != nil {
				t.Error(err)
			}
			done <- s
		}()
		synctest.Wait()
		v.Set("b")
		synctest.Wait()
		v.Set("c")
		if s := <-done; s != "c" {
			t.Fatalf("got %q", s)
		}
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone away")
	cancel(gone)
	if s, err := watch.New("x").Wait(ctx, func(string) bool { return false }); s != "x" || !errors.Is(err, gone) {
		t.Fatalf("got %q, %v", s, err)
	}
}

func TestNotify(t *testing.T) {
	v := watch.New(0)
	var a, b int
	stopA := v.Notify(func() { a++ })
	stopB := v.Notify(func() { b += v.Get() })
	v.Set(1)
	stopA()
	stopA()
	v.Set(2)
	stopB()
	v.Set(3)
	if a != 1 || b != 3 {
		t.Fatalf("a ran %d times (want 1), b summed %d (want 3)", a, b)
	}
}

func TestGetAllocates(t *testing.T) {
	v := watch.New(struct{ a, b int }{1, 2})
	if n := testing.AllocsPerRun(100, func() { v.Get() }); n != 0 {
		t.Fatalf("Get allocates %v times", n)
	}
}
