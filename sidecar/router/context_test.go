package router_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/accesslog"
	"github.com/tulle-mesh/tulle/sidecar/router"
	"github.com/tulle-mesh/tulle/sidecar/tracing"
)

// echo serves a service called world, whose application answers each request with
// the header that it got.
func (m *mesh) echo(t *testing.T) <-chan http.Header {
	seen := make(chan http.Header, 16)
	m.table.service("world", backend(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header }))
	return seen
}

func span(t *testing.T, h http.Header) tracing.Context {
	t.Helper()
	c, ok := tracing.Parse([]byte(h.Get("l5d-ctx-trace")))
	if !ok || len(h["L5d-Ctx-Trace"]) != 1 || len(h["L5d-Reqid"]) != 1 || h.Get("l5d-reqid") != fmt.Sprintf("%016x", c.Trace) {
		t.Fatalf("l5d-ctx-trace %q, l5d-reqid %q", h["L5d-Ctx-Trace"], h["L5d-Reqid"])
	}
	return c
}

func TestTrace(t *testing.T) {
	m := start(t)
	seen, c := m.echo(t), m.client(t)
	value := func(c tracing.Context) string { return string(c.AppendTo(nil)) }
	in := tracing.Context{Span: 1, Parent: 2, Trace: 3, Flags: tracing.Known | tracing.Sampled}
	long := tracing.Context{Span: 1, Parent: 2, Trace: 3, High: 4, Flags: 1 << 40}
	for _, test := range []struct {
		name         string
		trace        string
		sample       string
		want         tracing.Flags
		trace3, high uint64
	}{
		{"nothing", "", "", 0, 0, 0},
		{"a context", value(in), "", 6, 3, 0},
		{"one of 128 bits", value(long), "", 1 << 40, 3, 4},
		{"nonsense", "nonsense", "", 0, 0, 0},
		{"one too short", value(in)[:40], "", 0, 0, 0},
		{"yes", "", "1", 6, 0, 0},
		{"more than yes", "", "1.5", 6, 0, 0},
		{"no", "", "0", 2, 0, 0},
		{"less than no", "", "-3", 2, 0, 0},
		{"no, though it was yes", value(in), "0", 2, 3, 0},
		{"no number", value(in), "yes", 6, 3, 0},
		{"nor here", "", "yes", 0, 0, 0},
	} {
		var header []string
		if test.trace != "" {
			header = append(header, "l5d-ctx-trace", test.trace)
		}
		if test.sample != "" {
			header = append(header, "L5D-Sample", test.sample)
		}
		get(t, c, "http://world/", append(header, "l5d-reqid", "forged", "x-b3-traceid", "kept")...)
		h := <-seen
		got := span(t, h)
		if got.Flags != test.want || got.Span == got.Parent || got.Parent == 1 || got.Span == 0 || got.High != test.high || h.Get("x-b3-traceid") != "kept" {
			t.Errorf("%s: %+v and %q", test.name, got, h.Get("x-b3-traceid"))
		}
		if root := test.trace3 == 0; !root && got.Trace != test.trace3 || root && got.Trace != got.Parent {
			t.Errorf("%s: trace %x, parent %x", test.name, got.Trace, got.Parent)
		}
		if h.Get("l5d-sample") != "" {
			t.Errorf("%s: l5d-sample went on", test.name)
		}
	}
}

// At an edge nothing that a client says is believed.
func TestTraceAtAnEdge(t *testing.T) {
	m := start(t, "server: {clearContext: true}")
	seen, c := m.echo(t), m.client(t)
	in := tracing.Context{Span: 1, Parent: 2, Trace: 3, Flags: 6}
	get(t, c, "http://world/", "l5d-ctx-trace", string(in.AppendTo(nil)), "l5d-sample", "1",
		"l5d-ctx-a-name-that-is-longer-than-any-of-ours", "1", "l5d-add-context", "true")
	h := <-seen
	if got := span(t, h); got.Trace == 3 || got.Flags != 0 {
		t.Errorf("%+v", got)
	}
	for name := range h {
		switch name = strings.ToLower(name); name {
		case "l5d-dst-service", "l5d-dst-client", "l5d-reqid", "l5d-ctx-trace":
		default:
			if strings.HasPrefix(name, "l5d-") {
				t.Errorf("%s went on", name)
			}
		}
	}
}

// All attempts of a request have one id.
func TestTraceOfRetries(t *testing.T) {
	m := start(t, "service: {responseClassifier: {kind: io.l5d.http.retryableRead5XX}}")
	seen := make(chan http.Header, 2)
	var n atomic.Int64
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		if n.Add(1) == 1 {
			w.WriteHeader(503)
		}
	}))
	if res, body := get(t, m.client(t), "http://world/", "l5d-sample", "1"); res.StatusCode != 200 {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	if first, second := span(t, <-seen), span(t, <-seen); first != second {
		t.Errorf("%+v became %+v", first, second)
	}
}

// The incoming proxy makes spans of its own, below those of the outgoing one.
func TestTraceOfDelivery(t *testing.T) {
	address, c := startIncoming(t, "127.0.0.1")
	seen := make(chan http.Header, 1)
	app := backend(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })
	in := tracing.Context{Span: 1, Parent: 2, Trace: 3, Flags: 6}
	if res, body := get(t, c, address+"/", "tulle-dst-endpoint", app, "l5d-ctx-trace", string(in.AppendTo(nil)),
		"l5d-reqid", "0000000000000003", "l5d-dst-service", "/svc/world"); res.StatusCode != 200 {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	h := <-seen
	if got := span(t, h); got.Trace != 3 || got.Flags != 6 || got.Span == 1 || got.Parent == 1 || got.Span == got.Parent || h.Get("l5d-dst-service") == "" {
		t.Errorf("%+v of %v", got, h)
	}
}

func TestB3(t *testing.T) {
	m := start(t, "server: {tracePropagator: {kind: io.l5d.zipkin}}")
	seen, c := m.echo(t), m.client(t)
	in := tracing.Context{Span: 1, Parent: 2, Trace: 3}
	send := func(header ...string) map[string]string {
		get(t, c, "http://world/", append(header, "l5d-ctx-trace", string(in.AppendTo(nil)), "l5d-sample", "1", "l5d-reqid", "x", "X-B3-Other", "kept")...)
		h := <-seen
		for _, name := range []string{"l5d-ctx-trace", "l5d-sample", "l5d-reqid"} {
			if h.Get(name) != "" {
				t.Errorf("%s went on as %q", name, h.Get(name))
			}
		}
		got := map[string]string{}
		for _, name := range []string{tracing.B3Trace, tracing.B3Span, tracing.B3Parent, tracing.B3Sampled, tracing.B3Flags} {
			if v := h.Values(name); len(v) == 1 {
				got[name] = v[0]
			} else {
				t.Errorf("%s: %q", name, v)
			}
		}
		return got
	}
	got := send()
	if got[tracing.B3Trace] != got[tracing.B3Parent] || len(got[tracing.B3Trace]) != 16 || got[tracing.B3Sampled] != "0" || got[tracing.B3Flags] != "0" {
		t.Errorf("a root: %v", got)
	}
	got = send("X-B3-TraceId", "00000000000000dd00000000000000cc", "X-B3-SpanId", "00000000000000aa", "X-B3-ParentSpanId", "00000000000000bb", "X-B3-Sampled", "true")
	if got[tracing.B3Trace] != "00000000000000dd00000000000000cc" || got[tracing.B3Span] == "00000000000000aa" ||
		got[tracing.B3Parent] == "00000000000000bb" || got[tracing.B3Sampled] != "1" {
		t.Errorf("a context: %v", got)
	}
	if got = send("X-B3-Sampled", "1.0"); got[tracing.B3Sampled] != "1" {
		t.Errorf("a share: %v", got)
	}
}

func TestForwarded(t *testing.T) {
	m := startOn(t, newLoopback(t), router.OutgoingConfig{Grace: 5 * time.Second, Label: "b 3;for=evil"}, "server: {addForwardedHeader: {by: {kind: static, label: edge}, for: {kind: ip}}, timestampHeader: X-Request-Start}")
	seen, c := m.echo(t), m.client(t)
	before := time.Now().UnixMilli()
	get(t, c, "http://world/", "Forwarded", "for=10.0.0.1, for=10.0.0.2", "X-Request-Start", "forged")
	h := <-seen
	if got := h["Forwarded"]; len(got) != 2 || got[0] != "for=10.0.0.1, for=10.0.0.2" || got[1] != "by=_edge;for=127.0.0.1;host=world" {
		t.Errorf("Forwarded: %q", got)
	}
	if h.Get("X-Forwarded-For") != "" {
		t.Error("there is an X-Forwarded-For")
	}
	ms, err := strconv.ParseInt(h.Get("X-Request-Start"), 10, 64)
	if after := time.Now().UnixMilli(); err != nil || len(h["X-Request-Start"]) != 1 || ms < before-50 || ms > after+50 {
		t.Errorf("the request came at %q, between %d and %d", h["X-Request-Start"], before, after)
	}
	m.policy.Set(says(t, "server: {addForwardedHeader: {by: {kind: connectionRandom}}}"))
	get(t, c, "http://world/")
	first := (<-seen).Get("Forwarded")
	get(t, c, "http://world/")
	second := (<-seen).Get("Forwarded")
	m1, m2 := obfuscated.FindStringSubmatch(first), obfuscated.FindStringSubmatch(second)
	if m1 == nil || m2 == nil || m1[1] != m2[1] || m1[2] == m2[2] {
		t.Errorf("on one connection %q, and then %q", first, second)
	}
	m.policy.Set(says(t, "server: {addForwardedHeader: {by: {kind: router}, for: {kind: ip}}}"))
	get(t, c, "http://world/")
	if got := (<-seen).Get("Forwarded"); got != "by=_b-3-for-evil;for=127.0.0.1;host=world" {
		t.Errorf("by the router's name: %q", got)
	}
	m.policy.Set(says(t))
	get(t, c, "http://world/", "Forwarded", "for=x")
	if h := <-seen; len(h["Forwarded"]) != 1 || h.Get("X-Request-Start") != "" {
		t.Errorf("switched off: %q", h["Forwarded"])
	}
}

var obfuscated = regexp.MustCompile(`^by=(_[A-Za-z0-9._-]+);for=(_[A-Za-z0-9._-]+);host=world$`)

// logged runs a router whose requests go to an access log, and returns its path
// and what ends both.
func logged(t *testing.T) (*mesh, string, func()) {
	path := filepath.Join(t.TempDir(), "access.log")
	log := accesslog.New(accesslog.Config{Path: func() string { return path }})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = log.Run(ctx) })
	m := startOn(t, newLoopback(t), router.OutgoingConfig{Grace: 5 * time.Second, AccessLog: log}, "server: {httpAccessLog: "+path+"}")
	stop := sync.OnceFunc(func() { m.stop(); cancel(); wg.Wait() })
	t.Cleanup(stop)
	return m, path, stop
}

func TestAccessLog(t *testing.T) {
	m, path, stop := logged(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch _, _ = io.Copy(io.Discard, r.Body); r.URL.Path {
		case "/stream":
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "streamed")
		case "/missing":
			w.WriteHeader(404)
		default:
			_, _ = io.WriteString(w, "hello")
		}
	}))
	m.table.service("dead", refusing(t))
	m.table.service("slow", rawBackend(t, func(_ net.Conn, r *bufio.Reader) { _, _ = r.ReadString(0) }))
	c := m.client(t)
	get(t, c, "http://world/a%20b?c=d", "Referer", "http://x/", "User-Agent", `te"st`)
	get(t, c, "http://world/stream", "User-Agent", "test")
	get(t, c, "http://world/missing", "User-Agent", "test")
	do(t, c, "HEAD", "http://world/", nil, "User-Agent", "test")
	do(t, c, "POST", "http://world/", strings.NewReader(strings.Repeat("x", 1<<20)), "User-Agent", "test")
	_, body := get(t, c, "http://dead/", "User-Agent", "test")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	req, err := http.NewRequestWithContext(ctx, "GET", "http://slow/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := c.Do(req); err == nil {
		_ = res.Body.Close()
		t.Error("a backend that never answers has answered")
	}
	cancel()
	c.CloseIdleConnections()
	stop()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`world 127.0.0.1 - - "GET /a%20b?c=d HTTP/1.1" 200 5 "http://x/" "te\"st"`,
		`world 127.0.0.1 - - "GET /stream HTTP/1.1" 200 - "-" "test"`,
		`world 127.0.0.1 - - "GET /missing HTTP/1.1" 404 - "-" "test"`,
		`world 127.0.0.1 - - "HEAD / HTTP/1.1" 200 - "-" "test"`,
		`world 127.0.0.1 - - "POST / HTTP/1.1" 200 5 "-" "test"`,
		`dead 127.0.0.1 - - "GET / HTTP/1.1" 502 ` + strconv.Itoa(len(body)) + ` "-" "test"`,
		`slow 127.0.0.1 - - "GET / HTTP/1.1" 499 - "-" "Go-http-client/1.1"`,
	}
	var got []string
	for line := range strings.Lines(string(content)) {
		got = append(got, strings.TrimSpace(regexp.MustCompile(`\[.*?\] `).ReplaceAllString(line, "")))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("logged:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What came in HTTP/1.0 is said to have.
func TestVia(t *testing.T) {
	m := start(t)
	seen := make(chan string, 1)
	m.table.service("world", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		seen <- strings.Join(req.Header["Via"], "; ")
		_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\nVia: 1.1 b\r\nContent-Length: 0\r\n\r\n")
	}))
	for version, want := range map[string]string{"HTTP/1.0": "1.0 a, 1.1 b, 1.0 linkerd", "HTTP/1.1": "1.0 a, 1.1 b, 1.1 linkerd"} {
		conn, err := net.Dial("tcp", m.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "GET / "+version+"\r\nHost: world\r\nVia: 1.0 a\r\nVia: 1.1 b\r\nConnection: close\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		_ = conn.Close()
		if got := <-seen; got != want {
			t.Errorf("%s: the backend saw Via %q, want %q", version, got, want)
		}
		if got := res.Header["Via"]; len(got) != 1 || got[0] != "1.1 b, 1.0 linkerd" {
			t.Errorf("%s: the client saw Via %q", version, got)
		}
	}
}

// Headers of Linkerd before 1.0 reach the backend, and mean nothing.
func TestLegacyHeaders(t *testing.T) {
	m := start(t)
	seen := m.echo(t)
	if res, body := get(t, m.client(t), "http://world/", "dtab-local", "/host=>/srv/x", "x-dtab-00-a", "L2hvc3Q=", "l5d-name", "/x"); res.StatusCode != 200 {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	if h := <-seen; h.Get("dtab-local") != "/host=>/srv/x" || h.Get("x-dtab-00-a") != "L2hvc3Q=" || h.Get("l5d-name") != "/x" {
		t.Errorf("%v", h)
	}
}
