package naming_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/naming"
)

func mustDtab(t testing.TB, s string) naming.Dtab {
	t.Helper()
	d, err := naming.ParseDtab(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustTree(t testing.TB, s string) naming.Tree {
	t.Helper()
	tree, err := naming.ParseTree(s)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

var errResolve = errors.New("namer is broken")

// resolve binds /ok… to itself and answers /wait, /err and /to as they say. Everything
// else is Neg.
func resolve(p naming.Path) naming.Resolution {
	if len(p) == 0 {
		return naming.Resolution{}
	}
	switch e := p[0]; {
	case strings.HasPrefix(e, "ok"):
		return naming.Resolution{Bound: &naming.Bound{ID: p[:1], Residual: p[1:]}}
	case e == "wait":
		return naming.Resolution{Pending: true}
	case e == "err":
		return naming.Resolution{Err: errResolve}
	case e == "to":
		return naming.Resolution{Tree: naming.Leaf(p[1:])}
	}
	return naming.Resolution{}
}

// show prints a bound tree the way trees are written, with ? for pending.
func show(t naming.BoundTree) string {
	switch t.Kind {
	case naming.BoundPending:
		return "?"
	case naming.BoundNeg:
		return "~"
	case naming.BoundFail:
		return "!"
	case naming.BoundEmpty:
		return "$"
	case naming.BoundLeaf:
		return naming.Path(t.Leaf.ID).Join(t.Leaf.Residual...).String()
	}
	var s []string
	for _, b := range t.Branches {
		w := ""
		if b.Weight != 1 {
			w = fmt.Sprintf("%g*", b.Weight)
		}
		if b.Tree.Kind == naming.BoundUnion {
			s = append(s, w+"("+show(b.Tree)+")")
		} else {
			s = append(s, w+show(b.Tree))
		}
	}
	return strings.Join(s, " & ")
}

// Which rules apply to a path, in which order, and what they make of its rest: what the namers
// are asked when they know nothing.
func TestRules(t *testing.T) {
	d := mustDtab(t, `
		/svc      => /old ;
		/svc/cart => /new | /newer ;
		/svc/*    => ~ ;
		/other    => /x & 2*/y | ! ;
	`)
	asked := func(d naming.Dtab, path string) string {
		p, err := naming.ParsePath(path)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		if _, err := naming.Bind(d, p, func(p naming.Path) naming.Resolution {
			all = append(all, p.String())
			return naming.Resolution{}
		}); err != nil {
			t.Fatal(err)
		}
		return strings.Join(all, " ")
	}
	for path, want := range map[string]string{
		"/svc/cart/x": "/new/x /newer/x /old/cart/x",
		"/svc":        "/old",
		"/svc/a":      "/old/a",
		"/other/z":    "/x/z /y/z",
		"/":           "/",
		"/SVC":        "/SVC",
	} {
		if got := asked(d, path); got != want {
			t.Errorf("for %s, %s are looked up, want %s", path, got, want)
		}
	}
	// The empty prefix matches everything, what its own rule made too.
	if _, err := naming.Bind(mustDtab(t, "/=>/all"), nil, resolve); err != naming.ErrDepth {
		t.Errorf("/=>/all: %v", err)
	}
}

// The evaluation rules, on the tree itself.
func TestBindTree(t *testing.T) {
	for _, c := range []struct{ tree, want string }{
		{"~ | /ok1 | /ok2", "/ok1"},
		{"~ | $ | /ok1", "$"},
		{"! | /ok1", "!"},
		{"~ | /ok1 | !", "/ok1"},
		{"/ok1 & ~ & /ok2 & !", "/ok1 & /ok2"},
		{"/ok1 & $", "/ok1 & $"},
		{"! & !", "~"},
		{"! & ! | /ok1", "/ok1"},
		{"(~ | $ | /ok1) & (/ok2 | /ok3)", "$ & /ok2"},
		{"~ & ~", "~"},
		{"~ | ~", "~"},
		{"/no | /ok1/rest", "/ok1/rest"},
		{"2*/ok1 & 3*(/ok2 & /ok3) & /no", "2*/ok1 & 3*(/ok2 & /ok3)"},
		{"0*/ok1 & /no", "/ok1"},
		// Pending and failing branches.
		{"/wait | /ok1", "?"},
		{"~ | /wait", "?"},
		{"/ok1 | /wait", "/ok1"},
		{"/err | /ok1", "error"},
		{"~ | /err", "error"},
		{"/ok1 | /err", "/ok1"},
		{"/wait & /ok1", "/ok1"},
		{"/err & /ok1", "/ok1"},
		{"/err & ~", "~"},
		{"/wait & !", "?"},
		{"/wait & /err", "error"},
		{"/wait & /wait", "?"},
		{"(/wait & ~) | /ok1", "?"},
		// Rewriting namers.
		{"/to/ok1/x", "/ok1/x"},
		{"/to/no | /ok2", "/ok2"},
		{"/to/to/to/err", "error"},
	} {
		got, err := naming.Bind(naming.Dtab{{Prefix: naming.Prefix{"t"}, Dst: mustTree(t, c.tree)}}, naming.Path{"t"}, resolve)
		s := show(got)
		if err != nil {
			s = "error"
			if !errors.Is(err, errResolve) {
				t.Errorf("%s: the error is %v", c.tree, err)
			}
		}
		if s != c.want {
			t.Errorf("bind(%s) = %s, want %s", c.tree, s, c.want)
		}
	}
}

// Where `|` moves on, and where rules meet namers.
func TestBindDtab(t *testing.T) {
	for _, c := range []struct{ name, dtab, path, want string }{
		{"no rule, no namer", "/svc => /nothing | /ok2", "/svc", "/ok2"},
		{"the last rule wins", "/svc => /ok1 ; /svc => /ok2", "/svc/a", "/ok2/a"},
		{"an earlier rule answers for Neg", "/svc => /ok1 ; /svc/a => /no", "/svc/a", "/ok1/a"},
		{"an earlier rule does not answer for Empty", "/svc => /ok1 ; /svc => $", "/svc/a", "$"},
		{"a longer prefix has no priority", "/svc/a => /ok1 ; /svc => /ok2", "/svc/a", "/ok2/a"},
		{"a rule rewrites what a namer answers", "/ok1 => /ok2", "/ok1/x", "/ok2/x"},
		{"a rule to Neg leaves the path to the namers", "/ok1 => ~", "/ok1/x", "/ok1/x"},
		{"Fail stops the earlier rule too", "/svc => /ok1 ; /svc => !", "/svc", "!"},
		{"rules in a chain", "/srv => /to/ok1 ; /host => /srv ; /svc => /host", "/svc/world", "/ok1/world"},
		{"an override is a later rule", "/host => /srv ; /svc => /host ; /host/world => /tmp/world-v2 ; /tmp => /ok9", "/svc/world", "/ok9/world-v2"},
		{"the rest of the path goes to every alternative", "/svc => /old ; /svc/cart => /new | /newer ; /svc/* => ~ ; /old => /ok1 ; /newer => /ok2", "/svc/cart/x", "/ok2/x"},
		{"a longer prefix may be skipped", "/svc => /old ; /svc/cart => /new | /newer ; /svc/* => ~ ; /old => /ok1", "/svc/cart/x", "/ok1/cart/x"},
		{"a namer that knows no such name moves on", "/svc => /to/none | /ok1", "/svc", "/ok1"},
		{"a namer that has not answered is waited for", "/svc => /wait | /ok1", "/svc", "?"},
		{"an empty answer of a rule does not move on", "/svc => $ | /ok1", "/svc", "$"},
		{"a rule that fails does not move on", "/svc => ! | /ok1", "/svc", "!"},
		{"weights meet failover", "/svc => /a & 9*/b ; /a => /no ; /b => /no2 | /ok1", "/svc", "/ok1"},
	} {
		p, err := naming.ParsePath(c.path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := naming.Bind(mustDtab(t, c.dtab), p, resolve)
		if err != nil || show(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", c.name, show(got), err, c.want)
		}
	}
}

func TestBindEnds(t *testing.T) {
	for _, dtab := range []string{
		"/a => /a",
		"/a => /a/b",
		"/a => /b ; /b => /a",
		"/a => /a | /a | /a",
		"/a => /a & /a",
		"/a => /a/b & /a/c",
		"/a => ~ | /a/b/c/d/e/f & /a/c",
		"/ => /a",
	} {
		got, err := naming.Bind(mustDtab(t, dtab), naming.Path{"a"}, resolve)
		if err == nil {
			t.Errorf("%s binds to %s", dtab, show(got))
		} else if !errors.Is(err, naming.ErrDepth) && !errors.Is(err, naming.ErrWork) {
			t.Errorf("%s: %v", dtab, err)
		}
	}
	// Doubling at every rule without a loop is bounded too.
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, "/a%d => /a%d | /a%d ;", i, i+1, i+1)
	}
	if _, err := naming.Bind(mustDtab(t, b.String()), naming.Path{"a0"}, resolve); !errors.Is(err, naming.ErrWork) || !strings.Contains(err.Error(), "1000 lookups") {
		t.Errorf("2^40 lookups: %v", err)
	}
	// A chain may be 100 lookups deep, and no more.
	chain := func(n int) naming.Dtab {
		var d naming.Dtab
		for i := range n - 1 {
			d = append(d, naming.Dentry{Prefix: naming.Prefix{fmt.Sprint("a", i)}, Dst: naming.Leaf{fmt.Sprint("a", i+1)}})
		}
		return append(d, naming.Dentry{Prefix: naming.Prefix{fmt.Sprint("a", n-1)}, Dst: naming.Leaf{"ok"}})
	}
	if got, err := naming.Bind(chain(99), naming.Path{"a0"}, resolve); err != nil || show(got) != "/ok" {
		t.Errorf("100 lookups: %s, %v", show(got), err)
	}
	if _, err := naming.Bind(chain(100), naming.Path{"a0"}, resolve); err != naming.ErrDepth {
		t.Errorf("101 lookups: %v", err)
	}
}

// hostile returns texts of about 60 KB, what fits into a header, that make Bind work as much as
// possible.
func hostile() map[string]string {
	const size = 60 << 10
	fill := func(prefix, unit, suffix string) string {
		return prefix + strings.Repeat(unit, (size-len(prefix)-len(suffix))/len(unit)) + suffix
	}
	long := strings.Repeat("x", size/2-20)
	texts := map[string]string{
		"rules that match everything":      fill("", "/=>/a;", ""),
		"unions that match everything":     fill("", "/=>/a&/b;", ""),
		"rules to Neg":                     fill("/=>/a&/a;", "/=>~;", ""),
		"rules that do not match":          fill("/a=>/a/x&/a/y;", "/b=>/b;", ""),
		"nothing but Neg":                  fill("/=>/a&/a&(", "~|", "~)"),
		"a union of nothing":               fill("/=>", "$&", "(/a&/a)"),
		"a wide union":                     fill("/a=>/b&/b;/b=>/c&/c;/c=>", "/ok&", "$"),
		"a wide union of unions":           fill("/a=>", "/b&", "/b") + ";/b=>$&$&$&$&$&$&$&$",
		"names that grow":                  fill("/=>/a", "/a", "|/b"),
		"names that grow, in unions":       fill("/=>/a&/b", "/a", ""),
		"long prefixes that nearly match":  strings.Repeat("/a"+strings.Repeat("/*", 50)+"/b=>/;", size/110) + "/=>/a" + strings.Repeat("/a", 55) + "&/b",
		"long names for namers":            "/a=>" + strings.Repeat("/b&", size/6) + "/b;/b=>/$/no/" + long,
		"long names that must be escaped":  "/a=>" + strings.Repeat("/b&", size/6) + `/b;/b=>/err/\x00` + long,
		"long names that are equal":        strings.ReplaceAll("/=>/L/a&/b;/L=>/L&/b", "L", long[:size/4]),
		"deep trees at every step":         "/a=>" + strings.Repeat("(~|~&", 99) + "/a" + strings.Repeat(")", 99),
		"deep alternatives at every step":  "/a=>" + strings.Repeat("(", 99) + "/b&/a" + strings.Repeat("|/a)", 99),
		"rules that double without a loop": "",
	}
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "/a/%d=>/a/%d|/a/%d;", i, i+1, i+1)
	}
	texts["rules that double without a loop"] = b.String() + "/a=>/a/0"
	return texts
}

// Whatever a request brings, Bind comes to an end soon, and for lack of a better measure than
// time: having allocated little, and having asked little.
func TestBindIsBounded(t *testing.T) {
	const maxBytes, maxAsked, maxAskedBytes = 8 << 20, 1000, 1 << 20
	for name, text := range hostile() {
		d := mustDtab(t, text)
		for _, p := range []naming.Path{{"a"}, {"a", "b", "c"}, {"svc", "world"}} {
			asked, bytes := 0, 0
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got, err := naming.Bind(d, p, func(p naming.Path) naming.Resolution {
				asked++
				for _, e := range p {
					bytes += len(e)
				}
				return resolve(p)
			})
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > maxBytes {
				t.Errorf("%s: %s allocates %d bytes", name, p, n)
			}
			if asked > maxAsked || bytes > maxAskedBytes {
				t.Errorf("%s: %s asks %d times, with %d bytes", name, p, asked, bytes)
			}
			if err != nil && !errors.Is(err, naming.ErrDepth) && !errors.Is(err, naming.ErrWork) && !errors.Is(err, errResolve) {
				t.Errorf("%s: %s gives %v", name, p, err)
			}
			if errors.Is(err, naming.ErrWork) && len(err.Error()) > 200 {
				t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
			}
			t.Logf("%s: %s: kind %d, %v, %d KiB, asked %d", name, p, got.Kind, err, (after.TotalAlloc-before.TotalAlloc)>>10, asked)
		}
	}
}

// Limits leave room for what people do have.
func TestBindHasRoom(t *testing.T) {
	var b strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&b, "/host/s%d=>/srv/s%d-v1;", i, i)
	}
	d := mustDtab(t, "/srv=>/to/ok;/svc=>/host;"+b.String())
	if got, err := naming.Bind(d, naming.Path{"svc", "s0"}, resolve); err != nil || show(got) != "/ok/s0-v1" {
		t.Errorf("with 20,000 rules: %s, %v", show(got), err)
	}
	d = mustDtab(t, "/a=>"+strings.Repeat("/b&", 900)+"/ok;/b=>/ok2")
	if got, err := naming.Bind(d, naming.Path{"a"}, resolve); (err == nil) || !errors.Is(err, naming.ErrWork) {
		t.Errorf("a union of 901: %v, %v", got.Kind, err)
	}
	d = mustDtab(t, "/a=>"+strings.Repeat("/ok&", 900)+"/ok2")
	if got, err := naming.Bind(d, naming.Path{"a"}, resolve); err != nil || len(got.Branches) != 901 {
		t.Errorf("a union of 901: %d branches, %v", len(got.Branches), err)
	}
}

// Bind leaves the rules as they are, and hands out nothing that shares with them.
func TestBindDoesNotModify(t *testing.T) {
	const text = "/svc=>/ok1/a & (/b | /ok2);/svc=>/no"
	d := mustDtab(t, text)
	for _, rest := range []string{"x", "y", "z"} {
		if _, err := naming.Bind(d, naming.Path{"svc", rest}, resolve); err != nil {
			t.Fatal(err)
		}
	}
	if d.String() != text {
		t.Errorf("the dtab is now %s", d)
	}
}

func TestPick(t *testing.T) {
	bind := func(tree string) naming.BoundTree {
		b, err := naming.Bind(naming.Dtab{{Prefix: naming.Prefix{"t"}, Dst: mustTree(t, tree)}}, naming.Path{"t"}, resolve)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const n = 10_000
	for _, c := range []struct {
		tree string
		want map[string]float64 // shares; "" is no leaf
	}{
		{"/ok1", map[string]float64{"/ok1": 1}},
		{"~", map[string]float64{"": 1}},
		{"/ok1 & 9*/ok2", map[string]float64{"/ok1": .1, "/ok2": .9}},
		{"/ok1 & $", map[string]float64{"/ok1": .5, "": .5}},
		{"0*/ok1 & /ok2", map[string]float64{"/ok2": 1}},
		{"/ok2 & 0*/ok1", map[string]float64{"/ok2": 1}},
		{"0*/ok1 & 0*/ok2", map[string]float64{"/ok1": .5, "/ok2": .5}},
		{"/ok1 & 3*(/ok2 & 2*/ok3)", map[string]float64{"/ok1": .25, "/ok2": .25, "/ok3": .5}},
	} {
		b, got := bind(c.tree), map[string]float64{}
		r := rand.New(rand.NewPCG(1, 2))
		for range n {
			if leaf, ok := b.Pick(r.Float64()); ok {
				got[leaf.ID.String()]++
			} else {
				got[""]++
			}
		}
		for k, want := range c.want {
			if share := got[k] / n; share < want-.01 || share > want+.01 {
				t.Errorf("%s: %q gets %.3f, want %.2f", c.tree, k, share, want)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: picked %v", c.tree, got)
		}
	}
	b := bind("/ok1 & 9*(/ok2 & /ok3)")
	if allocs := testing.AllocsPerRun(100, func() { b.Pick(.9) }); allocs != 0 {
		t.Errorf("Pick allocates %v times", allocs)
	}
}

func BenchmarkBindHostile(b *testing.B) {
	for name, text := range hostile() {
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			d := mustDtab(b, text)
			b.ReportAllocs()
			for b.Loop() {
				naming.Bind(d, naming.Path{"a", "b"}, resolve)
			}
		})
	}
}

func BenchmarkBind(b *testing.B) {
	d := mustDtab(b, "/srv => /to/ok1 ; /host => /srv ; /tmp => /srv ; /svc => /host ; /host/world => /tmp/world-v2 & 9*/srv/world-v1")
	p := naming.Path{"svc", "world"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := naming.Bind(d, p, resolve); err != nil {
			b.Fatal(err)
		}
	}
}
