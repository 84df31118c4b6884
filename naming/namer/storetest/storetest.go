// Package storetest says what a namer.Store does, as one table that every store is held to.
//
// It is for what stores have in common. What one alone can do, such as being edited from
// elsewhere, is its own tests' business.
//
// Invariant: it knows of a store no more than the interface, so what passes can take another's place.
//
//	func TestStore(t *testing.T) {
//		store, err := namer.NewMemory(nil)
//		…
//		storetest.Test(t, store, true)
//	}
package storetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
)

// patience bounds the wait for what a watch is to tell.
const patience = 20 * time.Second

// What a step writes by: the version that there is, one that there was, and one that there never was.
const (
	now     = "now"
	before  = "before"
	strange = "strange"
)

// step is one thing that is done to the namespace "web".
type step struct {
	what  string
	do    string // create, put, update or delete
	rules string
	given string // the version that an update is guarded by
	err   error
	same  bool // it writes what is there
}

var steps = []step{
	{what: "delete nothing", do: "delete", err: namer.ErrNotFound},
	{what: "update nothing", do: "update", rules: "/a=>/b", given: strange, err: namer.ErrNotFound},
	{what: "create", do: "create", rules: "/a=>/b"},
	{what: "create what is there", do: "create", rules: "/a=>/c", err: namer.ErrExists},
	{what: "create the very same", do: "create", rules: "/a=>/b", err: namer.ErrExists},
	{what: "update", do: "update", rules: "/svc=>/c | !", given: now},
	{what: "update what has changed", do: "update", rules: "/a=>/d", given: before, err: namer.ErrVersion},
	{what: "update by a version from elsewhere", do: "update", rules: "/a=>/d", given: strange, err: namer.ErrVersion},
	{what: "put", do: "put", rules: "/a=>0.001*/x & 1.005*/y;/*/b=>~"},
	{what: "put the same", do: "put", rules: "/a=>0.001*/x & 1.005*/y;/*/b=>~", same: true},
	{what: "put the same in other words", do: "put", rules: "# as before\n /a => (.0010 * /x & 1.0050 * /y) ;\n /*/b=>~ ;", same: true},
	{what: "update to the same", do: "update", rules: "/a=>0.001*/x & 1.005*/y;/*/b=>~", given: now, same: true},
	{what: "update to the same what has changed", do: "update", rules: "/a=>0.001*/x & 1.005*/y;/*/b=>~", given: before, err: namer.ErrVersion},
	{what: "a weight that differs by little", do: "put", rules: "/a=>0.0010001*/x & 1.005*/y;/*/b=>~"},
	{what: "another order", do: "put", rules: "/*/b=>~;/a=>0.0010001*/x & 1.005*/y"},
	{what: "no rules", do: "put", rules: ""},
	{what: "no rules again", do: "put", rules: "", same: true},
	{what: "no rules, which are there", do: "create", rules: "", err: namer.ErrExists},
	{what: "what was there before", do: "update", rules: "/a=>/b", given: now},
	{what: "delete", do: "delete"},
	{what: "delete again", do: "delete", err: namer.ErrNotFound},
	{what: "put where there is nothing any more", do: "put", rules: "/a=>/b"},
	{what: "two", do: "put", rules: "/a=>/2"},
	{what: "three", do: "put", rules: "/a=>/3"},
	{what: "four", do: "put", rules: "/a=>/4"},
	{what: "five", do: "put", rules: "/a=>/5"},
	{what: "six", do: "put", rules: "/a=>/6"},
	{what: "seven", do: "put", rules: "/a=>/7"},
	{what: "eight", do: "put", rules: "/a=>/8"},
	{what: "nine", do: "put", rules: "/a=>/9"},
	{what: "ten", do: "put", rules: "/a=>/10"},
	{what: "the history is full", do: "put", rules: "/a=>/11"},
	{what: "and is not by the same", do: "put", rules: "/a=>/11", same: true},
}

// written is what a store should remember of a write.
type written struct{ version, by, rules string }

// Test holds a store that is empty, and runs, to the contract of namer.Store. every says that each
// write makes a version, that of what is there too. What it leaves behind is the namespace "web".
func Test(t *testing.T, s namer.Store, every bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	await(t, "the names at first", func(ctx context.Context) (any, error) {
		return s.Names().Wait(ctx, func(n []string) bool { return n != nil && len(n) == 0 })
	})
	watched, release := s.Watch("web")
	defer release()
	var history []written // newest first
	ever := map[string]bool{"": true}
	last := "" // the version before the present one
	for i, c := range steps {
		change := namer.Change{Dtab: parse(t, c.rules), By: "writer of " + c.what}
		present := ""
		if len(history) > 0 {
			present = history[0].version
		}
		given := map[string]string{now: present, before: last, strange: "no version of ours"}[c.given]
		var version string
		var err error
		switch c.do {
		case "create":
			version, err = s.Create(ctx, "web", change)
		case "put":
			version, err = s.Put(ctx, "web", change)
		case "update":
			version, err = s.Update(ctx, "web", change, given)
		case "delete":
			err = s.Delete(ctx, "web", change.By)
		}
		switch {
		case !errors.Is(err, c.err):
			t.Fatalf("%d, %s: got %q, %v; want error %v", i, c.what, version, err, c.err)
		case err != nil:
			if version != "" {
				t.Errorf("%d, %s: refused, with the version %q", i, c.what, version)
			}
		case c.do == "delete":
			history = nil
		case c.same && !every:
			if version != present {
				t.Errorf("%d, %s: a write of what is there made %q of %q", i, c.what, version, present)
			}
		default:
			if ever[version] {
				t.Fatalf("%d, %s: the version %q is used again", i, c.what, version)
			}
			ever[version], last = true, present
			history = append([]written{{version, change.By, change.Dtab.Exact()}}, history[:min(len(history), namer.MaxHistory-1)]...)
		}
		check(ctx, t, s, c.what, history)
		await(t, c.what+": the watch", func(ctx context.Context) (any, error) {
			return watched.Wait(ctx, func(v *namer.Versioned) bool {
				if len(history) == 0 {
					return v != nil && v.Version == "" && len(v.Dtab) == 0
				}
				return v != nil && v.Version == history[0].version && v.Dtab.Exact() == history[0].rules
			})
		})
	}
}

// check compares what a store answers with what was written.
func check(ctx context.Context, t *testing.T, s namer.Store, what string, want []written) {
	t.Helper()
	await(t, what+": the names", func(ctx context.Context) (any, error) {
		return s.Names().Wait(ctx, func(n []string) bool {
			return len(want) == 0 && n != nil && len(n) == 0 || len(want) > 0 && slices.Equal(n, []string{"web"})
		})
	})
	v, err := s.Get(ctx, "web")
	past, pastErr := s.History(ctx, "web")
	if len(want) == 0 {
		if !errors.Is(err, namer.ErrNotFound) || !errors.Is(pastErr, namer.ErrNotFound) {
			t.Errorf("%s: got %v, %v, and %d revisions, %v; want none", what, v, err, len(past), pastErr)
		}
		return
	}
	if err != nil || pastErr != nil {
		t.Fatalf("%s: %v, %v", what, err, pastErr)
	}
	if v.Version != want[0].version || v.Dtab.Exact() != want[0].rules {
		t.Errorf("%s: it has %s at %q, want %s at %q", what, v.Dtab.Exact(), v.Version, want[0].rules, want[0].version)
	}
	var got []written
	for _, r := range past {
		got = append(got, written{r.Version, r.By, r.Dtab.Exact()})
		if since := time.Since(r.Time); since < -time.Minute || since > 10*time.Minute {
			t.Errorf("%s: the history has a write of %s ago", what, since)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: the history is\n%q, want\n%q", what, got, want)
	}
}

func await(t *testing.T, what string, wait func(context.Context) (any, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if got, err := wait(ctx); err != nil {
		t.Fatalf("%s: still %+v", what, got)
	}
}

func parse(t *testing.T, rules string) naming.Dtab {
	t.Helper()
	d, err := naming.ParseDtab(rules)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
