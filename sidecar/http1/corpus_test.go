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

	"github.com/tulle-mesh/tulle/sidecar/http1/http1test"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// TestCorpus reads every published case, as it comes at once and byte by byte,
// and shows that what is accepted reaches a second parser as the same messages.
func TestCorpus(t *testing.T) {
	for _, c := range http1test.Corpus(t) {
		t.Run(c.Name, func(t *testing.T) {
			for _, src := range []io.Reader{bytes.NewReader(c.Input), iotest.OneByteReader(bytes.NewReader(c.Input))} {
				var got []string
				if c.Response == "" {
					got = readRequests(t, src)
				} else {
					got = readResponses(src, c.Response)
				}
				if strings.Join(got, "\n") != strings.Join(c.Want, "\n") {
					t.Fatalf("%s\ninput %.300q\ngot   %s\nwant  %s", c.Note, c.Input, strings.Join(got, "; "), strings.Join(c.Want, "; "))
				}
			}
		})
	}
}

// readRequests says what becomes of the requests of a connection, in the words
// of the corpus.
func readRequests(t *testing.T, src io.Reader) (said []string) {
	r := NewReader(src, DefaultLimits)
	var req wire.Request
	for {
		if err := r.Request(&req); err != nil {
			return failure(said, "refused", err, "")
		}
		head := fmt.Sprintf("%s %s %s", req.Method, req.Authority, req.Path)
		var out bytes.Buffer
		w := NewWriter(&out)
		forward(w, &req)
		body := r.Body(req.Body, req.Length)
		readErr, _ := Relay(w, &body, req.Body == wire.Chunked)
		if readErr != nil {
			if err := secondOpinion(out.Bytes(), &req, nil); err == nil {
				t.Errorf("a second parser takes what was cut off for whole: %q", out.Bytes())
			}
			return failure(said, "broken", readErr, " "+head)
		}
		var data []byte
		// CONNECT begins a tunnel, and one for nobody is refused by the router.
		if string(req.Method) != "CONNECT" && len(req.Authority) > 0 {
			var err error
			if data, err = dataOf(out.Bytes()); err != nil {
				t.Fatal(err)
			}
			if err := secondOpinion(out.Bytes(), &req, data); err != nil {
				t.Errorf("%v\nin %q", err, out.Bytes())
			}
		}
		said = append(said, fmt.Sprintf("reads %s %q", head, data))
	}
}

func readResponses(src io.Reader, method string) (said []string) {
	r := NewReader(src, DefaultLimits)
	var res wire.Response
	for {
		if err := r.Response(&res, []byte(method)); err != nil {
			return failure(said, "refused", err, "")
		}
		var data []byte
		for body := r.Body(res.Body, res.Length); ; {
			piece, err := body.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return failure(said, "broken", err, fmt.Sprintf(" %d", res.Status))
			}
			data = append(data, piece...)
		}
		said = append(said, fmt.Sprintf("reads %d %q", res.Status, data))
		if res.Close {
			return said // whatever follows is nobody's answer
		}
	}
}

func failure(said []string, word string, err error, head string) []string {
	var parse *ParseError
	switch {
	case errors.As(err, &parse):
		return append(said, fmt.Sprintf("%s %d%s", word, parse.Status, head))
	case err == io.ErrUnexpectedEOF:
		return append(said, "end")
	case err != io.EOF:
		return append(said, err.Error())
	}
	return said
}

// forward writes the head of a request by the rules of a router that adds
// nothing.
func forward(w *Writer, req *wire.Request) {
	w.RequestLine(req.Method, req.Path)
	w.Field([]byte("Host"), req.Authority)
	for _, f := range req.Header.Fields {
		if !f.Kind.Hop() && f.Kind != wire.KindHost && f.Kind != wire.KindContentLength {
			w.Field(f.Name, f.Value)
		}
	}
	framing := req.Body
	if framing == wire.NoBody && req.Header.HasKind(wire.KindContentLength) {
		framing = wire.Fixed
	}
	w.Framing(framing, req.Length)
	w.EndHead()
}

// dataOf returns the body of the one message in b, as this package reads it.
func dataOf(b []byte) (data []byte, err error) {
	r := NewReader(bytes.NewReader(b), DefaultLimits)
	var req wire.Request
	if err := r.Request(&req); err != nil {
		return nil, fmt.Errorf("what was written is refused: %w", err)
	}
	for body := r.Body(req.Body, req.Length); ; {
		piece, err := body.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("the body that was written is refused: %w", err)
		}
		data = append(data, piece...)
	}
	if err := r.Request(&req); err != io.EOF {
		return nil, fmt.Errorf("more than one request was written: then comes %v", err)
	}
	return data, nil
}

// errNotOurs is a request that net/http refuses for reasons beyond RFC 9112.
var errNotOurs = errors.New("net/http is stricter about this")

// secondOpinion checks that net/http reads b as the request req with this body,
// and nothing after it.
func secondOpinion(b []byte, req *wire.Request, data []byte) error {
	second := bufio.NewReader(bytes.NewReader(b))
	got, err := http.ReadRequest(second)
	if err != nil {
		for _, reason := range []string{"malformed Host", "invalid URL", "parse ", "invalid method"} {
			if strings.Contains(err.Error(), reason) {
				return errNotOurs
			}
		}
		return fmt.Errorf("net/http refuses it: %w", err)
	}
	if got.Method != string(req.Method) || got.Host != string(req.Authority) || got.RequestURI != string(req.Path) {
		return fmt.Errorf("net/http reads %s %s %s, we read %s %s %s", got.Method, got.Host, got.RequestURI, req.Method, req.Authority, req.Path)
	}
	body, err := io.ReadAll(got.Body)
	if err != nil {
		return fmt.Errorf("net/http cannot read the body: %w", err)
	}
	if !bytes.Equal(body, data) {
		return fmt.Errorf("net/http reads the body %.200q, we read %.200q", body, data)
	}
	if rest, _ := io.ReadAll(second); len(rest) > 0 {
		return fmt.Errorf("net/http sees a second request: %.200q", rest)
	}
	return nil
}
