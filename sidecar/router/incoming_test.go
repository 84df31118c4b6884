package router_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/certs/issuer"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/router"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// startIncoming runs an incoming router that stands for ip, and returns a
// client that speaks to it as another proxy would.
func startIncoming(t *testing.T, ip string, words ...string) (string, *http.Client) {
	t.Helper()
	ca, err := issuer.NewLocal(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Server(time.Hour, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	n := newLoopback(t)
	pools := pool.NewSet(func(ctx context.Context, target pool.Target) (net.Conn, error) { return n.dial(ctx, target.Address) })
	in := router.NewIncoming(router.IncomingConfig{
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Identified: identified, Pools: pools, Policy: watch.New(says(t, words...)),
		Metrics: telemetry.New(prometheus.NewRegistry()), Grace: time.Second,
		Ours:   func(_ context.Context, candidate string) bool { return candidate == ip },
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	ln := n.listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = pools.Run(ctx) })
	wg.Go(func() {
		if err := in.Serve(ctx, ln); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Roots())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: false}
	t.Cleanup(func() { transport.CloseIdleConnections(); cancel(); wg.Wait() })
	return "https://" + ln.Addr().String(), &http.Client{Transport: transport}
}

// With a policy for the whole mesh that an edge needs, the proxies still understand each
// other: what reached no application can be sent elsewhere.
func TestIncomingIsNoEdge(t *testing.T) {
	proxy, c := startIncoming(t, "127.0.0.1", "server: {clearContext: true}")
	for endpoint, code := range map[string]string{"10.9.9.9:80": "T401", refusing(t): "T403"} {
		res, body := get(t, c, proxy+"/", "tulle-dst-endpoint", endpoint)
		if h := res.Header; h.Get("tulle-code") != code || h.Get("l5d-retryable") != "true" || h.Get("l5d-err") == "" || body == "" {
			t.Errorf("%s: %d %v %q", code, res.StatusCode, h, body)
		}
	}
}

func TestIncomingDelivers(t *testing.T) {
	address := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Host, " ", r.Header.Get("l5d-ctx-dtab"), " ", r.Header.Get("l5d-dst-service"), " [", r.Header.Get("tulle-dst-endpoint"), r.Header.Get("x-forwarded-client-cert"), "]")
	})
	proxy, c := startIncoming(t, "127.0.0.1")
	for range 3 {
		req, _ := http.NewRequest("GET", proxy+"/x", nil)
		req.Host = "world"
		for k, v := range map[string]string{"tulle-dst-endpoint": address, "l5d-ctx-dtab": "/a=>/b", "l5d-dst-service": "/svc/world", "x-forwarded-client-cert": "By=forged"} {
			req.Header.Set(k, v)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(body) != "world /a=>/b /svc/world []" {
			t.Errorf("got %q", body)
		}
	}
}

func TestIncomingRefuses(t *testing.T) {
	proxy, c := startIncoming(t, "127.0.0.1")
	for _, test := range []struct{ endpoint, code, retryable string }{
		{"", "T402", ""},
		{"10.9.9.9:80", "T401", "true"},
		{refusing(t), "T403", "true"},
	} {
		res, body := get(t, c, proxy+"/", "tulle-dst-endpoint", test.endpoint, "Host", "world")
		if res.Header.Get("tulle-code") != test.code || res.Header.Get("l5d-retryable") != test.retryable || !strings.Contains(body, test.code) {
			t.Errorf("endpoint %q: %d %v %q", test.endpoint, res.StatusCode, res.Header, body)
		}
	}
}

// A backend that answers early and stops reading must not hold the session.
func TestEarlyAnswer(t *testing.T) {
	m := start(t)
	m.table.service("world", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		_, _ = r.ReadString('\n')
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
		<-t.Context().Done()
	}))
	conn, err := net.Dial("tcp", m.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: world\r\nContent-Length: 100000000\r\n\r\nbegin")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != 413 {
		t.Fatal(res, err)
	}
	if body, err := io.ReadAll(res.Body); string(body) != "no" {
		t.Errorf("got %q, %v", body, err)
	}
}

// A tunnel gets a connection on which nobody has spoken.
func TestTunnelsGetFreshConnections(t *testing.T) {
	address := pinged(t)
	proxy, c := startIncoming(t, "127.0.0.1")
	conn, err := tls.Dial("tcp", strings.TrimPrefix(proxy, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(); c.CloseIdleConnections() }()
	(&talk{t, conn, bufio.NewReader(conn)}).ping("tulle-dst-endpoint: " + address + "\r\n")
	// The same of a router that takes CONNECT from an application, whose pool has
	// no place for another connection.
	m := start(t, "client: {hostConnectionPool: {maxSize: 1}}")
	address = pinged(t)
	m.table.service("world", address)
	m.table.service("world:80", address)
	m.talk(t).ping("")
}

// pinged is an application that tells which of its connections a PING comes on.
func pinged(t *testing.T) string {
	var conns atomic.Int64
	return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		id := conns.Add(1)
		for {
			if b, err := r.Peek(4); err != nil {
				return
			} else if string(b) == "PING" {
				_, _ = fmt.Fprintf(conn, "on connection %d", id)
				_, _ = io.Copy(io.Discard, r)
				return
			}
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
}

// ping makes a request and then a tunnel.
func (c *talk) ping(header string) {
	c.t.Helper()
	c.say("GET / HTTP/1.1\r\nHost: world\r\n" + header + "\r\n")
	if res, body := c.answer("GET"); res.StatusCode != 200 || body != "ok" {
		c.t.Fatalf("%d %q", res.StatusCode, body)
	}
	c.say("CONNECT world:80 HTTP/1.1\r\nHost: world:80\r\n" + header + "\r\n")
	if res, err := http.ReadResponse(c.r, &http.Request{Method: "CONNECT"}); err != nil || res.StatusCode != 200 {
		c.t.Fatal(res, err)
	}
	c.say("PING\r\n")
	const want = "on connection 2"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c.r, got); err != nil || string(got) != want {
		c.t.Errorf("the tunnel is %q, %v", got, err)
	}
}
