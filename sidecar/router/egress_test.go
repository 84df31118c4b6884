package router_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// outside makes DNS know a host.
func (m *mesh) outside(hostport string, addresses ...string) {
	host, port, _ := net.SplitHostPort(hostport)
	var all []naming.Endpoint
	for _, a := range addresses {
		all = append(all, naming.Endpoint{Address: a, Weight: 1})
	}
	m.table.value("/$/inet/" + host + "/" + port).Set(naming.Of(all...))
}

// translated is a network of the loopback in which the documentation's addresses are
// those of the loopback.
type translated struct{ loopback }

func (n translated) dial(ctx context.Context, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return n.loopback.dial(ctx, net.JoinHostPort("127.0.0.1", port))
}

// A policy says where requests may go outside, by name or by address; Services are
// not affected.
func TestEgressAllows(t *testing.T) {
	m := startOn(t, translated{newLoopback(t)}, router.OutgoingConfig{Grace: 5 * time.Second},
		`egress: {allow: [api.example.com, "*.example.org:443", 192.0.2.0/24, "named.test:81"]}`)
	_, port, _ := net.SplitHostPort(echoHost(t, "there"))
	in, out := "192.0.2.9:"+port, "198.51.100.9:"+port
	for _, name := range []string{"world", "world:80"} {
		m.table.service(name, out)
	}
	for _, known := range []string{"api.example.com:80", "api.example.com:8080", "a.example.org:443", "a.example.org:80", "elsewhere.test:80", "named.test:81"} {
		m.outside(known, out)
	}
	m.outside("byaddress.test:80", in)
	m.outside("mixed.test:80", in, out)
	m.outside(in, in)
	m.outside(out, out)
	m.outside("nowhere.test:80")
	c := m.client(t)
	for url, want := range map[string]string{
		"http://world/": "200 ", "http://api.example.com/": "200 ", "http://API.example.com:8080/": "200 ", "http://a.example.org:443/": "200 ", "http://byaddress.test/": "200 ",
		"http://named.test:81/": "200 ", "http://" + in + "/": "200 ", "http://nowhere.test/": "502 T201",
		"http://a.example.org/": "403 T206", "http://elsewhere.test/": "403 T206", "http://mixed.test/": "403 T206", "http://" + out + "/": "403 T206",
	} {
		res, body := get(t, c, url)
		if got := res.Status[:4] + res.Header.Get("tulle-code"); got != want {
			t.Errorf("%s: %q, want %q\n%s", url, got, want, body)
		}
	}
	if _, body := get(t, c, "http://elsewhere.test/"); !strings.Contains(body, "this proxy does not go to elsewhere.test:80 at "+out+": ") || !strings.Contains(body, "egress.allow of the proxy's policy") {
		t.Error(body)
	}
	// A rule of the caller makes no allowed name of another host.
	res, body := get(t, c, "http://api.example.com/", "l5d-dtab", "/svc/api.example.com => /$/inet/elsewhere.test/80")
	if res.Header.Get("tulle-code") != "T206" {
		t.Errorf("by a rule: %d %s", res.StatusCode, body)
	}
	for target, want := range map[string]int{"elsewhere.test:80": 403, "mixed.test:80": 403, "byaddress.test:80": 200, "api.example.com:80": 200, "world:80": 200, in: 200, out: 403} {
		if _, res := m.connect(t, target); res.StatusCode != want {
			t.Errorf("CONNECT %s: %d %v", target, res.StatusCode, res.Header)
		}
	}
	// Nor is said where it is.
	for url, want := range map[string]string{"http://elsewhere.test/": "403 T206", "http://byaddress.test/": "200 "} {
		res, body := do(t, c, "TRACE", url, nil, "Max-Forwards", "0", "l5d-add-context", "true")
		if res.Status[:4]+res.Header.Get("tulle-code") != want {
			t.Errorf("TRACE %s: %d, want %q\n%s", url, res.StatusCode, want, body)
		}
	}
	// It is followed live.
	m.policy.Set(says(t, "egress: {allow: []}"))
	for url, want := range map[string]string{"http://world/": "200 ", "http://api.example.com/": "403 T206"} {
		if res, body := get(t, c, url); res.Status[:4]+res.Header.Get("tulle-code") != want {
			t.Errorf("%s: %d, want %q\n%s", url, res.StatusCode, want, body)
		}
	}
	m.policy.Set(says(t))
	if res, body := get(t, c, "http://elsewhere.test/"); res.StatusCode != 200 {
		t.Errorf("without a list: %d %s", res.StatusCode, body)
	}
}

// A request that was going somewhere else may go there if its Host is allowed, or the
// address.
func TestEgressOfCapturedRequests(t *testing.T) {
	there := echoHost(t, "there")
	_, port, _ := net.SplitHostPort(there)
	c := capture(t, `egress: {allow: [api.example.com, 192.0.2.1]}`)
	c.table.service("world:"+port, there)
	for to, hosts := range map[string]map[string]int{
		there:               {"world": 200, "api.example.com": 200, "www.example.com": 403, "nobody": 403},
		"192.0.2.1:" + port: {"world": 200, "api.example.com": 200, "www.example.com": 200, "nobody": 200},
	} {
		for host, want := range hosts {
			conn := c.going(t, to)
			c.outside(to, there)
			conn.say("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
			res, body := conn.answer("GET")
			if res.StatusCode != want || want == 403 && res.Header.Get("tulle-code") != "T206" {
				t.Errorf("%s, going to %s: %d %s", host, to, res.StatusCode, body)
			}
		}
	}
}

// Through a proxy of the caller's own a request goes if its name is allowed, and the
// proxy's.
func TestEgressOfChainedRequests(t *testing.T) {
	m := startOn(t, newLoopback(t), router.OutgoingConfig{}, `egress: {allow: [api.example.com, proxy.test, 10.9.9.9]}`)
	other := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "by the other") })
	for _, known := range []string{"api.example.com:80", "www.example.com:80", "10.9.9.9:80", "10.8.8.8:80"} {
		m.outside(known, "10.7.7.7:80")
	}
	m.outside("proxy.test:3128", other)
	m.outside("evil.test:3128", other)
	for _, test := range []struct {
		url, proxy string
		want       int
	}{
		{"http://api.example.com/", "proxy.test", 200}, {"http://www.example.com/", "proxy.test", 403}, {"http://api.example.com/", "evil.test", 403},
		{"http://10.9.9.9/", "proxy.test", 200}, {"http://10.8.8.8/", "proxy.test", 403},
	} {
		res, body := get(t, m.chained(t, "http://"+test.proxy+":3128"), test.url)
		if res.StatusCode != test.want || test.want == 403 && res.Header.Get("tulle-code") != "T206" {
			t.Errorf("%s by %s: %d %s", test.url, test.proxy, res.StatusCode, body)
		}
	}
}
