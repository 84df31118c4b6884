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
	// Omitted is how many uses there are of names that replicas take no note of.
	Omitted int `json:"omitted,omitempty"`

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
	Path    string   `json:"path"`
	Caller  string   `json:"caller,omitempty"`
	Dtab    string   `json:"dtab,omitempty"` // rules that are added by who uses it, now and then
	Before  []leaf   `json:"before"`
	After   []leaf   `json:"after"`
	Lost    bool     `json:"lost"`
	Changed bool     `json:"changed"`
	Unknown []string `json:"unknown,omitempty"` // before or after, or both, if namers have not said in time what that is
	Reason  string   `json:"reason,omitempty"`
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
		merged.Omitted += p.Omitted
	}
	merged.Partial = len(merged.missing) > 0
	merged.Names = merge(merged.Names)
	return merged, nil
}

// merge sorts names and leaves one of those that are the same: the worst of those that are known,
// since a replica that is not worried may only know less.
func merge(names []planned) []planned {
	weight := func(n planned) int {
		switch {
		case n.Lost:
			return 3
		case n.Unknown != nil:
			return -1
		case n.Changed:
			return 2
		case len(n.Before) > 0:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(names, func(a, b planned) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Caller, b.Caller), cmp.Compare(a.Dtab, b.Dtab), cmp.Compare(weight(b), weight(a)))
	})
	return slices.CompactFunc(names, func(a, b planned) bool { return a.Path == b.Path && a.Caller == b.Caller && a.Dtab == b.Dtab })
}

// plan asks all replicas, and warns of names that are missing.
func (s *session) plan(ctx context.Context, cmd *cobra.Command, c *client, q question) (plan, error) {
	p, err := c.planOfAll(ctx, q)
	for _, m := range p.missing {
		talk(cmd, "warning: names that only %s knows are missing: %v", m.name, m.err)
	}
	if p.Omitted > 0 {
		talk(cmd, "warning: up to %s in use are missing: a namer takes no note of very long ones, nor of more than 1000 with rules of their own", count(p.Omitted, "name"))
	}
	return p, err
}

// risk is what stops a write: names that would be lost, and those of which that is not known.
type risk struct {
	names         []planned
	lost, unknown int
}

// risk returns what requests that have somewhere to go now could lose that. Where a namer does not
// know that, proxies may still route to endpoints that it told them before.
func (p plan) risk() (r risk) {
	for _, n := range p.Names {
		before, after := slices.Contains(n.Unknown, "before"), slices.Contains(n.Unknown, "after")
		switch {
		case n.Lost:
			r.lost++
		case after && len(n.Before) > 0, before && !after && !whole(n.After):
			r.unknown++
		default:
			continue
		}
		r.names = append(r.names, n)
	}
	return r
}

// whole reports whether all requests go to these, but for what is lost by rounding.
func whole(leaves []leaf) bool {
	var sum float64
	for _, l := range leaves {
		sum += l.Share
	}
	return sum > 1-1e-4
}

// in says what would happen to names, whichever they are: in use, mostly.
func (r risk) in(which string) string {
	switch {
	case r.unknown == 0:
		return fmt.Sprintf("%s%s would be lost", count(r.lost, "name"), which)
	case r.lost == 0:
		return fmt.Sprintf("%s%s might be lost", count(r.unknown, "name"), which)
	}
	return fmt.Sprintf("%s%s would be lost, and %d more might be", count(r.lost, "name"), which, r.unknown)
}

// hint says what to do about it, of which more is the last resort.
func (r risk) hint(more string) string {
	if r.unknown == 0 {
		return more
	}
	return "a namer has not answered within two seconds, so try again; " + more
}

// summary counts what a plan says.
func (p plan) summary() string {
	if len(p.Names) == 0 {
		return "no name is in use; " + p.seenBy()
	}
	var changed, lost, unknown int
	for _, n := range p.Names {
		switch {
		case n.Lost:
			lost++
		case n.Unknown != nil:
			unknown++
		case n.Changed:
			changed++
		}
	}
	text := fmt.Sprintf("%s, %d changed, %d lost", count(len(p.Names), "name"), changed, lost)
	if unknown > 0 {
		text += fmt.Sprintf(", %d not known", unknown)
	}
	return text + "; " + p.seenBy()
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

A name is used with the rules of the dtab and, by some proxies, with rules of their own after these, from their
configuration or a request: these are listed below the table. Where a namer has not said within two seconds what a name
leads to, the name is not known.

Exit codes: 0 nothing would be lost, 1 something failed, 2 requests that have somewhere to go now would not have any
more, or that is not known, 64 the command line is wrong.`,
		Example: `  tulle dtab plan default default.dtab
  tulle dtab plan default default.dtab --path world --caller shop`,
		Args: arguments("NAME", "FILE"), ValidArgsFunction: s.completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			for i, text := range paths {
				path, err := readPath("--path ", text)
				if err != nil {
					return err
				}
				paths[i] = path
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
				if err := s.print(cmd, p, slices.Compact(changed), func(w io.Writer) { planTable(w, p.Names) }); err != nil {
					return err
				}
				if r := p.risk(); len(r.names) > 0 {
					return fault.Found(errors.New(r.in("")), r.hint("apply refuses this without --force"))
				}
				return nil
			})
		},
	}
	cmd.Flags().StringArrayVar(&paths, "path", nil, "one more name, such as /svc/world, or host, such as world; may be repeated")
	cmd.Flags().StringVar(&caller, "caller", "", "namespace of Kubernetes whose /caller the names of --path have")
	return cmd
}

func planTable(w io.Writer, names []planned) {
	if len(names) == 0 {
		return
	}
	var rules []string // that names come with; mostly none do
	for _, n := range names {
		if n.Dtab != "" && !slices.Contains(rules, n.Dtab) {
			rules = append(rules, n.Dtab)
		}
	}
	cells := func(name, caller, with string, more ...string) string {
		all := []string{name, caller}
		if len(rules) > 0 {
			all = append(all, with)
		}
		return strings.Join(append(all, more...), "\t")
	}
	columns(w, func(w io.Writer) {
		fmt.Fprintln(w, cells("NAME", "CALLER", "WITH", "NOW", "THEN", "RESULT"))
		for _, n := range names {
			with := "-"
			if i := slices.Index(rules, n.Dtab); i >= 0 {
				with = fmt.Sprintf("[%d]", i+1)
			}
			now, then, result := n.outcome()
			fmt.Fprintln(w, cells(fault.Shown(n.Path), dash(fault.Shown(n.Caller)), with, now, then, result))
		}
	})
	for i, text := range rules {
		fmt.Fprintf(w, "[%d] rules of who uses it, after those of the dtab: %s\n", i+1, fault.Shown(text))
	}
}

// outcome says where requests for a name go now and then, and what that is for them.
func (n planned) outcome() (now, then, result string) {
	now, then = spread(n.Before), spread(n.After)
	switch {
	case n.Lost:
		result = "LOST"
	case n.Unknown != nil:
		result = "not known"
		if slices.Contains(n.Unknown, "before") {
			now = "?"
		}
		if slices.Contains(n.Unknown, "after") {
			then = "?"
		}
	case n.Changed:
		result = "changed"
	default:
		then, result = "=", "same"
	}
	if n.Reason != "" && (len(n.After) == 0 || n.Lost || n.Unknown != nil) {
		result += ": " + fault.Shown(n.Reason)
	}
	return now, then, result
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
