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

	"github.com/tulle-mesh/tulle/internal/cli"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/setting"
	"github.com/tulle-mesh/tulle/sidecar"
)

func main() {
	ctx, stop := run.Signals(context.Background())
	defer stop()
	cmd := command()
	cmd.SetArgs(cli.Hyphens(cmd.Flags(), os.Args[1:]))
	if code := cli.Exit(os.Stderr, "tulle-proxy", cmd.ExecuteContext(ctx)); code != 0 {
		os.Exit(code)
	}
}

func command() *cobra.Command {
	cfg := sidecar.DefaultConfig()
	cmd := &cobra.Command{
		Use:   "tulle-proxy [FILE]",
		Short: "The proxy of the Tulle service mesh",
		Long: `The proxy of the Tulle service mesh, in a pod, on a node, or alone.

With FILE (or --config FILE, - for standard input) it runs the routers of a
configuration of Linkerd 1.x instead. Then --validate prints a line for each
thing in it that has no effect or cannot be served yet, and exits with 0 if
at least one router can be, with 2 if it names files that are not here and all
else is right, and with 1 otherwise.`,
		Args:          cobra.MaximumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,

		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	cmd.AddCommand(redirect(), await(), linger(), reach())
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.Misused(err) })
	validate := cmd.Flags().Bool("validate", false, "check the settings and the policy, open nothing, and exit with 0 or 1")
	serving := cmd.Flags().Bool("serving", false, "check whether the proxy that runs with these settings has its listeners, and exit with 0 or 1; for probes")
	cmd.InitDefaultHelpFlag() // which cobra does too late for -help
	settings, err := setting.NewNamed(&cfg, cmd.Flags(), "settings")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err != nil {
			return err
		}
		if len(args) > 0 {
			if cmd.Flags().Changed("config") {
				return fmt.Errorf("two configurations, %s and %s: there must be one", cfg.Config, args[0])
			}
			if err := cmd.Flags().Set("config", args[0]); err != nil {
				return err
			}
		}
		switch err := settings.Load(); {
		case cfg == nothing(cfg.LogLevel) && !cmd.Flags().Changed("settings") && os.Getenv(setting.Prefix+"SETTINGS") == "":
			what, hint := "run", "tulle-proxy linkerd.yaml runs a configuration of Linkerd 1.x; a proxy of the mesh is run in its pod or on its node, with the settings that come with it"
			if *validate {
				what, hint = "validate", "tulle-proxy -validate linkerd.yaml checks a configuration of Linkerd 1.x, and tulle-proxy --validate the settings of a proxy that come with it"
			}
			return cli.Misused(fmt.Errorf("there is nothing to %s: neither a configuration nor a setting of a proxy is given\nhint: %s; --help lists them", what, hint))
		case err != nil:
			return err
		}
		if *serving {
			return sidecar.Serving(cmd.Context(), cfg)
		}
		var level slog.Level
		if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
			return fmt.Errorf("log-level is %q, allowed: debug, info, warn, error", cfg.LogLevel)
		}
		if cfg.Config != "" && *validate {
			return report(cmd, cfg)
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

// nothing returns the settings of a proxy that is told nothing but what to log.
func nothing(logLevel string) sidecar.Config {
	cfg := sidecar.DefaultConfig()
	cfg.LogLevel = logLevel
	return cfg
}

// report prints what there is to say of a configuration of Linkerd 1.x.
func report(cmd *cobra.Command, cfg sidecar.Config) error {
	r, err := sidecar.Check(cfg)
	if err != nil {
		cmd.PrintErrln(err)
		return cli.ErrReported
	}
	for _, line := range r.Lines {
		cmd.Println(line)
	}
	cmd.Printf("%d of %d routers can be served\n", r.Served, r.Total)
	switch {
	case r.Served == 0:
		return cli.ErrReported
	case r.Absent > 0:
		return cli.ErrAbsent
	}
	return nil
}
