package router_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/router"
)

const handshake = "GET /chat HTTP/1.1\r\nHost: world\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

// sockets accepts every upgrade, says hello and sends back what comes, until the
// client ends; then it says goodbye.
func sockets(seen *record[http.Header]) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		seen.add(req.Header)
		_, _ = io.WriteString(conn, switched+"hello ")
		_, _ = io.Copy(conn, r)
		_, _ = io.WriteString(conn, " bye")
	}
}

// talkOn reads the 101 and checks that bytes go both ways, the first of them sent
// together with the head.
func talkOn(t *testing.T, c *talk, first string) {
	t.Helper()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Connection") != "Upgrade" ||
		res.Header.Get("Sec-WebSocket-Accept") == "" {
		t.Fatal(res, err)
	}
	c.expect("hello " + first)
	for range 3 {
		c.say("ping")
		c.expect("ping")
	}
}

// expect reads this text and no more.
func (c *talk) expect(text string) {
	c.t.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(c.r, got); err != nil || string(got) != text {
		c.t.Fatalf("got %q, %v, want %q", got[:n], err, text)
	}
}

func TestWebSocket(t *testing.T) {
	m := start(t, "client: {requestAttemptTimeoutMs: 100}\nservice: {totalTimeoutMs: 100}")
	var seen record[http.Header]
	m.table.service("world", rawBackend(t, sockets(&seen)))
	c := m.talk(t)
	c.say(handshake + "early")
	talkOn(t, c, "early")
	h := seen.get()[0]
	for name, want := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "L5d-Dst-Service": "/svc/world",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("the backend saw %s: %q, want %q", name, got, want)
		}
	}
	// One end goes on when the other one has said all.
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest := c.rest(); rest != " bye" {
		t.Errorf("at the end: %q", rest)
	}
	m.stop()
	if n := m.count(t, "tulle_requests_total", "service", "/svc/world", "result", "success"); n != 1 {
		t.Errorf("%v requests are counted", n)
	}
}

// A backend may refuse; then nothing has changed.
func TestRefusedUpgrade(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			w.WriteHeader(403)
		}
	}))
	c := m.talk(t)
	for range 2 {
		c.say(handshake)
		if res, _ := c.answer("GET"); res.StatusCode != 403 || res.Close {
			t.Errorf("got %d, close %v", res.StatusCode, res.Close)
		}
	}
	c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
	if res, _ := c.answer("GET"); res.StatusCode != 200 {
		t.Errorf("after that: %d", res.StatusCode)
	}
}

// What must not become a tunnel is asked without the upgrade: other versions of
// HTTP, whose requests nobody would look at, and requests with a body.
func TestUpgradesThatAreNotPassedOn(t *testing.T) {
	m := start(t)
	var seen record[http.Header]
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) { seen.add(r.Header); echo(w, r) }))
	c := m.talk(t)
	for i, request := range []string{
		"GET / HTTP/1.1\r\nHost: world\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: world\r\nConnection: Upgrade\r\nUpgrade: H2C\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: world\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: world\r\nConnection: Upgrade\r\nUpgrade: HTTP/2.0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: world\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: world\r\nUpgrade: websocket\r\n\r\n", // which Connection does not list
		"POST / HTTP/1.1\r\nHost: world\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
	} {
		c.say(request)
		if res, body := c.answer("GET"); res.StatusCode != 200 || strings.HasPrefix(request, "POST") != (body == "abc") {
			t.Errorf("%q: %d %q", request, res.StatusCode, body)
		}
		h := seen.get()[i]
		if h.Get("Upgrade") != "" || h.Get("Connection") != "" || h.Get("HTTP2-Settings") != "" {
			t.Errorf("%q: the backend saw %v", request, h)
		}
	}
}

// A backend that switches protocols without being asked is at fault.
func TestUpgradeNobodyAskedFor(t *testing.T) {
	m := start(t)
	m.table.service("world", rawBackend(t, sockets(new(record[http.Header]))))
	c := m.talk(t)
	c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
	if res, body := c.answer("GET"); res.StatusCode != 502 || res.Header.Get("tulle-code") != "T302" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
}

// A tunnel ends when nothing passes for its time, not earlier.
func TestIdleTunnel(t *testing.T) {
	virtual(t, "server: {tunnel: {idleTimeMs: 60000}, serverSession: {idleTimeMs: 1000}, headTimeoutMs: 1000}", func(t *testing.T, m *mesh) {
		ln := m.network.listen(t)
		serveRaw(t, ln, sockets(new(record[http.Header])))
		m.table.service("world", ln.Addr().String())
		c := m.talk(t)
		c.say(handshake)
		talkOn(t, c, "")
		for range 3 {
			time.Sleep(50 * time.Second)
			c.say("ping")
			c.expect("ping")
		}
		began := time.Now()
		if rest := c.rest(); rest != "" || time.Since(began) != time.Minute {
			t.Errorf("it ended with %q after %s", rest, time.Since(began))
		}
	})
}

// Tunnels last until the grace of a router that stops is over.
func TestTunnelsAndTheGrace(t *testing.T) {
	virtualWith(t, router.OutgoingConfig{Grace: 10 * time.Second}, "", func(t *testing.T, m *mesh) {
		ln := m.network.listen(t)
		serveRaw(t, ln, sockets(new(record[http.Header])))
		m.table.service("world", ln.Addr().String())
		c := m.talk(t)
		c.say(handshake)
		talkOn(t, c, "")
		began := time.Now()
		stopped := make(chan struct{})
		go func() { m.stop(); close(stopped) }()
		time.Sleep(9 * time.Second)
		c.say("ping")
		c.expect("ping")
		if rest := c.rest(); rest != "" || time.Since(began) != 10*time.Second {
			t.Errorf("it ended with %q after %s", rest, time.Since(began))
		}
		<-stopped
	})
}

// Much data goes through a tunnel as it is, both ways at once.
func TestLargeTunnel(t *testing.T) {
	m := start(t)
	m.table.service("world", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(conn, switched)
			_, _ = io.Copy(conn, r)
		}
	}))
	c := m.talk(t)
	c.say(handshake)
	if res, err := http.ReadResponse(c.r, nil); err != nil || res.StatusCode != 101 {
		t.Fatal(res, err)
	}
	want := random(5 << 20)
	go func() {
		_, _ = c.Write(want)
		_ = c.Conn.(*net.TCPConn).CloseWrite()
	}()
	if got := c.rest(); got != string(want) {
		t.Errorf("got %d bytes, want %d, or others", len(got), len(want))
	}
}
