package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/webhook/breakglass"
	"github.com/tulle-mesh/tulle/webhook/drift"
)

// untilReady is the pause between looks whether the injector knows what pods get.
const untilReady = time.Second

// newRepairs looks after pods that the injector has let pass: those that escaped it or are stale, and break-glass.
func newRepairs(cfg Config, clients clients, i *injector, metrics prometheus.Registerer, log *slog.Logger) ([]run.Component, error) {
	host, err := os.Hostname() // the pod's name
	if err != nil {
		return nil, fmt.Errorf("find a name for this replica: %w", err)
	}
	pods, errDrift := drift.New(drift.Config{
		Client: clients.core, Injector: i.config,
		Escaped: drift.Action(cfg.Inject.Escaped), Stale: drift.Action(cfg.Inject.Stale), PerMinute: cfg.Inject.RepairsPerMinute,
		Hold:      func(ctx context.Context) string { return i.hold(ctx, clients) },
		Namespace: cfg.Namespace, Identity: fmt.Sprintf("%s_%d", host, os.Getpid()),
		Registerer: metrics, Logger: log,
	})
	keeper, errKeeper := breakglass.NewKeeper(breakglass.KeeperConfig{
		Client:     clients.core,
		Drifted:    func(ctx context.Context) ([]drift.Pod, error) { return drift.List(ctx, clients.core, i.config()) },
		Registerer: metrics, Logger: log,
	})
	if err := errors.Join(errDrift, errKeeper); err != nil {
		return nil, err
	}
	if report := string(drift.Report); i.probe == nil && (cfg.Inject.Escaped != report || cfg.Inject.Stale != report) {
		log.Warn("pods that escaped or are stale are reported only: without the injector's probe nobody knows that new pods would be better", "hint", "set probe-namespace")
	}
	return []run.Component{
		{Name: "break-glass", Run: keeper.Run},
		{Name: "pods that escaped", Run: func(ctx context.Context) error {
			// Before nodes and roots are known all pods would be stale.
			if !i.await(ctx) {
				return nil
			}
			return pods.Run(ctx)
		}},
	}, nil
}

// await waits until it is known what pods get, and reports whether it is; if not, ctx is done.
func (i *injector) await(ctx context.Context) bool {
	ticker := time.NewTicker(untilReady)
	defer ticker.Stop()
	for !i.files.Loaded() || i.notReady() != "" {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// hold says why no pod is to be made anew now, or nothing.
func (i *injector) hold(ctx context.Context, clients clients) string {
	if i.probe == nil {
		return "the injector has no probe"
	}
	if o, ok := i.probe.Last(); !ok || o.Cause != "" {
		return "the injector's last probe has not succeeded"
	}
	switch s, err := breakglass.Read(ctx, clients.core); {
	case errors.Is(err, breakglass.ErrNotInstalled): // by a policy of the API server, then
	case err != nil:
		return err.Error()
	case s.Open != nil || s.Policy != "Fail":
		return "break-glass is open"
	}
	return ""
}
