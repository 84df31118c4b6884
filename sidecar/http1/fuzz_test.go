package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/tulle-mesh/tulle/sidecar/http1/http1test"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// FuzzRequest checks the invariant of the package with net/http as the second
// parser: what is accepted here and written again, it reads as the same request.
// If it accepts the input itself, it reads that as the same request, too.
func FuzzRequest(f *testing.F) {
	for _, c := range http1test.Corpus(f) {
		if c.Response == "" && len(c.Input) < 2000 {
			f.Add(c.Input)
		}
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		r := NewReader(bytes.NewReader(input), DefaultLimits)
		var req wire.Request
		err := r.Request(&req)
		var slow wire.Request
		slowErr := NewReader(iotest.OneByteReader(bytes.NewReader(input)), DefaultLimits).Request(&slow)
		if (err == nil) != (slowErr == nil) {
			t.Fatalf("at once: %v; byte by byte: %v", err, slowErr)
		}
		if err != nil || string(req.Method) == "CONNECT" || len(req.Authority) == 0 {
			return // or the router does something else with it
		}
		var out bytes.Buffer
		w := NewWriter(&out)
		forward(w, &req)
		body := r.Body(req.Body, req.Length)
		if readErr, _ := Relay(w, &body, req.Body == wire.Chunked); readErr != nil {
			if secondOpinion(out.Bytes(), &req, nil) == nil {
				t.Fatalf("a second parser takes what was cut off for whole: %q", out.Bytes())
			}
			return
		}
		data, err := dataOf(out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if err := secondOpinion(out.Bytes(), &req, data); err != nil && err != errNotOurs {
			t.Fatalf("%v\nin %q", err, out.Bytes())
		}
		direct := input[:len(input)-r.Buffered()]
		if got, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(direct))); err == nil {
			body, err := io.ReadAll(got.Body)
			if err == nil && (got.Method != string(req.Method) || got.Host != string(req.Authority) || !bytes.Equal(body, data)) {
				t.Fatalf("net/http reads %s %s %q from the client, we read %s %s %q", got.Method, got.Host, body, req.Method, req.Authority, data)
			}
		}
	})
}

// FuzzResponse does the same for answers.
func FuzzResponse(f *testing.F) {
	for _, c := range http1test.Corpus(f) {
		if c.Response != "" {
			f.Add(c.Input, c.Response == "HEAD")
		}
	}
	f.Fuzz(func(t *testing.T, input []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		r := NewReader(bytes.NewReader(input), DefaultLimits)
		var res wire.Response
		if err := r.Response(&res, []byte(method)); err != nil {
			return
		}
		var out bytes.Buffer
		w := NewWriter(&out)
		w.StatusLine(res.Status, res.Reason)
		for _, field := range res.Header.Fields {
			if !field.Kind.Hop() && (field.Kind != wire.KindContentLength || res.Body == wire.NoBody && res.Status >= 200 && res.Status != 204) {
				w.Field(field.Name, field.Value)
			}
		}
		w.Framing(res.Body, res.Length)
		w.EndHead()
		body := r.Body(res.Body, res.Length)
		if readErr, _ := Relay(w, &body, res.Body == wire.Chunked); readErr != nil {
			return
		}
		if res.Status < 200 {
			return // net/http has rules of its own for these
		}
		request := &http.Request{Method: method}
		second := bufio.NewReader(bytes.NewReader(out.Bytes()))
		got, err := http.ReadResponse(second, request)
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", out.Bytes(), err)
		}
		data, err := io.ReadAll(got.Body)
		if err != nil {
			t.Fatalf("net/http cannot read the body of %q: %v", out.Bytes(), err)
		}
		if rest, _ := io.ReadAll(second); len(rest) > 0 && res.Body != wire.UntilClose {
			t.Fatalf("net/http sees more: %q", rest)
		}
		if got.StatusCode != res.Status {
			t.Fatalf("net/http reads %d, we read %d", got.StatusCode, res.Status)
		}
		direct := input[:len(input)-r.Buffered()]
		if raw, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(direct)), request); err == nil {
			if body, err := io.ReadAll(raw.Body); err == nil && !bytes.Equal(body, data) {
				t.Fatalf("net/http reads %q from the backend and %q from us", body, data)
			}
		}
	})
}

// FuzzChunked checks that net/http reads every chunked body that is accepted
// here as the same data.
func FuzzChunked(f *testing.F) {
	for _, c := range http1test.Corpus(f) {
		if _, body, ok := strings.Cut(string(c.Input), "\r\n\r\n"); ok && strings.HasPrefix(c.Name, "chunk/") && len(body) < 2000 {
			f.Add([]byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		got, used, err := readChunked(bytes.NewReader(input))
		slow, slowUsed, slowErr := readChunked(iotest.OneByteReader(bytes.NewReader(input)))
		if (err == nil) != (slowErr == nil) || err == nil && (used > slowUsed+len(input) || !bytes.Equal(got, slow)) {
			t.Fatalf("at once: %q, %v; byte by byte: %q, %v", got, err, slow, slowErr)
		}
		if err != nil {
			return
		}
		var out bytes.Buffer
		r := NewReader(bytes.NewReader(input), DefaultLimits)
		body := r.Body(wire.Chunked, 0)
		if readErr, writeErr := Relay(NewWriter(&out), &body, true); readErr != nil || writeErr != nil {
			t.Fatal(readErr, writeErr)
		}
		// It does not take white space before a semicolon from the sender, though
		// the grammar has it. We never send any.
		for _, in := range [][]byte{input, out.Bytes()} {
			want, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(in)))
			if err != nil && (bytes.Contains(in, []byte(" ;")) || bytes.Contains(in, []byte("\t;"))) {
				continue
			}
			if err != nil {
				t.Fatalf("net/http refuses %q: %v", in, err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("net/http reads %q, we read %q", want, got)
			}
		}
	})
}

func readChunked(src io.Reader) (data []byte, left int, err error) {
	r := NewReader(src, DefaultLimits)
	for body := r.Body(wire.Chunked, 0); ; {
		piece, err := body.Next()
		if err == io.EOF {
			return data, r.Buffered(), nil
		}
		if err != nil {
			return data, r.Buffered(), err
		}
		data = append(data, piece...)
	}
}

// FuzzRelay sends a body in pieces of any size over each kind of connection, and
// checks that it arrives as it is.
func FuzzRelay(f *testing.F) {
	f.Add([]byte("hello, world"), uint16(0), []byte{3, 1, 4, 1, 5}, uint8(0))
	f.Add([]byte("0123456789"), uint16(2000), []byte{255, 200, 7}, uint8(3))
	f.Add([]byte("x"), uint16(65535), []byte{255, 255, 255, 255, 255, 255, 255}, uint8(6))
	f.Fuzz(func(t *testing.T, unit []byte, times uint16, cuts []byte, how uint8) {
		data := bytes.Repeat(unit, min(1+int(times), 1+(200<<10)/(1+len(unit))))
		chunked := how&1 != 0
		var in []byte
		if chunked {
			in = append(in, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"...)
			left := data
			for _, c := range cuts {
				if n := min(len(left), int(c)*int(c)); n > 0 {
					in = appendChunk(in, left[:n])
					left = left[n:]
				}
			}
			if len(left) > 0 {
				in = appendChunk(in, left)
			}
			in = appendChunk(in, nil)
		} else {
			in = append(in, bytes.TrimRight(answer(len(data)), "x")...)
			in = append(in, data...)
		}
		src := &script{}
		rest := in
		for _, c := range cuts {
			if n := min(len(rest), int(c)*(1+int(c)/8)); n > 0 {
				src.pieces = append(src.pieces, string(rest[:n]))
				rest = rest[n:]
			}
		}
		if len(rest) > 0 {
			src.pieces = append(src.pieces, string(rest))
		}
		from := []io.Reader{src, onlyWaiter{src}, onlyReader{src}}[how/2%3]
		var out sink
		to := []io.Writer{&out, &out.Buffer}[how/6%2]
		var res wire.Response
		if err := relayOne(NewReader(from, DefaultLimits), NewWriter(to), &res); err != nil {
			t.Fatal(err)
		}
		got, err := http.ReadResponse(bufio.NewReader(&out.Buffer), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(got.Body)
		if err != nil || !bytes.Equal(body, data) {
			t.Fatalf("%d bytes were sent, other %d arrived: %v", len(data), len(body), err)
		}
	})
}
