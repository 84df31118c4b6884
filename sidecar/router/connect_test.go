package router_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/naming"
)

// connect asks for a tunnel and reads the answer.
func (m *mesh) connect(t *testing.T, target string, header ...string) (*talk, *http.Response) {
	t.Helper()
	c := m.talk(t)
	c.say("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n" + strings.Join(header, "") + "\r\n")
	res, err := http.ReadResponse(c.r, &http.Request{Method: "CONNECT"})
	if err != nil {
		t.Fatal(err)
	}
	return c, res
}

// opened is connect where it has to succeed.
func (m *mesh) opened(t *testing.T, target string) *talk {
	t.Helper()
	c, res := m.connect(t, target)
	if res.StatusCode != 200 || len(res.TransferEncoding) > 0 || res.Header.Get("Content-Length") != "" {
		t.Fatalf("got %d %v", res.StatusCode, res.Header)
	}
	return c
}

// Bytes that are no HTTP go through a CONNECT as they are, and each end may stop
// on its own.
func TestConnect(t *testing.T) {
	m := start(t)
	m.table.service("world:80", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		_, _ = io.Copy(conn, r)
		_, _ = io.WriteString(conn, "that was all")
	}))
	c := m.opened(t, "world:80")
	want := "\x00\x01 binary \xff " + string(random(300_000))
	go func() {
		_, _ = io.WriteString(c, want)
		_ = c.Conn.(*net.TCPConn).CloseWrite()
	}()
	if got := c.rest(); got != want+"that was all" {
		t.Errorf("got %d bytes, want %d, or others", len(got), len(want)+12)
	}
	// Bytes may come together with the request.
	c = m.talk(t)
	c.say("CONNECT world:80 HTTP/1.1\r\nHost: world:80\r\n\r\n*1\r\n$4\r\nPING\r\n")
	if res, err := http.ReadResponse(c.r, &http.Request{Method: "CONNECT"}); err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	c.expect("*1\r\n$4\r\nPING\r\n")
}

// Where the server speaks first the tunnel takes half a second longer.
func TestConnectToAServerThatSpeaksFirst(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		ln := m.network.listen(t)
		serveRaw(t, ln, func(conn net.Conn, r *bufio.Reader) {
			_, _ = io.WriteString(conn, "220 mail.example ESMTP\r\n")
			line, _ := r.ReadString('\n')
			_, _ = io.WriteString(conn, "250 "+line)
		})
		m.table.service("world:25", ln.Addr().String())
		began := time.Now()
		c := m.opened(t, "world:25")
		c.expect("220 mail.example ESMTP\r\n")
		if took := time.Since(began); took != 500*time.Millisecond {
			t.Errorf("the greeting took %s", took)
		}
		c.say("EHLO me\r\n")
		c.expect("250 EHLO me\r\n")
		if rest := c.rest(); rest != "" {
			t.Errorf("then %q", rest)
		}
	})
}

// A client's proxy setting works for https, end to end.
func TestTLSThroughConnect(t *testing.T) {
	m := start(t)
	s := httptest.NewTLSServer(http.HandlerFunc(echo))
	t.Cleanup(s.Close)
	m.table.service("world:443", s.Listener.Addr().String())
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	transport := &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: m.address}), TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"},
	}
	t.Cleanup(transport.CloseIdleConnections)
	for range 3 {
		res, body := do(t, &http.Client{Transport: transport}, "POST", "https://world/", strings.NewReader("secret"))
		if res.StatusCode != 200 || body != "secret" || res.Header.Get("Via") != "" {
			t.Errorf("%d %q %v", res.StatusCode, body, res.Header)
		}
	}
}

// HTTP in a tunnel is HTTP: each request is routed by its own name and carries
// what all requests carry.
func TestHTTPThroughConnect(t *testing.T) {
	m := start(t)
	name := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprint(w, name, " ", r.URL.Path, " ", r.Header.Get("l5d-dst-service"), " ", r.Header.Get("Via"))
		}
	}
	m.table.service("world:8080", refusing(t)) // it need not even be there
	m.table.service("world", backend(t, name("one")))
	m.table.service("other", backend(t, name("two")))
	c := m.opened(t, "world:8080")
	for _, test := range []struct{ host, want string }{
		{"world", "one / /svc/world 1.1 linkerd"}, {"other", "two / /svc/other 1.1 linkerd"}, {"world", "one / /svc/world 1.1 linkerd"},
	} {
		for _, pieces := range [][]string{{"GET / HTTP/1.1\r\nHost: " + test.host + "\r\n\r\n"}, {"G", "ET / HTT", "P/1.1\r\nHost: " + test.host + "\r\n\r\n"}} {
			for _, p := range pieces {
				c.say(p)
			}
			if res, body := c.answer("GET"); res.StatusCode != 200 || body != test.want {
				t.Errorf("%s: %d %q, want %q", test.host, res.StatusCode, body, test.want)
			}
		}
	}
	c.say("GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n")
	if res, _ := c.answer("GET"); res.StatusCode != 502 || res.Header.Get("tulle-code") != "T201" {
		t.Errorf("an unknown name: %d %v", res.StatusCode, res.Header)
	}
	c.say("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
	if res, _ := c.answer("GET"); res.StatusCode != 400 || !res.Close {
		t.Errorf("a bad request: %d, close %v", res.StatusCode, res.Close)
	}
}

// HTTP/2 that nobody can look at goes on as it is.
func TestHTTP2ThroughConnect(t *testing.T) {
	m := start(t)
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	m.table.service("world:80", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if p, err := r.Peek(len(preface)); err == nil && string(p) == preface {
			_, _ = io.WriteString(conn, "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		}
		<-t.Context().Done()
	}))
	c := m.opened(t, "world:80")
	c.say(preface)
	c.expect("\x00\x00\x00\x04\x00\x00\x00\x00\x00")
}

// A tunnel that cannot be is refused while that can still be said.
func TestConnectToNowhere(t *testing.T) {
	m := start(t)
	c, res := m.connect(t, "nowhere:80")
	if res.StatusCode != 502 || res.Header.Get("tulle-code") != "T201" || res.Close {
		t.Errorf("an unknown name: %d %v", res.StatusCode, res.Header)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(c.r, res.ContentLength))
	m.table.service("world", backend(t, echo))
	c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n") // its client may try something else
	if res, _ := c.answer("GET"); res.StatusCode != 200 {
		t.Errorf("after that: %d", res.StatusCode)
	}
	if _, res := m.connect(t, "world:80", "l5d-dtab: /host => nonsense\r\n"); res.StatusCode != 400 || res.Header.Get("tulle-code") != "T102" {
		t.Errorf("a malformed rule: %d %v", res.StatusCode, res.Header)
	}
	// With its first bytes there it is too late to say anything.
	m.table.service("dead:80", refusing(t), refusing(t))
	c = m.opened(t, "dead:80")
	c.say("*1\r\n$4\r\nPING\r\n")
	if rest := c.rest(); rest != "" {
		t.Errorf("got %q", rest)
	}
}

// An endpoint that refuses is passed over for a tunnel, too.
func TestConnectGoesElsewhere(t *testing.T) {
	m := start(t, "client: {"+inTurn+"}")
	m.table.service("world:80", refusing(t), rawBackend(t, func(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(conn, r) }))
	for range 4 {
		c := m.opened(t, "world:80")
		c.say("*1\r\n")
		c.expect("*1\r\n")
	}
}

// Through the proxy in front of an endpoint, a tunnel is asked for by CONNECT.
func TestConnectThroughAHop(t *testing.T) {
	m := start(t)
	asked := make(chan *http.Request, 2)
	hop := func(answer string) string {
		return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			asked <- req
			_, _ = io.WriteString(conn, answer)
			_, _ = io.Copy(conn, r)
		})
	}
	m.proxied("world:6379", hop("HTTP/1.1 200 Connection established\r\n\r\nhello "))
	c := m.opened(t, "world:6379")
	c.say("*1\r\n")
	c.expect("hello *1\r\n")
	req := <-asked
	if req.Method != "CONNECT" || req.Host != "world:6379" || req.Header.Get("tulle-dst-endpoint") != "192.0.2.1:80" || req.Header.Get("l5d-dst-service") == "" {
		t.Errorf("the hop was asked for %s %s %v", req.Method, req.Host, req.Header)
	}
	m.proxied("closed:6379", hop("HTTP/1.1 503 No\r\ntulle-code: T401\r\nl5d-retryable: true\r\nContent-Length: 0\r\n\r\n"))
	c = m.opened(t, "closed:6379")
	c.say("*1\r\n")
	if rest := c.rest(); rest != "" {
		t.Errorf("got %q", rest)
	}
}

// The incoming proxy joins a tunnel to the application that it is for.
func TestIncomingConnect(t *testing.T) {
	address := rawBackend(t, func(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(conn, r) })
	proxy, client := startIncoming(t, "127.0.0.1")
	for _, test := range []struct {
		endpoint string
		status   int
		code     string
	}{{address, 200, ""}, {refusing(t), 502, "T403"}, {"10.9.9.9:80", 503, "T401"}, {"", 400, "T402"}} {
		raw, err := new(net.Dialer).DialContext(context.Background(), "tcp", strings.TrimPrefix(proxy, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		cfg := client.Transport.(*http.Transport).TLSClientConfig.Clone()
		cfg.ServerName = "127.0.0.1"
		conn := tls.Client(raw, cfg)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = fmt.Fprintf(conn, "CONNECT world:80 HTTP/1.1\r\nHost: world:80\r\ntulle-dst-endpoint: %s\r\n\r\n", test.endpoint)
		r := bufio.NewReader(conn)
		res, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
		if err != nil || res.StatusCode != test.status || res.Header.Get("tulle-code") != test.code {
			t.Errorf("%q: %v %v", test.endpoint, res, err)
		} else if test.status == 200 {
			_, _ = io.WriteString(conn, "ping")
			if got, err := r.Peek(4); string(got) != "ping" {
				t.Errorf("through the tunnel came %q, %v", got, err)
			}
		}
		_ = conn.Close()
	}
}

// Where there is nothing a tunnel could lead to it is refused as a request is, while
// that can still be said.
func TestConnectToNoAddresses(t *testing.T) {
	for _, replicas := range []naming.Replicas{
		naming.Of(), {State: naming.StateNeg}, {State: naming.StateFailed, Cause: "no such host"},
	} {
		want := "T201"
		if replicas.Cause != "" {
			want = "T203"
		}
		whilePending(t, "", func(t *testing.T, m *mesh) {
			m.table.value(pending).Set(replicas)
			plain, text := get(t, m.client(t), "http://world/")
			_, res := m.connect(t, "world:80")
			body, err := io.ReadAll(io.LimitReader(res.Body, max(res.ContentLength, 0)))
			if err != nil {
				t.Fatal(err)
			}
			complete(t, want, plain, text, []int{502}, want == "T201")
			complete(t, want, res, string(body), []int{502}, want == "T201")
			if strings.Replace(string(body), "world:80\n", "world\n", 1) != text {
				t.Errorf("a tunnel is refused with %q, a request with %q", body, text)
			}
		})
	}
}
