// Command cluster brings the end-to-end tests' Kubernetes up and down by hand.
//
//	go run ./e2e/cluster/cmd/cluster up
//	go run ./e2e/cluster/cmd/cluster kubectl get pods -A
//	go run ./e2e/cluster/cmd/cluster load tulle.dev/helloworld:dev bin/helloworld
//	go run ./e2e/cluster/cmd/cluster down
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/tulle-mesh/tulle/e2e/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newCommand().ExecuteContext(ctx)
	if err == nil {
		return
	}
	// What kubectl had to say it has said itself; its status is ours.
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode())
	}
	fmt.Fprintln(os.Stderr, "cluster:", err)
	os.Exit(1)
}

func newCommand() *cobra.Command {
	var options cluster.Options
	root := &cobra.Command{
		Use:           "cluster",
		Short:         "A real Kubernetes on this machine, for the end-to-end tests and for trying things out",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(buildCommand(&options), upCommand(&options), downCommand(&options), statusCommand(&options),
		kubectlCommand(&options), loadCommand(&options), logsCommand(&options))
	return root
}

func buildCommand(options *cluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Build the cluster's programs, if they have changed, and start nothing",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cluster.Build(cmd.Context(), *options) },
	}
}

func upCommand(options *cluster.Options) *cobra.Command {
	up := &cobra.Command{
		Use:   "up",
		Short: "Bring the cluster up, or leave it as it is if it is up and healthy",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cluster.Up(cmd.Context(), *options)
			return err
		},
	}
	up.Flags().BoolVar(&options.Fresh, "fresh", false, "replace a healthy cluster too")
	up.Flags().BoolVar(&options.Install, "install", true, "install missing Debian packages")
	return up
}

func downCommand(options *cluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take the cluster down; nothing is left but the built binaries",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cluster.Down(cmd.Context(), *options) },
	}
}

func statusCommand(options *cluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell which machines of the cluster run, and whether the cluster is healthy",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lines, err := cluster.Status(*options)
			if err != nil {
				return err
			}
			for _, line := range lines {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			c, err := cluster.Connect(*options)
			if err != nil {
				return err
			}
			if err := c.Healthy(cmd.Context()); err != nil {
				return fmt.Errorf("the cluster is not healthy: %w", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the cluster is healthy; KUBECONFIG="+c.Kubeconfig())
			return nil
		},
	}
}

func kubectlCommand(options *cluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [arguments]",
		Short:              "Run kubectl against the cluster",
		DisableFlagParsing: true, // the flags are kubectl's
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Connect(*options)
			if err != nil {
				return err
			}
			kubectl := c.KubectlCommand(cmd.Context(), args...)
			kubectl.Stdin, kubectl.Stdout, kubectl.Stderr = os.Stdin, os.Stdout, os.Stderr
			return kubectl.Run()
		},
	}
}

func loadCommand(options *cluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "load NAME BINARY...",
		Short: "Make an image of static binaries and give it to every node",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Connect(*options)
			if err != nil {
				return err
			}
			return c.LoadImage(cmd.Context(), args[0], args[1:]...)
		},
	}
}

func logsCommand(options *cluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "logs DIRECTORY",
		Short: "Collect the logs of all components and pods into a directory",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Connect(*options)
			if err != nil {
				return err
			}
			return c.CollectLogs(cmd.Context(), args[0])
		},
	}
}
