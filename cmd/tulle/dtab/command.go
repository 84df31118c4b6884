// Package dtab is "tulle dtab": it reads and writes the dtabs of a mesh, and says what they do
// before they do it.
//
// All it knows comes from the namer's HTTP API (package namer); it keeps nothing and decides
// nothing about names itself. Without a URL of the namer it forwards ports to the controllers, so
// that what a user may do is what Kubernetes says.
//
// Invariant: no command overwrites what it has not read. Each write of a dtab that is there is
// guarded by its version, and preceded by a plan; names in use that would lose their endpoints
// stop it.
//
//	root.AddCommand(dtab.Command())
//
//	tulle dtab get default >default.dtab
//	tulle dtab plan default default.dtab
//	tulle dtab apply default default.dtab
package dtab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
)

// session is one command line.
type session struct {
	reach  reach
	output string // table, json, yaml or name
}

// formats are what -o takes.
var formats = [...]string{"table", "json", "yaml", "name"}

// Command returns "tulle dtab". The errors of its commands are *fault.Error.
func Command() *cobra.Command {
	s := &session{}
	cmd := &cobra.Command{
		Use:     "dtab",
		Aliases: []string{"dtabs"},
		Short:   "Read, plan and write the dtabs by which the mesh routes",
		Long: `Read, plan and write the dtabs by which the mesh routes.

It speaks to the namer at --namer, else at $TULLE_NAMER or $NAMERCTL_BASE_URL, else through ports that it forwards to
the controllers of the cluster that kubectl would use.

Exit codes: 0 all is well, 1 something failed, 2 names in use would or might be lost or a name leads nowhere,
64 the command line is wrong.`,
		Args: cobra.ArbitraryArgs,
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
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(formats[:], s.output) {
				return fault.Misused(fmt.Errorf("-o %q is unknown", s.output), "it is one of "+strings.Join(formats[:], ", "))
			}
			return nil
		},
		SuggestionsMinimumDistance: 2,
	}
	s.reach.flags(cmd.PersistentFlags())
	cmd.PersistentFlags().StringVarP(&s.output, "output", "o", "table", "form of what goes to stdout: table, json, yaml or name")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats[:], cobra.ShellCompDirectiveNoFileComp))
	cmd.AddCommand(s.lsCommand(), s.getCommand(), s.createCommand(), s.applyCommand(), s.planCommand(), s.deleteCommand(),
		s.historyCommand(), s.rollbackCommand(), s.resolveCommand())
	return cmd
}

// run calls f with a client of the namer.
func (s *session) run(cmd *cobra.Command, f func(ctx context.Context, c *client) error) error {
	c, closeWay, err := s.reach.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer closeWay()
	err = f(cmd.Context(), c)
	if known := (*fault.Error)(nil); err != nil && !errors.As(err, &known) {
		err = fault.Failed(err, "")
	}
	return err
}

// print writes data in the form that -o says.
func (s *session) print(cmd *cobra.Command, data any, names []string, table func(w io.Writer)) error {
	var out bytes.Buffer
	switch s.output {
	case "name":
		for _, n := range names {
			fmt.Fprintln(&out, n)
		}
	case "json", "yaml":
		e := json.NewEncoder(&out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(data); err != nil {
			return err
		}
		if s.output == "yaml" {
			text, err := yaml.JSONToYAML(out.Bytes())
			if err != nil {
				return err
			}
			out = *bytes.NewBuffer(text)
		}
	default:
		table(&out)
	}
	if _, err := cmd.OutOrStdout().Write(out.Bytes()); err != nil {
		return fault.Failed(fmt.Errorf("write the output: %w", err), "")
	}
	return nil
}

// columns prints a table whose cells are separated by tabs.
func columns(w io.Writer, rows func(w io.Writer)) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	rows(t)
	t.Flush()
}

// completionTime is how long somebody at a prompt waits.
const completionTime = 3 * time.Second

// complete completes the name of a dtab as the first argument, and second as the second one.
func (s *session) complete(second func(ctx context.Context, c *client, name string) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 1 || len(args) == 1 && second == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completionTime)
		defer cancel()
		c, closeWay, err := s.reach.connect(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer closeWay()
		if len(args) == 1 {
			return second(ctx, c, args[0]), cobra.ShellCompDirectiveNoFileComp
		}
		names, err := c.list(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFile completes the name of a dtab, and then the name of a file.
func (s *session) completeFile(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return s.complete(nil)(cmd, args, typed)
}

// talk says something that is no data.
func talk(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...)
}

// count is a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
