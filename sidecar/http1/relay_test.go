package http1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// script is a connection whose peer sends its pieces one by one, and pauses
// after each.
type script struct {
	pieces  []string
	there   string       // what has arrived
	waiting func() error // asked before each pause, if not nil
}

func (s *script) WaitReadable() error {
	if s.waiting != nil {
		if err := s.waiting(); err != nil {
			return err
		}
	}
	if s.there == "" && len(s.pieces) > 0 {
		s.there, s.pieces = s.pieces[0], s.pieces[1:]
	}
	return nil
}

func (s *script) TryRead(p []byte) (int, error) {
	if s.there == "" {
		if len(s.pieces) == 0 {
			return 0, io.EOF
		}
		return 0, nil
	}
	n := copy(p, s.there)
	s.there = s.there[n:]
	return n, nil
}

func (s *script) Read(p []byte) (int, error) {
	if s.there == "" {
		_ = s.WaitReadable()
	}
	if s.there == "" {
		return 0, io.EOF
	}
	return s.TryRead(p)
}

// The same connection with less of an interface.
type (
	onlyWaiter struct{ Waiter }
	onlyReader struct{ io.Reader }
)

// sink is a connection that takes parts, too.
type sink struct {
	bytes.Buffer
	parts int // how often it was written to by parts
}

func (s *sink) WriteParts(parts [][]byte) error {
	s.parts++
	for _, p := range parts {
		_, _ = s.Write(p)
	}
	return nil
}

func TestRelayHoldsNothingBack(t *testing.T) {
	for name, limit := range map[string]func(*script) io.Reader{
		"TryReader": func(s *script) io.Reader { return s },
		"Waiter":    func(s *script) io.Reader { return onlyWaiter{s} },
		"Reader":    func(s *script) io.Reader { return onlyReader{s} },
	} {
		var out sink
		sent := 0
		src := &script{pieces: []string{"3\r\nabc\r\n", "2\r\nde\r\n4", "\r\nfghi\r\n", "0\r\n\r\n"}}
		r := NewReader(limit(src), DefaultLimits)
		src.waiting = func() error {
			letters := 0
			for _, c := range out.String() {
				if c >= 'a' && c <= 'z' {
					letters++
				}
			}
			if want := []int{0, 3, 5, 9}[sent]; letters != want {
				t.Errorf("%s: before piece %d: %d letters of the body were passed on, want %d", name, sent, letters, want)
			}
			if r.buf != nil && r.Buffered() == 0 && name != "Reader" {
				t.Errorf("%s: a buffer is held for nothing", name)
			}
			sent++
			return nil
		}
		body := r.Body(wire.Chunked, 0)
		w := NewWriter(&out)
		if readErr, writeErr := Relay(w, &body, true); readErr != nil || writeErr != nil {
			t.Fatal(readErr, writeErr)
		}
		if got, want := out.String(), "3\r\nabc\r\n2\r\nde\r\n4\r\nfghi\r\n0\r\n\r\n"; got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
		if r.buf != nil || w.buf != nil {
			t.Errorf("%s: buffers are held after the end", name)
		}
	}
}

// A head and what has arrived of its body leave in one write, and the head
// stays as it is.
func TestRelayInOneWrite(t *testing.T) {
	for _, n := range []int{1, 3000, 60000} {
		data := strings.Repeat("x", n)
		src := &script{pieces: []string{string(answer(n)) + "HTTP"}}
		_ = src.WaitReadable()
		r := NewReader(src, DefaultLimits)
		var out sink
		writes := 0
		w := NewWriter(countWrites{&out, &writes})
		if n >= referAt {
			w = NewWriter(&out)
		}
		var res wire.Response
		if err := relayOne(r, w, &res); err != nil {
			t.Fatal(err)
		}
		if writes+out.parts != 1 {
			t.Errorf("%d bytes: %d writes", n, writes+out.parts)
		}
		if !strings.HasSuffix(out.String(), "\r\n\r\n"+data) || string(res.Header.Get("server")) != "x" {
			t.Errorf("%d bytes: got %.100q", n, out.String())
		}
		if r.Buffered() != 4 {
			t.Errorf("%d bytes are left, want 4", r.Buffered())
		}
	}
}

type countWrites struct {
	io.Writer
	n *int
}

func (c countWrites) Write(p []byte) (int, error) { *c.n++; return c.Writer.Write(p) }

// Nothing is held by a connection that waits for its first byte, nor by one that
// was idle for a while.
func TestIdleHoldsNothing(t *testing.T) {
	request := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20000)
	src := &script{pieces: []string{request, request + "GET", " / HTTP/1.1\r\nHost: a\r\n\r\n"}}
	r := NewReader(src, DefaultLimits)
	src.waiting = func() error {
		if r.Buffered() == 0 && (r.buf != nil || r.head != nil) {
			t.Error("a buffer is held while nothing has arrived")
		}
		if cap(r.buf) > smallSize {
			t.Error("a large buffer is held for the beginning of a head")
		}
		return nil
	}
	var req wire.Request
	for i := range 3 {
		if err := r.Request(&req); err != nil {
			t.Fatal(err)
		}
		held, err := r.Hold(int(req.Length))
		if err != nil || len(held) != int(req.Length) || string(req.Authority) != "a" {
			t.Fatalf("request %d: %d bytes held, %v", i, len(held), err)
		}
		r.Discard(len(held))
		r.Idle()
		if r.Buffered() == 0 && (r.buf != nil || r.head != nil) {
			t.Error("a buffer is held after Idle")
		}
	}
}

// After a deadline the same call goes on where it was.
func TestGoOnAfterDeadline(t *testing.T) {
	src := &script{pieces: []string{"HTTP/1.1 200 OK\r\nContent-", "Length: 3\r\n", "\r\nabc"}}
	late := errors.New("late")
	pauses := 0
	src.waiting = func() error {
		if pauses++; pauses%2 == 1 {
			return late
		}
		return nil
	}
	r := NewReader(src, DefaultLimits)
	var res wire.Response
	for range 3 {
		if err := r.Response(&res, []byte("GET")); !errors.Is(err, late) {
			t.Fatalf("got %v", err)
		}
	}
	if err := r.Response(&res, []byte("GET")); err != nil || res.Length != 3 || r.Buffered() != 3 {
		t.Errorf("got %v, length %d, %d bytes left", err, res.Length, r.Buffered())
	}
}

func TestRelayErrors(t *testing.T) {
	for _, c := range []struct {
		piece string
		want  error
	}{{"5\r\nabc", io.ErrUnexpectedEOF}, {"3\r\nabcX\r\n", nil}} {
		var out sink
		r := NewReader(&script{pieces: []string{c.piece}}, DefaultLimits)
		body := r.Body(wire.Chunked, 0)
		readErr, writeErr := Relay(NewWriter(&out), &body, true)
		if readErr == nil || writeErr != nil || c.want != nil && readErr != c.want {
			t.Errorf("%q: got %v, %v", c.piece, readErr, writeErr)
		}
		if out.String() != "3\r\nabc\r\n" {
			t.Errorf("%q: what came before the failure is %q", c.piece, out.String())
		}
	}
	// One that does not take anything stops the reading, too.
	full := errors.New("full")
	src := &script{pieces: []string{"3\r\nabc\r\n", "0\r\n\r\n"}}
	r := NewReader(src, DefaultLimits)
	body := r.Body(wire.Chunked, 0)
	readErr, writeErr := Relay(NewWriter(failing{full}), &body, true)
	if readErr != nil || !errors.Is(writeErr, full) {
		t.Errorf("got %v, %v", readErr, writeErr)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// Whatever the kinds of connection and however the bytes come, all of them
// arrive.
func TestRelayOfAllSizes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 300<<10)
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	for range 300 {
		n := rnd.IntN(1 << rnd.IntN(19))
		want := data[:min(n, len(data))]
		head := "HTTP/1.1 200 OK\r\nServer: x\r\nTransfer-Encoding: chunked\r\n\r\n"
		in := answer(0)[:0]
		chunked := rnd.IntN(2) == 0
		if !chunked {
			in = append(bytes.TrimRight(answer(len(want)), "x"), want...)
		} else {
			in = append(in, head...)
			for left := want; ; {
				n := min(len(left), 1+rnd.IntN(1<<rnd.IntN(18)))
				in = appendChunk(in, left[:n])
				if left = left[n:]; n == 0 {
					break
				}
			}
		}
		src := &script{}
		for rest := in; len(rest) > 0; {
			n := min(len(rest), 1+rnd.IntN(1<<rnd.IntN(18)))
			src.pieces = append(src.pieces, string(rest[:n]))
			rest = rest[n:]
		}
		from := []io.Reader{src, onlyWaiter{src}, onlyReader{src}}[rnd.IntN(3)]
		var out sink
		to := []io.Writer{&out, &out.Buffer}[rnd.IntN(2)]
		var res wire.Response
		if err := relayOne(NewReader(from, DefaultLimits), NewWriter(to), &res); err != nil {
			t.Fatal(err)
		}
		if string(res.Header.Get("server")) != "x" {
			t.Fatalf("the head was overwritten by the body: %q", res.Header.Fields)
		}
		r := NewReader(&out.Buffer, DefaultLimits)
		if err := r.Response(&res, []byte("GET")); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for body := r.Body(res.Body, res.Length); ; {
			piece, err := body.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, piece...)
		}
		if !bytes.Equal(got, want) || r.Buffered() > 0 {
			t.Fatalf("%d bytes were sent, other %d arrived", len(want), len(got))
		}
	}
}

func appendChunk(b, data []byte) []byte { return fmt.Appendf(b, "%x\r\n%s\r\n", len(data), data) }

// exchange is a connection on which the same bytes come again and again.
type exchange struct {
	in    []byte
	there int
	out   int
}

func (e *exchange) WaitReadable() error { e.there = len(e.in); return nil }

func (e *exchange) TryRead(p []byte) (int, error) {
	n := copy(p, e.in[len(e.in)-e.there:])
	e.there -= n
	return n, nil
}

func (e *exchange) Read(p []byte) (int, error)  { return e.TryRead(p) }
func (e *exchange) Write(p []byte) (int, error) { e.out += len(p); return len(p), nil }

func (e *exchange) WriteParts(parts [][]byte) error {
	for _, p := range parts {
		e.out += len(p)
	}
	return nil
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector sync.Pool drops what it is given at random")
	}
	post := "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n" + strings.Repeat("x", 64<<10)
	for name, c := range map[string]struct{ request, answer string }{
		"small":   {browserHead, string(answer(100))},
		"large":   {post, string(answer(64 << 10))},
		"chunked": {wrkHead, string(chunkedAnswer(64<<10, 8<<10))},
		"trailer": {wrkHead, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"},
	} {
		client, backend := &exchange{in: []byte(c.request)}, &exchange{in: []byte(c.answer)}
		cr, cw := NewReader(client, DefaultLimits), NewWriter(client)
		br, bw := NewReader(backend, DefaultLimits), NewWriter(backend)
		var req wire.Request
		var res wire.Response
		once := func() {
			if err := cr.Request(&req); err != nil {
				t.Fatal(err)
			}
			forward(bw, &req)
			body := cr.Body(req.Body, req.Length)
			if readErr, writeErr := Relay(bw, &body, false); readErr != nil || writeErr != nil {
				t.Fatal(readErr, writeErr)
			}
			if err := relayOne(br, cw, &res); err != nil {
				t.Fatal(err)
			}
			cr.Idle()
			if name != "trailer" {
				br.Idle()
			}
		}
		if n := testing.AllocsPerRun(100, once); n > 0 {
			t.Errorf("%s: %v allocations for an exchange", name, n)
		}
		if client.out == 0 || backend.out == 0 {
			t.Errorf("%s: nothing was sent", name)
		}
	}
}
