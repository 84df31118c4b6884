package http1

import (
	"errors"
	"fmt"
	"io"
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
		{"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", wire.NoBody, false},
		{"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", wire.NoBody, true},
		{"GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", wire.NoBody, true},
		{"GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", wire.NoBody, true},
		{"GET", "HTTP/1.1 100 Continue\r\n\r\n", wire.NoBody, false},
		{"GET", "HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\nUpgrade: x\r\n\r\n", wire.NoBody, false},
		{"CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", wire.NoBody, false},
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

func TestKindsOfErrors(t *testing.T) {
	limits := Limits{Line: 40, Head: 60, Fields: 3, ChunkLine: 20, Trailer: 30, TrailerFields: 1}
	chunked := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct {
		input string
		kind  Kind
	}{
		{"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", Syntax},
		{"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", Framing},
		{"GET / HTTP/1.1\r\n\r\n", BadHost},
		{"GET * HTTP/1.1\r\nHost: a\r\n\r\n", BadTarget},
		{"GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", BadExpectation},
		{"GET / HTTP/3.0\r\nHost: a\r\n\r\n", UnsupportedVersion},
		{"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", UnsupportedCoding},
		{"GET /" + strings.Repeat("x", 25) + " HTTP/1.1\r\nHost: a\r\n\r\n", LineTooLong},
		{"GET /" + strings.Repeat("x", 50), LineTooLong},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 47) + "\r\n\r\n", HeadTooLarge},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 100), HeadTooLarge},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nX: y\r\nX: y\r\n\r\n", TooManyFields},
		{chunked + "x\r\n", BadChunk},
		{chunked + "1;" + strings.Repeat("x", 17) + "\r\na\r\n0\r\n\r\n", BadChunk},
		{chunked + "0\r\nX: " + strings.Repeat("x", 26) + "\r\n\r\n", TrailerTooLarge},
		{chunked + "0\r\nX: y\r\nX: y\r\n\r\n", TrailerTooLarge},
	} {
		for _, src := range []io.Reader{strings.NewReader(c.input), iotest.OneByteReader(strings.NewReader(c.input))} {
			r := NewReader(src, limits)
			var req wire.Request
			err := r.Request(&req)
			if err == nil {
				body := r.Body(req.Body, req.Length)
				for err == nil {
					_, err = body.Next()
				}
			}
			var p *ParseError
			if !errors.As(err, &p) || p.Kind != c.kind {
				t.Errorf("%q: got %v, want kind %d", c.input, err, c.kind)
			}
		}
	}
	// And what is just within them.
	for _, input := range []string{
		"GET /" + strings.Repeat("x", 24) + " HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 46) + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nX: y\r\n\r\n",
		chunked + "1;" + strings.Repeat("x", 16) + "\r\na\r\n0\r\n\r\n",
		chunked + "0\r\nX: " + strings.Repeat("x", 25) + "\r\n\r\n",
	} {
		for _, src := range []io.Reader{strings.NewReader(input), iotest.OneByteReader(strings.NewReader(input))} {
			r := NewReader(src, limits)
			var req wire.Request
			err := r.Request(&req)
			for body := r.Body(req.Body, req.Length); err == nil; {
				_, err = body.Next()
			}
			if err != io.EOF {
				t.Errorf("%q: %v", input, err)
			}
		}
	}
}

func TestKindsOfFields(t *testing.T) {
	r := NewReader(strings.NewReader("GET / HTTP/1.1\r\nHost: a\r\nX-Own: 1\r\nCookie: c\r\nX-Listed: 2\r\n"+
		"Connection: keep-alive, x-listed,,cookie, Host, l5d-ctx-dtab\r\nl5d-ctx-dtab: d\r\nL5D-CTX-foo: e\r\nTE: trailers\r\n"+
		"Upgrade: websocket\r\nConnection: upgrade\r\nExpect: 100-continue\r\ntulle-x: 1\r\nl5d_x: 1\r\n\r\n"), DefaultLimits)
	var req wire.Request
	err := r.Request(&req)
	if err == nil || !strings.Contains(err.Error(), "l5d_x") {
		t.Fatalf("l5d_x: got %v", err)
	}
	want := map[string]wire.Kind{
		"Host": wire.KindHost, "X-Own": wire.KindOther, "Cookie": wire.KindOther, "X-Listed": wire.KindListed, "Connection": wire.KindConnection,
		"l5d-ctx-dtab": wire.KindCtxDtab, "L5D-CTX-foo": wire.KindCtxOther, "TE": wire.KindTE, "Upgrade": wire.KindUpgrade,
		"Expect": wire.KindListed, "tulle-x": wire.KindTulle, "X-B3-TraceId": wire.KindB3, "X-Forwarded-Client-Cert": wire.KindClientCert,
		"L5d-ctx-a-name-longer-than-any-that-is-known": wire.KindCtxOther, "l5d-a-name-longer-than-any-that-is-known": wire.KindL5d,
		"x-a-name-longer-than-any-that-is-known": wire.KindOther,
	}
	r = NewReader(strings.NewReader("GET / HTTP/1.1\r\nHost: a\r\nX-Own: 1\r\nCookie: c\r\nX-Listed: 2\r\n"+
		"Connection: keep-alive, x-listed,,cookie, Host, l5d-ctx-dtab\r\nl5d-ctx-dtab: d\r\nL5D-CTX-foo: e\r\nTE: trailers\r\n"+
		"Upgrade: websocket\r\nConnection: upgrade\r\nExpect: 100-continue\r\ntulle-x: 1\r\nX-B3-TraceId: 1\r\nX-Forwarded-Client-Cert: By=a\r\n"+
		"L5d-ctx-a-name-longer-than-any-that-is-known: 1\r\nl5d-a-name-longer-than-any-that-is-known: 1\r\n"+
		"x-a-name-longer-than-any-that-is-known: 1\r\n\r\n"), DefaultLimits)
	if err := r.Request(&req); err != nil {
		t.Fatal(err)
	}
	for _, f := range req.Header.Fields {
		if want[string(f.Name)] != f.Kind {
			t.Errorf("%s: got kind %d, want %d", f.Name, f.Kind, want[string(f.Name)])
		}
	}
	if string(req.Upgrade) != "websocket" || req.Expect || req.Close {
		t.Errorf("got upgrade %q, expect %v, close %v", req.Upgrade, req.Expect, req.Close)
	}
	if !req.Header.HasKind(wire.KindTulle) || req.Header.HasKind(wire.KindVia) || string(req.Header.Value(wire.KindCtxDtab)) != "d" {
		t.Error("HasKind or Value is wrong")
	}
}

func TestFieldValues(t *testing.T) {
	for n := range 20 {
		for at := range n {
			for c := range 256 {
				b := []byte(strings.Repeat("~", n))
				b[at] = byte(c)
				want := c == '\t' || c >= ' ' && c != 0x7f
				if isFieldValue(b) != want {
					t.Errorf("%q: got %v", b, !want)
				}
			}
		}
	}
}
