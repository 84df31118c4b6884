package dtab

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
)

// written says what became of a dtab, in JSON.
type written struct {
	Name   string `json:"name"`
	Action string `json:"action"` // created, written, unchanged or deleted
	Plan   *plan  `json:"plan,omitempty"`
}

// wrote tells what became of a dtab.
func (s *session) wrote(cmd *cobra.Command, name, action, more string, p *plan) error {
	talk(cmd, "%s: %s%s", name, action, more)
	if s.output == "table" {
		return nil
	}
	return s.print(cmd, written{name, action, p}, []string{name}, func(io.Writer) {})
}

func (s *session) createCommand() *cobra.Command {
	return &cobra.Command{
		Use: "create NAME FILE", Aliases: []string{"new"},
		Short: "Make a new dtab of the rules in a file",
		Args:  arguments("NAME", "FILE"), ValidArgsFunction: s.completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			next, err := readSource(cmd, args[1])
			if err != nil {
				return err
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				if err := c.create(ctx, args[0], next.Dtab); err != nil {
					return err
				}
				return s.wrote(cmd, args[0], "created", ", "+count(len(next.Dtab), "rule"), nil)
			})
		},
	}
}

func (s *session) applyCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "apply NAME FILE", Aliases: []string{"update", "up"},
		Short: "Write the rules of a file, if no name in use would be lost",
		Long: `Write the rules of a file, if no name in use would be lost.

FILE is rules, or what get prints in any form, or an object dtabs.l5d.io; - is standard input. A dtab that is not there
is created. One that is there must still have the version that FILE says in its line "# version", or else the one that
it has when apply starts. If names that proxies use would lose endpoints, or that cannot be told, nothing is written,
unless --force is given.

Exit codes: 0 written, created, or as it should be already; 1 something failed, or somebody else was quicker; 2 names in
use would or might be lost; 64 the command line is wrong. Nothing is written unless it is 0.`,
		Example: `  tulle dtab apply default default.dtab
  tulle dtab get default | sed s/world-v1/world-v2/ | tulle dtab apply default -`,
		Args: arguments("NAME", "FILE"), ValidArgsFunction: s.completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			next, err := readSource(cmd, args[1])
			if err != nil {
				return err
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				now, err := c.get(ctx, args[0])
				_, absent := errors.AsType[missingError](err)
				switch {
				case err == nil:
					return s.write(ctx, cmd, c, args[0], now, next, force)
				case !absent:
					return err
				case next.Version != "":
					return fault.Failed(fmt.Errorf("there is no dtab %q, and the file was made from version %s of it", args[0], next.Version),
						"take out its version to create the dtab anew")
				}
				if err := c.create(ctx, args[0], next.Dtab); err != nil {
					return err
				}
				return s.wrote(cmd, args[0], "created", ", "+count(len(next.Dtab), "rule"), nil)
			})
		},
	}
	forceFlag(cmd, &force)
	return cmd
}

func forceFlag(cmd *cobra.Command, force *bool) {
	cmd.Flags().BoolVar(force, "force", false, "write even if names in use would or might be lost")
}

// write replaces the dtab now by next, guarded by the version that next was made from.
func (s *session) write(ctx context.Context, cmd *cobra.Command, c *client, name string, now, next source, force bool) error {
	if next.Dtab.Exact() == now.Dtab.Exact() {
		return s.wrote(cmd, name, "unchanged", "", nil)
	}
	guard := cmp.Or(next.Version, now.Version)
	if guard != now.Version {
		return stale(name, guard)
	}
	p, err := s.plan(ctx, cmd, c, question{dtab: name, next: next.Dtab})
	switch {
	case err != nil && !force:
		return err
	case err != nil:
		talk(cmd, "No plan: %s.", err)
	case p.Version != guard:
		return stale(name, guard)
	}
	if r := p.risk(); len(r.names) > 0 {
		planTable(cmd.ErrOrStderr(), r.names)
		if !force {
			return fault.Found(fmt.Errorf("%s, so %s is not written", r.in(" in use"), name),
				r.hint("--force writes it nevertheless; tulle dtab plan shows everything that would change"))
		}
	}
	if failure := c.update(ctx, name, next.Dtab, guard); failure != nil {
		return failure
	}
	what := ", " + count(len(next.Dtab), "rule") + "; "
	if err != nil {
		return s.wrote(cmd, name, "written", what+"not planned", nil)
	}
	return s.wrote(cmd, name, "written", what+p.summary(), &p)
}

func (s *session) rollbackCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rollback NAME [VERSION]",
		Short: "Write an older version of a dtab again, the one before unless said otherwise",
		Long: `Write an older version of a dtab again, the one before unless said otherwise.

VERSION is one of those that history lists. What changes is shown; if names that proxies use would lose endpoints, or
that cannot be told, nothing is written, unless --force is given.

Exit codes: 0 written, or as it should be already; 1 something failed, or somebody else was quicker; 2 names in use would
or might be lost; 64 the command line is wrong. Nothing is written unless it is 0.`,
		Example: `  tulle dtab rollback default
  tulle dtab rollback default AAAAAAAAAAE=`,
		Args: arguments("NAME", "[VERSION]"),
		ValidArgsFunction: s.complete(func(ctx context.Context, c *client, name string) (versions []string) {
			past, _ := c.history(ctx, name)
			for _, p := range past[min(1, len(past)):] {
				versions = append(versions, fmt.Sprintf("%s\t%s by %s", p.Version, stamp(p.Time), dash(fault.Shown(p.By))))
			}
			return versions
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				past, err := c.history(ctx, args[0])
				if err != nil {
					return err
				}
				hint := fmt.Sprintf("tulle dtab history %s lists those that are kept", args[0])
				if len(past) == 0 {
					return fault.Failed(fmt.Errorf("nothing is known of what %s was", args[0]), hint)
				}
				now, older := past[0], past[1:]
				if len(args) == 2 {
					for len(older) > 0 && older[0].Version != args[1] {
						older = older[1:]
					}
					if len(older) == 0 && now.Version == args[1] {
						return s.wrote(cmd, args[0], "unchanged", "", nil)
					}
				}
				switch {
				case len(older) == 0 && len(args) == 2:
					return fault.Failed(fmt.Errorf("no version %q of %s is kept", args[1], args[0]), hint)
				case len(older) == 0:
					return fault.Failed(fmt.Errorf("no older version of %s is kept", args[0]), hint)
				}
				author := ""
				if older[0].By != "" {
					author = " by " + fault.Shown(older[0].By)
				}
				talk(cmd, "Back to version %s, written %s%s:", fault.Shown(older[0].Version), stamp(older[0].Time), author)
				for _, line := range difference(now.Dtab, older[0].Dtab) {
					talk(cmd, "  %s", line)
				}
				return s.write(ctx, cmd, c, args[0], source{now.Version, now.Dtab}, source{Dtab: older[0].Dtab}, force)
			})
		},
	}
	forceFlag(cmd, &force)
	return cmd
}

func (s *session) deleteCommand() *cobra.Command {
	var yes, force bool
	cmd := &cobra.Command{
		Use: "delete NAME", Aliases: []string{"del", "rm"},
		Short: "Delete a dtab, after asking",
		Long: `Delete a dtab, after asking.

Before it asks it shows the names in use that would be lost. Where there is no terminal to ask at it wants --yes, which
asks nobody, and deletes nothing if names in use would or might be lost, unless --force is given as well.

Exit codes: 0 deleted; 1 something failed, or the answer was no; 2 names in use would or might be lost; 64 the command
line is wrong, or there is nobody to ask.`,
		Args: arguments("NAME"), ValidArgsFunction: s.complete(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			unanswered := fault.Misused(fmt.Errorf("%s is not deleted: there is nobody to ask", args[0]), "--yes says that you are sure")
			if !yes && !isTerminal(cmd.InOrStdin()) {
				return unanswered
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				if _, err := c.get(ctx, args[0]); err != nil {
					return err
				}
				p, err := s.plan(ctx, cmd, c, question{dtab: args[0]})
				switch {
				case err != nil && yes && !force:
					return err
				case err != nil:
					talk(cmd, "No plan: %s.", err)
				default:
					planTable(cmd.ErrOrStderr(), p.risk().names)
				}
				r := p.risk()
				if yes && !force && len(r.names) > 0 {
					return fault.Found(fmt.Errorf("%s, so %s is not deleted", r.in(" in use"), args[0]), r.hint("--force deletes it nevertheless"))
				}
				if !yes {
					if err == nil {
						talk(cmd, "Without %s, %s (%s).", args[0], r.in(" in use"), p.seenBy())
					}
					fmt.Fprintf(cmd.ErrOrStderr(), "Delete %s and its history? [y/N] ", args[0])
					a := answer(ctx, cmd.InOrStdin())
					switch {
					case ctx.Err() != nil:
						talk(cmd, "")
						return fault.Failed(fmt.Errorf("%s is not deleted: %w", args[0], context.Cause(ctx)), "")
					case a == "": // not even a new line
						talk(cmd, "")
						return unanswered
					}
					if a = strings.ToLower(strings.TrimSpace(a)); a != "y" && a != "yes" {
						return fault.Failed(fmt.Errorf("%s is not deleted", args[0]), "answer y, or say --yes")
					}
				}
				if err := c.remove(ctx, args[0]); err != nil {
					return err
				}
				return s.wrote(cmd, args[0], "deleted", "", nil)
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "with --yes, delete even if names in use would or might be lost")
	return cmd
}

// answer reads a line, or nothing if ctx ends before.
func answer(ctx context.Context, r io.Reader) string {
	line := make(chan string, 1)
	go func() { // for as long as the program runs, if nobody answers
		text, _ := bufio.NewReader(r).ReadString('\n')
		line <- text
	}()
	select {
	case text := <-line:
		return text
	case <-ctx.Done():
		return ""
	}
}

// isTerminal reports whether somebody may sit at r.
func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
