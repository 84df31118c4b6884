package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/namer"
)

// ill is a store that fails to create as often as it is told, and that knows no names before it is read.
type ill struct {
	namer.Store
	failures atomic.Int64
	names    watch.Value[[]string]
}

func (s *ill) Names() *watch.Value[[]string] { return &s.names }

func (s *ill) Create(ctx context.Context, namespace string, change namer.Change) (string, error) {
	if s.failures.Add(-1) >= 0 {
		return "", errors.New("etcd is away")
	}
	return s.Store.Create(ctx, namespace, change)
}

func TestSeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, err := namer.NewMemory(map[string]string{"theirs": "/svc => /theirs"})
		if err != nil {
			t.Fatal(err)
		}
		store := &ill{Store: memory}
		store.failures.Store(3)
		s := newSeeds(store, map[string]string{"theirs": "/svc => /ours", "ours": "/svc => /ours", "more": "/svc => /more"}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		if isClosed(s.tried) || store.failures.Load() != 3 {
			t.Error("it did not wait for the store to be read")
		}
		store.names.Set([]string{"theirs"})
		synctest.Wait()
		if !isClosed(s.tried) || store.failures.Load() != 1 {
			t.Error("not ready after an attempt at each")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for name, want := range map[string]string{"theirs": "/svc=>/theirs", "ours": "/svc=>/ours", "more": "/svc=>/more"} {
			if got, err := memory.Get(ctx, name); err != nil || got.Dtab.String() != want {
				t.Errorf("%s is %v, %v", name, got, err)
			}
		}
		past, err := memory.History(ctx, "ours")
		if err != nil || len(past) != 1 || past[0].By != "settings" {
			t.Errorf("the history is %v, %v", past, err)
		}
		// What people delete stays away until the next start.
		if err := memory.Delete(ctx, "ours", "ops"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := memory.Get(ctx, "ours"); !errors.Is(err, namer.ErrNotFound) {
			t.Errorf("it is back: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Two replicas that begin at once make each dtab once.
func TestSeedsOfReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, err := namer.NewMemory(nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 2 {
			store := &ill{Store: memory}
			store.names.Set([]string{}) // neither has heard of the other's
			go func() {
				_ = newSeeds(store, map[string]string{"default": "/svc => /a"}, slog.New(slog.DiscardHandler)).Run(ctx)
			}()
		}
		synctest.Wait()
		if past, err := memory.History(ctx, "default"); err != nil || len(past) != 1 {
			t.Errorf("the history is %v, %v", past, err)
		}
		cancel()
	})
}
