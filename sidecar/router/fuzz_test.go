//go:build linux

package router_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/http1/http1test"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/tunnel"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// stuck is how long a case may take that takes no time; then somebody waits for
// what never comes.
const stuck = 20 * time.Second

// meant is a request as package http1 reads it, and with it the router.
type meant struct {
	message
	minor   byte
	close   bool
	empty   bool // there is no authority, so nobody to send it to
	connect bool // an HTTP/1 request follows in the tunnel
	payload []byte
	tunnel  bool // CONNECT, and payload is carried as it is
}

// said is all that a client sends on one connection.
type said struct {
	requests []meant
	// broken is why the connection ends: io.EOF between requests, a *http1.ParseError,
	// or an end inside a message. partial is true if the head before it was read: it
	// is the last of requests.
	broken  error
	partial bool
	// hasty is true if broken is seen only by who gets the bytes at once; who gets
	// them one by one waits for the rest of a head.
	hasty bool
}

func limitsOf(p *policy.Policy) http1.Limits {
	l := http1.DefaultLimits
	l.Line, l.Head, l.Fields = p.Server.MaxInitialLineBytes, p.Server.MaxHeaderBytes, p.Server.MaxHeaderFields
	return l
}

// understand reads what a client sends. upgrades says whether the backend agrees
// to switch protocols.
func understand(input []byte, limits http1.Limits, upgrades bool) said {
	src := bytes.NewReader(input)
	s := listen(input, src, src, limits, upgrades)
	src.Reset(input)
	var parse *http1.ParseError
	slow := listen(input, src, iotest.OneByteReader(src), limits, upgrades)
	s.hasty = errors.As(s.broken, &parse) && !errors.As(slow.broken, &parse)
	return s
}

func listen(input []byte, src *bytes.Reader, from io.Reader, limits http1.Limits, upgrades bool) (s said) {
	r := http1.NewReader(from, limits)
	var req wire.Request
	for {
		if s.broken = r.Request(&req); s.broken != nil {
			return s
		}
		m := meant{minor: req.Minor, close: req.Close, empty: len(req.Authority) == 0}
		m.method, m.target, m.host = string(req.Method), string(req.Path), string(req.Authority)
		for _, f := range req.Header.Fields {
			if f.Kind == wire.KindOther {
				m.fields = append(m.fields, string(f.Name)+": "+string(f.Value))
			}
		}
		rest := input[len(input)-src.Len()-r.Buffered():]
		if m.method == "CONNECT" {
			kind, _ := tunnel.Sniff(rest)
			m.connect, m.tunnel = kind == tunnel.HTTP1, kind != tunnel.HTTP1
		}
		if upgrades && switches(&req) {
			m.upgrade = string(req.Upgrade)
		}
		if m.tunnel || m.upgrade != "" {
			m.payload = rest
			s.requests = append(s.requests, m)
			return s
		}
		for body := r.Body(req.Body, req.Length); ; {
			p, err := body.Next()
			m.body = append(m.body, p...)
			if err == io.EOF {
				break
			}
			if err != nil {
				s.requests, s.broken, s.partial = append(s.requests, m), err, true
				return s
			}
		}
		s.requests = append(s.requests, m)
	}
}

// switches reports whether the router lets a request change the protocol.
func switches(req *wire.Request) bool {
	u := strings.ToLower(string(req.Upgrade))
	for _, forbidden := range []string{"h2c", "h2", "http/", "tls/"} {
		if strings.HasPrefix(u, forbidden) {
			return false
		}
	}
	return u != "" && req.Body == wire.NoBody && !strings.Contains(u, ",")
}

// The ways a backend can answer a request that it has understood.
const (
	answerFixed = iota
	answerChunked
	answerUntilClose
	answerNothing
	answerInterim
	answerFailure
	answerClosing
	answerUpgrade
	answers
)

// reply is the nth answer of a backend. mark is what its body says.
func reply(how, n int, m *message) (text []byte, last bool) {
	mark := fmt.Sprintf("answer %d", n)
	status, extra, before := "200 OK", "", ""
	switch how {
	case answerChunked:
		text := fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Seq: %d\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n", n)
		if m.method != "HEAD" {
			text += fmt.Sprintf("3;x=y\r\n%s\r\n%x\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n", mark[:3], len(mark)-3, mark[3:])
		}
		return []byte(text), false
	case answerUntilClose:
		text := fmt.Sprintf("HTTP/1.0 200 OK\r\nX-Seq: %d\r\n\r\n", n)
		if m.method != "HEAD" {
			text += mark
		}
		return []byte(text), true
	case answerNothing:
		return fmt.Appendf(nil, "HTTP/1.1 204 No Content\r\nX-Seq: %d\r\n\r\n", n), false
	case answerInterim:
		before = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
	case answerFailure:
		status = "500 Internal Server Error"
	case answerClosing:
		extra = "Connection: close\r\n"
	case answerUpgrade:
		if m.upgrade != "" {
			return fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nX-Seq: %d\r\nConnection: upgrade\r\nUpgrade: %s\r\n\r\n", n, m.upgrade), false
		}
	}
	text = fmt.Appendf(nil, "%sHTTP/1.1 %s\r\nX-Seq: %d\r\n%sContent-Length: %d\r\n\r\n", before, status, n, extra, len(mark))
	if m.method != "HEAD" {
		text = append(text, mark...)
	}
	return text, extra != ""
}

// exchange sends input through the router and checks that the backend gets just
// what the client meant, and the client one answer to each request. how says what
// the backend answers; if late is false the client closes its side before it reads.
func (l *line) exchange(t testing.TB, input []byte, how int, late bool) said {
	l.reset(func(n int, m *message) ([]byte, bool) { return reply(how, n, m) })
	meaning := understand(input, limitsOf(l.policy), how == answerUpgrade)
	var parse *http1.ParseError
	if meaning.hasty || meaning.partial && !errors.As(meaning.broken, &parse) {
		late = false // the router waits for the rest
	}
	for _, m := range meaning.requests {
		// A tunnel lasts until somebody says that it ends.
		late = late && m.method != "CONNECT" && m.upgrade == ""
	}
	conn, err := net.Dial("tcp", l.address)
	if err != nil {
		t.Fatal(err)
	}
	// A reset leaves no port behind that has to be waited for.
	defer func() { _ = conn.(*net.TCPConn).SetLinger(0); _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(stuck))
	written := make(chan struct{})
	write := func() {
		cut := len(input) * (how + 1) / (answers + 1)
		_, _ = conn.Write(input[:cut])
		_, _ = conn.Write(input[cut:])
		if !late {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
		close(written)
	}
	if len(input) > 4<<10 {
		go write()
	} else {
		write()
	}
	c := &listening{t: t, line: l, input: input, r: bufio.NewReader(conn), how: how, meaning: meaning}
	c.read()
	<-written
	_ = conn.(*net.TCPConn).CloseWrite()
	rest, err := io.ReadAll(c.r)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		c.fatalf("the connection does not end")
	}
	if len(rest) > 0 && !c.raw {
		c.fatalf("after the last answer comes %q", rest)
	}
	c.compare()
	return meaning
}

// listening is a client that reads answers.
type listening struct {
	t       testing.TB
	line    *line
	input   []byte
	r       *bufio.Reader
	how     int
	meaning said

	raw       bool // what comes now is no HTTP
	forwarded []*meant
	partial   *meant // what may have reached the backend in part
	carried   *meant
}

func (c *listening) fatalf(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("%.2000s\ninput %.2000q", fmt.Sprintf(format, args...), c.input)
}

// read takes the answers that are due.
func (c *listening) read() {
	c.t.Helper()
	requests := c.meaning.requests
	for i := range requests {
		m := &requests[i]
		if c.meaning.partial && i == len(requests)-1 {
			c.partial = m
			c.last(m.method)
			return
		}
		res, body := c.next(m)
		switch seq := res.Header.Get("X-Seq"); {
		case m.method == "CONNECT" && res.StatusCode == 200:
			if m.tunnel {
				c.raw, c.carried = true, m
				return
			}
			if !m.connect {
				c.fatalf("CONNECT is answered, and what follows forgotten")
			}
			continue
		case seq == "" && m.method == "TRACE" && res.StatusCode == 200: // as far as Max-Forwards goes
		case seq == "":
			c.checkProblem(res, body, m.method)
		case seq != fmt.Sprint(len(c.forwarded)):
			c.fatalf("request %d got the answer %s, want %d", i, seq, len(c.forwarded))
		case m.empty || m.method == "CONNECT":
			c.fatalf("%s went to somebody", m)
		default:
			c.forwarded = append(c.forwarded, m)
			if res.StatusCode == 101 {
				c.raw, c.carried = true, m
				return
			}
			if want := fmt.Sprintf("answer %s", seq); m.method != "HEAD" && m.method != "TRACE" && c.how != answerNothing && body != want {
				c.fatalf("answer %s has the body %q", seq, body)
			}
		}
		if res.Close {
			return
		}
		if m.close {
			c.fatalf("request %d wants the connection closed, its answer does not say so: %v", i, res)
		}
	}
	c.last("GET")
}

// next reads the final answer to m.
func (c *listening) next(m *meant) (*http.Response, string) {
	c.t.Helper()
	for {
		res, err := http.ReadResponse(c.r, &http.Request{Method: m.method})
		if err != nil {
			c.fatalf("no answer to %s: %v", m, err)
		}
		if res.StatusCode < 200 && res.StatusCode != 101 {
			if m.minor == 0 {
				c.fatalf("an interim answer to HTTP/1.0: %v", res)
			}
			continue
		}
		if m.method == "CONNECT" && res.StatusCode == 200 {
			return res, "" // net/http would take all that follows for the body
		}
		if res.StatusCode == 101 {
			return res, ""
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			c.fatalf("the answer to %s ends in %v", m, err)
		}
		return res, string(body)
	}
}

// last reads what is answered to what could not be read: a problem that says so,
// or nothing if the client has gone away inside of it.
func (c *listening) last(method string) {
	c.t.Helper()
	var parse *http1.ParseError
	if !errors.As(c.meaning.broken, &parse) && !c.meaning.partial {
		return // the end is checked by the caller
	}
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		if parse != nil && !c.meaning.hasty {
			c.fatalf("no answer to what is malformed (%v): %v", parse, err)
		}
		return
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.fatalf("the last answer ends in %v", err)
	}
	c.checkProblem(res, string(body), method)
	if !res.Close {
		c.fatalf("the connection stays after %v", res)
	}
	if parse != nil && !c.meaning.partial && res.StatusCode != parse.Status {
		c.fatalf("%v is answered by %d", parse, res.StatusCode)
	}
}

// checkProblem checks an answer that the router made itself.
func (c *listening) checkProblem(res *http.Response, body, method string) {
	c.t.Helper()
	code := res.Header.Get("tulle-code")
	if res.StatusCode < 400 || res.Header.Get("l5d-err") == "" || len(code) != 4 || code[0] != 'T' || res.Header.Get("Via") == "" {
		c.fatalf("the router says %d %v %q", res.StatusCode, res.Header, body)
	}
	if method != "HEAD" && !strings.Contains(body, code+": ") {
		c.fatalf("the body does not explain %s: %q", code, body)
	}
}

// compare holds what was written to the backend against what the client meant.
func (c *listening) compare() {
	c.t.Helper()
	l := c.line
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.seen) != len(c.forwarded) {
		c.fatalf("the backend has %d requests, the client %d answers to them: %v", len(l.seen), len(c.forwarded), l.seen)
	}
	for i := range l.seen {
		got, want := &l.seen[i], c.forwarded[i]
		if got.method != want.method || got.target != want.target || got.host != want.host || !bytes.Equal(got.body, want.body) {
			c.fatalf("the backend got %s, the client meant %s", got, want)
		}
		if want.upgrade != "" && got.upgrade != want.upgrade || c.how == answerUpgrade && got.upgrade != want.upgrade {
			c.fatalf("the backend was asked to switch to %q, the client meant %q", got.upgrade, want.upgrade)
		}
		if fields := forOthers(got.fields); !slices.Equal(fields, want.fields) {
			c.fatalf("the backend got the fields %q, the client sent %q", fields, want.fields)
		}
	}
	for _, t := range l.taps {
		c.checkWire(t)
	}
}

// forOthers leaves the fields that the router neither writes nor reads.
func forOthers(fields []string) (others []string) {
	for _, f := range fields {
		name, _, _ := strings.Cut(f, ": ")
		if wire.KindOf([]byte(strings.ToLower(name))) == wire.KindOther {
			others = append(others, f)
		}
	}
	return others
}

// checkWire reads what the router wrote on one connection once more, by the
// strict parser and by net/http: whole requests and nothing else.
func (c *listening) checkWire(t *tap) {
	c.t.Helper()
	if c.carried != nil && c.carried.method == "CONNECT" && bytes.Equal(t.wrote, c.carried.payload) {
		return
	}
	src := bytes.NewReader(t.wrote)
	strict := bufio.NewReader(src)
	second := bufio.NewReader(bytes.NewReader(t.wrote))
	for {
		m, err := readMessage(strict)
		if err == io.EOF {
			if rest, _ := io.ReadAll(second); len(rest) > 0 {
				c.fatalf("net/http sees one more request: %q in %q", rest, t.wrote)
			}
			return
		}
		if errors.Is(err, io.ErrUnexpectedEOF) && c.partial != nil && t.closed {
			if _, err := readRequest(second); err == nil {
				c.fatalf("net/http takes what was cut off for whole: %q", t.wrote)
			}
			return
		}
		if err != nil {
			c.fatalf("the router wrote %q: %v", t.wrote, err)
		}
		if got, err := readRequest(second); err == nil {
			if got.method != m.method || got.host != m.host || got.target != m.target || !bytes.Equal(got.body, m.body) {
				c.fatalf("net/http reads %s, the strict parser %s in %q", got, m, t.wrote)
			}
		} else if second = nil; !stricter(err) {
			c.fatalf("net/http refuses %q: %v", t.wrote, err)
		}
		if m.upgrade != "" && c.carried != nil {
			if rest, _ := io.ReadAll(strict); !bytes.Equal(rest, c.carried.payload) {
				c.fatalf("after the switch the backend got %q, the client sent %q", rest, c.carried.payload)
			}
			return
		}
		if second == nil { // it lost its place; the strict parser sees the rest
			for err == nil {
				_, err = readMessage(strict)
			}
			if err != io.EOF && (c.partial == nil || !t.closed) {
				c.fatalf("the router wrote %q: %v", t.wrote, err)
			}
			return
		}
	}
}

// readRequest reads a request by net/http.
func readRequest(r *bufio.Reader) (*message, error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(req.Body)
	return &message{method: req.Method, host: req.Host, target: req.RequestURI, body: body}, err
}

// stricter reports whether net/http refuses a request for reasons that RFC 9112
// does not know.
func stricter(err error) bool {
	for _, reason := range []string{"malformed Host", "invalid URL", "parse ", "invalid method"} {
		if strings.Contains(err.Error(), reason) {
			return true
		}
	}
	return false
}

// FuzzExchange sends arbitrary bytes through the whole router to a backend.
func FuzzExchange(f *testing.F) {
	for i, c := range http1test.Corpus(f) {
		if c.Response == "" && len(c.Input) < 2000 {
			f.Add(c.Input, uint8(i), i%2 == 0)
		}
	}
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: b:80\r\nContent-Length: 3\r\n\r\nabcHEAD /3 HTTP/1.0\r\nHost: c\r\nConnection: keep-alive\r\n\r\n",
		"PUT http://a/x?y HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n3;a=b\r\nabc\r\n0\r\nX-A: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhiGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\nabc",
		"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n\x00\x01\x02 whatever",
		"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\nTRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nl5d-dtab: /svc/a => /#/io.l5d.fs/b\r\nl5d-ctx-deadline: 1 2\r\nVia: 1.0 x\r\nvia: 1.1 y\r\nConnection: x-a, close\r\nX-A: 1\r\nTE: trailers\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n",
	} {
		for how := range answers {
			f.Add([]byte(seed), uint8(how), how%2 == 0)
		}
	}
	l := newLine(f)
	f.Fuzz(func(t *testing.T, input []byte, how uint8, late bool) {
		if len(input) <= 64<<10 {
			l.exchange(t, input, int(how)%answers, late)
		}
	})
}
