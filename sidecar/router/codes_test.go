package router_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

const plain = "GET / HTTP/1.1\r\nHost: world\r\n\r\n"

// provoked is a way to get an answer of each code from an outgoing router.
type provoked struct {
	words   string
	cfg     router.OutgoingConfig
	nobody  bool // the proxy has no certificate
	prepare func(*testing.T, *mesh)
	request string
	// retryable is whether it is certain that no application saw the request.
	retryable bool
}

// holding makes world an endpoint that never answers, with one request under way.
func holding(t *testing.T, m *mesh) {
	m.table.service("world", m.backend(t, newGate().ServeHTTP))
	c := m.talk(t)
	c.say(plain)
	time.Sleep(time.Millisecond) // virtual
}

func provocations() map[string]provoked {
	never := func(t *testing.T, m *mesh) { m.table.service("world", m.backend(t, newGate().ServeHTTP)) }
	return map[string]provoked{
		"T101": {request: "GET / HTTP/1.1\r\nHost : world\r\n\r\n"},
		"T102": {request: "GET / HTTP/1.1\r\nHost: world\r\nl5d-dtab: nonsense\r\n\r\n"},
		"T103": {request: "GET / HTTP/1.0\r\n\r\n"},
		"T104": {words: "server: {maxCallDepth: 2}", request: "GET / HTTP/1.1\r\nHost: world\r\nVia: 1.1 a, 1.1 b\r\nVia: 1.1 c\r\n\r\n"},
		"T106": {cfg: router.OutgoingConfig{Namespace: func(context.Context, string) (string, error) {
			return "", errors.New("nobody knows this caller")
		}}, request: plain, retryable: true},
		"T107": {request: "GET / HTTP/1.1\r\n", retryable: true},
		"T109": {words: "server: {maxInitialLineKB: 1}", request: "GET /" + strings.Repeat("x", 2000) + " HTTP/1.1\r\nHost: world\r\n\r\n"},
		"T307": {prepare: func(t *testing.T, m *mesh) {
			r := &document.Reader{File: "linkerd.yaml"}
			sets, _ := schema.Read(r, "", r.Root([]byte("client: {tls: {commonName: world.test}}")), policy.LinkerdRouter(false), nil)
			if r.Err() != nil {
				t.Fatal(r.Err())
			}
			says := schema.Apply(*policy.Linkerd(), sets)
			m.policy.Set(&says)
			m.table.service("world", m.backend(t, func(http.ResponseWriter, *http.Request) { t.Error("something was sent in clear text") }))
		}, request: plain, retryable: true},
		"T110": {words: "server: {maxHeaderFields: 1}", request: "GET / HTTP/1.1\r\nHost: world\r\nA: b\r\n\r\n"},
		"T111": {words: "server: {maxConcurrentRequests: 1}", prepare: holding, request: plain, retryable: true},
		"T112": {words: "server: {maxConnections: 1}", prepare: holding, retryable: true},
		"T113": {words: "service: {maxConcurrentRequests: 1}", prepare: holding, request: plain, retryable: true},
		"T114": {prepare: never, request: "GET / HTTP/1.1\r\nHost: world\r\nl5d-ctx-deadline: 1 2\r\n\r\n"},
		"T115": {request: "TRACE / HTTP/1.1\r\nHost: world\r\nMax-Forwards: many\r\n\r\n"},
		"T116": {request: "GET / HTTP/1.1\r\nHost: world\r\nProxy-Authorization: Basic Y2hhaW4tITo=\r\n\r\n", retryable: true},
		"T201": {request: plain, retryable: true},
		"T202": {prepare: func(_ *testing.T, m *mesh) { m.table.value(bound("world")).Set(naming.Replicas{}) }, request: plain, retryable: true},
		"T203": {prepare: func(_ *testing.T, m *mesh) {
			m.table.value(bound("world")).Set(naming.Replicas{State: naming.StateFailed, Cause: "no way to know"})
		}, request: plain, retryable: true},
		"T204": {nobody: true, request: plain, retryable: true},
		"T205": {prepare: func(_ *testing.T, m *mesh) { m.refuse("169.254.169.254", "80") }, request: "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", retryable: true},
		"T206": {words: "egress: {allow: [api.example.com]}", request: "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n",
			prepare: func(_ *testing.T, m *mesh) {
				m.table.value("/$/inet/www.example.com/80").Set(naming.Of(naming.Endpoint{Address: "10.9.9.9:80", Weight: 1}))
			}, retryable: true},
		"T301": {prepare: func(_ *testing.T, m *mesh) { m.table.service("world", "10.9.9.9:80") }, request: plain, retryable: true},
		"T302": {prepare: func(t *testing.T, m *mesh) {
			ln := m.network.listen(t)
			serveRaw(t, ln, func(conn net.Conn, r *bufio.Reader) {
				_, _ = http.ReadRequest(r)
				_, _ = io.WriteString(conn, "SSH-2.0-x\r\n")
			})
			m.table.service("world", ln.Addr().String())
		}, request: plain},
		"T303": {words: "client: {requestAttemptTimeoutMs: 10}", prepare: never, request: plain},
		"T304": {words: "service: {totalTimeoutMs: 10}", prepare: never, request: plain},
		"T305": {words: "client: {maxConcurrentRequestsPerEndpoint: 1}", prepare: holding, request: plain, retryable: true},
		"T306": {prepare: func(t *testing.T, m *mesh) {
			m.table.service("world", m.backend(t, fails(1e6, 503, "finagle-http-nack", "true").ServeHTTP))
		}, request: plain, retryable: true},
	}
}

// complete checks that an answer of a router's own has all it is to have.
func complete(t *testing.T, code string, res *http.Response, body string, statuses []int, retryable bool) {
	t.Helper()
	if !slices.Contains(statuses, res.StatusCode) || res.Header.Get("tulle-code") != code {
		t.Errorf("%s: got %d %v; the documented statuses are %v", code, res.StatusCode, res.Header, statuses)
	}
	if got := res.Header.Get("l5d-retryable") == "true"; got != retryable {
		t.Errorf("%s: it is retryable: %v, want %v", code, got, retryable)
	}
	message, err := url.QueryUnescape(res.Header.Get("l5d-err"))
	if err != nil || message == "" {
		t.Errorf("%s: l5d-err is %q, %v", code, message, err)
	}
	if code == "T112" {
		return // it has no text
	}
	if !strings.HasPrefix(body, message+"\n\n"+code+": ") || !strings.HasSuffix(body, "\n") || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("%s: the text is %q, %s", code, body, res.Header.Get("Content-Type"))
	}
	if hint := body[len(message)+2:]; strings.Count(hint, "\n") != 1 || len(hint) < 20 {
		t.Errorf("%s: what to do is said by %q", code, hint)
	}
}

// Each code can be had, with the status that docs/errors.md says.
func TestCodes(t *testing.T) {
	documented := codes(t, "../../docs/errors.md", `(?m)^\| (T\d+) \| ([\d, ]+) \|`)
	statuses := map[string][]int{}
	for code, list := range documented {
		for s := range strings.SplitSeq(list, ", ") {
			n, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			statuses[code] = append(statuses[code], n)
		}
	}
	all := provocations()
	for code, p := range all {
		p.cfg.Grace = time.Second
		synctest.Test(t, func(t *testing.T) {
			if p.nobody {
				p.cfg.Identified = make(chan struct{})
			}
			m := startOn(t, &memory{listeners: map[string]*pipes{}}, p.cfg, p.words)
			if p.prepare != nil {
				p.prepare(t, m)
			}
			c := m.talk(t)
			go func() { _, _ = io.WriteString(c, p.request) }()
			res, body := c.answer("GET")
			complete(t, code, res, body, statuses[code], p.retryable)
			if n := m.count(t, "tulle_errors_total", "router", "outgoing", "code", code); n != 1 {
				t.Errorf("%s: it is counted %v times", code, n)
			}
			_ = c.Close()
		})
	}
	// A connection of package socket notices that a body stops.
	m := start(t, "server: {headTimeoutMs: 50}")
	c := m.talk(t)
	c.say("POST / HTTP/1.1\r\nHost: world\r\nContent-Length: 3\r\n\r\n")
	res, body := c.answer("POST")
	complete(t, "T108", res, body, statuses["T108"], false)
	seen := append(slices.Collect(maps.Keys(all)), "T108")
	for code, p := range deliveries(t) {
		res, body := deliver(t, p.endpoint)
		complete(t, code, res, body, statuses[code], p.retryable)
		seen = append(seen, code)
	}
	slices.Sort(seen)
	if want := slices.Sorted(maps.Keys(documented)); !slices.Equal(seen, want) {
		t.Errorf("there are tests of %v, and documented are %v", seen, want)
	}
}

type delivery struct {
	endpoint  string
	retryable bool
}

// deliveries are the ways to get an answer of each code from an incoming router.
func deliveries(t *testing.T) map[string]delivery {
	return map[string]delivery{
		"T401": {"10.9.9.9:80", true},
		"T402": {"", false},
		"T403": {refusing(t), true},
		"T404": {rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			_, _ = http.ReadRequest(r)
			_, _ = io.WriteString(conn, "SSH-2.0-x\r\n")
		}), false},
	}
}

// deliver asks an incoming router to deliver a request to an endpoint.
func deliver(t *testing.T, endpoint string) (*http.Response, string) {
	t.Helper()
	proxy, client := startIncoming(t, "127.0.0.1")
	cfg := client.Transport.(*http.Transport).TLSClientConfig.Clone()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(proxy, "https://"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: world\r\ntulle-dst-endpoint: %s\r\n\r\n", endpoint)
	c := &talk{t, conn, bufio.NewReader(conn)}
	return c.answer("GET")
}

// codes returns what a pattern finds in a file: a code, and what else it takes.
func codes(t *testing.T, file, pattern string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
		if _, twice := all[m[1]]; twice {
			t.Errorf("%s has %s twice", file, m[1])
		}
		all[m[1]] = m[2]
	}
	return all
}

// Every code that the source can answer is documented, and the other way round.
func TestCodesAreDocumented(t *testing.T) {
	source, docs := codes(t, "problem.go", `= "(T\d+)" ()`), codes(t, "../../docs/errors.md", `(?m)^\| (T\d+) ()\|`)
	if len(source) == 0 || !maps.Equal(source, docs) {
		t.Errorf("the source has the codes %v, docs/errors.md %v", slices.Sorted(maps.Keys(source)), slices.Sorted(maps.Keys(docs)))
	}
}

// A request may have passed as many proxies as maxCallDepth says, in one line of Via or in several, and no more.
func TestMaxCallDepth(t *testing.T) {
	m := start(t, "server: {maxCallDepth: 3}")
	m.table.service("world", backend(t, func(http.ResponseWriter, *http.Request) {}))
	for via, want := range map[string]int{
		"": 200, "Via: 1.1 a, 1.1 b\r\n": 200, "Via: 1.1 a, 1.1 b, 1.1 c\r\n": 200, "Via: 1.1 a, 1.1 b\r\nVia: 1.1 c\r\n": 200,
		"Via: 1.1 a, 1.1 b, 1.1 c, 1.1 d\r\n": 400, "Via: 1.1 a, 1.1 b\r\nVia: 1.1 c\r\nVia: 1.1 d\r\n": 400,
	} {
		c := m.talk(t)
		c.say("GET / HTTP/1.1\r\nHost: world\r\n" + via + "\r\n")
		if res, body := c.answer("GET"); res.StatusCode != want || want == 400 && res.Header.Get("Tulle-Code") != "T104" {
			t.Errorf("%q: %d %s", via, res.StatusCode, body)
		}
	}
}
