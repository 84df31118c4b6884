// Command tulle-proxy is the data plane of Tulle: the same program in a pod
// (sidecar mode), on a node (host mode) and without a mesh (standalone mode). It
// is wiring only; package sidecar is the proxy.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/setting"
	"github.com/tulle-mesh/tulle/sidecar"
)

func main() {
	ctx, stop := run.Signals(context.Background())
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "tulle-proxy:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	cfg := sidecar.DefaultConfig()
	cmd := &cobra.Command{
		Use:           "tulle-proxy",
		Short:         "The proxy of the Tulle service mesh",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	validate := cmd.Flags().Bool("validate", false, "check the settings and the policy, open nothing, and exit with 0 or 1")
	serving := cmd.Flags().Bool("serving", false, "check whether the proxy that runs with these settings has its listeners, and exit with 0 or 1; for probes")
	settings, err := setting.New(&cfg, cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err != nil {
			return err
		}
		if err := settings.Load(); err != nil {
			return err
		}
		if *serving {
			return sidecar.Serving(cmd.Context(), cfg)
		}
		var level slog.Level
		if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
			return fmt.Errorf("log-level is %q, allowed: debug, info, warn, error", cfg.LogLevel)
		}
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
		proxy, err := sidecar.New(cfg, log)
		if err != nil || *validate {
			return err
		}
		reload := make(chan os.Signal, 1)
		signal.Notify(reload, syscall.SIGHUP)
		go func() {
			for range reload {
				proxy.Reload()
			}
		}()
		return proxy.Run(cmd.Context())
	}
	return cmd
}
