package naming_test

import (
	"maps"
	"regexp"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/naming"
)

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          string // the captures, or "no"
	}{
		{"/", "/svc/web", ""},
		{"/", "/", ""},
		{"/", "", "no"},
		{"/svc", "/svc/web", ""},
		{"/svc", "svc", "no"},
		{"/svc/web", "/svc/web/rest", ""},
		{"/svc/web/", "/svc/web", ""},
		{"/svc/web/", "/svc/website", "no"},
		{"/svc/web", "/svc/website", "no"},
		{"/svc/web", "/svc", "no"},
		{"/svc/*", "/svc", "no"},
		{"/svc/*", "/svc/web", ""},
		{"/*/web", "/svc/web", ""},
		{"/svc/{v}.test", "/svc/a.test", "v=a"},
		{"/svc/{v}.test", "/svc/.test", "no"},
		{"/svc/{v}.test", "/svc/a.test2", "no"},
		{"/svc/x{v}", "/svc/ax", "no"},
		{"/svc/{a}-{b}", "/svc/x-y-z", "a=x-y b=z"},
		{"/svc/{a}-{b}", "/svc/x-", "no"},
		{"/svc/{a}-{b}", "/svc/-x", "no"},
		{"/svc/{a}-{b}", "/svc/---", "a=- b=-"},
		{"/svc/{a}{b}", "/svc/x", "no"},
		{"/svc/{a}{b}", "/svc/xyz", "a=xy b=z"},
		{"/svc/{a}.{b}.{c}", "/svc/x.y.z.w", "a=x.y b=z c=w"},
		{"/svc/{a}.{b}.{c}", "/svc/x.y", "no"},
		{"/svc/aba{v}aba", "/svc/abaaba", "no"},
		{"/svc/aba{v}aba", "/svc/ababa", "no"},
		{"/svc/aba{v}aba", "/svc/abaxaba", "v=x"},
		{"/{v}/{v}", "/a/b", "v=b"},
		{"/{p}/{n}/{s}", "/http/shop/cart/rest", "n=shop p=http s=cart"},
		{`/svc/\x5b\x5d`, `/svc/\x5b\x5d`, ""},
		{`/svc/\x5B\x5D`, `/svc/\x5b\x5d`, ""},
		{`/svc/\x61`, `/svc/a`, ""},
		{`/svc/{host}`, `/svc/\x5b\x5d`, `host=\x5b\x5d`},
		{"/#/io.l5d.k8s/*/http", "/#/io.l5d.k8s/shop/http/cart", ""},
	} {
		p, err := naming.ParsePattern(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		vars, ok := p.Capture(c.name)
		var got []string
		for _, v := range []string{"a", "b", "c", "host", "n", "p", "s", "v"} {
			if value, ok := vars[v]; ok {
				got = append(got, v+"="+value)
			}
		}
		if s := strings.Join(got, " "); ok != (c.want != "no") || ok && s != c.want || p.Match(c.name) != ok {
			t.Errorf("%s on %s: %v %q, want %q", p, c.name, ok, s, c.want)
		}
	}
	for _, s := range []string{"", "svc", "//", "/a//b", "/a*", "/a b", "/{", "/{}", "/{a b}", "/a}", "/{a}{", `/\x6`, `/\y`, "/é", "/{v}é", "/{é}"} {
		if p, err := naming.ParsePattern(s); err == nil {
			t.Errorf("%q is taken as %v", s, p)
		}
	}
}

func TestSubstitute(t *testing.T) {
	vars := map[string]string{"a": "x", "b": "{a}"}
	for text, want := range map[string]string{
		"":              "",
		"plain":         "plain",
		"{a}":           "x",
		"/dst/{a}/{b}/": "/dst/x/{a}/",
		"{a}{a}{c}":     "xx{c}",
		"{{a}}":         "{x}",
		"{a":            "{a",
		"}{a}":          "}x",
		"{}":            "{}",
	} {
		if got := naming.Substitute(text, vars); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// A pattern means what the regular expression does that is made of it, and what it
// captures, put back, is the name.
func FuzzPattern(f *testing.F) {
	for _, s := range [][2]string{{"/", "/a"}, {"/a/*/{b}", "/a/x/y/z"}, {"/{a}-{b}.{c}x", "/1-2-3.4.5x"}, {"/{a}{b}", "/xy"}, {`/\x61`, "/a"}, {`/{v}\x20`, `/\x61\x20`}} {
		f.Add(s[0], s[1])
	}
	capture := regexp.MustCompile(`\\\{[^}]*\\\}`)
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := naming.ParsePattern(pattern)
		if err != nil {
			return
		}
		printed := p.String()
		if q, err := naming.ParsePattern(printed); err != nil || q.String() != printed {
			t.Fatalf("%q prints %s, which parses to %s, %v", pattern, printed, q, err)
		}
		path, err := naming.ParsePath(name)
		if err != nil {
			return
		}
		name = path.String()
		vars, ok := p.Capture(name)
		if p.Match(name) != ok {
			t.Fatalf("%s on %s: Match does not agree with Capture", p, name)
		}
		var expr strings.Builder
		expr.WriteString("^")
		for _, e := range p {
			expr.WriteString("/")
			if e == "*" {
				expr.WriteString("[^/]+")
			} else {
				expr.WriteString(capture.ReplaceAllString(regexp.QuoteMeta(e), "([^/]+)"))
			}
		}
		expr.WriteString("(?:/|$)")
		found := regexp.MustCompile(expr.String()).FindStringSubmatch(name)
		if len(p) == 0 {
			found = []string{""}
		}
		if ok != (found != nil) {
			t.Fatalf("%s on %s: %v", p, name, ok)
		}
		if !ok {
			return
		}
		want := map[string]string{}
		for i, v := range p.Vars() {
			want[v] = found[i+1]
		}
		if !maps.Equal(vars, want) {
			t.Fatalf("%s on %s captures %v, want %v", p, name, vars, want)
		}
		if put := naming.Substitute(printed, vars); len(vars) == len(p.Vars()) && !strings.Contains(printed, "*") && !strings.HasPrefix(name, put) {
			t.Fatalf("%s on %s gives back %s", p, name, put)
		}
	})
}
