package router_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// corporate is a second proxy: what applications had before they were in a mesh.
type corporate struct {
	url     string
	address string
	seen    record[*http.Request]
}

// newCorporate runs one that reaches every host at an address.
func newCorporate(t *testing.T, outside string) *corporate {
	t.Helper()
	c := &corporate{}
	c.address = backend(t, func(w http.ResponseWriter, r *http.Request) {
		c.seen.add(r)
		if r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("ann:s3cret:/")) {
			w.Header().Set("Proxy-Authenticate", "Basic")
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method == http.MethodConnect {
			there, err := net.Dial("tcp", outside)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer there.Close()
			here, buffered, _ := w.(http.Hijacker).Hijack()
			defer here.Close()
			_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
			go func() { _, _ = io.Copy(there, buffered); _ = there.(*net.TCPConn).CloseWrite() }()
			_, _ = io.Copy(here, there)
			return
		}
		if !r.URL.IsAbs() {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "corporate: %s %s for %s %s", r.Method, r.RequestURI, r.Host, body)
	})
	c.url = "http://ann:s3cret%3A%2F@" + c.address
	return c
}

// known makes DNS know a proxy.
func (m *mesh) known(address string) {
	host, port, _ := net.SplitHostPort(address)
	m.table.value("/$/inet/" + host + "/" + port).Set(naming.Of(naming.Endpoint{Address: address, Weight: 1}))
}

func chainUser(proxy string) string {
	return "chain-" + base64.RawURLEncoding.EncodeToString([]byte(proxy))
}

// chained returns a client that was told of its own proxy in the way of an injector.
func (m *mesh) chained(t *testing.T, proxy string) *http.Client {
	t.Helper()
	c := m.client(t)
	c.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: m.address, User: url.User(chainUser(proxy))})
	return c
}

// What leaves the mesh goes through the proxy that the application had; names of
// the mesh go their usual way.
func TestUpstream(t *testing.T) {
	asked := record[string]{}
	m := startOn(t, newLoopback(t), router.OutgoingConfig{Local: func(source string) bool { asked.add(source); return true }})
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "secure "+r.Host) }))
	t.Cleanup(secure.Close)
	corp := newCorporate(t, secure.Listener.Addr().String())
	m.known(corp.address)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "world "+r.RequestURI+r.Header.Get("Proxy-Authorization"))
	}))
	c := m.chained(t, corp.url)
	c.Transport.(*http.Transport).TLSClientConfig = secure.Client().Transport.(*http.Transport).TLSClientConfig

	for url, want := range map[string]string{
		"http://world/a":                     "world /a",
		"http://outside.example.org/a?b=%20": "corporate: GET http://outside.example.org/a?b=%20 for outside.example.org ",
		"http://outside.example.org:81/":     "corporate: GET http://outside.example.org:81/ for outside.example.org:81 ",
		"http://[2001:db8::7]:81/x":          "corporate: GET http://[2001:db8::7]:81/x for [2001:db8::7]:81 ",
		"http://intranet/":                   "corporate: GET http://intranet/ for intranet ", // only that proxy knows it
		"https://example.com/":               "secure example.com",
	} {
		if res, body := get(t, c, url); res.StatusCode != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", url, res.StatusCode, body, want)
		}
	}
	if res, body := do(t, c, "POST", "http://outside.example.org/", strings.NewReader("hello")); res.StatusCode != 200 || !strings.HasSuffix(body, " hello") {
		t.Errorf("a POST: %d %q", res.StatusCode, body)
	}
	if res, body := get(t, m.client(t), "http://outside.example.org/"); res.StatusCode != 502 {
		t.Errorf("of an application that had no proxy: %d %s", res.StatusCode, body)
	}
	for _, r := range corp.seen.get() {
		if strings.Contains(fmt.Sprint(r.Header), "chain-") || r.Header.Get("Via") != "1.1 linkerd" && r.Method != "CONNECT" {
			t.Errorf("the other proxy saw %v", r.Header)
		}
	}
	if len(asked.get()) == 0 {
		t.Error("nobody was asked whether the caller is local")
	}
	if path, err := exec.LookPath("curl"); err == nil {
		proxy := "http://" + chainUser(corp.url) + "@" + m.address
		for _, args := range [][]string{{"-x", proxy, "http://outside.example.org/curl"}, {"-p", "-x", proxy, "http://outside.example.org/curl"}} {
			out, err := exec.CommandContext(t.Context(), path, append([]string{"-sS", "--max-time", "20"}, args...)...).CombinedOutput()
			if err != nil || string(out) != "corporate: GET http://outside.example.org/curl for outside.example.org " {
				t.Errorf("curl %v: %v %q", args[:len(args)-1], err, out)
			}
		}
		out, err := exec.CommandContext(t.Context(), path, "-sSk", "--max-time", "20", "-x", proxy, "https://example.com/").CombinedOutput()
		if err != nil || string(out) != "secure example.com" {
			t.Errorf("curl over TLS: %v %q", err, out)
		}
	}
}

// HTTP/1 in a tunnel is no tunnel, but its requests leave the mesh by the proxy that
// the CONNECT named.
func TestUpstreamOfAPlainTunnel(t *testing.T) {
	m := start(t)
	corp := newCorporate(t, refusing(t))
	m.known(corp.address)
	auth := "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(chainUser(corp.url)+":")) + "\r\n"
	c, res := m.connect(t, "outside.example.org:80", auth)
	if res.StatusCode != 200 {
		t.Fatal(res)
	}
	for range 2 {
		c.say("GET /in HTTP/1.1\r\nHost: outside.example.org\r\n\r\n")
		if res, body := c.answer("GET"); res.StatusCode != 200 || body != "corporate: GET http://outside.example.org/in for outside.example.org " {
			t.Errorf("%d %q", res.StatusCode, body)
		}
	}
	// A tunnel that the other proxy does not make ends.
	c, _ = m.connect(t, "outside.example.org:443", auth)
	c.say("*1\r\n")
	if rest := c.rest(); rest != "" {
		t.Errorf("got %q", rest)
	}
}

// A proxy that is in the mesh itself is asked by way of its own proxy.
func TestUpstreamInTheMesh(t *testing.T) {
	m := start(t)
	hop := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Method == "CONNECT" && req.Header.Get("tulle-dst-endpoint") != "" {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
				continue
			}
			answer := req.Method + " " + req.RequestURI + " " + req.Header.Get("Proxy-Authorization") + " " + req.Header.Get("tulle-dst-endpoint")
			if req.Method == "CONNECT" {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"+answer)
				_, _ = io.Copy(io.Discard, r)
				return
			}
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
		}
	})
	m.proxied("squid:3128", hop)
	if res, body := get(t, m.chained(t, "http://u@squid:3128"), "http://outside.example.org/"); res.StatusCode != 200 || body != "GET http://outside.example.org/ Basic dTo= 192.0.2.1:80" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	c, res := m.connect(t, "outside.example.org:443", "Proxy-Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte(chainUser("http://u@squid:3128")+":"))+"\r\n")
	if res.StatusCode != 200 {
		t.Fatal(res)
	}
	c.say("*1\r\n")
	c.expect("CONNECT outside.example.org:443 Basic dTo= ")
}

// The incoming proxy delivers what is for a proxy as it is.
func TestIncomingDeliversToAProxy(t *testing.T) {
	address := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.RequestURI+" "+r.Header.Get("Proxy-Authorization"))
	})
	proxy, client := startIncoming(t, "127.0.0.1")
	req, _ := http.NewRequestWithContext(context.Background(), "GET", proxy, nil)
	req.URL.Opaque, req.Host = "http://outside.example.org/a", "outside.example.org"
	req.Header.Set("tulle-dst-endpoint", address)
	req.Header.Set("Proxy-Authorization", "Basic dTo=")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); string(body) != "http://outside.example.org/a Basic dTo=" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
}

func TestUpstreamIsRefused(t *testing.T) {
	corp := newCorporate(t, refusing(t))
	secret := base64.RawURLEncoding.EncodeToString([]byte("http://ann:pass word@proxy:x"))
	m := start(t)
	m.known(corp.address)
	m.refuse("169.254.169.254", "3128")
	for user, want := range map[string]string{
		"chain-!":                 "T116",
		"chain-":                  "T116",
		chainUser("https://p:1"):  "T116",
		chainUser("socks5://p:1"): "T116",
		chainUser("proxy:3128"):   "T116",
		chainUser("http://"):      "T116",
		"chain-" + secret:         "T116",
		chainUser("http://p/" + strings.Repeat("x", 2100)): "T116",
		chainUser("http://169.254.169.254:3128"):           "T205",
		"somebody":                                         "T201", // who had no proxy to chain
	} {
		header := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"))
		res, body := get(t, m.client(t), "http://outside.invalid-name_/", "Proxy-Authorization", header)
		if res.Header.Get("tulle-code") != want || strings.Contains(body, "pass word") {
			t.Errorf("%s: %d %s, want %s", user, res.StatusCode, body, want)
		}
	}
	for _, host := range []string{"169.254.169.254", "2852039166", "metadata.google.internal", "[::ffff:169.254.169.254]", "0xa9fea9fe:81"} {
		header := "Basic " + base64.StdEncoding.EncodeToString([]byte(chainUser(corp.url)+":"))
		c := m.talk(t)
		c.say("GET / HTTP/1.1\r\nHost: " + host + "\r\nProxy-Authorization: " + header + "\r\n\r\n")
		if res, body := c.answer("GET"); res.StatusCode != 403 || res.Header.Get("tulle-code") != "T205" {
			t.Errorf("%s: %d %s", host, res.StatusCode, body)
		}
	}
	if seen := corp.seen.get(); len(seen) != 0 {
		t.Errorf("the other proxy was asked %d times", len(seen))
	}

	m = startOn(t, newLoopback(t), router.OutgoingConfig{Local: func(string) bool { return false }})
	m.known(corp.address)
	if res, body := get(t, m.chained(t, corp.url), "http://outside.example.org/"); res.StatusCode != 502 || len(corp.seen.get()) != 0 {
		t.Errorf("of somebody elsewhere: %d %s", res.StatusCode, body)
	}
	if n := m.count(t, "tulle_overrides_dropped_total"); n != 1 {
		t.Errorf("%v are counted as dropped", n)
	}
}
