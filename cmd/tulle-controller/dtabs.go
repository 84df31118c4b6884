package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/kubernetes/store"
	"github.com/tulle-mesh/tulle/naming/namer"
)

const (
	// seedTimeout bounds one attempt at making a dtab, and so how long the first attempts keep a replica from
	// being ready.
	seedTimeout = 10 * time.Second
	// seedRetry is the pause after a round of attempts that left something to do; it doubles up to maxSeedRetry.
	seedRetry    = time.Second
	maxSeedRetry = time.Minute
)

// seeds are the dtabs to begin with. They are made where there is none of that name, and never changed: what people
// made of them is theirs. Replicas may all do this at once.
type seeds struct {
	store namer.Store
	dtabs map[string]string
	log   *slog.Logger
	tried chan struct{} // closed when each has been tried once
}

func newSeeds(store namer.Store, dtabs map[string]string, log *slog.Logger) *seeds {
	return &seeds{store, dtabs, log, make(chan struct{})}
}

// Run makes the dtabs, and returns nil when all are there and ctx is done.
func (s *seeds) Run(ctx context.Context) error {
	for pause, first := seedRetry, true; ; pause, first = min(2*pause, maxSeedRetry), false {
		if !s.storeRead(ctx) {
			return nil
		}
		done := s.round(ctx)
		if first {
			close(s.tried)
		}
		if done {
			<-ctx.Done()
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// storeRead waits until it is known which dtabs there are.
func (s *seeds) storeRead(ctx context.Context) bool {
	for {
		names, changed := s.store.Names().Watch()
		if names != nil {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// round makes what is missing, and reports whether nothing is any more.
func (s *seeds) round(ctx context.Context) bool {
	done := true
	for _, name := range slices.Sorted(maps.Keys(s.dtabs)) {
		if slices.Contains(s.store.Names().Get(), name) {
			continue
		}
		err := s.create(ctx, name)
		switch {
		case err == nil:
			s.log.Info("dtab created", "namespace", name, "by", "settings")
		case errors.Is(err, namer.ErrExists): // another replica was quicker, or somebody
		default:
			done = false
			s.log.Error("could not make a dtab of the settings, trying again", "namespace", name, "error", err)
		}
	}
	return done
}

func (s *seeds) create(ctx context.Context, name string) error {
	dtab, err := naming.ParseDtab(s.dtabs[name])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, seedTimeout)
	defer cancel()
	_, err = s.store.Create(ctx, name, namer.Change{Dtab: dtab, By: "settings"})
	return err
}

// newStore returns the store that the settings name, and what keeps it up to date, nil if nothing need.
func newStore(cfg Config, clients clients, log *slog.Logger) (namer.Store, func(context.Context) error, error) {
	switch cfg.DtabStore {
	case storeFile:
		files := namer.NewFiles(namer.FilesConfig{Dir: cfg.DtabDir, Logger: log})
		return files, files.Run, nil
	case storeMemory:
		memory, err := namer.NewMemory(nil)
		return memory, nil, err
	}
	objects, err := store.New(store.Config{Client: clients.dynamic, Namespace: cfg.Namespace, Logger: log})
	if err != nil {
		return nil, nil, err
	}
	return objects, objects.Run, nil
}
