package naming_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/naming"
)

func TestExplain(t *testing.T) {
	for _, test := range []struct{ dtab, path, id, want string }{
		{"/k=>/ok; /svc=>/k", "/svc/cart", "/ok", "/svc/cart; /k/cart (/svc=>/k); /ok/cart (/k=>/ok)"},
		{"", "/ok/cart", "/ok", "/ok/cart"},
		{"/a=>/none | /ok1; /svc=>/a", "/svc", "/ok1", "/svc; /a (/svc=>/a); /ok1 (/a=>/none | /ok1)"},
		{"/svc=>/ok1; /svc=>/none", "/svc", "/ok1", "/svc; /ok1 (/svc=>/ok1)"},
		{"/svc=>1*/ok1 & 3*/ok2", "/svc", "/ok2", "/svc; /ok2 (/svc=>/ok1 & 3.00*/ok2)"},
		{"/svc=>/to/b; /b=>/ok", "/svc", "/ok", "/svc; /to/b (/svc=>/to/b); /b; /ok (/b=>/ok)"},
		{"/svc/*=>/ok", "/svc/x/y", "/ok", "/svc/x/y; /ok/y (/svc/*=>/ok)"},
		{"/ok=>~", "/ok", "/ok", "/ok"},
		{"/svc=>/ok1", "/svc", "/ok2", ""},
		{"/svc=>/svc/a", "/svc", "/ok", ""},
		{"/svc=>/svc/a | /svc/b & /svc/c", "/svc", "/ok", ""},
		{"/svc=>/ok | !; /svc=>/wait | /err | $", "/svc", "/ok", "/svc; /ok (/svc=>/ok | !)"},
	} {
		id, err := naming.ParsePath(test.id)
		if err != nil {
			t.Fatal(err)
		}
		p, err := naming.ParsePath(test.path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range naming.Explain(mustDtab(t, test.dtab), p, resolve, id) {
			got = append(got, s.String())
		}
		if s := strings.Join(got, "; "); s != test.want {
			t.Errorf("%s by %s:\n%s, want\n%s", test.path, test.dtab, s, test.want)
		}
	}
}

// What Bind comes to, Explain finds; and its last step is a path that is bound so.
func TestExplainFindsWhatBindFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var dtab naming.Dtab
		leaf := rapid.SampledFrom([]string{"/a", "/b", "/c/d", "/ok1", "/ok2", "/none", "/to/b", "/wait", "~", "!", "$"})
		for range rapid.IntRange(0, 6).Draw(t, "rules") {
			dst := leaf.Draw(t, "first")
			if op := rapid.SampledFrom([]string{"", " | ", " & "}).Draw(t, "operator"); op != "" {
				dst += op + leaf.Draw(t, "second")
			}
			rule, err := naming.ParseDtab(rapid.SampledFrom([]string{"/svc", "/a", "/b", "/c", "/c/*", "/ok1"}).Draw(t, "prefix") + " => " + dst)
			if err != nil {
				t.Fatal(err)
			}
			dtab = append(dtab, rule...)
		}
		p := naming.Path{"svc"}
		tree, err := naming.Bind(dtab, p, resolve)
		if err != nil {
			return
		}
		leaf1, ok := tree.Pick(rapid.Float64Range(0, 0.999).Draw(t, "r"))
		if !ok {
			return
		}
		steps := naming.Explain(dtab, p, resolve, leaf1.ID)
		if len(steps) == 0 {
			t.Fatalf("%s binds to %s, which is not explained", dtab, leaf1.ID)
		}
		r := resolve(steps[len(steps)-1].Path)
		if r.Bound == nil || r.Bound.ID.String() != leaf1.ID.String() {
			t.Fatalf("%s: explained by %v, bound to %s", dtab, steps, leaf1.ID)
		}
	})
}
