package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/naming"
)

// proxied makes the service's endpoints ones behind a proxy. The pool of a test
// dials in clear text whatever the identity.
func (m *mesh) proxied(name string, vias ...string) {
	var all []naming.Endpoint
	for i, via := range vias {
		all = append(all, naming.Endpoint{Address: fmt.Sprintf("192.0.2.%d:80", i+1), Hop: naming.HopHost, Via: via, Identity: "spiffe://test/ns/a/sa/b", Weight: 1})
	}
	m.table.value(bound(name)).Set(naming.Of(all...))
}

// A request whose endpoint's proxy says that it did not deliver goes to another
// endpoint, with its body if that is small. An application cannot say so: it can
// only ask for a retry, for which there is no budget here.
func TestRefusedRequestsGoElsewhere(t *testing.T) {
	m := start(t, "service: {retries: {budget: {minRetriesPerSec: 0, percentCanRetry: 0}}}")
	refusals := atomic.Int64{}
	refuse := func(code string) string {
		return backend(t, func(w http.ResponseWriter, _ *http.Request) {
			refusals.Add(1)
			w.Header().Set("l5d-err", "gone")
			w.Header().Set("l5d-retryable", "true")
			w.Header().Set("tulle-code", code)
			w.WriteHeader(503)
		})
	}
	echo := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s", r.Method, b)
	})
	c := m.client(t)
	post := func(service, body string) (int, string) {
		t.Helper()
		res, err := c.Post("http://"+service+"/", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	m.proxied("world", echo, refuse("T401"))
	for range 20 {
		if status, body := post("world", "abc"); status != 200 || body != "POST abc" {
			t.Fatalf("%d %q", status, body)
		}
		if res, body := get(t, c, "http://world/"); res.StatusCode != 200 || body != "GET " {
			t.Fatalf("%d %q", res.StatusCode, body)
		}
	}
	if refusals.Load() == 0 {
		t.Error("the refusing endpoint was never asked; the test shows nothing")
	}
	// Too large to hold: said so, not sent twice.
	large := strings.Repeat("x", 1<<20)
	m.proxied("only", refuse("T403"))
	if status, body := post("only", large); status != 502 {
		t.Errorf("a large body: %d %q", status, body)
	}
	m.proxied("app", refuse("T201"), refuse("T201"))          // no code of an incoming proxy
	m.table.service("direct", refuse("T401"), refuse("T401")) // no proxy at all
	for _, name := range []string{"app", "direct"} {
		refusals.Store(0)
		if status, _ := post(name, "abc"); status != 503 || refusals.Load() != 1 {
			t.Errorf("%s: the answer of an application: %d after %d attempts, want its 503 after one", name, status, refusals.Load())
		}
	}
}

// A client that leaves takes its request with it, even from a backend that
// never answers.
func TestClientLeaves(t *testing.T) {
	m := start(t)
	gone := make(chan struct{})
	m.table.service("world", backend(t, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // the proxy hung up
		close(gone)
	}))
	conn, err := net.Dial("tcp", m.address)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: world\r\n\r\n")
	_ = conn.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the backend still works for a client that has left")
	}
}

func TestClientsFaultIsTheClients(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	got := m.raw(t, "POST / HTTP/1.1\r\nHost: world\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "T101") {
		t.Errorf("got %q", got)
	}
}

// The backend reads the trailer fields that may be merged into a head, and no others.
func TestTrailers(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, r.Trailer)
	}))
	got := m.raw(t, "POST / HTTP/1.1\r\nHost: world\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"+
		"X-Sum: 1\r\nHost: evil\r\nContent-Length: 5\r\nl5d-dtab: /a=>/b\r\ntulle-dst-endpoint: 1.2.3.4:5\r\n\r\n")
	if !strings.Contains(got, "map[X-Sum:[1]]") {
		t.Errorf("got %q", got)
	}
}

// Names from the wire that Prometheus cannot take do no harm.
func TestOddLabels(t *testing.T) {
	address := backend(t, func(http.ResponseWriter, *http.Request) {})
	proxy, c := startIncoming(t, "127.0.0.1")
	req, _ := http.NewRequest("GET", proxy+"/", nil)
	req.Header["tulle-dst-endpoint"] = []string{address}
	req.Header["l5d-dst-service"] = []string{"/svc/\xff"}
	req.Header["l5d-dst-client"] = []string{strings.Repeat("x", 5000)}
	for range 2 {
		res, err := c.Do(req)
		if err != nil || res.StatusCode != 200 {
			t.Fatal(res, err)
		}
		_ = res.Body.Close()
	}
}

// An answer that the backend cut must not look whole, not even to HTTP/1.0,
// where the end of the connection is the end of the answer.
func TestCutAnswersStayCut(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	for _, version := range []string{"1.0", "1.1"} {
		conn, err := net.Dial("tcp", m.address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, "GET / HTTP/"+version+"\r\nHost: world\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil {
			_, err = io.ReadAll(res.Body)
		}
		if err == nil {
			t.Errorf("HTTP/%s: the cut answer looks whole", version)
		}
		_ = conn.Close()
	}
}
