// Command tulle-controller is the control plane of Tulle: the injector (an admission webhook), the namer (dtabs
// and replica sets for the proxies) and identity (certificates for the proxies) in one process.
//
// It is wiring only. The parts are packages webhook, naming/namer with naming/kubernetes, and
// certs/issuer; each server has its own port, and one set of informers serves them all. Replicas
// share nothing but the Kubernetes API, which keeps the dtabs, too, and tells who may change them.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/setting"
)

func main() {
	ctx, stop := run.Signals(context.Background())
	defer stop()
	cmd, err := command()
	if err == nil {
		err = cmd.ExecuteContext(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tulle-controller:", err)
		os.Exit(1)
	}
}

func command() (*cobra.Command, error) {
	cfg := DefaultConfig()
	cmd := &cobra.Command{
		Use:           "tulle-controller",
		Short:         "The control plane of the Tulle service mesh",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	settings, err := setting.New(&cfg, cmd.Flags())
	if err != nil {
		return nil, err
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := settings.Load(); err != nil {
			return err
		}
		first, err := cfg.level()
		if err != nil {
			return err
		}
		level := &slog.LevelVar{}
		level.Set(first)
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
		klog.SetSlogLogger(log) // client-go has no other way to be told.
		clients, err := connect(cfg.Kubeconfig)
		if err != nil {
			return err
		}
		controller, err := newController(cfg, clients, log, level)
		if err != nil {
			return err
		}
		return controller.Run(cmd.Context())
	}
	return cmd, nil
}
