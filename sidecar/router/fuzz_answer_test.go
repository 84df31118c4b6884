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
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// told is what a backend says on one connection in answer to one request, as
// package http1 reads it, and with it the router.
type told struct {
	interim []int // statuses before the final one
	status  int
	body    []byte
	end     wire.Framing // how the body's end is found
	head    error        // why there is no final answer
	rest    error        // why its body is not whole
	clean   bool         // the connection can carry another answer
	payload []byte       // after a change of protocols
}

func (b *told) malformed() bool {
	var parse *http1.ParseError
	return errors.As(b.head, &parse) || errors.As(b.rest, &parse)
}

func hear(input []byte, method string, oneByOne bool) (b told) {
	src := bytes.NewReader(input)
	r := http1.NewReader(src, http1.DefaultLimits)
	if oneByOne {
		r = http1.NewReader(iotest.OneByteReader(src), http1.DefaultLimits)
	}
	var res wire.Response
	for {
		if b.head = r.Response(&res, []byte(method)); b.head != nil {
			return b
		}
		b.status, b.end = res.Status, res.Body
		if b.status == 101 {
			b.payload = input[len(input)-src.Len()-r.Buffered():]
			return b
		}
		if b.status >= 200 {
			break
		}
		b.interim = append(b.interim, b.status)
	}
	for body := r.Body(res.Body, res.Length); ; {
		p, err := body.Next()
		b.body = append(b.body, p...)
		if err == io.EOF {
			break
		}
		if b.rest = err; err != nil {
			return b
		}
	}
	b.clean = !res.Close && src.Len() == 0 && r.Buffered() == 0
	return b
}

// askings are the requests whose answer is arbitrary.
var askings = []struct {
	method, text string
	minor        int
	upgrade      bool
}{
	{"GET", "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n", 1, false},
	{"HEAD", "HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n", 1, false},
	{"POST", "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 1, false},
	{"POST", "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 1, false},
	{"GET", "GET /1 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 1, true},
	{"GET", "GET /1 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", 0, false},
	{"DELETE", "DELETE /1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na", 1, false},
}

const second = "GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

// answering lets the backend answer one request by input, and checks that the
// client gets that as one answer and no more, or one of the router's own, or a
// connection that is visibly cut; and that the next request is answered by
// nothing of it. If stays is true the backend keeps its connection, where that
// leaves nobody waiting.
func (l *line) answering(t testing.TB, input []byte, asking int, stays bool) {
	ask := askings[asking]
	fatalf := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s\nrequest %q\nanswer %q", fmt.Sprintf(format, args...), ask.text, input)
	}
	want := hear(input, ask.method, false)
	if slow := hear(input, ask.method, true); slow.head == nil && slow.rest == nil {
		stays = stays && slow.end != wire.UntilClose && slow.status != 101
	} else {
		stays = stays && slow.malformed()
	}
	l.reset(func(_ int, m *message) ([]byte, bool) {
		if m.target == "/1" {
			return input, !stays
		}
		return []byte("HTTP/1.1 200 OK\r\nX-Seq: second\r\nContent-Length: 6\r\n\r\nsecond"), false
	})
	conn, err := net.Dial("tcp", l.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.(*net.TCPConn).SetLinger(0); _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(stuck))
	_, _ = io.WriteString(conn, ask.text+second)
	raw, err := io.ReadAll(conn)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		fatalf("after %q nothing more comes", raw)
	}
	cut := err != nil
	fatalf = func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s\nrequest %q\nanswer %q\nthe client gets %q, cut: %v", fmt.Sprintf(format, args...), ask.text, input, raw, cut)
	}

	r := bufio.NewReader(bytes.NewReader(raw))
	got, err := readAnswers(r, ask.method)
	if ask.minor == 1 && !slices.Equal(got.interim, want.interim) || ask.minor == 0 && len(got.interim) > 0 {
		fatalf("the interim answers are %d, want %d", got.interim, want.interim)
	}
	again := false // there is to be a second answer
	switch {
	case got.code != "": // the router's own
		nack := want.status == 503 && got.code == "T306"
		if err != nil || got.status != 502 || got.code != "T302" && !nack {
			fatalf("the router's own answer is %d %s, %v", got.status, got.code, err)
		}
		if want.head == nil && (want.status != 101 || ask.upgrade) && !nack {
			fatalf("a good answer is replaced by %d %s", got.status, got.code)
		}
		again = !got.close
	case want.head != nil || got.status != want.status:
		fatalf("got the status %d, want %d (%v)", got.status, want.status, want.head)
	case want.status == 101:
		if rest, _ := io.ReadAll(r); !ask.upgrade || !bytes.Equal(rest, want.payload) {
			fatalf("after the switch comes %q, want %q", rest, want.payload)
		}
	case want.rest != nil || err != nil:
		if err == nil && !(got.toEnd && cut) || want.rest == nil || !bytes.HasPrefix(want.body, got.body) {
			fatalf("an answer that breaks off (%v) looks so: %v", want.rest, err)
		}
		if rest, _ := io.ReadAll(r); len(rest) > 0 {
			fatalf("after a broken answer comes %q", rest)
		}
	case !bytes.Equal(got.body, want.body):
		fatalf("the body is %q, want %q", got.body, want.body)
	default:
		again = !got.close
		if got.close && ask.minor == 1 && want.clean {
			fatalf("the connection is closed, and nobody wants that")
		}
	}
	if again {
		next, err := readAnswers(r, "GET")
		if err != nil || next.seq != "second" || string(next.body) != "second" || !next.close {
			fatalf("the next request is answered by %+v, %v", next, err)
		}
	}
	if rest, _ := io.ReadAll(r); len(rest) > 0 {
		fatalf("after the last answer comes %q", rest)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, tap := range l.taps {
		if !want.clean && bytes.Contains(tap.wrote, []byte(" /1 ")) && bytes.Contains(tap.wrote, []byte(" /2 ")) && want.status != 101 {
			fatalf("the connection to the backend is used again: %q", tap.wrote)
		}
	}
}

// reading is an answer as a strict parser reads it.
type reading struct {
	told
	code, seq string
	close     bool
	toEnd     bool // the body lasts until the connection ends
}

// readAnswers reads the interim answers and the final one to a request, first by
// a parser that takes only what the router is to write, then by net/http, which
// has to agree.
func readAnswers(r *bufio.Reader, method string) (got reading, err error) {
	all, err := io.ReadAll(r)
	if err != nil {
		return got, err
	}
	src := bytes.NewReader(all)
	strict := bufio.NewReader(src)
	defer func() { r.Reset(io.MultiReader(strict, src)) }()
	peer := bufio.NewReader(bytes.NewReader(all))
	for {
		got.told.status, got.body = 0, nil
		err := readAnswer(strict, method, &got)
		res, peerErr := http.ReadResponse(peer, &http.Request{Method: method})
		if got.status == 0 {
			return got, err
		}
		if peerErr != nil || res.StatusCode != got.status {
			return got, fmt.Errorf("net/http reads %v, %v; the strict parser %d", res, peerErr, got.status)
		}
		if got.status == 101 {
			return got, nil
		}
		body, peerErr := io.ReadAll(res.Body)
		if (err == nil) != (peerErr == nil) || err == nil && !bytes.Equal(body, got.body) {
			return got, fmt.Errorf("net/http reads the body %q, %v; the strict parser %q, %v", body, peerErr, got.body, err)
		}
		if got.status >= 200 || err != nil {
			return got, err
		}
		got.interim = append(got.interim, got.status)
	}
}

func readAnswer(r *bufio.Reader, method string, got *reading) error {
	start, err := readLine(r)
	if err != nil {
		return err
	}
	status := 0
	if _, err := fmt.Sscanf(start, "HTTP/1.1 %3d ", &status); err != nil || len(start) < 13 || start[12] != ' ' {
		return fmt.Errorf("status line %q", start)
	}
	length, chunked := -1, false
	for {
		line, err := readLine(r)
		if err != nil {
			return noEnd(err)
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ": ")
		if !ok || !isToken(name) || strings.Trim(value, " \t") != value {
			return fmt.Errorf("field %q", line)
		}
		switch strings.ToLower(name) {
		case "content-length":
			if _, err := fmt.Sscanf(value, "%d", &length); err != nil || fmt.Sprint(length) != value && method != "HEAD" && status != 304 {
				return fmt.Errorf("length %q", line)
			}
		case "transfer-encoding":
			if value != "chunked" || chunked {
				return fmt.Errorf("coding %q", line)
			}
			chunked = true
		case "connection":
			if value != "close" && value != "keep-alive" && status != 101 {
				return fmt.Errorf("field of the connection %q", line)
			}
			got.close = value == "close"
		case "tulle-code":
			got.code = value
		case "x-seq":
			got.seq = value
		case "keep-alive", "proxy-connection", "te", "trailer", "proxy-authenticate":
			return fmt.Errorf("field of the connection %q", line)
		}
	}
	if chunked && length >= 0 || status < 200 && (chunked || length >= 0) {
		return fmt.Errorf("an answer of %d has length %d, chunked: %v", status, length, chunked)
	}
	got.status = status
	switch {
	case status < 200 || status == 204 || status == 304 || method == "HEAD":
	case chunked:
		got.body, err = readChunks(r)
	case length >= 0:
		got.body = make([]byte, length)
		var n int
		n, err = io.ReadFull(r, got.body)
		got.body = got.body[:n]
	default:
		got.toEnd = true
		got.body, err = io.ReadAll(r)
	}
	return noEnd(err)
}

// FuzzAnswer lets a backend answer arbitrary bytes.
func FuzzAnswer(f *testing.F) {
	for i, c := range http1test.Corpus(f) {
		if c.Response != "" {
			f.Add(c.Input, uint8(i), i%2 == 0)
		}
	}
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n2;a\r\nhi\r\n0\r\nX-A: b\r\n\r\n",
		"HTTP/1.0 200 OK\r\n\r\nhi",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 500 Internal Server Error\r\nl5d-retryable: true\r\ntulle-code: T401\r\nl5d-err: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi",
		"garbage",
		"",
	} {
		for asking := range askings {
			f.Add([]byte(seed), uint8(asking), asking%2 == 0)
		}
	}
	// Nothing is sent a second time, and no endpoint given up, so that each answer
	// is the first.
	l := newLine(f, "client:", "  failureAccrual: {kind: none}", "  requeueBudget: {minRetriesPerSec: 0, percentCanRetry: 0}",
		"service:", "  retries: {budget: {minRetriesPerSec: 0, percentCanRetry: 0}}")
	f.Fuzz(func(t *testing.T, input []byte, asking uint8, stays bool) {
		if len(input) <= 64<<10 {
			l.answering(t, input, int(asking)%len(askings), stays)
		}
	})
}
