package bind

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// Whoever invents overrides pushes out other overrides, never a plain name, nor what
// that follows.
func TestGuestsEvictNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := newWorld()
		names.set("80/keep", naming.StateBound)
		b := start(t, Config{Dtab: watch.New(dtab(t, base)), Names: names.names(), Paths: 10})
		b.furnish(perName * 10)
		keep := name(t, b, "ns", "keep", nil)
		want := leaf(t, keep)
		for i := range 200 {
			names.set(fmt.Sprintf("80/s%d", i), naming.StateBound)
			n := name(t, b, "ns", "keep", *dtab(t, fmt.Sprintf("/host/keep => /srv/s%d", i)))
			tree, err := n.Resolve(t.Context())
			if err != nil || tree.Kind == naming.BoundPending {
				t.Fatalf("override %d: %v %v", i, tree, err)
			}
			if !slices.Equal(kept(b, b.names), []*Name{keep}) || len(kept(b, b.guests)) > 10 {
				t.Fatalf("after %d overrides there are %d names and %d guests", i+1, len(kept(b, b.names)), len(kept(b, b.guests)))
			}
		}
		if name(t, b, "ns", "keep", nil) != keep || leaf(t, keep) != want || keep.current() == nil {
			t.Error("the plain name is another")
		}
		b.mu.Lock()
		n := len(b.follows)
		b.mu.Unlock()
		if n > perName*10 {
			t.Errorf("%d names are followed", n)
		}
		if all := b.InUse(); len(all) != 1 || all[0].Path != "/svc/keep" {
			t.Errorf("in use are %v", all)
		}
		time.Sleep(DefaultIdleTTL + 2*time.Minute)
		synctest.Wait()
		if len(kept(b, b.guests)) != 0 || names.followed() != 0 {
			t.Errorf("after a long pause there are %d guests, and %d names are followed", len(kept(b, b.guests)), names.followed())
		}
	})
}

// The overrides of one name do not hang in one chain, which each look-up would have
// to walk.
func TestGuestsAreSpread(t *testing.T) {
	b := New(Config{Dtab: watch.New(dtab(t, base)), Names: newWorld().names()})
	for i := range DefaultPaths {
		name(t, b, "ns", "world", *dtab(t, fmt.Sprintf("/host/world => /srv/s%d", i)))
	}
	longest := 0
	for i := range b.guests.chains {
		length := 0
		for n := b.guests.chains[i].Load(); n != nil; n = n.next.Load() {
			length++
		}
		longest = max(longest, length)
	}
	if longest > 20 {
		t.Errorf("%d of %d names hang in one chain", longest, DefaultPaths)
	}
}

// Rules that are stored count for less than the base, and are waited for.
func TestStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names, stored := newWorld(), watch.New[*naming.Dtab](nil)
		for _, s := range []string{"80/world", "80/v2", "80/v3"} {
			names.set(s, naming.StateBound)
		}
		rules := watch.New(dtab(t, ""))
		b := start(t, Config{Dtab: rules, Stored: stored, Names: names.names()})
		go func() {
			time.Sleep(time.Second) // virtual
			stored.Set(dtab(t, base))
		}()
		began := time.Now()
		n := name(t, b, "ns", "world", nil)
		if got := leaf(t, n); got != "/#/io.l5d.k8s/ns/80/world" || time.Since(began) != time.Second {
			t.Errorf("got %s after %s", got, time.Since(began))
		}
		stored.Set(dtab(t, base+"; /host/world => /srv/v2"))
		if got := leaf(t, n); got != "/#/io.l5d.k8s/ns/80/v2" {
			t.Errorf("after the stored rules changed: %s", got)
		}
		rules.Set(dtab(t, "/host/world => /srv/v3"))
		if got := leaf(t, n); got != "/#/io.l5d.k8s/ns/80/v3" {
			t.Errorf("the base must win over the stored: %s", got)
		}
		over := name(t, b, "ns", "world", *dtab(t, "/host/world => /srv/world"))
		if got := leaf(t, over); got != "/#/io.l5d.k8s/ns/80/world" {
			t.Errorf("the override must win over both: %s", got)
		}
		if b.Stored().String() != canonical(t)+";/host/world=>/srv/v2" || b.Base().String() != "/host/world=>/srv/v3" {
			t.Errorf("shown are %s and %s", b.Stored(), b.Base())
		}
	})
}

// canonical is base in canonical form.
func canonical(t *testing.T) string { return dtab(t, base).String() }

// prefixing puts a prefix in front of each id, once it is told to.
type prefixing struct{ err error }

func (p *prefixing) Apply(t naming.BoundTree, _ naming.Resolver) (naming.BoundTree, error) {
	if p.err != nil {
		return naming.BoundTree{}, p.err
	}
	return t.Map(func(b naming.Bound) naming.BoundTree {
		b.ID = append(naming.Path{"%", "test"}, b.ID...)
		return b.Tree()
	}), nil
}

func TestTransform(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names, transform := newWorld(), &prefixing{}
		names.set("80/world", naming.StateBound)
		names.set("80/v2", naming.StateBound)
		b := start(t, Config{Dtab: watch.New(dtab(t, base+"; /host/both => /srv/world & /srv/v2")), Names: names.names(), Transform: transform})
		n := name(t, b, "ns", "world", nil)
		if got := leaf(t, n); got != "/%/test/#/io.l5d.k8s/ns/80/world" {
			t.Errorf("got %s", got)
		}
		if tree, err := name(t, b, "ns", "both", nil).Resolve(t.Context()); err != nil || len(tree.Branches) != 2 {
			t.Errorf("a union became %v, %v", tree, err)
		}
		want := []string{"/%/test/#/io.l5d.k8s/ns/80/v2", "/%/test/#/io.l5d.k8s/ns/80/world"}
		if all := b.InUse(); len(all) != 2 || all[0].Path != "/svc/both" || !slices.Equal(all[0].Bound, want) || all[0].Namespace != "ns" {
			t.Errorf("in use are %v", all)
		}
		id := naming.Path{"%", "test", "#", "io.l5d.k8s", "ns", "80", "world"}
		steps := n.Explain(id)
		if len(steps) < 3 || steps[0].Path != "/svc/world" || steps[len(steps)-1].Path != "/#/io.l5d.k8s/ns/80/world" {
			t.Errorf("the steps are %v", steps)
		}
		transform.err = errors.New("it does not work")
		b.moved()
		if _, err := n.Resolve(t.Context()); !errors.Is(err, transform.err) {
			t.Errorf("the transformer failed, and the name with %v", err)
		}
	})
}

// elsewhere evaluates names as it is told.
type elsewhere struct {
	mu      sync.Mutex
	asked   []string
	open    int
	tree    naming.BoundTree
	err     error
	changed []func()
}

func (e *elsewhere) Bind(path naming.Path, rules naming.Dtab, changed func()) (func() (naming.BoundTree, error), func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, path.String()+" "+rules.String())
	e.open++
	e.changed = append(e.changed, changed)
	get := func() (naming.BoundTree, error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.tree, e.err
	}
	return get, func() { e.mu.Lock(); defer e.mu.Unlock(); e.open-- }
}

func (e *elsewhere) say(tree naming.BoundTree, err error) {
	e.mu.Lock()
	e.tree, e.err = tree, err
	all := slices.Clone(e.changed)
	e.mu.Unlock()
	for _, changed := range all {
		changed()
	}
}

// seen returns what it was asked, and how many names are followed.
func (e *elsewhere) seen() ([]string, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.asked), e.open
}

func TestRemote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote, rules := &elsewhere{}, watch.New(dtab(t, "/a => /b"))
		b := start(t, Config{Dtab: rules, Names: newWorld().names(), Remote: remote, Prefix: naming.Path{"http"}})
		at := func(id string) naming.BoundTree { return naming.Bound{ID: naming.Path{"#", id}}.Tree() }
		go func() {
			time.Sleep(time.Second) // virtual
			remote.say(at("one"), nil)
		}()
		n, began := name(t, b, "ns", "world", *dtab(t, "/c => /d")), time.Now()
		if got := leaf(t, n); got != "/#/one" || time.Since(began) != time.Second {
			t.Errorf("got %s after %s", got, time.Since(began))
		}
		remote.say(at("two"), nil)
		if got := leaf(t, n); got != "/#/two" {
			t.Errorf("after a change: %s", got)
		}
		fault := errors.New("it is away")
		remote.say(naming.BoundTree{}, fault)
		if _, err := n.Resolve(t.Context()); !errors.Is(err, fault) {
			t.Errorf("its fault became %v", err)
		}
		remote.say(at("three"), nil)
		rules.Set(dtab(t, "/e => /f"))
		if got := leaf(t, n); got != "/#/three" {
			t.Errorf("by other rules: %s", got)
		}
		want := []string{"/http/world /a=>/b;/c=>/d", "/http/world /e=>/f;/c=>/d"}
		if asked, open := remote.seen(); !slices.Equal(asked, want) || open != 1 {
			t.Errorf("it was asked for %q, %d are open", asked, open)
		}
		if n.Explain(naming.Path{"#", "three"}) != nil {
			t.Error("somebody else's steps are known")
		}
		time.Sleep(DefaultIdleTTL + 2*time.Minute)
		synctest.Wait()
		if _, open := remote.seen(); open != 0 {
			t.Errorf("after a long pause %d are open", open)
		}
		if got := leaf(t, n); got != "/#/three" { // kept by somebody who has a request under way
			t.Errorf("a forgotten name: %s", got)
		}
		if _, open := remote.seen(); open != 0 {
			t.Errorf("after that %d are open", open)
		}
	})
}

func TestInUse(t *testing.T) {
	names := newWorld()
	names.set("80/world", naming.StateBound)
	added := 0
	b := New(Config{Dtab: watch.New(dtab(t, base)), Names: names.names(), Added: func() { added++ }})
	_ = leaf(t, name(t, b, "ns", "world", nil))
	_ = leaf(t, name(t, b, "ns", "/world", nil)) // another name for the same
	_ = leaf(t, name(t, b, "ns", "world", nil))
	name(t, b, "other", "world", nil)
	name(t, b, "a", `/x/\x79`, nil)
	name(t, b, "a", "world", *dtab(t, "/x=>/y"))
	if added != 4 {
		t.Errorf("%d names are said to be added", added)
	}
	var got []string
	for _, u := range b.InUse() {
		got = append(got, fmt.Sprint(u.Namespace, " ", u.Path, " ", u.Bound))
	}
	want := []string{"a /svc/x/y []", "ns /svc/world [/#/io.l5d.k8s/ns/80/world]", "ns /svc/world [/#/io.l5d.k8s/ns/80/world]", "other /svc/world []"}
	if !slices.Equal(got, want) {
		t.Errorf("in use are %q, want %q", got, want)
	}
	if _, err := b.Name("ns", []byte("/a//b"), nil, at); err == nil || !strings.Contains(err.Error(), "found at") {
		t.Errorf("what is no path: %v", err)
	}
}

// Names that are replaced are asked anew; what is followed of the old ones goes once
// the new ones are.
func TestNamesAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newWorld(), newWorld()
		first.set("80/world", naming.StateBound)
		meaning := watch.New[Names](nil)
		b := start(t, Config{Dtab: watch.New(dtab(t, base)), Names: meaning})
		go func() {
			time.Sleep(time.Second) // virtual
			meaning.Set(first)
		}()
		n, began := name(t, b, "ns", "world", nil), time.Now()
		if got := leaf(t, n); got != "/#/io.l5d.k8s/ns/80/world" || time.Since(began) != time.Second {
			t.Errorf("got %s after %s", got, time.Since(began))
		}
		second.set("80/world", naming.StateNeg)
		second.set("http/world", naming.StateBound)
		meaning.Set(second)
		if first.followed() == 0 {
			t.Error("the old ones are let go before the new ones are asked")
		}
		if got := leaf(t, n); got != "/#/io.l5d.k8s/ns/http/world" {
			t.Errorf("of the new names: %s", got)
		}
		first.set("80/world", naming.StateNeg)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := leaf(t, n); got != "/#/io.l5d.k8s/ns/http/world" || first.followed() != 0 || second.followed() == 0 {
			t.Errorf("%s; %d old and %d new names are followed", got, first.followed(), second.followed())
		}
	})
}

// The steps end with the name as a namer's own transformers leave it, or as it was before
// those of the interpreter.
func TestExplainTransformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newWorld()
		source.set("80/world", naming.StateBound)
		namers, err := registry.New(registry.Config{Source: source, Namers: []registry.Namer{
			{Kind: registry.Kubernetes, Prefix: naming.Path{"io.l5d.k8s"}},
			{Kind: registry.Kubernetes, Prefix: naming.Path{"both"}, Transformers: []registry.Transformer{
				{Kind: registry.Port, Port: "9102"}, {Kind: registry.SpecificHost, Host: "10.0.0.1"},
			}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		for id, want := range map[string]string{
			"/%/io.l5d.specificHost/10.0.0.1/%/io.l5d.port/9102/#/both/ns/80/world":        "/svc/both; /#/both/ns/80/world (/svc/both=>/#/both/ns/80/world)",
			"/%/test/%/io.l5d.specificHost/10.0.0.1/%/io.l5d.port/9102/#/both/ns/80/world": "/svc/both; /#/both/ns/80/world (/svc/both=>/#/both/ns/80/world)",
			"/%/test/#/io.l5d.k8s/ns/80/world":                                             "/svc/plain; /#/io.l5d.k8s/ns/80/world (/svc/plain=>/#/io.l5d.k8s/ns/80/world)",
			"/#/io.l5d.k8s/ns/80/world":                                                    "/svc/plain; /#/io.l5d.k8s/ns/80/world (/svc/plain=>/#/io.l5d.k8s/ns/80/world)",
			"/%/test/#/io.l5d.k8s/ns/80/other":                                             "",
		} {
			cfg := Config{Dtab: watch.New(dtab(t, "/svc/plain => /#/io.l5d.k8s/ns/80/world; /svc/both => /#/both/ns/80/world")), Names: watch.New[Names](namers)}
			if strings.HasPrefix(id, "/%/test") {
				cfg.Transform = &prefixing{}
			}
			b, service := start(t, cfg), "plain"
			if strings.Contains(id, "both") {
				service = "both"
			}
			n := name(t, b, "", service, nil)
			if got := leaf(t, n); want != "" && got != id {
				t.Errorf("%s is %s, want %s", service, got, id)
			}
			path, err := naming.ParsePath(id)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range n.Explain(path) {
				got = append(got, s.String())
			}
			if got := strings.Join(got, "; "); got != want {
				t.Errorf("to %s it goes by\n%s, want\n%s", id, got, want)
			}
		}
	})
}
