package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/cmd/tulle/demo"
	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
)

func demoCommand() *cobra.Command {
	var cfg demo.Config
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a whole mesh on this machine's loopback addresses and show what it does",
		Long: `Run a whole mesh on this machine's loopback addresses and show what it does.

It needs no root, no cluster and no containers: two hosts with a proxy each, a namespace with a proxy in every pod,
the real injector, namer and identity. It stays until Ctrl-C.`,
		Example: `  tulle demo
  tulle demo --once`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Bin == "" {
				self, err := os.Executable()
				if err != nil {
					return fault.Failed(err, "say with --bin where tulle-proxy and helloworld are")
				}
				cfg.Bin = filepath.Dir(self)
			}
			cfg.Out = cmd.OutOrStdout()
			err := demo.Run(cmd.Context(), cfg)
			var known *demo.Error
			switch {
			case err == nil:
				return nil
			case errors.As(err, &known):
				return fault.Failed(err, known.Hint)
			}
			return fault.Failed(err, "")
		},
	}
	cmd.Flags().BoolVar(&cfg.Once, "once", false, "end after the walk; the exit code says whether every answer was right")
	cmd.Flags().StringVar(&cfg.Bin, "bin", "", "directory of tulle-proxy and helloworld (default: that of tulle)")
	cmd.Flags().BoolVar(&cfg.SingleAddress, "single-address", false, "use 127.0.0.1 only and tell hosts apart by ports, as on macOS")
	return cmd
}
