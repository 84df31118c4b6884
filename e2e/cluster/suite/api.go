package suite

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

// API is Run with an API server around the tests, which start starts. They find it at api.
func API(m Tests, api **cluster.API, start func(context.Context) (*cluster.API, error)) int {
	return Run(m, Config{
		Up: func(ctx context.Context) (err error) {
			*api, err = start(ctx)
			return err
		},
		Down: func(context.Context) error {
			if *api == nil {
				return nil
			}
			return (*api).Close()
		},
	})
}

// StartAPI starts an API server for one test.
func StartAPI(t *testing.T) *cluster.API {
	t.Helper()
	api, err := cluster.StartAPI(t.Context(), cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	return api
}

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
