package naming_test

import (
	"errors"
	"fmt"
	"hash/fnv"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/naming"
)

func TestSimplify(t *testing.T) {
	for in, want := range map[string]string{
		"/a":                          "/a",
		"~":                           "~",
		"!":                           "!",
		"$":                           "$",
		"~ | /a | ~":                  "/a",
		"~ | ~":                       "~ | ~",
		"~ | (~ & !) | ~":             "~ | ~",
		"/a | (/b | (~ | /c)) | /d":   "/a | /b | /c | /d",
		"/a | ! | /b":                 "/a | !",
		"(/a | $) | /b":               "/a | $",
		"/a | (/b & $) | /c":          "/a | /b & $",
		"/a | (/b & !) | /c":          "/a | /b & ~ | /c",
		"/a | /b | /a | /c | /b":      "/a | /b | /c",
		"/a & /b & /a":                "/a & /b & /a",
		"2*/a & 3*(/b & 4*/c)":        "2.00*/a & 3.00*(/b & 4.00*/c)",
		"/a & ~ & 5*! & (~ | ~)":      "/a & ~",
		"~ & $":                       "$",
		"! & (~ | $) & ~":             "$",
		"~ & /a & $":                  "/a & $",
		"! & !":                       "~ | ~",
		"/a | (! & !) | /b":           "/a | /b",
		"/a & 2*(~ | /b | ! | /c)":    "/a & 2.00*(/b | !)",
		"(/a | /b) & ((/c | /d) | ~)": "(/a | /b) & (/c | /d)",
	} {
		tree := mustTree(t, in)
		if got := naming.Simplify(tree).String(); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
		if tree.String() != mustTree(t, in).String() {
			t.Errorf("%s was changed to %s", in, tree)
		}
	}
}

// genAnswers makes namers that answer anything, and the same to the same path.
func genAnswers() *rapid.Generator[naming.Resolver] {
	return rapid.Map(rapid.Uint64(), func(salt uint64) naming.Resolver {
		return func(p naming.Path) naming.Resolution {
			h := fnv.New32a()
			fmt.Fprint(h, salt, p)
			switch h.Sum32() % 10 {
			case 0, 1, 2:
				return naming.Resolution{Bound: &naming.Bound{ID: p}}
			case 3:
				return naming.Resolution{Pending: true}
			case 4:
				return naming.Resolution{Err: errResolve}
			case 5:
				return naming.Resolution{Tree: naming.Fail}
			case 6:
				return naming.Resolution{Tree: naming.Union{{Weight: 2, Tree: naming.Leaf(p.Join("x"))}, {Weight: 1, Tree: naming.Empty}}}
			case 7:
				return naming.Resolution{Tree: naming.Leaf(p.Join("y"))}
			}
			return naming.Resolution{}
		}
	})
}

// Rules mean the same when they are simplified, whatever the namers say; and what is
// simple stays as it is.
func TestSimplifyKeepsMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, p := rapid.OneOf(genDtab(), genChains()).Draw(t, "dtab"), rapid.OneOf(genPath(), rapid.Just(naming.Path{"svc"})).Draw(t, "path")
		resolve := genAnswers().Draw(t, "namers")
		var simple naming.Dtab
		for _, rule := range d {
			s := naming.Simplify(rule.Dst)
			if again := naming.Simplify(s); !reflect.DeepEqual(normalTree(again), normalTree(s)) {
				t.Fatalf("%s becomes %s, then %s", rule.Dst, s, again)
			}
			simple = append(simple, naming.Dentry{Prefix: rule.Prefix, Dst: s})
		}
		want, wantErr := naming.Bind(d, p, resolve)
		got, err := naming.Bind(simple, p, resolve)
		if errors.Is(wantErr, naming.ErrWork) || errors.Is(err, naming.ErrWork) {
			return
		}
		if show(got) != show(want) || !errors.Is(err, wantErr) {
			t.Fatalf("%s means %s, %v; %s means %s, %v", d, show(want), wantErr, simple, show(got), err)
		}
	})
}
