// Command tulle installs Tulle and shows what it does. It is also "kubectl tulle", under the name kubectl-tulle.
//
// Data goes to stdout, talk to stderr. An error is one sentence and, where there is something to do about it, a
// line that begins with "hint:". The exit code is 0 if all went well, 1 if something failed, 2 if a check found
// something, and 64 if the command line was wrong.
//
// This package is wiring: flags in, packages called, text out. It is not a library, and what a command does
// belongs into the package of its subject.
//
//	tulle install | kubectl apply -f -
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/cmd/tulle/breakglass"
	"github.com/tulle-mesh/tulle/cmd/tulle/check"
	"github.com/tulle-mesh/tulle/cmd/tulle/dtab"
	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/inject"
	"github.com/tulle-mesh/tulle/cmd/tulle/install"
	"github.com/tulle-mesh/tulle/internal/run"
)

// commands lists what tulle can do. It is the only place to add a command.
func commands() []*cobra.Command {
	return []*cobra.Command{
		breakglass.Command(),
		check.Command(),
		demoCommand(),
		dtab.Command(),
		inject.ExplainCommand(),
		inject.Command(),
		install.Command(),
		inject.UninjectCommand(),
		install.UninstallCommand(),
		install.UpgradeCommand(),
		versionCommand(),
	}
}

func main() {
	ctx, stop := run.Signals(context.Background())
	code := execute(ctx, filepath.Base(os.Args[0]), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, name string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := rootCommand(name)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "error: %s\n", oneLine(err.Error()))
	var f *fault.Error
	if !errors.As(err, &f) {
		return fault.ExitFailed
	}
	if hint := f.Hint(); hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	return f.ExitCode()
}

func rootCommand(name string) *cobra.Command {
	root := &cobra.Command{
		Use:   "tulle",
		Short: "A service mesh in which every namespace chooses one proxy per pod or one per host",
		Long: `A service mesh in which every namespace chooses one proxy per pod or one per host.

Data goes to standard output, everything else to standard error. Exit codes: 0 all is well, 1 something failed, 2 a
check found something, 64 the command line is wrong.`,
		Args: cobra.ArbitraryArgs, // RunE words the error for an unknown command
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := "run \"" + cmd.CommandPath() + " --help\" for the list of commands"
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "did you mean " + strings.Join(near, " or ") + "?"
			}
			return fault.Misused(fmt.Errorf("unknown command %q", args[0]), hint)
		},
		SilenceErrors:              true,
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
	}
	if strings.TrimSuffix(name, ".exe") == "kubectl-tulle" {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl tulle"}
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fault.Misused(err, "run \""+cmd.CommandPath()+" --help\" for the flags")
	})
	root.AddCommand(commands()...)
	return root
}

// noArguments refuses arguments beside the flags.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fault.Misused(fmt.Errorf("%s takes no arguments, got %q", cmd.CommandPath(), args[0]),
		"run \""+cmd.CommandPath()+" --help\" for the flags")
}

// oneLine folds a message of a library into one line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
