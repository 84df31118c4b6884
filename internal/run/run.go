// Package run holds the life of a process: several components under one context, a graceful stop on a
// signal, and HTTP servers that finish what they have begun.
//
// It is not a supervisor: nothing is ever restarted. A component retries its own work, and one that
// returns ends the process, whose restart is the business of whoever started it.
//
// Invariant: when [Group] returns, every component has returned. The first cause wins; a component that
// ends before it was told to, even with nil, is such a cause.
//
//	ctx, stop := run.Signals(context.Background())
//	defer stop()
//	err := run.Group(ctx, run.Config{Drain: 5 * time.Second, Draining: ready.Fail, Logger: log},
//		run.Component{Name: "identity", Run: source.Run},
//		run.Component{Name: "admin", Run: run.HTTP(server, listener, 10*time.Second)},
//	)
package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Component is a part of a process that runs until its context is done.
type Component struct {
	// Name says which component an error comes from.
	Name string
	// Run owns every goroutine it starts and returns when they are gone. It returns nil or the
	// context's error when it was stopped; any earlier return stops the whole group.
	Run func(ctx context.Context) error
}

// Config says how a group stops. The zero value stops at once and in silence.
type Config struct {
	// Drain is how long the components go on at full service after the group was told to stop. In
	// Kubernetes the end of a pod is announced to it and to its callers at the same moment; Drain is
	// the time the callers get to hear of it.
	Drain time.Duration
	// Draining, if not nil, is called once when the group is told to stop, before Drain begins. It is
	// the place to fail readiness, and must not block.
	Draining func()
	// Logger gets one line for each transition; nil discards them.
	Logger *slog.Logger
}

// Signals returns a context that is done at the first SIGINT or SIGTERM. From then on the signals have
// their usual effect again, so that a second one ends the process at once. Calling stop restores the
// usual effect too.
func Signals(parent context.Context) (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = signal.NotifyContext(parent, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Group runs the components until one of them returns or ctx is done and [Config.Drain] is over, then
// cancels the context of all and waits for them. A component that fails while draining ends the drain.
//
// The result is nil when the group was told to stop and every component stopped well, otherwise the
// first cause, with the component's name.
func Group(ctx context.Context, cfg Config, components ...Component) error {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	// The components must outlive ctx by the drain, so theirs is cut loose from it.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group, inner := errgroup.WithContext(inner)
	for _, c := range components {
		group.Go(func() error {
			err := c.Run(inner)
			switch {
			case inner.Err() == nil && err == nil:
				return fmt.Errorf("run %s: it ended before it was told to stop", c.Name)
			case err == nil, inner.Err() != nil && errors.Is(err, context.Canceled):
				return nil
			}
			return fmt.Errorf("run %s: %w", c.Name, err)
		})
	}
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-inner.Done():
			return nil
		}
		if cfg.Draining != nil {
			cfg.Draining()
		}
		if cfg.Drain > 0 {
			log.Info("stopping", "drain", cfg.Drain)
			timer := time.NewTimer(cfg.Drain)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-inner.Done():
				return nil
			}
		}
		log.Info("stopped serving")
		cancel()
		return nil
	})
	return group.Wait()
}
