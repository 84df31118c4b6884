package router_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// identifying runs a router by whose rules every name leads to one backend, which
// keeps the heads that it gets. What follows /svc is left over.
func identifying(t *testing.T, heads *record[string], identifiers ...router.Identifier) *mesh {
	t.Helper()
	m := startOn(t, newLoopback(t), router.OutgoingConfig{Grace: 5 * time.Second, Identifiers: identifiers})
	dtab, err := naming.ParseDtab("/svc => /#/io.l5d.k8s/ns/http/world")
	if err != nil {
		t.Fatal(err)
	}
	m.dtab.Set(&dtab)
	m.table.service("world", verbatim(t, heads, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	return m
}

// field returns the only value of a field of a head, or what is wrong with it.
func field(head, name string) string {
	var all []string
	for _, line := range strings.Split(head, "\r\n")[1:] {
		if n, v, ok := strings.Cut(line, ": "); ok && strings.EqualFold(n, name) {
			all = append(all, v)
		}
	}
	if len(all) != 1 {
		return fmt.Sprintf("%d times %s: %q", len(all), name, all)
	}
	return all[0]
}

func TestIdentifiers(t *testing.T) {
	token := router.Identifier{Kind: router.IdentifyHeaderToken}
	to := router.Identifier{Kind: router.IdentifyHeaderToken, Header: "X-To"}
	header := router.Identifier{Kind: router.IdentifyHeader}
	one := router.Identifier{Kind: router.IdentifyPath}
	two := router.Identifier{Kind: router.IdentifyPath, Segments: 2}
	eat := router.Identifier{Kind: router.IdentifyPath, Segments: 2, Consume: true}
	method := router.Identifier{Kind: router.IdentifyMethodAndHost}
	uri := router.Identifier{Kind: router.IdentifyMethodAndHost, URIInDst: true}
	static := router.Identifier{Kind: router.IdentifyStatic, Path: naming.Path{"a", "b c"}}
	list := func(all ...router.Identifier) []router.Identifier { return all }

	for _, test := range []struct {
		by           []router.Identifier
		request      string // its line and its fields, by |
		name, target string // what the backend gets; or
		wrong        string // how the message of the 400 begins
	}{
		{nil, "GET /x HTTP/1.1|Host: Cart:8080", "Cart:8080", "/x", ""},
		{list(token), "GET /x HTTP/1.1|Host: Cart:8080", "Cart:8080", "/x", ""},
		{list(token), "GET http://cart/a%20b?x=%31 HTTP/1.1|Host: other", "cart", "/a%20b?x=%31", ""},
		{list(token), "GET http://cart HTTP/1.1|Host: other", "cart", "/", ""},
		{list(token), "GET /x HTTP/1.0", "", "", "Unknown destination: GET /x / Host header is absent"},
		{list(to), "GET /x HTTP/1.1|Host: h|x-to: Cart:8080", "Cart:8080", "/x", ""},
		{list(to), "GET /x HTTP/1.1|Host: h|x-to: /a/b", `\x2f\x61\x2f\x62`, "/x", ""},
		{list(to), "GET /x HTTP/1.1|Host: h|x-to: a b~\xe4", `\x61\x20\x62\x7e\xe4`, "/x", ""},
		{list(to), "GET /x HTTP/1.1|Host: h|x-to:", "", "", "Unknown destination: GET /x / X-To header is absent"},

		{list(header), "GET /x HTTP/1.1|Host: h|L5D-Name: /Shop/cart", "Shop/cart", "/x", ""},
		{list(header), `GET /x HTTP/1.1|Host: h|l5d-name: /a\x2fb`, `\x61\x2f\x62`, "/x", ""},
		{list(header), "GET /x HTTP/1.1|Host: h", "", "", "Unknown destination: GET /x / l5d-name header is absent"},
		{list(header), "GET /x HTTP/1.1|Host: h|l5d-name:", "", "", "Unknown destination: GET /x / l5d-name header is absent"},
		{list(header), "GET /x HTTP/1.1|Host: h|l5d-name: cart", "", "", "l5d-name: '/' expected but 'c' found at '[c]art'"},
		{list(header), "GET /x HTTP/1.1|Host: h|l5d-name: /a b", "", "", "l5d-name: "},
		{list(header, token), "GET /x HTTP/1.1|Host: h|l5d-name: /a/", "", "", "l5d-name: "}, // it does not decline

		{list(one), "GET /shop/cart?q=1 HTTP/1.1|Host: h", "shop", "/shop/cart?q=1", ""},
		{list(one), "GET /shop HTTP/1.0", "shop", "/shop", ""},
		{list(one), "GET http://h/shop?q=/x HTTP/1.1|Host: h", "shop", "/shop?q=/x", ""},
		{list(one), "GET /a%20b/c HTTP/1.1|Host: h", "a%20b", "/a%20b/c", ""},
		{list(one), "GET /a+b@/c HTTP/1.1|Host: h", `\x61\x2b\x62\x40`, "/a+b@/c", ""},
		{list(one), "GET / HTTP/1.1|Host: h", "", "", "Unknown destination: GET / / fewer than 1 segments in the path /"},
		{list(one), "GET //a HTTP/1.1|Host: h", "", "", "Unknown destination: GET //a / fewer than 1 segments"},
		{list(one), "OPTIONS * HTTP/1.1|Host: h", "", "", "Unknown destination: OPTIONS * / fewer than 1 segments"},
		{list(eat), "GET /shop/cart/items/?q=1 HTTP/1.1|Host: h", "shop/cart", "/items/?q=1", ""},
		{list(eat), "GET /shop/cart HTTP/1.1|Host: h", "shop/cart", "/", ""},
		{list(eat), "GET /shop/cart/ HTTP/1.1|Host: h", "shop/cart", "/", ""},
		{list(eat), "GET /shop/cart?q=1 HTTP/1.1|Host: h", "shop/cart", "/?q=1", ""},
		{list(eat), "GET /shop/cart? HTTP/1.1|Host: h", "shop/cart", "/?", ""},
		{list(eat), "GET /shop/cart//%zz/{}/../~ HTTP/1.1|Host: h", "shop/cart", "//%zz/{}/../~", ""},
		{list(eat), "GET http://other/shop/cart/x HTTP/1.1|Host: h", "shop/cart", "/x", ""},
		{list(eat), "GET /shop?q=/cart HTTP/1.1|Host: h", "", "", "Unknown destination: GET /shop?q=/cart / fewer than 2 segments in the path /shop"},
		{list(eat), "GET /shop/?q=1 HTTP/1.1|Host: h", "", "", "Unknown destination: "},
		{list(two), "GET /shop/cart/items HTTP/1.1|Host: h", "shop/cart", "/shop/cart/items", ""},
		{list(two), "GET /shop?q=1 HTTP/1.1|Host: h", "", "", "Unknown destination: "},

		{list(method), "PUT /x HTTP/1.1|Host: Cart:8080", "1.1/PUT/cart:8080", "/x", ""},
		{list(method), "GET http://Cart/x HTTP/1.1|Host: h", "1.1/GET/cart", "/x", ""},
		{list(method), "GET /x HTTP/1.0|Host: h", "1.0/GET", "/x", ""},
		{list(uri), "GET /a/b%20c/?q=/d HTTP/1.1|Host: h", "1.1/GET/h/a/b%20c", "/a/b%20c/?q=/d", ""},
		{list(uri), "GET / HTTP/1.0", "1.0/GET", "/", ""},

		{list(static), "GET /x HTTP/1.0", `a/\x62\x20\x63`, "/x", ""},

		{list(eat, header, token), "GET /a/b/c HTTP/1.1|Host: h|l5d-name: /n", "a/b", "/c", ""},
		{list(eat, header, token), "GET /a HTTP/1.1|Host: h|l5d-name: /n", "n", "/a", ""},
		{list(eat, header, token), "GET /a HTTP/1.1|Host: h", "h", "/a", ""},
		{list(two, to, token), "GET /a HTTP/1.0", "", "",
			"Unknown destination: GET /a / fewer than 2 segments in the path /a; X-To header is absent; Host header is absent"},
		{list(to, static), "GET /a HTTP/1.0", `a/\x62\x20\x63`, "/a", ""},
	} {
		t.Run(test.request, func(t *testing.T) {
			var heads record[string]
			m := identifying(t, &heads, test.by...)
			c := m.talk(t)
			c.say(strings.ReplaceAll(test.request, "|", "\r\n") + "\r\n\r\n")
			verb, _, _ := strings.Cut(test.request, " ")
			res, body := c.answer(verb)
			if test.wrong != "" {
				if res.StatusCode != http.StatusBadRequest || !strings.HasPrefix(body, test.wrong) || res.Header.Get("tulle-code") != "T103" || res.Header.Get("l5d-err") == "" {
					t.Errorf("%d %q %v", res.StatusCode, body, res.Header)
				}
				if len(heads.get()) != 0 {
					t.Error("it was forwarded")
				}
				return
			}
			if res.StatusCode != http.StatusOK {
				t.Fatalf("%d %q", res.StatusCode, body)
			}
			head := heads.get()[0]
			line, _, _ := strings.Cut(head, "\r\n")
			if got := field(head, "l5d-dst-service"); got != "/svc/"+test.name || line != verb+" "+test.target+" HTTP/1.1" {
				t.Errorf("the service is %s, and %q was sent on", got, line)
			}
			if got := field(head, "l5d-dst-residual"); got != "/"+test.name {
				t.Errorf("left over is %s", got)
			}
			if got := field(head, "l5d-dst-client"); got != bound("world") {
				t.Errorf("the client is %s", got)
			}
		})
	}
}

// What of a name is left over belongs to that name, though others lead to the same
// place; and none is left if the rules take all of it.
func TestResidual(t *testing.T) {
	var heads record[string]
	m := identifying(t, &heads)
	c := m.client(t)
	for _, host := range []string{"a", "b", "a"} {
		get(t, c, "http://"+host+"/", "l5d-dst-residual", "/forged")
	}
	dtab, err := naming.ParseDtab("/svc/* => /#/io.l5d.k8s/ns/http/world")
	if err != nil {
		t.Fatal(err)
	}
	m.dtab.Set(&dtab)
	get(t, c, "http://a/", "l5d-dst-residual", "/forged")
	for i, want := range []string{"/a", "/b", "/a", "0 times l5d-dst-residual: []"} {
		if got := field(heads.get()[i], "l5d-dst-residual"); got != want {
			t.Errorf("request %d: %s, want %s", i, got, want)
		}
	}
}
