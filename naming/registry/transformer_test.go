package registry_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
)

const (
	k       = "/#/io.l5d.k8s/"
	proxies = "10.1.1.2:4141@a 10.1.2.2:4141@b"
)

// bind binds a path without rules, applies transformers and prints what comes out, with the
// replica sets of the leaves.
func (w *world) bind(p string, t *registry.Transformation) string {
	w.Helper()
	resolve := w.Resolver(w.state)
	d, err := naming.ParseDtab("/two => " + k + "shop/http/cart & 3*" + k + "shop/http/web ; /half => " + k + "shop/http/cart & $")
	if err != nil {
		w.Fatal(err)
	}
	tree, err := naming.Bind(d, path(w, p), resolve)
	if err == nil {
		tree, err = t.Apply(tree, resolve)
	}
	if err != nil {
		return err.Error()
	}
	return w.tree(tree)
}

func (w *world) tree(t naming.BoundTree) string {
	switch t.Kind {
	case naming.BoundLeaf:
		s := t.Leaf.ID.String()
		if len(t.Leaf.Residual) > 0 {
			s += " + " + t.Leaf.Residual.String()
		}
		return s + " = " + w.replicasOf(t.Leaf.ID.String())
	case naming.BoundUnion:
		var all []string
		for _, b := range t.Branches {
			all = append(all, fmt.Sprintf("%v*(%s)", b.Weight, w.tree(b.Tree)))
		}
		return strings.Join(all, " & ")
	}
	return [...]string{"pending", "neg", "fail", "empty"}[t.Kind]
}

func (w *world) transformation(text string) *registry.Transformation {
	w.Helper()
	t, err := w.Transformation(readTransformers(w, text))
	if err != nil {
		w.Fatal(err)
	}
	return t
}

// Every transformer, on an interpreter and on a namer. The place is node b, 10.1.2.2, and
// 10.1.1.7 is an address of this machine.
func TestTransformers(t *testing.T) {
	const cart = "#/io.l5d.k8s/shop/http/cart"
	for _, c := range []struct{ transformers, prefix, want string }{
		{"[{kind: io.l5d.k8s.daemonset, namespace: mesh, port: incoming, service: l5d}]", "/%/io.l5d.k8s.daemonset/mesh/incoming/l5d/", proxies},
		{"[{kind: io.l5d.k8s.daemonset, namespace: mesh, port: incoming, service: l5d, prefix: /via, hostNetwork: true}]", "/%/via/", proxies},
		{"[{kind: io.l5d.k8s.localnode}]", "/%/io.l5d.k8s.localnode/10.1.2.2/", "10.1.2.9:80@b"},
		{"[{kind: io.l5d.k8s.localnode, hostNetwork: true}]", "/%/io.l5d.k8s.localnode/b/", "10.1.2.9:80@b"},
		{"[{kind: io.l5d.localhost}]", "/%/io.l5d.localhost/", "10.1.1.7:80@a"},
		{"[{kind: io.l5d.port, port: 9000}]", "/%/io.l5d.port/9000/", "10.1.1.7:9000@a 10.1.1.8:9000@a 10.1.2.9:9000@b"},
		{"[{kind: io.l5d.specificHost, host: 10.1.1.8}]", "/%/io.l5d.specificHost/10.1.1.8/", "10.1.1.8:80@a"},
		{"[{kind: io.l5d.specificHost, host: 10.9.9.9}]", "/%/io.l5d.specificHost/10.9.9.9/", "neg"}, // bound all the same
		{"[{kind: io.l5d.k8s.localnode}, {kind: io.l5d.port, port: 9000}]", "/%/io.l5d.port/9000/%/io.l5d.k8s.localnode/10.1.2.2/", "10.1.2.9:9000@b"},
		{"[{kind: io.l5d.port, port: 9000}, {kind: io.l5d.k8s.localnode}]", "/%/io.l5d.k8s.localnode/10.1.2.2/%/io.l5d.port/9000/", "10.1.2.9:9000@b"},
	} {
		w := newWorld(t, "[{kind: io.l5d.k8s}, {kind: io.l5d.k8s, prefix: /t, transformers: "+c.transformers+"}]")
		w.source.set(k+"shop/http/cart", here)
		w.source.set(k+"mesh/incoming/l5d", proxies)
		w.source.set(k+"shop/http/none", "neg")
		transformation := w.transformation(c.transformers)
		if got, want := w.bind("/"+cart+"/x", transformation), c.prefix+cart+" + /x = "+c.want; got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.transformers, got, want)
		}
		if got, want := w.bind("/#/t/shop/http/cart/x", nil), c.prefix+"#/t/shop/http/cart + /x = "+c.want; got != want {
			t.Errorf("%s of a namer:\n got %s\nwant %s", c.transformers, got, want)
		}
		if got := transformation.String() + "/"; got != c.prefix {
			t.Errorf("%s prints %s", c.transformers, got)
		}
		for name, want := range map[string]string{"/" + k[1:] + "shop/http/none": "neg", "/#/t/shop/http/none": "neg", "/$/fail": "fail", "/$/nil": "empty", "/#/t/shop/http/web": "pending"} {
			if got := w.bind(name, transformation); got != want {
				t.Errorf("%s of %s is %s, want %s", c.transformers, name, got, want)
			}
		}
		// Nobody was asked whether anything is left: that is no reason for an alternative.
		for _, id := range w.asked {
			if strings.HasPrefix(id, "/%") {
				t.Errorf("%s: asked for %s", c.transformers, id)
			}
		}
		w.source.unused(t)
	}
}

// A namer and an interpreter may both transform.
func TestTransformersOfBoth(t *testing.T) {
	w := newWorld(t, "[{kind: io.l5d.k8s, transformers: [{kind: io.l5d.k8s.localnode}]}]")
	w.source.set(k+"shop/http/cart", here)
	w.source.set(k+"shop/http/web", "10.1.2.5:81@b")
	port := w.transformation("[{kind: io.l5d.port, port: 9000}]")
	const outer, inner = "/%/io.l5d.port/9000", "/%/io.l5d.k8s.localnode/10.1.2.2"
	if got, want := w.bind("/two", port), "1*("+outer+inner+k+"shop/http/cart = 10.1.2.9:9000@b) & 3*("+outer+inner+k+"shop/http/web = 10.1.2.5:9000@b)"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestConstAndReplace(t *testing.T) {
	const other = k + "mesh/http/other"
	w := newWorld(t, `
- kind: io.l5d.k8s
- {kind: io.l5d.k8s, prefix: /const, transformers: [{kind: io.l5d.const, path: /#/io.l5d.k8s/mesh/http/other}, {kind: io.l5d.port, port: 81}]}
- {kind: io.l5d.k8s, prefix: /replace, transformers: [{kind: io.l5d.replace, path: /#/io.l5d.k8s/mesh/http/other}]}
- {kind: io.l5d.k8s, prefix: /fail, transformers: [{kind: io.l5d.replace, path: /$/fail}]}
- {kind: io.l5d.k8s, prefix: /circle, transformers: [{kind: io.l5d.const, path: /#/circle/a/b/c}]}
- {kind: io.l5d.k8s, prefix: /wrong, transformers: [{kind: io.l5d.const, path: /$/wrong}]}
`)
	w.source.set(k+"shop/http/cart", here)
	w.source.set(k+"shop/http/web", here)
	w.source.set(k+"shop/http/none", "neg")
	w.source.set(k+"a/b/c", "neg")
	w.source.set(other, "10.0.0.1:80")
	const found = " = 10.0.0.1:80"
	constant, replace := w.transformation("[{kind: io.l5d.const, path: "+other+"}]"), w.transformation("[{kind: io.l5d.replace, path: "+other+"}]")
	nothing := w.transformation("[{kind: io.l5d.replace, path: /$/nil}]")
	for _, c := range []struct {
		name string
		t    *registry.Transformation
		want string
	}{
		{"/#/const/shop/http/cart", nil, "/%/io.l5d.port/81/%/io.l5d.const" + other + " = 10.0.0.1:81"},
		{"/#/const/shop/http/none", nil, "/%/io.l5d.port/81/%/io.l5d.const" + other + " = 10.0.0.1:81"},
		{"/#/replace/shop/http/cart", nil, "/%/io.l5d.replace" + other + found},
		{"/#/replace/shop/http/none", nil, "neg"},
		{"/#/fail/shop/http/cart", nil, "fail"},
		{"/#/circle/a/b/c", nil, "resolve /#/circle/a/b/c: the transformers io.l5d.const and io.l5d.replace of its namers lead in a circle"},
		{"/#/wrong/a/b/c", nil, "Unknown namer: wrong for path: /$/wrong"},
		{k + "shop/http/cart", constant, "/%/io.l5d.const" + other + found},
		{k + "shop/http/none", constant, "/%/io.l5d.const" + other + found},
		{"/$/fail", constant, "/%/io.l5d.const" + other + found},
		{"/two", constant, "/%/io.l5d.const" + other + found},
		{k + "shop/http/cart", replace, "/%/io.l5d.replace" + other + found},
		{k + "shop/http/none", replace, "neg"},
		{"/$/nil", replace, "empty"},
		{"/$/fail", replace, "fail"},
		{"/two", replace, "1*(/%/io.l5d.replace" + other + found + ") & 3*(/%/io.l5d.replace" + other + found + ")"},
		{"/half", replace, "1*(/%/io.l5d.replace" + other + found + ") & 1*(empty)"},
		{"/two", nothing, "1*(empty) & 3*(empty)"},
	} {
		if got := w.bind(c.name, c.t); got != c.want {
			t.Errorf("%s with %s:\n got %s\nwant %s", c.name, c.t, got, c.want)
		}
	}
}

// What a transformed set is made of changes, and so does it: the endpoints, the proxies, a
// namer that overlaps another.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `
- {kind: io.l5d.k8s, prefix: /x}
- {kind: io.l5d.k8s.external, prefix: /x}
`)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Registry.Run(ctx) }()
		daemonset := w.transformation("[{kind: io.l5d.k8s.daemonset, namespace: mesh, port: incoming, service: l5d}, {kind: io.l5d.port, port: 4142}]")
		const id = "/#/x/shop/http/cart"
		const external, plain, mesh = "/#/io.l5d.k8s.external/shop/http/cart", k + "shop/http/cart", k + "mesh/incoming/l5d"
		value, release := w.Replicas(daemonset.String() + id)
		again, releaseAgain := w.Replicas(daemonset.String() + id)
		raw, releaseRaw := w.Replicas(id)
		if again != value {
			t.Error("one id has two values")
		}
		sets := 0
		defer value.Notify(func() { sets++ })()
		expect := func(want, wantRaw string) {
			t.Helper()
			synctest.Wait()
			if got := text(value.Get()); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if got := text(raw.Get()); got != wantRaw {
				t.Errorf("without transformers: %s, want %s", got, wantRaw)
			}
		}
		expect("pending", "pending")
		w.source.set(plain, here)
		expect("pending", "pending")
		w.source.set(external, "neg")
		expect("pending", here)
		w.source.set(mesh, proxies)
		expect("10.1.1.2:4142@a 10.1.2.2:4142@b", here)
		w.source.set(mesh, "10.1.2.2:4141@b")
		expect("10.1.2.2:4142@b", here)
		w.source.set(plain, "10.1.1.7:80@a")
		expect("neg", "10.1.1.7:80@a")
		w.source.set(mesh, "10.1.1.3:4141@a")
		expect("10.1.1.3:4142@a", "10.1.1.7:80@a")
		w.source.set(external, "10.1.2.5:80@b")
		expect("neg", "10.1.2.5:80@b")
		before := sets
		w.source.set(plain, here) // which does not count now
		if expect("neg", "10.1.2.5:80@b"); sets != before {
			t.Error("a value was set that is equal")
		}
		release()
		release()
		w.source.set(external, "neg")
		expect("10.1.1.3:4142@a", here)
		releaseAgain()
		releaseRaw()
		w.source.unused(t)
		w.source.set(external, "10.1.2.5:80@b") // nobody is told
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Prefixes that mean two things are refused, whoever has them.
func TestPrefixesOfTransformers(t *testing.T) {
	w := newWorld(t, "[{kind: io.l5d.k8s, transformers: [{kind: io.l5d.port, port: 80, prefix: /p}]}]")
	for transformers, ok := range map[string]bool{
		"[{kind: io.l5d.port, port: 80, prefix: /p}]":   true,
		"[{kind: io.l5d.port, port: 81, prefix: /p}]":   false,
		"[{kind: io.l5d.localhost, prefix: /p}]":        false,
		"[{kind: io.l5d.port, port: 81, prefix: /p/q}]": true,
		"[{kind: io.l5d.const, path: /$/inet/80}]":      true,
		"[{kind: io.l5d.const, path: /$/inet/81}]":      true, // the name says which
	} {
		if _, err := w.Transformation(readTransformers(t, transformers)); (err == nil) != ok {
			t.Errorf("%s: %v", transformers, err)
		}
	}
	if nothing, err := w.Transformation(nil); nothing != nil || err != nil || nothing.String() != "" {
		t.Errorf("no transformers are %v, %v", nothing, err)
	}
}

// Where somebody else binds names, ids are theirs, whatever they look like, and the registry
// has but its own transformers.
func TestRemote(t *testing.T) {
	s := newSource()
	r, err := registry.New(registry.Config{Remote: true, Source: s})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, Registry: r, source: s}
	const theirs, changed, host = "/#/edge/cart", "/%/io.l5d.port/99/#/edge/cart", "/$/inet/example.org/80"
	for id, set := range map[string]string{theirs: "10.0.0.1:80@a", changed: "10.0.0.1:99@a", host: "10.0.0.2:80", "/#/edge/none": "neg"} {
		s.set(id, set)
		if got := w.replicasOf(id); got != set {
			t.Errorf("%s is %s, want %s", id, got, set)
		}
	}
	port := w.transformation("[{kind: io.l5d.port, port: 9000}]")
	constant := w.transformation("[{kind: io.l5d.const, path: " + theirs + "}]")
	none := w.transformation("[{kind: io.l5d.replace, path: /#/edge/none}]")
	pending := w.transformation("[{kind: io.l5d.const, path: /#/edge/new}]")
	for _, c := range []struct {
		id   string
		t    *registry.Transformation
		want string
	}{
		{theirs, port, "/%/io.l5d.port/9000/#/edge/cart = 10.0.0.1:9000@a"},
		{changed, port, "/%/io.l5d.port/9000/%/io.l5d.port/99/#/edge/cart = 10.0.0.1:9000@a"},
		{host, port, "/%/io.l5d.port/9000" + host + " = 10.0.0.2:9000"},
		{host, constant, "/%/io.l5d.const/#/edge/cart = 10.0.0.1:80@a"},
		{host, none, "neg"},
		{host, pending, "pending"},
	} {
		tree, err := c.t.Apply(naming.Bound{ID: path(w, c.id)}.Tree(), w.Resolver(w.state))
		if err != nil {
			t.Errorf("%s with %s: %v", c.id, c.t, err)
		} else if got := w.tree(tree); got != c.want {
			t.Errorf("%s with %s:\n got %s\nwant %s", c.id, c.t, got, c.want)
		}
	}
	s.unused(t)
}
