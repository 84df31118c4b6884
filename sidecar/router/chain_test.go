package router_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// hops is a loopback network in which some addresses are those of proxies.
type hops struct {
	loopback
	mu  sync.Mutex
	tls map[string]*tls.Config
}

func (h *hops) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := h.loopback.dial(ctx, address)
	h.mu.Lock()
	cfg := h.tls[address]
	h.mu.Unlock()
	if err != nil || cfg == nil {
		return conn, err
	}
	secure := tls.Client(conn, cfg)
	return secure, secure.HandshakeContext(ctx)
}

// chain runs an outgoing router and names for it endpoints that are each behind
// an incoming one of their own.
func chain(t *testing.T, applications map[string]string, words ...string) *mesh {
	t.Helper()
	n := &hops{loopback: newLoopback(t), tls: map[string]*tls.Config{}}
	m := startOn(t, n, router.OutgoingConfig{Grace: 5 * time.Second}, words...)
	for name, application := range applications {
		proxy, client := startIncoming(t, "127.0.0.1")
		address := strings.TrimPrefix(proxy, "https://")
		cfg := client.Transport.(*http.Transport).TLSClientConfig.Clone()
		cfg.ServerName = "127.0.0.1"
		n.mu.Lock()
		n.tls[address] = cfg
		n.mu.Unlock()
		e := naming.Endpoint{Address: application, Hop: naming.HopHost, Via: address, Identity: "spiffe://test/ns/a/sa/b", Weight: 1}
		m.table.value(bound(name)).Set(naming.Of(e))
	}
	return m
}

// All that goes through one proxy goes through two.
func TestTwoProxies(t *testing.T) {
	var seen record[http.Header]
	app := backend(t, func(w http.ResponseWriter, r *http.Request) {
		seen.add(r.Header)
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = w.Write(b)
		w.Header().Set("X-Sum", fmt.Sprint(len(b)))
	})
	m := chain(t, map[string]string{"world": app})
	c := m.client(t)
	for _, size := range []int{0, 1, 10_000, 16 << 10, 20_000, 1 << 20} {
		for _, framing := range []string{"fixed", "chunked"} {
			want := string(random(size))
			var body io.Reader = strings.NewReader(want)
			if framing == "chunked" {
				body = io.MultiReader(body)
			}
			res, got := do(t, c, "POST", "http://world/", body, "l5d-ctx-tenant", "7", "tulle-dst-endpoint", "forged")
			if res.StatusCode != 200 || got != want || res.Trailer.Get("X-Sum") != fmt.Sprint(size) {
				t.Errorf("%s, %d bytes: %d, %d bytes, %v", framing, size, res.StatusCode, len(got), res.Trailer)
			}
			if res.Header.Get("Via") != "1.1 linkerd, 1.1 linkerd" || res.Header.Get("l5d-success-class") != "1.0" {
				t.Errorf("the answer has %v", res.Header)
			}
		}
	}
	h := seen.get()[0]
	for name, want := range map[string]string{
		"Via": "1.1 linkerd, 1.1 linkerd", "l5d-ctx-tenant": "7", "tulle-dst-endpoint": "", "l5d-dst-service": "/svc/world", "l5d-dst-client": bound("world"),
	} {
		if got := h.Get(name); got != want {
			t.Errorf("the application saw %s: %q, want %q", name, got, want)
		}
	}
	m.stop()
	if n := m.count(t, "tulle_connects_total", "result", "success"); n != 1 {
		t.Errorf("%v connections were made between the proxies", n)
	}
}

// What an incoming proxy says is understood: an application that is not there is
// not blamed on the request.
func TestTwoProxiesAndNoApplication(t *testing.T) {
	m := chain(t, map[string]string{"dead": refusing(t), "else": "10.9.9.9:80"})
	c := m.client(t)
	for _, name := range []string{"dead", "else"} {
		res, body := do(t, c, "POST", "http://"+name+"/", strings.NewReader("abc"))
		if res.StatusCode != 502 || res.Header.Get("tulle-code") != "T301" || res.Header.Get("l5d-retryable") != "true" ||
			!strings.Contains(body, "the proxy of the endpoint says: ") {
			t.Errorf("%s: %d %v %q", name, res.StatusCode, res.Header, body)
		}
	}
}

// An application that hangs up kept connections, or breaks off, is seen by the
// proxy beside it.
func TestTwoProxiesAndABadApplication(t *testing.T) {
	m := chain(t, map[string]string{"world": rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			switch req.URL.Path {
			case "/cut":
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
				return
			case "/silent":
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})})
	c := m.client(t)
	for range 3 {
		if res, body := get(t, c, "http://world/"); res.StatusCode != 200 || body != "ok" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
		if _, _, err := try(c, "GET", "http://world/cut", nil); err == nil {
			t.Error("a cut answer looks whole")
		}
		res, _ := do(t, c, "POST", "http://world/silent", strings.NewReader("abc"))
		if res.StatusCode != 502 || res.Header.Get("tulle-code") != "T404" || res.Header.Get("l5d-retryable") != "" {
			t.Errorf("after no answer: %d %v", res.StatusCode, res.Header)
		}
	}
}

// Upgrades and tunnels go through both.
func TestTunnelsThroughTwoProxies(t *testing.T) {
	var seen record[http.Header]
	m := chain(t, map[string]string{
		"world":      rawBackend(t, sockets(&seen)),
		"world:6379": rawBackend(t, func(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(conn, r) }),
	})
	c := m.talk(t)
	c.say(handshake + "early")
	talkOn(t, c, "early")
	c = m.opened(t, "world:6379")
	want := "*1\r\n" + string(random(100_000))
	go func() { _, _ = io.WriteString(c, want) }()
	c.expect(want)
}

// An application that closes kept connections as it likes does not show through
// two proxies, as long as its requests may be repeated.
func TestTwoProxiesAndClosedConnections(t *testing.T) {
	m := chain(t, map[string]string{"world": rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for range 2 { // and no answer to the third request
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		_, _ = http.ReadRequest(r)
	})})
	c := m.client(t)
	for range 10 {
		if res, body := get(t, c, "http://world/"); res.StatusCode != 200 || body != "ok" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
	}
}

// The port for proxies says nothing to those who are none.
func TestIncomingTakesProxiesOnly(t *testing.T) {
	proxy, client := startIncoming(t, "127.0.0.1")
	address := strings.TrimPrefix(proxy, "https://")
	for name, first := range map[string]string{"clear text": "GET / HTTP/1.1\r\nHost: world\r\n\r\n", "nonsense": "\x16\x03\x01\x00\x05nonsense", "nothing": ""} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, first)
		if first == "" {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
		got, err := io.ReadAll(conn)
		if strings.Contains(string(got), "HTTP/1.1") && !strings.Contains(string(got), "HTTPS") || err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		_ = conn.Close()
	}
	if res, _ := get(t, client, proxy+"/", "tulle-dst-endpoint", "10.9.9.9:80"); res.Header.Get("tulle-code") != "T401" {
		t.Errorf("after that, a proxy gets %d %v", res.StatusCode, res.Header)
	}
}
