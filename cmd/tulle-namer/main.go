// Command tulle-namer runs the configuration of a namerd of Linkerd 1.x: it keeps dtabs, follows Kubernetes and
// serves namerd's HTTP API and its pages, without a controller, an injector or certificates.
//
// It is wiring only. Package naming/namer/namerd reads the configuration, naming/namer is the API,
// naming/kubernetes has the objects and what names mean there.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/tulle-mesh/tulle/internal/cli"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/setting"
)

func main() {
	ctx, stop := run.Signals(context.Background())
	defer stop()
	cmd, err := command()
	if err == nil {
		cmd.SetArgs(cli.Hyphens(cmd.Flags(), os.Args[1:]))
		err = cmd.ExecuteContext(ctx)
	}
	if code := cli.Exit(os.Stderr, "tulle-namer", err); code != 0 {
		os.Exit(code)
	}
}

// Config is what the program is told beside the configuration.
type Config struct {
	Config     string `setting:"config" help:"namerd's configuration, in YAML or JSON; - is standard input"`
	Kubeconfig string `setting:"kubeconfig" help:"kubeconfig file; without it, in a pod the service account counts, and elsewhere the host and port that the configuration says"`
	LogLevel   string `setting:"log-level" help:"debug, info, warn or error"`
}

func command() (*cobra.Command, error) {
	cfg := Config{LogLevel: "info"}
	cmd := &cobra.Command{
		Use:   "tulle-namer [FILE]",
		Short: "The namer of Linkerd 1.x: dtabs and namerd's HTTP API",
		Long: `Runs FILE (or --config FILE, - for standard input), the configuration of a
namerd of Linkerd 1.x: it keeps dtabs, and answers over namerd's HTTP API what
names mean by them.

With --validate it opens nothing, prints a line for each thing in FILE that has
no effect, and exits with 0 if it can be served, with 2 if it names files that
are not here and all else is right, and with 1 otherwise.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.MaximumNArgs(1)(cmd, args); err != nil {
				return cli.Misused(err)
			}
			return nil
		},
		SilenceUsage:  true,
		SilenceErrors: true,

		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.Misused(err) })
	validate := cmd.Flags().Bool("validate", false, "check the configuration, open nothing, and exit with 0, 1 or 2")
	cmd.InitDefaultHelpFlag() // which cobra does too late for -help
	settings, err := setting.NewNamed(&cfg, cmd.Flags(), "settings")
	if err != nil {
		return nil, err
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			if cmd.Flags().Changed("config") {
				return cli.Misused(fmt.Errorf("two configurations, %s and %s: there must be one", cfg.Config, args[0]))
			}
			if err := cmd.Flags().Set("config", args[0]); err != nil {
				return err
			}
		}
		if err := settings.Load(); err != nil {
			return err
		}
		level := new(slog.LevelVar)
		if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
			return fmt.Errorf("log-level is %q, allowed: debug, info, warn, error", cfg.LogLevel)
		}
		if cfg.Config == "" {
			return cli.Misused(errors.New("no configuration is given\nhint: tulle-namer namerd.yaml runs one, and tulle-namer -validate namerd.yaml checks it"))
		}
		if *validate {
			return check(cmd, cfg)
		}
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
		klog.SetSlogLogger(log) // client-go has no other way to be told.
		n, err := load(cfg, level, log)
		if err != nil {
			return err
		}
		return n.Run(cmd.Context())
	}
	return cmd, nil
}
