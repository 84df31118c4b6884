package rewrite_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

func path(t testing.TB, s string) naming.Path {
	t.Helper()
	p, err := naming.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func show(r naming.Resolution) string {
	switch {
	case r.Err != nil:
		return r.Err.Error()
	case r.Pending:
		return "pending"
	case r.Bound != nil:
		return "bound " + r.Bound.ID.String() + " " + r.Bound.Residual.String()
	case r.Tree != nil:
		return r.Tree.String()
	}
	return "neg"
}

func TestResolve(t *testing.T) {
	for in, want := range map[string]string{
		"/svc/a":                "neg",
		"/":                     "neg",
		"/$":                    "neg",
		"/$/nil":                "$",
		"/$/nil/x":              "$",
		"/$/fail/x":             "!",
		"/$/inet/db.test/5432":  "bound /$/inet/db.test/5432 /",
		"/$/inet/1.2.3.4/80/x":  "bound /$/inet/1.2.3.4/80 /x",
		"/$/inet/8080":          "bound /$/inet/127.0.0.1/8080 /",
		"/$/inet/8080/x/y":      "bound /$/inet/127.0.0.1/8080 /x/y",
		"/$/inet":               "Unknown namer: inet for path: /$/inet",
		"/$/inet/db.test/http":  "Unknown namer: inet for path: /$/inet/db.test/http",
		"/$/inet/db.test/0":     "Unknown namer: inet for path: /$/inet/db.test/0",
		"/$/inet/db.test/65536": "Unknown namer: inet for path: /$/inet/db.test/65536",
		"/$/inet/8080/9090":     "bound /$/inet/8080/9090 /", // the host is called 8080
		"/$/io.buoyant.x/a":     "Unknown namer: io.buoyant.x for path: /$/io.buoyant.x/a",
		"/$/io.buoyant.x":       "Unknown namer: io.buoyant.x for path: /$/io.buoyant.x",

		"/$/io.buoyant.rinet/80/a.test":    "bound /$/io.buoyant.rinet/80/a.test /",
		"/$/io.buoyant.rinet/80/a.test/x":  "bound /$/io.buoyant.rinet/80/a.test /x",
		"/$/io.buoyant.rinet/80":           "neg",
		"/$/io.buoyant.rinet":              "neg",
		"/$/io.buoyant.rinet/https/a.test": "Unknown namer: io.buoyant.rinet for path: /$/io.buoyant.rinet/https/a.test",

		"/$/io.buoyant.hostportPfx/pfx/db:5432":                       "/pfx/db/5432",
		"/$/io.buoyant.hostportPfx/pfx/db:https/x":                    "/pfx/db/https/x",
		"/$/io.buoyant.hostportPfx/pfx/db:2-a":                        "/pfx/db/2-a",
		"/$/io.buoyant.hostportPfx/pfx/a.test:80/x":                   "/pfx/a.test/80/x",
		"/$/io.buoyant.hostportPfx/pfx/db":                            "neg",
		"/$/io.buoyant.hostportPfx/pfx/db:":                           "neg",
		"/$/io.buoyant.hostportPfx/pfx/:80":                           "neg",
		"/$/io.buoyant.hostportPfx/pfx/db:1:2":                        "neg",
		"/$/io.buoyant.hostportPfx/pfx/::1:80":                        "neg",
		"/$/io.buoyant.hostportPfx/pfx/db:A":                          "neg",
		"/$/io.buoyant.hostportPfx/pfx/db:-a":                         "neg",
		"/$/io.buoyant.hostportPfx/pfx/db:a.b":                        "neg",
		"/$/io.buoyant.hostportPfx/pfx":                               "neg",
		"/$/io.buoyant.hostportPfx":                                   "neg",
		"/$/io.buoyant.hostportPfx/pfx/db:" + strings.Repeat("a", 63): "/pfx/db/" + strings.Repeat("a", 63),
		"/$/io.buoyant.hostportPfx/pfx/db:" + strings.Repeat("a", 64): "neg",
		"/$/io.buoyant.porthostPfx/pfx/db:5432":                       "/pfx/5432/db",
		"/$/io.buoyant.porthostPfx/pfx/db:https/x/y":                  "/pfx/https/db/x/y",
		"/$/io.buoyant.porthostPfx/pfx/db":                            "neg",
		"/$/io.buoyant.porthostPfx/pfx":                               "neg",

		"/$/io.buoyant.http.anyMethod/GET/a/b":       "/a/b",
		"/$/io.buoyant.http.anyMethod/GET":           "/",
		"/$/io.buoyant.http.anyMethod/get/a":         "neg",
		"/$/io.buoyant.http.anyMethod/G.T/a":         "neg",
		"/$/io.buoyant.http.anyMethod":               "neg",
		"/$/io.buoyant.http.anyMethodPfx/pfx/POST/a": "/pfx/a",
		"/$/io.buoyant.http.anyMethodPfx/pfx/p/a":    "neg",
		"/$/io.buoyant.http.anyMethodPfx/pfx":        "neg",

		"/$/io.buoyant.http.anyHost/a.test/x":        "/x",
		"/$/io.buoyant.http.anyHost/A_b-c.test:80/x": "/x",
		"/$/io.buoyant.http.anyHost/a%b/x":           "neg",
		"/$/io.buoyant.http.anyHost":                 "neg",
		"/$/io.buoyant.http.anyHostPfx/pfx/a.test/x": "/pfx/x",
		"/$/io.buoyant.http.anyHostPfx/pfx/a$b/x":    "neg",
		"/$/io.buoyant.http.anyHostPfx/a.test":       "neg",

		"/$/io.buoyant.http.subdomainOf/shop.test/cart.shop.test/x":       "/cart/x",
		"/$/io.buoyant.http.subdomainOf/shop.test/cart.shop.test:8080":    "/cart",
		"/$/io.buoyant.http.subdomainOf/shop.test/a-b.c_d.shop.test":      "/a-b.c_d",
		"/$/io.buoyant.http.subdomainOf/shop.test/shop.test":              "neg",
		"/$/io.buoyant.http.subdomainOf/shop.test/.shop.test":             "neg",
		"/$/io.buoyant.http.subdomainOf/shop.test/xshop.test":             "neg",
		"/$/io.buoyant.http.subdomainOf/shop.test/cart.shop.test:http":    "neg",
		"/$/io.buoyant.http.subdomainOf/shop.test/a:1.shop.test":          "neg",
		"/$/io.buoyant.http.subdomainOf/shop.test/cart.other.test":        "neg",
		"/$/io.buoyant.http.subdomainOf/sh%p/cart.sh%p":                   "neg",
		"/$/io.buoyant.http.subdomainOf/shop.test/c%.shop.test":           "neg",
		"/$/io.buoyant.http.subdomainOf/shop.test":                        "neg",
		"/$/io.buoyant.http.subdomainOfPfx/shop.test/p/cart.shop.test/x":  "/p/cart/x",
		"/$/io.buoyant.http.subdomainOfPfx/shop.test/p/cart.shop.test:80": "/p/cart",
		"/$/io.buoyant.http.subdomainOfPfx/shop.test/p/shop.test":         "neg",
		"/$/io.buoyant.http.subdomainOfPfx/shop.test/p":                   "neg",

		"/$/io.buoyant.http.domainToPath/a.b.c/x":          "/c/b/a/x",
		"/$/io.buoyant.http.domainToPath/a":                "/a",
		"/$/io.buoyant.http.domainToPath/a.b.":             "/b/a",
		"/$/io.buoyant.http.domainToPath/a..b":             "neg",
		"/$/io.buoyant.http.domainToPath/.a":               "neg",
		"/$/io.buoyant.http.domainToPath/.":                "neg",
		"/$/io.buoyant.http.domainToPath/shop.test:81":     "/test:81/shop",
		"/$/io.buoyant.http.domainToPath/a%b":              "neg",
		"/$/io.buoyant.http.domainToPath":                  "neg",
		"/$/io.buoyant.http.domainToPathPfx/pfx/a.b.c/x/y": "/pfx/c/b/a/x/y",
		"/$/io.buoyant.http.domainToPathPfx/pfx":           "neg",

		"/$/dev.tulle.service":      "neg",
		"/$/dev.tulle.service/shop": "neg",
	} {
		if got := show(rewrite.Resolve(path(t, in))); got != want {
			t.Errorf("Resolve(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestHosts(t *testing.T) {
	const k = "/#/io.l5d.k8s/"
	for in, want := range map[string]string{
		"cart":                           k + "shop/80/cart | " + k + "shop/http/cart",
		"Cart.":                          k + "shop/80/cart | " + k + "shop/http/cart",
		"cart:8080":                      k + "shop/8080/cart",
		"cart.eu":                        k + "eu/80/cart | " + k + "eu/http/cart | /$/inet/cart.eu/80",
		"cart.eu:81":                     k + "eu/81/cart | /$/inet/cart.eu/81",
		"cart.eu.svc":                    k + "eu/80/cart | " + k + "eu/http/cart | /$/inet/cart.eu.svc/80",
		"cart.eu.svc.cluster.local:81":   k + "eu/81/cart | /$/inet/cart.eu.svc.cluster.local/81",
		"cart.eu.svc.cluster.local.":     k + "eu/80/cart | " + k + "eu/http/cart | /$/inet/cart.eu.svc.cluster.local./80",
		"pod-0.cart.eu.svc.cluster.test": "/$/inet/pod-0.cart.eu.svc.cluster.test/80",
		"api.shop.test:8443":             "/$/inet/api.shop.test/8443",
		"_x._tcp.test":                   "/$/inet/_x._tcp.test/80",
		"-x.test":                        "/$/inet/-x.test/80",
		"10.1.2.3":                       "/$/inet/10.1.2.3/80",
		"10.1.2.3:9000":                  "/$/inet/10.1.2.3/9000",
		"[fd00::1]:81":                   `/$/inet/\x66\x64\x30\x30\x3a\x3a\x31/81`,
		"[fd00::1]":                      `/$/inet/\x66\x64\x30\x30\x3a\x3a\x31/80`,
		"::1":                            "/$/inet/::1/80",
		"_x":                             "~",
		"cart:":                          "~",
		"cart:http":                      "~",
		"cart:0":                         "~",
		"cart:080":                       "~",
		":80":                            "~",
		".":                              "~",
		"a:b:c":                          "~",
		"[fd00::1":                       "~",
		"[fd00::1]x":                     "~",
		"[cart]:80":                      "~",
		strings.Repeat("a", 64):          "~",
	} {
		want := strings.ReplaceAll(want, `\x66\x64\x30\x30\x3a\x3a\x31`, "fd00::1")
		got := show(rewrite.Resolve(naming.Path{"$", "dev.tulle.service", "shop", in}))
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", in, got, want)
		}
	}
	got := show(rewrite.Resolve(path(t, "/$/dev.tulle.service/shop/cart.eu:81/a/B")))
	if want := k + "eu/81/cart/a/B | /$/inet/cart.eu/81/a/B"; got != want {
		t.Errorf("the rest is lost: %s", got)
	}
}

func TestInet(t *testing.T) {
	for in, want := range map[string]string{
		"/$/inet/db.test/5432":       "db.test 5432",
		"/$/inet/::1/80":             "::1 80",
		"/$/inet/a/65535":            "a 65535",
		"/$/io.buoyant.rinet/80/a":   "a 80",
		"/$/io.buoyant.rinet/a/80":   "",
		"/$/io.buoyant.rinet/80/a/x": "",
		"/$/inet/db.test":            "",
		"/$/inet/db.test/80/x":       "",
		"/$/inet/db.test/http":       "",
		"/$/inet/db.test/0":          "",
		"/$/inet/db.test/080":        "",
		"/$/inet/db.test/65536":      "",
		"/#/inet/db.test/80":         "",
		"/#/io.l5d.k8s/a/80/web":     "",
		"/":                          "",
	} {
		got := ""
		if host, port, ok := rewrite.Inet(path(t, in)); ok {
			got = fmt.Sprint(host, " ", port)
		}
		if got != want {
			t.Errorf("Inet(%s) = %q, want %q", in, got, want)
		}
	}
	// Every id that Resolve binds is one.
	for _, name := range []string{"/$/inet/db.test/5432/x", "/$/inet/8080/x", "/$/io.buoyant.rinet/80/a/x"} {
		if _, _, ok := rewrite.Inet(rewrite.Resolve(path(t, name)).Bound.ID); !ok {
			t.Errorf("the id of %s is not known again", name)
		}
	}
}

// The dtab of a proxy that lets requests out: names with a port and without one.
func TestEgress(t *testing.T) {
	d, err := naming.ParseDtab("/dns => /$/io.buoyant.rinet ; /out => /dns/80 ; /out => /$/io.buoyant.porthostPfx/dns ; /svc => /out")
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"api.test":      "/$/io.buoyant.rinet/80/api.test",
		"api.test:8443": "/$/io.buoyant.rinet/8443/api.test",
	} {
		b, err := naming.Bind(d, naming.Path{"svc", host}, rewrite.Resolve)
		if err != nil || b.Leaf.ID.String() != want {
			t.Errorf("%s is %s, %v; want %s", host, b.Leaf.ID, err, want)
		}
	}
}

// Whatever elements come, nothing is lost of what follows them, and what was given stays as it is.
func TestResolveKeepsTheRest(t *testing.T) {
	namers := []string{
		"inet", "io.buoyant.rinet", "io.buoyant.hostportPfx", "io.buoyant.porthostPfx", "dev.tulle.service", "nil", "other",
		"io.buoyant.http.anyMethod", "io.buoyant.http.anyMethodPfx", "io.buoyant.http.anyHost", "io.buoyant.http.anyHostPfx",
		"io.buoyant.http.subdomainOf", "io.buoyant.http.subdomainOfPfx", "io.buoyant.http.domainToPath", "io.buoyant.http.domainToPathPfx",
	}
	element := rapid.OneOf(
		rapid.SampledFrom([]string{"80", "GET", "a.test", "test", "x.a.test:80", "db:80", "::", ".", "a b"}),
		rapid.StringN(1, 6, 12))
	rapid.Check(t, func(t *rapid.T) {
		p := append(naming.Path{"$", rapid.SampledFrom(namers).Draw(t, "namer")}, rapid.SliceOfN(element, 0, 4).Draw(t, "args")...)
		before := p.Join()
		p = append(p, "spare")[:len(p)] // appending to a part of p must not write here
		r := rewrite.Resolve(p)
		longer := rewrite.Resolve(append(p[:len(p):len(p)], "more", "end"))
		if !p.Equal(before) || p[:len(p)+1][len(p)] != "spare" {
			t.Fatalf("%s was changed", before)
		}
		if tree, ok := r.Tree.(naming.Leaf); ok {
			if l, ok := longer.Tree.(naming.Leaf); !ok || l.String() != naming.Path(tree).Join("more", "end").String() {
				t.Fatalf("%s is %s, and longer %s", p, show(r), show(longer))
			}
			for _, e := range tree {
				if e == "" {
					t.Fatalf("%s has an empty element", show(r))
				}
			}
		}
		if r.Bound != nil && (longer.Bound == nil || r.Bound.ID.Equal(longer.Bound.ID) && !longer.Bound.Residual.Equal(r.Bound.Residual.Join("more", "end"))) {
			t.Fatalf("%s is %s, and longer %s", p, show(r), show(longer))
		}
	})
}

func BenchmarkResolve(b *testing.B) {
	p := path(b, "/$/io.buoyant.porthostPfx/dns/api.test:8443/x")
	b.ReportAllocs()
	for b.Loop() {
		rewrite.Resolve(p)
	}
}
