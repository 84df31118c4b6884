package router_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// capturing is a router to which every connection was redirected that was going
// somewhere.
type capturing struct {
	*mesh
	to    atomic.Pointer[netip.AddrPort] // nil: connections are to the router itself
	asked atomic.Int64                   // how often where one was going
}

func capture(t *testing.T, words ...string) *capturing {
	t.Helper()
	c := &capturing{}
	n := newLoopback(t)
	c.mesh = startOn(t, n, router.OutgoingConfig{Grace: 5 * time.Second, Capture: &router.Capture{
		Original: func(net.Conn) (to netip.AddrPort, ok bool) {
			defer c.asked.Add(1)
			if p := c.to.Load(); p != nil {
				return *p, true
			}
			return netip.AddrPort{}, false
		},
		Opaque: func(port uint16) bool { return port == 3306 },
		Allow: func(a netip.AddrPort) error {
			if a.Addr().IsLinkLocalUnicast() {
				return errors.New("not there")
			}
			return nil
		},
		// What is on ports of 192.0.2.0/24 is on those of the loopback.
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return n.dial(ctx, strings.Replace(address, "192.0.2.1", "127.0.0.1", 1))
		},
	}}, words...)
	return c
}

// going opens a connection that was going to an address. DNS knows where that is.
func (c *capturing) going(t *testing.T, address string) *talk {
	t.Helper()
	to := netip.MustParseAddrPort(address)
	c.to.Store(&to)
	c.known(address)
	before := c.asked.Load()
	conn := c.talk(t)
	wait(t, "the connection", func() bool { return c.asked.Load() > before })
	return conn
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for range 5000 {
		if ok() {
			return
		}
		<-tick.C
	}
	t.Fatalf("in vain: %s", what)
}

func echoHost(t *testing.T, name string) string {
	return backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, name+" "+r.Host+r.RequestURI) })
}

func TestCapturedRequests(t *testing.T) {
	c := capture(t)
	there := echoHost(t, "there")
	_, port, _ := net.SplitHostPort(there)
	c.table.service("world", echoHost(t, "world"))
	c.table.service("world:"+port, echoHost(t, "world at the port"))
	c.table.service("cart:81", echoHost(t, "cart"))
	for host, want := range map[string]string{
		"world":                    "world at the port world/x", // the port is that of the connection
		"cart:81":                  "cart cart:81/x",
		"nobody":                   "there nobody/x", // went there before, and does still
		"nobody:99":                "there nobody:99/x",
		"example.org":              "there example.org/x", // its client has asked DNS already
		"example.org:" + port:      "there example.org:" + port + "/x",
		"EXAMPLE.org:81":           "there EXAMPLE.org:81/x",
		there:                      "there " + there + "/x",
		"[2001:db8::1]:" + port:    "there [2001:db8::1]:" + port + "/x",
		"pod-0.db.ns.svc.x.y:9999": "there pod-0.db.ns.svc.x.y:9999/x",
	} {
		conn := c.going(t, there)
		for range 2 { // and the connection stays
			conn.say("GET /x HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
			if res, body := conn.answer("GET"); res.StatusCode != 200 || body != want {
				t.Errorf("%s: %d %q, want %q", host, res.StatusCode, body, want)
			}
		}
	}
	conn := c.going(t, there)
	conn.say("GET /x HTTP/1.0\r\n\r\n")
	if res, body := conn.answer("GET"); res.StatusCode != 200 || body != "there "+there+"/x" {
		t.Errorf("without Host: %d %q", res.StatusCode, body)
	}
	// Requests of one connection go each their way.
	conn = c.going(t, there)
	conn.say("GET /1 HTTP/1.1\r\nHost: cart:81\r\n\r\nGET /2 HTTP/1.1\r\nHost: example.org\r\n\r\n")
	for _, want := range []string{"cart cart:81/1", "there example.org/2"} {
		if _, body := conn.answer("GET"); body != want {
			t.Errorf("%q, want %q", body, want)
		}
	}
	// What a rule says counts, also of hosts that are not of the mesh.
	rule, err := naming.ParseDtab("/host/example.org => /srv/cart:81 ; /host/api.example.org => /$/inet/api.example.org/8443")
	if err != nil {
		t.Fatal(err)
	}
	next := c.dtab.Get().Concat(rule...)
	c.dtab.Set(&next)
	elsewhere := echoHost(t, "elsewhere")
	c.table.value("/$/inet/api.example.org/8443").Set(naming.Of(naming.Endpoint{Address: elsewhere, Weight: 1}))
	conn = c.going(t, "192.0.2.1:80")
	for host, want := range map[string]string{"example.org": "cart example.org/x", "api.example.org": "elsewhere api.example.org/x"} {
		conn.say("GET /x HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
		if res, body := conn.answer("GET"); res.StatusCode != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", host, res.StatusCode, body, want)
		}
	}
	// A Service without endpoints is the mesh's to answer for.
	c.table.service("empty")
	conn.say("GET /x HTTP/1.1\r\nHost: empty\r\n\r\n")
	if res, _ := conn.answer("GET"); res.StatusCode != 502 || res.Header.Get("tulle-code") != "T201" {
		t.Errorf("without endpoints: %d", res.StatusCode)
	}
	// Who was told of the proxy goes on using it.
	c.to.Store(nil)
	if res, body := get(t, c.client(t), "http://cart:81/x"); res.StatusCode != 200 || body != "cart cart:81/x" {
		t.Errorf("directly: %d %q", res.StatusCode, body)
	}
	if res, _ := get(t, c.client(t), "http://nobody/x"); res.StatusCode != 502 {
		t.Errorf("directly, to nobody: %d", res.StatusCode)
	}
}

// What is no HTTP/1 goes where it was going, as it is.
func TestCapturedConnections(t *testing.T) {
	c := capture(t)
	echoes := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		_, _ = io.Copy(conn, r)
		_ = conn.(*net.TCPConn).CloseWrite()
	})
	for _, first := range []string{
		"*1\r\n$4\r\nPING\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
		"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", "\x16\x03\x01", "SSH-2.0-x\r\n",
	} {
		conn := c.going(t, echoes)
		conn.say(first)
		conn.expect(first)
		_ = conn.Conn.(*net.TCPConn).CloseWrite()
		if rest := conn.rest(); rest != "" {
			t.Errorf("%q: then %q", first, rest)
		}
	}
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "secure "+r.Host) }))
	t.Cleanup(secure.Close)
	to := netip.MustParseAddrPort(secure.Listener.Addr().String())
	c.to.Store(&to)
	client := secure.Client()
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return c.network.visit(ctx, c.address)
	}
	if _, body := get(t, client, "https://example.com/"); body != "secure example.com" {
		t.Errorf("TLS: %q", body)
	}
	client.CloseIdleConnections()

	// A server that speaks first is waited for no longer than inside a CONNECT.
	greets := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		_, _ = io.WriteString(conn, "220 mail\r\n")
		_, _ = io.Copy(io.Discard, r)
	})
	conn := c.going(t, greets)
	conn.expect("220 mail\r\n")
	// Nobody is there: as without a proxy, that is a reset.
	conn = c.going(t, refusing(t))
	conn.say("\x16\x03\x01\x00\x01x")
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("nobody listens: %v", err)
	}
	// Nor is what the proxy does not go to.
	refused := netip.MustParseAddrPort("169.254.1.1:80")
	c.to.Store(&refused)
	if raw, err := c.network.visit(t.Context(), c.address); err == nil { // else it was closed at once
		if _, err := raw.Read(make([]byte, 1)); err == nil {
			t.Error("went to an address that is refused")
		}
		_ = raw.Close()
	}
	wait(t, "the counts", func() bool {
		for found, want := range map[string]float64{"tls": 1, "http2": 1, "proxy": 2, "refused": 1} {
			if c.count(t, "tulle_captured_connections_total", "found", found) < want {
				return false
			}
		}
		return true
	})
}

// An opaque port is not looked at, so a server on it speaks first at once.
func TestCapturedOpaque(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:3306")
	if err != nil {
		t.Skip(err)
	}
	c := capture(t)
	serveRaw(t, ln, func(conn net.Conn, r *bufio.Reader) {
		_, _ = io.WriteString(conn, "J\x00\x00\x00\x0a8.0")
		line, _ := r.ReadString('\n')
		_, _ = io.WriteString(conn, line)
	})
	conn := c.going(t, "192.0.2.1:3306")
	began := time.Now()
	conn.expect("J\x00\x00\x00\x0a8.0")
	if took := time.Since(began); took > 400*time.Millisecond {
		t.Errorf("it took %s", took)
	}
	conn.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
	conn.expect("GET / HTTP/1.1\r\n")
	if n := c.count(t, "tulle_captured_connections_total", "found", "opaque"); n != 1 {
		t.Errorf("%v are counted", n)
	}
}

// Tunnels end with the router, and so do connections that have said nothing.
func TestCapturedEndWithTheRouter(t *testing.T) {
	c := capture(t)
	silent := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		_, _ = io.WriteString(conn, "hello")
		_, _ = io.Copy(io.Discard, r)
	})
	tunnelled := c.going(t, silent)
	tunnelled.say("*1\r\n")
	tunnelled.expect("hello")
	_ = c.going(t, silent) // is being looked at
	done := make(chan struct{})
	go func() { defer close(done); c.stop() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the router does not end")
	}
}

// A client that keeps a connection in reserve is routed when it uses it, if the server
// has not spoken meanwhile.
func TestCapturedSpeaksLate(t *testing.T) {
	c := capture(t)
	reached := make(chan net.Conn, 8)
	there := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		reached <- conn
		if line, _ := r.ReadString('\n'); line != "" {
			_, _ = io.WriteString(conn, "there: "+line)
			_, _ = io.Copy(io.Discard, r)
		}
	})
	_, port, _ := net.SplitHostPort(there)
	c.table.service("world:"+port, echoHost(t, "world"))

	conn := c.going(t, there)
	<-reached // so long nobody has said anything
	for range 2 {
		conn.say("GET /x HTTP/1.1\r\nHost: world\r\n\r\n")
		if res, body := conn.answer("GET"); res.StatusCode != 200 || body != "world world/x" {
			t.Errorf("a request: %d %q", res.StatusCode, body)
		}
	}
	conn = c.going(t, there)
	<-reached
	conn.say("LOGIN\r\n") // no HTTP
	conn.expect("there: LOGIN\r\n")

	conn = c.going(t, there)
	server := <-reached
	_, _ = io.WriteString(server, "hello")
	conn.expect("hello")
	conn.say("GET /x HTTP/1.1\r\n") // in a protocol that is not HTTP
	conn.expect("there: GET /x HTTP/1.1\r\n")

	conn = c.going(t, there)
	server = <-reached
	_ = conn.Close() // without a word
	if _, err := server.Read(make([]byte, 1)); err == nil {
		t.Error("the server does not learn that its client has gone")
	}
	_ = c.going(t, there)
	<-reached
	wait(t, "the counts", func() bool {
		return c.count(t, "tulle_captured_connections_total", "found", "http") == 1 && c.count(t, "tulle_captured_connections_total", "found", "other") == 3
	})
	c.stop() // with a connection on which nobody has spoken
}

// Where the rules of the kernel do not let the proxy's own connections pass, none goes
// round in circles.
func TestCapturedOwnConnection(t *testing.T) {
	n := newLoopback(t)
	var address atomic.Value
	var dialed atomic.Int64
	to := netip.MustParseAddrPort("192.0.2.1:443")
	m := startOn(t, n, router.OutgoingConfig{Grace: time.Second, Capture: &router.Capture{
		Original: func(net.Conn) (netip.AddrPort, bool) { return to, true },
		Opaque:   func(uint16) bool { return false },
		Allow:    func(netip.AddrPort) error { return nil },
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			dialed.Add(1)
			return n.dial(ctx, address.Load().(string))
		},
	}})
	address.Store(m.address)
	conn := m.talk(t)
	conn.say("*1\r\n")
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n := dialed.Load(); n != 1 {
		t.Errorf("it was dialed %d times", n)
	}
	if n := m.count(t, "tulle_captured_connections_total", "found", "refused"); n != 1 {
		t.Errorf("%v are refused", n)
	}
}

// A captured connection too many is reset, for its client may not speak HTTP.
func TestCapturedTooMany(t *testing.T) {
	c := capture(t, "server: {maxConnections: 1}")
	first := c.going(t, rawBackend(t, func(conn net.Conn, _ *bufio.Reader) { _, _ = io.WriteString(conn, "hello"); <-t.Context().Done() }))
	first.expect("hello")
	raw, err := c.network.visit(t.Context(), c.address)
	if err != nil {
		return // it was reset at once
	}
	defer raw.Close()
	if n, err := raw.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%d bytes, %v", n, err)
	}
}
