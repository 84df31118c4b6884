package dtab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/naming"
)

// listed is a line of ls. Only the name is there if the namer has no history, as namerd.
type listed struct {
	Name    string     `json:"name"`
	Version string     `json:"version,omitempty"`
	Rules   *int       `json:"rules,omitempty"`
	Time    *time.Time `json:"time,omitempty"` // of the last write
	By      string     `json:"by,omitempty"`
}

func (s *session) lsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List the dtabs there are",
		Args:  arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				names, err := c.list(ctx)
				if err != nil {
					return err
				}
				slices.Sort(names)
				all := make([]listed, len(names))
				for i, name := range names {
					all[i] = listed{Name: name}
					if s.output == "name" {
						continue
					}
					// Who may list them may still not read each.
					if past, err := c.history(ctx, name); err == nil && len(past) > 0 {
						n := len(past[0].Dtab)
						all[i] = listed{name, past[0].Version, &n, &past[0].Time, past[0].By}
					} else if ctx.Err() != nil {
						return err
					}
				}
				if len(all) == 0 {
					talk(cmd, "There are no dtabs; tulle dtab create NAME FILE makes one.")
				}
				return s.print(cmd, all, names, func(w io.Writer) { listTable(w, all) })
			})
		},
	}
}

func listTable(w io.Writer, all []listed) {
	if len(all) == 0 {
		return
	}
	columns(w, func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tRULES\tCHANGED\tBY")
		for _, l := range all {
			rules, changed := "-", "-"
			if l.Rules != nil {
				rules, changed = fmt.Sprint(*l.Rules), stamp(*l.Time)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", fault.Shown(l.Name), rules, changed, dash(fault.Shown(l.By)))
		}
	})
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// stored is a dtab in JSON, as namerctl has it.
type stored struct {
	Version string      `json:"version"`
	Dtab    naming.Dtab `json:"dtab"`
}

func (s *session) getCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Aliases: []string{"cat"},
		Short: "Print a dtab, in a form that apply reads",
		Example: `  tulle dtab get default >default.dtab
  tulle dtab get default -o json`,
		Args: arguments("NAME"), ValidArgsFunction: s.complete(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				now, err := c.get(ctx, args[0])
				if err != nil {
					return err
				}
				return s.print(cmd, stored(now), args, func(w io.Writer) { io.WriteString(w, pretty(now.Version, now.Dtab)) })
			})
		},
	}
}

// change is a revision, and what it was that changed with it.
type change struct {
	revision
	Rules   int      `json:"rules"`
	Changes []string `json:"changes"` // "- rule" and "+ rule"
}

func (s *session) historyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "history NAME",
		Short: "Show who wrote a dtab when, and what",
		Args:  arguments("NAME"), ValidArgsFunction: s.complete(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				past, err := c.history(ctx, args[0])
				if err != nil {
					return err
				}
				all, versions := make([]change, len(past)), make([]string, len(past))
				for i, p := range past {
					all[i], versions[i] = change{p, len(p.Dtab), []string{}}, p.Version
					if i+1 < len(past) {
						all[i].Changes = difference(past[i+1].Dtab, p.Dtab)
					}
				}
				return s.print(cmd, all, versions, func(w io.Writer) { historyTable(w, all) })
			})
		},
	}
}

func historyTable(w io.Writer, all []change) {
	row := func(c change) string {
		return fmt.Sprintf("%s\t%s\t%d\t%s\n", fault.Shown(c.Version), stamp(c.Time), c.Rules, dash(fault.Shown(c.By)))
	}
	// The lines between must not be columns.
	var aligned strings.Builder
	columns(&aligned, func(w io.Writer) {
		fmt.Fprintln(w, "VERSION\tWRITTEN\tRULES\tBY")
		for _, c := range all {
			io.WriteString(w, row(c))
		}
	})
	lines := strings.SplitAfter(aligned.String(), "\n")
	io.WriteString(w, lines[0])
	for i, c := range all {
		io.WriteString(w, lines[i+1])
		for _, line := range c.Changes {
			fmt.Fprintf(w, "  %s\n", line)
		}
	}
}

// difference says by which rules two dtabs differ; one that moved is taken away and added.
func difference(before, after naming.Dtab) []string {
	text := func(d naming.Dtab) (all []string) {
		for _, rule := range d {
			prefix, dst := sides(rule)
			all = append(all, prefix+" => "+dst)
		}
		return all
	}
	a, b := text(before), text(after)
	common := make([][]int, len(a)+1) // how many rules of a[i:] and b[j:] can stay
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	lines := []string{}
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, "- "+a[i])
			i++
		default:
			lines = append(lines, "+ "+b[j])
			j++
		}
	}
	return lines
}

func (s *session) resolveCommand() *cobra.Command {
	var caller, extra string
	cmd := &cobra.Command{
		Use:   "resolve NAME PATH",
		Short: "Explain what a name means, rule by rule",
		Long: `Explain what a name means, rule by rule.

PATH is a name such as /svc/world, or the host of a request, which is the same as /svc/HOST. Where requests go is
marked with *, and their share if it is not all of them.

Exit codes: 0 requests go somewhere, 1 something failed, 2 they go nowhere, 64 the command line is wrong.`,
		Example: `  tulle dtab resolve default world --caller shop
  tulle dtab resolve default /svc/world --dtab '/host/world => /srv/world-v2'`,
		Args: arguments("NAME", "PATH"),
		ValidArgsFunction: s.complete(func(ctx context.Context, c *client, name string) (paths []string) {
			now, err := c.get(ctx, name)
			if err != nil {
				return nil
			}
			p, err := c.planOfAll(ctx, question{dtab: name, next: now.Dtab})
			if err != nil {
				return nil
			}
			for _, n := range p.Names {
				paths = append(paths, n.Path)
			}
			return slices.Compact(paths)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := readPath("", args[1])
			if err != nil {
				return err
			}
			rules, err := readText(cmd.ErrOrStderr(), "--dtab", extra)
			if err != nil {
				return fault.Misused(err, parseHint)
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				d, err := c.delegate(ctx, args[0], path, caller, rules.Dtab)
				if err != nil {
					return err
				}
				ways := chosen(&d)
				if err := s.print(cmd, d, ways.ids(), func(w io.Writer) { explain(w, &d, ways) }); err != nil {
					return err
				}
				if len(ways) > 0 {
					return nil
				}
				if _, err := c.get(ctx, args[0]); err != nil {
					return err // perhaps there is none
				}
				return nowhere(&d, path)
			})
		},
	}
	cmd.Flags().StringVar(&caller, "caller", "", "namespace of Kubernetes whose /caller it is")
	cmd.Flags().StringVar(&extra, "dtab", "", "rules that are added, as l5d-dtab of a request would")
	return cmd
}

// nowhere says why a name leads nowhere, as far as is known.
func nowhere(d *naming.Delegation, path string) error {
	if d.Message != "" && d.Type != naming.NodeException {
		return fault.Failed(fmt.Errorf("%s is explained in part only, and not where it leads: %s", path, d.Message), "are there rules that lead back to themselves?")
	}
	why := "no rule and no namer answers it"
	switch t, err := d.BoundTree(); {
	case err != nil && strings.HasPrefix(err.Error(), "Max recursion level"):
		why = "rules lead it back to itself, or through too many steps"
	case err != nil:
		why = err.Error()
	case t.Kind == naming.BoundPending:
		why = "a namer has not answered yet"
	case t.Kind == naming.BoundFail:
		why = "a rule says that it fails: !"
	case t.Kind == naming.BoundEmpty:
		why = "a rule says that it has no endpoints: $"
	}
	return fault.Found(errors.New(path+" leads nowhere: "+why), "the lines above with ~, ! or $ are where it ends; docs/names.md says what they mean")
}
