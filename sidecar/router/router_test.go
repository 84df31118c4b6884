package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tulle-mesh/tulle/naming"
)

func TestRequestReachesTheService(t *testing.T) {
	m := start(t)
	seen := make(chan *http.Request, 1)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header().Set("X-Answer", "42")
		_, _ = fmt.Fprint(w, "world!")
	}))
	res, body := get(t, m.client(t), "http://world/a%2Fb?c=%20", "X-Own", "kept", "Connection", "x-hop", "X-Hop", "dropped",
		"l5d-dst-endpoint", "forged", "tulle-dst-endpoint", "forged", "l5d-ctx-tenant", "7", "X-Forwarded-Client-Cert", "By=forged")
	if res.StatusCode != 200 || body != "world!" || res.Header.Get("X-Answer") != "42" || res.Header.Get("Via") != "1.1 linkerd" {
		t.Fatalf("got %d %q %v", res.StatusCode, body, res.Header)
	}
	r := <-seen
	if r.RequestURI != "/a%2Fb?c=%20" || r.Host != "world" {
		t.Errorf("the backend saw %s for %s", r.RequestURI, r.Host)
	}
	for name, want := range map[string]string{
		"X-Own": "kept", "X-Hop": "", "Connection": "", "Tulle-Dst-Endpoint": "", "L5d-Dst-Endpoint": "", "L5d-Ctx-Tenant": "7",
		"L5d-Dst-Service": "/svc/world", "L5d-Dst-Client": "/#/io.l5d.k8s/ns/http/world", "Via": "1.1 linkerd", "Proxy-Connection": "", "X-Forwarded-Client-Cert": "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s reached the backend as %q, want %q", name, got, want)
		}
	}
	want := `
		# HELP tulle_requests_total Requests answered, by router (outgoing, incoming), service, client and result (success, failure: as the response classifier has it).
		# TYPE tulle_requests_total counter
		tulle_requests_total{client="",result="failure",router="outgoing",service=""} 0
		tulle_requests_total{client="",result="success",router="outgoing",service=""} 0
		tulle_requests_total{client="/#/io.l5d.k8s/ns/http/world",result="failure",router="outgoing",service="/svc/world"} 0
		tulle_requests_total{client="/#/io.l5d.k8s/ns/http/world",result="success",router="outgoing",service="/svc/world"} 1
	`
	m.stop() // the request is counted after its answer was sent
	if err := testutil.GatherAndCompare(m.registry, strings.NewReader(want), "tulle_requests_total"); err != nil {
		t.Error(err)
	}
}

func TestOverride(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "world") }))
	m.table.service("world-v2", backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "earth "+r.Header.Get("l5d-ctx-dtab")+r.Header.Get("l5d-dtab"))
	}))
	c := m.client(t)
	if _, body := get(t, c, "http://world/", "l5d-dtab", "/host/world => /srv/world-v2 ;"); body != "earth /host/world=>/srv/world-v2" {
		t.Errorf("with an override: %q", body)
	}
	if _, body := get(t, c, "http://world/", "l5d-ctx-dtab", "/host/world => /srv/world-v2", "l5d-dtab", "/host/world => /srv/world"); body != "world" {
		t.Errorf("the user's rule must beat the context's: %q", body)
	}
	if _, body := get(t, c, "http://world/"); body != "world" {
		t.Errorf("the override of one request touched another: %q", body)
	}
	res, body := get(t, c, "http://world/", "l5d-dtab", "/host/world = /srv/x")
	if res.StatusCode != 400 || !strings.Contains(body, "T102") || res.Header.Get("l5d-err") == "" {
		t.Errorf("a malformed override: %d %q", res.StatusCode, body)
	}
	res, body = get(t, c, "http://world/", "l5d-dtab", strings.Repeat("/=>/a&/b;", 5000))
	if res.StatusCode != 400 || !strings.Contains(body, "T102") {
		t.Errorf("an excessive override: %d %q", res.StatusCode, body)
	}
}

func TestNamesFollowTheDtabAndTheNamer(t *testing.T) {
	m := start(t)
	m.table.service("v1", backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "one") }))
	c := m.client(t)
	res, body := get(t, c, "http://world/")
	if res.StatusCode != 502 || !strings.Contains(body, "Unable to route request!") || !strings.Contains(body, "service name: /svc/world") ||
		!strings.Contains(body, "  /svc => /host") || res.Header.Get("tulle-code") != "T201" {
		t.Fatalf("an unknown name: %d %q %v", res.StatusCode, body, res.Header)
	}
	next := m.dtab.Get().Concat(naming.Dentry{Prefix: naming.Prefix{"host", "world"}, Dst: naming.Alt{naming.Leaf{"srv", "v2"}, naming.Leaf{"srv", "v1"}}})
	m.dtab.Set(&next)
	if _, body := get(t, c, "http://world/"); body != "one" {
		t.Fatalf("after the dtab changed: %q", body)
	}
	m.table.service("v2", backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "two") }))
	if _, body := get(t, c, "http://world/"); body != "two" {
		t.Fatalf("after the first alternative appeared: %q", body)
	}
}

func TestUnreachableEndpointsArePassedOver(t *testing.T) {
	m := start(t)
	var posts atomic.Int64
	alive := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			posts.Add(1)
		}
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s", b)
	})
	m.table.service("world", alive, refusing(t), refusing(t))
	c := m.client(t)
	for range 50 {
		if res, body := get(t, c, "http://world/"); res.StatusCode != 200 {
			t.Fatalf("GET: %d %s", res.StatusCode, body)
		}
		res, err := c.Post("http://world/", "text/plain", strings.NewReader("hi"))
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("POST: %v %v", res, err)
		}
		_ = res.Body.Close()
	}
	if posts.Load() != 50 {
		t.Errorf("50 POSTs arrived as %d", posts.Load())
	}
	gone := refusing(t)
	m.table.service("void", gone)
	res, body := get(t, c, "http://void/")
	if res.StatusCode != 502 || !strings.Contains(body, "Unable to establish connection to "+gone) || res.Header.Get("l5d-retryable") != "true" {
		t.Errorf("nobody listens: %d %q", res.StatusCode, body)
	}
	m.table.service("empty")
	if res, body := get(t, c, "http://empty/"); res.StatusCode != 502 || !strings.Contains(body, "Unable to route request!") {
		t.Errorf("no endpoints: %d %q", res.StatusCode, body)
	}
}

// A backend that closes kept-alive connections whenever it likes must not show.
func TestClosedIdleConnections(t *testing.T) {
	m := start(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	s.Start()
	t.Cleanup(s.Close)
	m.table.service("world", s.Listener.Addr().String())
	c := m.client(t)
	for range 20 {
		if res, body := get(t, c, "http://world/"); res.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %q", res.StatusCode, body)
		}
		s.CloseClientConnections()
	}
}

func TestBodies(t *testing.T) {
	m := start(t)
	m.table.service("echo", backend(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		buf := make([]byte, 1000)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	}))
	c := m.client(t)
	big := strings.Repeat("0123456789abcdef", 20_000)
	for name, body := range map[string]io.Reader{
		"fixed":   strings.NewReader(big),
		"chunked": io.MultiReader(strings.NewReader(big)),
		"small":   strings.NewReader(big[:10]),
	} {
		res, err := c.Post("http://echo/", "text/plain", body)
		if err != nil {
			t.Fatal(name, err)
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		want := big
		if name == "small" {
			want = big[:10]
		}
		if err != nil || string(got) != want {
			t.Errorf("%s: got %d bytes, want %d, %v", name, len(got), len(want), err)
		}
	}
	// Interleaved: each piece comes back before the next is sent.
	in, out := io.Pipe()
	req, _ := http.NewRequest("POST", "http://echo/", in)
	go func() { _, _ = out.Write([]byte("first")) }()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	for _, piece := range []string{"first", "again", "third"} {
		if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != piece {
			t.Fatalf("got %q, %v, want %q", buf, err, piece)
		}
		if piece == "first" {
			_, _ = out.Write([]byte("again"))
		} else if piece == "again" {
			_, _ = out.Write([]byte("third"))
		}
	}
	_ = out.Close()
	if rest, err := io.ReadAll(res.Body); len(rest) != 0 || err != nil {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	_ = res.Body.Close()
}

func TestPipeliningAndClose(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }))
	got := m.raw(t, "GET /1 HTTP/1.1\r\nHost: world\r\n\r\nGET /2 HTTP/1.1\r\nHost: world\r\n\r\nGET /3 HTTP/1.1\r\nHost: world\r\nConnection: close\r\n\r\nGET /4 HTTP/1.1\r\nHost: world\r\n\r\n")
	r := bufio.NewReader(strings.NewReader(got))
	for i := 1; i <= 3; i++ {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("answer %d of %q: %v", i, got, err)
		}
		body, _ := io.ReadAll(res.Body)
		if string(body) != fmt.Sprintf("/%d", i) || res.Close != (i == 3) {
			t.Errorf("answer %d: %q, close %v", i, body, res.Close)
		}
	}
	if rest, _ := io.ReadAll(r); len(rest) > 0 {
		t.Errorf("the router answered after close: %q", rest)
	}
}

func TestHTTP10(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "part ")
		_ = http.NewResponseController(w).Flush() // makes it chunked
		_, _ = io.WriteString(w, "whole")
	}))
	got := m.raw(t, "GET / HTTP/1.0\r\nHost: world\r\nConnection: keep-alive\r\n\r\n")
	if !strings.HasSuffix(got, "\r\n\r\npart whole") || strings.Contains(got, "chunked") {
		t.Errorf("got %q", got)
	}
}

func TestBadRequestsAreAnsweredAndClosed(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("reached the backend: %v", r) }))
	for _, input := range []string{
		"GET / HTTP/1.1\r\nHost: world\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET /\x00 HTTP/1.1\r\nHost: world\r\n\r\n",
	} {
		got := m.raw(t, input)
		if !strings.Contains(got, "l5d-err: ") || !strings.Contains(got, "tulle-code: T10") || !strings.Contains(got, "Connection: close") {
			t.Errorf("%q\n got %q", input, got)
		}
	}
}

func TestExpectContinue(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // sends the 100
		_, _ = w.Write(b)
	}))
	conn, err := net.Dial("tcp", m.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: world\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("got %q, %v", line, err)
	}
	_, _ = io.WriteString(conn, "hi")
	rest, _ := io.ReadAll(r)
	if !strings.HasSuffix(string(rest), "hi") || !strings.Contains(string(rest), "HTTP/1.1 200 ") {
		t.Fatalf("got %q", rest)
	}
}

// A client that was not asked for its body may send it all the same, or go on
// with another request. So there is no other on its connection.
func TestExpectRefused(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	c := m.talk(t)
	c.say("POST / HTTP/1.1\r\nHost: world\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	if res, _ := c.answer("POST"); res.StatusCode != 403 || !res.Close {
		t.Errorf("got %d, the connection ends: %v", res.StatusCode, res.Close)
	}
	c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
	if more := c.rest(); more != "" {
		t.Errorf("after it: %q", more)
	}
	// Who has sent it already can go on.
	c = m.talk(t)
	c.say("POST / HTTP/1.1\r\nHost: world\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi")
	if res, _ := c.answer("POST"); res.StatusCode != 403 || res.Close {
		t.Errorf("got %d, the connection ends: %v", res.StatusCode, res.Close)
	}
}

// A client whose body the endpoint does not want to the end is told that its
// connection ends, or it might send the next request there.
func TestAnswerBeforeTheEnd(t *testing.T) {
	for name, refuse := range map[string]http.HandlerFunc{
		"silently": func(w http.ResponseWriter, _ *http.Request) { impatient(w, 403) },
		"saying it closes": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusForbidden)
		},
	} {
		m := start(t)
		m.table.service("world", backend(t, refuse))
		c := m.talk(t)
		c.say("POST / HTTP/1.1\r\nHost: world\r\nContent-Length: 10000000\r\n\r\n" + strings.Repeat("x", 100_000))
		if res, _ := c.answer("POST"); res.StatusCode != 403 || !res.Close {
			t.Errorf("%s: got %d, the connection ends: %v", name, res.StatusCode, res.Close)
		}
	}
}
