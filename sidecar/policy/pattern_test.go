package policy

import "testing"

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"/", "/svc/web", true},
		{"/", "/", true},
		{"/svc", "/svc/web", true},
		{"/svc/web", "/svc/web/rest", true},
		{"/svc/web", "/svc/website", false},
		{"/svc/web", "/svc", false},
		{"/svc/*", "/svc", false},
		{"/svc/*", "/svc/web", true},
		{"/*/web", "/svc/web", true},
		{"/svc/{v}.test", "/svc/a.test", true},
		{"/svc/{v}.test", "/svc/.test", false},
		{"/svc/{v}.test", "/svc/a.test2", false},
		{"/svc/x{v}", "/svc/ax", false},
		{"/svc/{a}-{b}", "/svc/x-y-z", true},
		{"/svc/{a}-{b}", "/svc/x-", false},
		{"/svc/{a}-{b}", "/svc/-x", false},
		{"/svc/{a}-{b}", "/svc/---", true},
		{"/svc/{a}{b}", "/svc/x", false},
		{"/svc/{a}{b}", "/svc/xy", true},
		{"/svc/{a}.{b}.{c}", "/svc/x.y.z.w", true},
		{"/svc/{a}.{b}.{c}", "/svc/x.y", false},
		{"/svc/aba{v}aba", "/svc/abaaba", false},
		{"/svc/aba{v}aba", "/svc/ababa", false},
		{"/svc/aba{v}aba", "/svc/abaxaba", true},
		{`/svc/\x5b\x5d`, `/svc/\x5b\x5d`, true},
		{"/#/io.l5d.k8s/*/http", "/#/io.l5d.k8s/shop/http/cart", true},
	} {
		p, err := parsePattern(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		if p.String() != c.pattern || p.match(c.name) != c.want {
			t.Errorf("%s on %s: %v, want %v", p, c.name, p.match(c.name), c.want)
		}
	}
	for _, s := range []string{"", "svc", "/a/", "//", "/a//b", "/a*", "/a b", "/{", "/{}", "/{a b}", "/a}", "/{a}{"} {
		if p, err := parsePattern(s); err == nil {
			t.Errorf("%q is taken as %v", s, p)
		}
	}
}
