package suite

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
)

// Go runs something until the test ends, or until stop is called. It is an error of the test if it ends with one.
func Go(t *testing.T, what func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- what(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Logger logs to the test's output with -v, and else nowhere.
func Logger(t *testing.T) *slog.Logger {
	t.Helper()
	var to io.Writer = io.Discard
	if testing.Verbose() {
		to = t.Output()
	}
	return slog.New(slog.NewTextHandler(to, nil))
}
