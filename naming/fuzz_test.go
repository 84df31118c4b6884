package naming_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/naming"
)

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "/#/io.l5d.k8s/shop/http/cart", `/\x63\x61t`, " /a # x", "/a//b", `/\x`, "/é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := naming.ParsePath(s)
		if err != nil {
			checkParseError(t, s, err)
			return
		}
		q, err := naming.ParsePath(p.String())
		if err != nil || !q.Equal(p) {
			t.Fatalf("%q parses to %q, prints %s, parses to %q, %v", s, []string(p), p, []string(q), err)
		}
	})
}

func FuzzParseDtab(f *testing.F) {
	for _, s := range []string{
		"", "# x", "/a=>/b", "/svc => /a | /b & 2*/c ;\n/x/*/y => (~ | !) & $ ; # end", "/a => .5 * (/b|/c) & 3./d",
		"/a=>/b;;", "/a*=>/b", `/\x2a=>/\x2A`, "/=>/", "/a=>(((/b)))",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := naming.ParseDtab(s)
		if err != nil {
			checkParseError(t, s, err)
			return
		}
		printed := d.String()
		e, err := naming.ParseDtab(printed)
		if err != nil {
			t.Fatalf("%q prints %q, which does not parse: %v", s, printed, err)
		}
		if e.String() != printed {
			t.Fatalf("%q prints %q, then %q", s, printed, e)
		}
		if e, err = naming.ParseDtab(d.Exact()); err != nil || !reflect.DeepEqual(normal(e), normal(d)) {
			t.Fatalf("%q prints exactly %q, which parses to %#v, %v", s, d.Exact(), e, err)
		}
		// Whatever the rules, binding comes to an end.
		naming.Bind(d, naming.Path{"a", "b", "c"}, resolve)
	})
}

func FuzzDelegate(f *testing.F) {
	for _, s := range [][2]string{
		{"", "/ok1"}, {"/svc=>/a|/b; /a=>~; /b=>/ok1", "/svc/x"}, {"/svc=>/to/b & 9*(~ | $); /b=>/err | /wait; /to=>!", "/svc"}, {"/a=>/a/b & /a | /a", "/a"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, rules, path string) {
		p, err := naming.ParsePath(path)
		if err != nil {
			return
		}
		d, err := naming.ParseDtab(rules)
		if err != nil {
			return
		}
		explained := naming.Delegate(d, p, resolve)
		text := explained.JSON(replicas)
		if len(text) < 1<<16 { // what is nested deeply or long takes long to read
			checkReadsBack(t, text)
		}
		want, wantErr := naming.Bind(d, p, resolve)
		got, err := explained.BoundTree()
		if errors.Is(wantErr, naming.ErrWork) || strings.Contains(explained.Message, naming.ErrWork.Error()) {
			return
		}
		if (err == nil) != (wantErr == nil) || show(got) != show(want) {
			t.Fatalf("%s, %v; want %s, %v", show(got), err, show(want), wantErr)
		}
	})
}

// checkParseError holds what every error of a parser promises.
func checkParseError(t *testing.T, s string, err error) {
	var pe *naming.ParseError
	if !errors.As(err, &pe) {
		t.Fatalf("parse(%q) = %v, want a *ParseError", s, err)
	}
	if pe.Input != s || pe.Offset < 0 || pe.Offset > len(s) || pe.Expected == "" || (pe.Found == "end of input") != (pe.Offset == len(s)) {
		t.Fatalf("parse(%q) = %#v", s, pe)
	}
	_ = pe.Error()
}

// Generators of anything the types can hold, within what the language can say.

func genPath() *rapid.Generator[naming.Path] {
	element := rapid.OneOf(
		rapid.SampledFrom([]string{"a", "b", "ok1", "wait", "err", "#", "$", "%", "x.y:80"}),
		rapid.StringN(1, 4, 8),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 4), func(b []byte) string { return string(b) }),
	)
	return rapid.Map(rapid.SliceOfN(element, 0, 4), func(e []string) naming.Path { return e })
}

func genTree(depth int) *rapid.Generator[naming.Tree] {
	simple := []*rapid.Generator[naming.Tree]{
		rapid.Map(genPath(), func(p naming.Path) naming.Tree { return naming.Leaf(p) }),
		rapid.SampledFrom([]naming.Tree{naming.Neg, naming.Fail, naming.Empty}),
	}
	if depth == 0 {
		return rapid.OneOf(simple...)
	}
	return rapid.OneOf(append(simple,
		rapid.Map(rapid.SliceOfN(genTree(depth-1), 2, 3), func(t []naming.Tree) naming.Tree { return naming.Alt(t) }),
		rapid.Map(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) naming.Weighted {
			// Hundredths, the finest weights that survive String.
			return naming.Weighted{
				Weight: float64(rapid.IntRange(0, 1000).Draw(t, "hundredths")) / 100,
				Tree:   genTree(depth-1).Draw(t, "branch"),
			}
		}), 2, 3), func(w []naming.Weighted) naming.Tree { return naming.Union(w) }),
	)...)
}

func genDtab() *rapid.Generator[naming.Dtab] {
	return rapid.Custom(func(t *rapid.T) naming.Dtab {
		var d naming.Dtab
		for range rapid.IntRange(0, 4).Draw(t, "rules") {
			prefix := naming.Prefix(genPath().Draw(t, "prefix"))
			for i := range prefix {
				if rapid.IntRange(0, 3).Draw(t, "any") == 0 {
					prefix[i] = naming.Any
				}
			}
			d = append(d, naming.Dentry{Prefix: prefix, Dst: genTree(2).Draw(t, "dst")})
		}
		return d
	})
}

// What is printed parses to the same rules, not only to the same text.
func TestPrintedDtabParsesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := genDtab().Draw(t, "dtab")
		got, err := naming.ParseDtab(d.String())
		if err != nil {
			t.Fatalf("%s: %v", d, err)
		}
		if !reflect.DeepEqual(normal(got), normal(d)) {
			t.Fatalf("%s parses to\n%#v, want\n%#v", d, got, d)
		}
	})
}

// Exact, Lossless and JSON lose nothing of any weight that may be written.
func TestExactWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weight := rapid.OneOf(
			rapid.Float64Range(0, math.MaxFloat64), rapid.Float64Range(0, 2),
			rapid.Map(rapid.IntRange(0, 100_000), func(n int) float64 { return float64(n) / 1000 }), // as people write them
			rapid.SampledFrom([]float64{0, 1, 1.001, .999, .1, 1. / 3, math.SmallestNonzeroFloat64, math.MaxFloat64, 1 << 53}),
		)
		u := naming.Union{{Weight: weight.Draw(t, "a"), Tree: naming.Leaf{"a"}}, {Weight: weight.Draw(t, "b"), Tree: naming.Leaf{"b"}}}
		u[1].Tree = naming.Alt{naming.Neg, naming.Union{u[1], u[0]}}
		d := naming.Dtab{{Prefix: naming.Prefix{"svc"}, Dst: u}}
		for _, text := range []string{d.Exact(), d.Lossless()} {
			if got, err := naming.ParseDtab(text); err != nil || !reflect.DeepEqual(got, d) {
				t.Fatalf("%s reads back as %s, %v", text, got.Exact(), err)
			}
		}
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var got naming.Dtab
		if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, d) {
			t.Fatalf("%s reads back as %s, %v", text, got.Exact(), err)
		}
	})
}

// normal makes nil and empty slices alike.
func normal(d naming.Dtab) (n []any) {
	for _, rule := range d {
		n = append(n, rule.Prefix.String(), normalTree(rule.Dst))
	}
	return n
}

func normalTree(t naming.Tree) any {
	switch t := t.(type) {
	case naming.Leaf:
		return append([]string{"leaf"}, t...)
	case naming.Alt:
		n := []any{"alt"}
		for _, x := range t {
			n = append(n, normalTree(x))
		}
		return n
	case naming.Union:
		n := []any{"union"}
		for _, x := range t {
			n = append(n, x.Weight, normalTree(x.Tree))
		}
		return n
	}
	return t
}

// Laws of binding, for all rules.
func TestBindLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, p := genDtab().Draw(t, "dtab"), genPath().Draw(t, "path")
		got, err := naming.Bind(d, p, resolve)
		if err != nil && !reflect.DeepEqual(got, naming.BoundTree{}) {
			t.Fatalf("a tree comes with error %v: %s", err, show(got))
		}
		if err == nil {
			checkBound(t, got)
		}
		// The same inputs give the same answer.
		if again, err2 := naming.Bind(d, p, resolve); !reflect.DeepEqual(again, got) || (err == nil) != (err2 == nil) {
			t.Fatalf("%s, %v; then %s, %v", show(got), err, show(again), err2)
		}
		// Printing hundredths changes nothing.
		reparsed, perr := naming.ParseDtab(d.String())
		if perr != nil {
			t.Fatal(perr)
		}
		if again, _ := naming.Bind(reparsed, p, resolve); show(again) != show(got) {
			t.Fatalf("%s; after printing %s", show(got), show(again))
		}
		// A last rule that is Neg changes nothing, one that fails makes all fail.
		if len(p) > 0 {
			exact := naming.Dentry{Prefix: naming.Prefix(p), Dst: naming.Fail}
			if b, err := naming.Bind(d.Concat(exact), p, resolve); err != nil || b.Kind != naming.BoundFail {
				t.Fatalf("a last rule to ! gives %s, %v", show(b), err)
			}
		}
		if r := rapid.Float64Range(0, 0.999).Draw(t, "r"); err == nil {
			leaf, ok := got.Pick(r)
			if ok && !holds(got, leaf) {
				t.Fatalf("picked %v, which is no leaf of %s", leaf, show(got))
			}
		}
	})
}

// Each branch is picked as often as its weight says, whatever the random numbers are spread
// evenly over.
func TestWeightsAreHonoured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u, sum := naming.Union{}, 0.
		for i, w := range rapid.SliceOfN(rapid.Float64Range(0, 100), 2, 6).Draw(t, "weights") {
			u, sum = append(u, naming.Weighted{Weight: w, Tree: naming.Leaf{fmt.Sprint("ok", i)}}), sum+w
		}
		tree, err := naming.Bind(naming.Dtab{{Prefix: naming.Prefix{"t"}, Dst: u}}, naming.Path{"t"}, resolve)
		if err != nil {
			t.Fatal(err)
		}
		const n = 10_000
		picked := map[string]float64{}
		for i := range n {
			leaf, _ := tree.Pick((float64(i) + .5) / n)
			picked[leaf.ID.String()]++
		}
		for i, w := range u {
			want := w.Weight / sum
			if sum == 0 {
				want = 1 / float64(len(u))
			}
			if got := picked[fmt.Sprint("/ok", i)] / n; math.Abs(got-want) > 1./n {
				t.Fatalf("%v of %s are for branch %d, want %v", got, u, i, want)
			}
		}
	})
}

// holds reports whether leaf is one of b's.
func holds(b naming.BoundTree, leaf naming.Bound) bool {
	if b.Kind == naming.BoundLeaf {
		return reflect.DeepEqual(b.Leaf, leaf)
	}
	return slices.ContainsFunc(b.Branches, func(x naming.BoundBranch) bool { return holds(x.Tree, leaf) })
}

func checkBound(t *rapid.T, b naming.BoundTree) {
	if b.Kind != naming.BoundUnion {
		return
	}
	if len(b.Branches) < 2 {
		t.Fatalf("a union of %d branches", len(b.Branches))
	}
	for _, x := range b.Branches {
		switch x.Tree.Kind {
		case naming.BoundLeaf, naming.BoundEmpty, naming.BoundUnion:
			checkBound(t, x.Tree)
		default:
			t.Fatalf("a union holds %s", show(x.Tree))
		}
	}
}
