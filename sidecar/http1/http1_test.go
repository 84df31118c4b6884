package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

func parse(input string) (wire.Request, string, error) {
	r := NewReader(iotest.OneByteReader(strings.NewReader(input)), DefaultLimits)
	var req wire.Request
	if err := r.Request(&req); err != nil {
		return req, "", err
	}
	head := fmt.Sprintf("%s %s %s", req.Method, req.Authority, req.Path)
	req.Method = append([]byte(nil), req.Method...)
	body := r.Body(req.Body, req.Length)
	var data []byte
	for {
		p, err := body.Next()
		if err == io.EOF {
			return req, head + " " + string(data), nil
		}
		if err != nil {
			return req, head, err
		}
		data = append(data, p...)
	}
}

func TestRequest(t *testing.T) {
	for input, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n":                                                                       "GET a / ",
		"\r\n\r\nGET /x?y=%2F HTTP/1.1\r\nhost:a:80\r\n\r\n":                                                      "GET a:80 /x?y=%2F ",
		"GET http://b:81/x//y?z HTTP/1.1\r\nHost: a\r\n\r\n":                                                      "GET b:81 /x//y?z ",
		"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n":                                                                "GET b / ",
		"GET HTTP://b?q HTTP/1.1\r\nHost: a\r\n\r\n":                                                              "GET b /?q ",
		"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n":                                                            "OPTIONS b * ",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n":                                                                   "OPTIONS a * ",
		"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n":                                                           "CONNECT b:443  ",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc":                                              "POST a / abc",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n01\r\nc\r\n0\r\n\r\n":     "POST a / abc",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n": "POST a / abc",
		"GET / HTTP/1.0\r\n\r\n":                                                                                  "GET  / ",
	} {
		_, got, err := parse(input)
		if err != nil || got != want {
			t.Errorf("%q\n got %q, %v\nwant %q", input, got, err, want)
		}
	}
}

func TestRequestRefused(t *testing.T) {
	for input, status := range map[string]int{
		"GET / HTTP/1.1\nHost: a\n\n":                                                                    400,
		"GET / HTTP/1.1\r\nHost: a\n\r\n":                                                                400,
		"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n":                                                            400,
		"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n":                                                            400,
		"GET  / HTTP/1.1\r\nHost: a\r\n\r\n":                                                             400,
		"GET / HTTP/1.1 \r\nHost: a\r\n\r\n":                                                             400,
		"GET /\tx HTTP/1.1\r\nHost: a\r\n\r\n":                                                           400,
		"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n":                                                            400,
		"GET x HTTP/1.1\r\nHost: a\r\n\r\n":                                                              400,
		"GET https://b/ HTTP/1.1\r\nHost: a\r\n\r\n":                                                     400,
		"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n":                                                      400,
		"GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n":                                                    400,
		"GET / HTTP/2.0\r\nHost: a\r\n\r\n":                                                              505,
		"GET / HTTP/1.1\r\n\r\n":                                                                         400,
		"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n":                                                   400,
		"GET / HTTP/1.1\r\nHost: a b\r\n\r\n":                                                            400,
		"GET / HTTP/1.1\r\nHost : a\r\n\r\n":                                                             400,
		"GET / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n":                                                400,
		"GET / HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n":                                                  400,
		"GET / HTTP/1.1\r\nHost: a\r\nX: b\x00\r\n\r\n":                                                  400,
		"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n":                                                   400,
		"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n":                                                       400,
		"GET / HTTP/1.1\r\nHost: a\r\nbare\r\n\r\n":                                                      400,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx":                  400,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx":                                    400,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx":                                      400,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx":                                     400,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\nx":                     400,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
		"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":                      400,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n":                501,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n":                  400,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n":                     400,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n":           400,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n":              400,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n":           400,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx":         400,
		"GET /" + strings.Repeat("x", 70<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n":                           414,
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 70<<10) + "\r\n\r\n":                    431,
		"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 300) + "\r\n":                       431,
	} {
		_, got, err := parse(input)
		var p *ParseError
		if !errors.As(err, &p) || p.Status != status {
			t.Errorf("%.80q\n got %q, %v, want status %d", input, got, err, status)
		}
	}
}

func TestEndOfInput(t *testing.T) {
	if _, _, err := parse(""); err != io.EOF {
		t.Errorf("between requests: got %v, want io.EOF", err)
	}
	for _, input := range []string{
		"GET / HT",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
	} {
		if _, _, err := parse(input); err != io.ErrUnexpectedEOF {
			t.Errorf("%q: got %v, want io.ErrUnexpectedEOF", input, err)
		}
	}
}

func TestResponseFraming(t *testing.T) {
	for _, c := range []struct {
		method, head string
		want         wire.Framing
		close        bool
	}{
		{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", wire.Fixed, false},
		{"GET", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", wire.Fixed, false},
		{"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", wire.Chunked, false},
		{"GET", "HTTP/1.1 200 OK\r\n\r\n", wire.UntilClose, true},
		{"GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", wire.Fixed, true},
		{"GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", wire.Fixed, false},
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", wire.NoBody, false},
		{"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", wire.NoBody, false},
		{"GET", "HTTP/1.1 204 No Content\r\nConnection: x, Close\r\n\r\n", wire.NoBody, true},
		{"GET", "HTTP/1.1 100 Continue\r\n\r\n", wire.NoBody, false},
	} {
		var res wire.Response
		err := NewReader(strings.NewReader(c.head), DefaultLimits).Response(&res, []byte(c.method))
		if err != nil || res.Body != c.want || res.Close != c.close {
			t.Errorf("%s %q: got framing %d, close %v, %v", c.method, c.head, res.Body, res.Close, err)
		}
	}
	for _, head := range []string{"HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 099 X\r\n\r\n", "ICY 200 OK\r\n\r\n", "HTTP/1.1 200 O\x01K\r\n\r\n"} {
		var res wire.Response
		if err := NewReader(strings.NewReader(head), DefaultLimits).Response(&res, []byte("GET")); err == nil {
			t.Errorf("%q was accepted", head)
		}
	}
}

// slowReader yields its pieces one by one and checks before each that all of
// what came before has been passed on.
type slowReader struct {
	pieces []string
	before func()
}

func (s *slowReader) Read(p []byte) (int, error) {
	s.before()
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	s.pieces = s.pieces[1:]
	return n, nil
}

func TestRelayHoldsNothingBack(t *testing.T) {
	var out bytes.Buffer
	sent := 0
	src := &slowReader{pieces: []string{"3\r\nabc\r\n", "2\r\nde\r\n4", "\r\nfghi\r\n", "0\r\n\r\n"}}
	src.before = func() {
		letters := 0
		for _, c := range out.String() {
			if c >= 'a' && c <= 'z' {
				letters++
			}
		}
		if want := []int{0, 3, 5, 9}[sent]; letters != want {
			t.Errorf("before piece %d: %d letters of the body were passed on, want %d", sent, letters, want)
		}
		sent++
	}
	r := NewReader(src, DefaultLimits)
	body := r.Body(wire.Chunked, 0)
	if readErr, writeErr := Relay(NewWriter(&out), &body, true); readErr != nil || writeErr != nil {
		t.Fatal(readErr, writeErr)
	}
	if got, want := out.String(), "3\r\nabc\r\n2\r\nde\r\n4\r\nfghi\r\n0\r\n\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzRequest checks the invariant of the package with net/http as the second
// parser: what is accepted here and written again, it reads as the same request.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("GET http://b:81/x?z HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET"))
	f.Fuzz(func(t *testing.T, input []byte) {
		r := NewReader(bytes.NewReader(input), DefaultLimits)
		var req wire.Request
		if r.Request(&req) != nil || string(req.Method) == "CONNECT" {
			return
		}
		var out bytes.Buffer
		w := NewWriter(&out)
		w.RequestLine(req.Method, req.Path)
		w.Field([]byte("Host"), req.Authority)
		for _, field := range req.Header.Fields {
			if !wire.EqualFold(field.Name, "host") && !wire.EqualFold(field.Name, "content-length") &&
				!wire.EqualFold(field.Name, "transfer-encoding") && !wire.EqualFold(field.Name, "trailer") {
				w.Field(field.Name, field.Value)
			}
		}
		w.Framing(req.Body, req.Length)
		w.EndHead()
		method := string(req.Method)
		host := string(req.Authority)
		path := string(req.Path)
		body := r.Body(req.Body, req.Length)
		if readErr, _ := Relay(w, &body, req.Body == wire.Chunked); readErr != nil {
			return
		}
		second := bufio.NewReader(&out)
		got, err := http.ReadRequest(second)
		if err != nil {
			// net/http is stricter about hosts and percent-encoding.
			if strings.Contains(err.Error(), "malformed Host") || strings.Contains(err.Error(), "invalid URL") ||
				strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "invalid method") {
				return
			}
			t.Fatalf("net/http refuses %q: %v", out.String(), err)
		}
		if got.Method != method || got.Host != host || got.RequestURI != path {
			t.Fatalf("net/http reads %s %s %s, we read %s %s %s", got.Method, got.Host, got.RequestURI, method, host, path)
		}
		if _, err := io.Copy(io.Discard, got.Body); err != nil {
			t.Fatalf("net/http cannot read the body: %v", err)
		}
		if rest, _ := io.ReadAll(second); len(rest) > 0 {
			t.Fatalf("net/http sees a second request: %q", rest)
		}
	})
}
