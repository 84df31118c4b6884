package dtab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/naming"
)

// plan is what a dtab would change, as one replica of the namer says or several of them together:
// each knows the names of the proxies that are connected to it.
type plan struct {
	Version string    `json:"version"`
	Names   []planned `json:"names"`
	// Partial says that there are replicas whose names are not in it.
	Partial bool `json:"partial,omitempty"`

	asked   []string // replicas that the names are of
	missing []absence
}

// absence is a replica whose names a plan does without.
type absence struct {
	name string
	err  error
}

// planned is what a dtab would change for one name.
type planned struct {
	Path    string `json:"path"`
	Caller  string `json:"caller,omitempty"`
	Before  []leaf `json:"before"`
	After   []leaf `json:"after"`
	Lost    bool   `json:"lost"`
	Changed bool   `json:"changed"`
	Reason  string `json:"reason,omitempty"`
}

// leaf is one replica set, and the share of requests that it gets.
type leaf struct {
	ID    string  `json:"id"`
	Share float64 `json:"share"`
}

// question is what a plan is asked for.
type question struct {
	dtab   string
	next   naming.Dtab
	paths  []string // beside the names in use
	caller string   // of the paths
}

// plan asks one replica what a dtab would change.
func (c *client) plan(ctx context.Context, q question) (p plan, err error) {
	query := url.Values{"path": q.paths}
	if q.caller != "" {
		query.Set("caller", q.caller)
	}
	text, _, err := c.do(ctx, http.MethodPost, "plan/"+q.dtab, query, nil, q.next.Exact())
	switch statusOf(err) {
	case http.StatusNotFound, http.StatusNotImplemented:
		return p, fault.Failed(errors.New("this namer makes no plans"), "with --force, apply writes without one")
	}
	if err != nil {
		return p, err
	}
	return p, decode(text, &p)
}

// agreeTries is how often replicas are asked that have different versions of a dtab: somebody wrote
// it between one question and the other, which all of them know at once.
const agreeTries = 3

// planOfAll asks all replicas and merges what they say. It fails if none answers.
func (c *client) planOfAll(ctx context.Context, q question) (plan, error) {
	replicas := append([]peer{{c.name, func(context.Context) (*client, func(), error) { return c, func() {}, nil }}}, c.others...)
	each := func(do func(i int)) {
		var group sync.WaitGroup
		for i := range replicas {
			group.Go(func() { do(i) })
		}
		group.Wait()
	}
	clients, plans, errs := make([]*client, len(replicas)), make([]plan, len(replicas)), make([]error, len(replicas))
	closeWays := make([]func(), len(replicas))
	each(func(i int) { clients[i], closeWays[i], errs[i] = replicas[i].open(ctx) })
	defer each(func(i int) {
		if clients[i] != nil {
			closeWays[i]()
		}
	})
	var first int
	for range agreeTries {
		each(func(i int) {
			if clients[i] != nil {
				plans[i], errs[i] = clients[i].plan(ctx, q)
			}
		})
		if first = slices.Index(errs, nil); first < 0 {
			return plan{}, errs[0]
		}
		agree := true
		for i := range plans {
			agree = agree && (errs[i] != nil || plans[i].Version == plans[first].Version)
		}
		if agree {
			break
		}
	}
	merged := plan{Version: plans[first].Version, Names: []planned{}}
	for i, p := range plans {
		if errs[i] == nil && p.Version != merged.Version {
			errs[i] = fmt.Errorf("it plans from version %s of %s, not from %s", dash(fault.Shown(p.Version)), q.dtab, dash(fault.Shown(merged.Version)))
		}
		if errs[i] != nil {
			merged.missing = append(merged.missing, absence{replicas[i].name, errs[i]})
			continue
		}
		merged.asked = append(merged.asked, replicas[i].name)
		merged.Names = append(merged.Names, p.Names...)
	}
	merged.Partial = len(merged.missing) > 0
	merged.Names = merge(merged.Names)
	return merged, nil
}

// merge sorts names and leaves one of those that are the same: the worst, since a replica that is
// not worried may only know less.
func merge(names []planned) []planned {
	weight := func(n planned) int {
		switch {
		case n.Lost:
			return 3
		case n.Changed:
			return 2
		case len(n.Before) > 0:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(names, func(a, b planned) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Caller, b.Caller), cmp.Compare(weight(b), weight(a)))
	})
	return slices.CompactFunc(names, func(a, b planned) bool { return a.Path == b.Path && a.Caller == b.Caller })
}

// plan asks all replicas, and warns of those whose names are missing.
func (s *session) plan(ctx context.Context, cmd *cobra.Command, c *client, q question) (plan, error) {
	p, err := c.planOfAll(ctx, q)
	for _, m := range p.missing {
		talk(cmd, "warning: names that only %s knows are missing: %v", m.name, m.err)
	}
	return p, err
}

// lost returns the names that would be lost.
func (p plan) lost() (all []planned) {
	for _, n := range p.Names {
		if n.Lost {
			all = append(all, n)
		}
	}
	return all
}

// summary counts what a plan says.
func (p plan) summary() string {
	if len(p.Names) == 0 {
		return "no name is in use; " + p.seenBy()
	}
	changed := 0
	for _, n := range p.Names {
		if n.Changed && !n.Lost {
			changed++
		}
	}
	return fmt.Sprintf("%s, %d changed, %d lost; %s", count(len(p.Names), "name"), changed, len(p.lost()), p.seenBy())
}

// seenBy says whose names they are.
func (p plan) seenBy() string {
	switch {
	case p.Partial:
		return fmt.Sprintf("partial: names seen by %d of %s", len(p.asked), count(len(p.asked)+len(p.missing), "controller"))
	case len(p.asked) == 1:
		return "names seen by " + p.asked[0]
	}
	return fmt.Sprintf("names seen by all %s", count(len(p.asked), "controller"))
}

func (s *session) planCommand() *cobra.Command {
	var (
		paths  []string
		caller string
	)
	cmd := &cobra.Command{
		Use:   "plan NAME FILE",
		Short: "Show what the rules of a file would change for each name in use",
		Long: `Show what the rules of a file would change for each name in use. Nothing is written.

The names are those that proxies use at the moment, and those that --path adds. Each controller knows those of the
proxies that are connected to it: through the cluster all that are ready are asked, with --namer only the one there. If
one cannot be asked, a warning names it and the plan is partial.

Exit codes: 0 nothing would be lost, 1 something failed, 2 requests that have somewhere to go now would not have any
more, 64 the command line is wrong.`,
		Example: `  tulle dtab plan default default.dtab
  tulle dtab plan default default.dtab --path /svc/world --caller shop`,
		Args: arguments("NAME", "FILE"), ValidArgsFunction: s.completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, path := range paths {
				if _, err := naming.ParsePath(path); err != nil {
					return fault.Misused(fmt.Errorf("--path %q is no name: %w", path, err), "a name is like /svc/world")
				}
			}
			next, err := readSource(cmd, args[1])
			if err != nil {
				return err
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				p, err := s.plan(ctx, cmd, c, question{args[0], next.Dtab, paths, caller})
				if err != nil {
					return err
				}
				if next.Version != "" && next.Version != p.Version {
					talk(cmd, "The file was made from another version of %s, so apply would refuse it: see tulle dtab history %s.", args[0], args[0])
				}
				if p.Version == "" {
					talk(cmd, "There is no dtab %s yet; apply would create it.", args[0])
				}
				talk(cmd, "%s: %s", args[0], p.summary())
				if len(p.Names) == 0 {
					talk(cmd, "So the plan says nothing; --path adds names.")
				}
				var changed []string
				for _, n := range p.Names {
					if n.Changed {
						changed = append(changed, n.Path)
					}
				}
				if err := s.print(cmd, p, changed, func(w io.Writer) { planTable(w, p.Names) }); err != nil {
					return err
				}
				if lost := p.lost(); len(lost) > 0 {
					return fault.Found(fmt.Errorf("%s would be lost", count(len(lost), "name")), "apply refuses this without --force")
				}
				return nil
			})
		},
	}
	cmd.Flags().StringArrayVar(&paths, "path", nil, "one more name, such as /svc/world; may be repeated")
	cmd.Flags().StringVar(&caller, "caller", "", "namespace of Kubernetes whose /caller the names of --path have")
	return cmd
}

func planTable(w io.Writer, names []planned) {
	if len(names) == 0 {
		return
	}
	columns(w, func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tCALLER\tNOW\tTHEN\tRESULT")
		for _, n := range names {
			result, then := "same", spread(n.After)
			switch {
			case n.Lost:
				result = "LOST: " + dash(fault.Shown(n.Reason))
			case n.Changed:
				result = "changed"
			}
			if !n.Changed && !n.Lost {
				then = "=" // as it is
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", fault.Shown(n.Path), dash(fault.Shown(n.Caller)), spread(n.Before), then, result)
		}
	})
}

// spread says where requests go.
func spread(leaves []leaf) string {
	var parts []string
	for _, l := range leaves {
		part := fault.Shown(l.ID)
		if l.Share < 1 {
			part = percent(l.Share) + " " + part
		}
		parts = append(parts, part)
	}
	return dash(strings.Join(parts, " + "))
}
