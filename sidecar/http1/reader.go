package http1

import (
	"bytes"
	"errors"
	"io"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// Limits bound what a peer may make a Reader hold.
type Limits struct {
	Head   int // bytes of a whole head
	Fields int // header fields
}

// DefaultLimits fits what browsers and the common proxies accept.
var DefaultLimits = Limits{Head: 64 << 10, Fields: 200}

// A ParseError is a message that breaks RFC 9112, or that a second parser might
// read otherwise. The connection it came on cannot be used any more.
type ParseError struct {
	Status int    // the answer it deserves: 400, 414, 431, 501 or 505
	What   string // what is wrong, and what would be right
}

func (e *ParseError) Error() string { return e.What }

func bad(what string) error { return &ParseError{400, what} }

// Reader reads HTTP/1 messages from a connection. Its buffer grows with the
// heads it meets, up to Limits.Head. It is not safe for concurrent use.
type Reader struct {
	src    io.Reader
	limits Limits
	buf    []byte
	r, w   int // buf[r:w] is unread

	// beforeFill runs before each read, so that a relay never holds data back
	// while it waits for more.
	beforeFill func() error
}

// NewReader returns a Reader over src.
func NewReader(src io.Reader, limits Limits) *Reader {
	return &Reader{src: src, limits: limits, buf: make([]byte, 8<<10)}
}

// Buffered returns how many bytes have been read from the connection and not
// yet been consumed.
func (b *Reader) Buffered() int { return b.w - b.r }

// Hold waits until at least n bytes are buffered and returns them without
// consuming them; Discard does that. What was read before stays where it is, so
// the last head stays valid.
func (b *Reader) Hold(n int) ([]byte, error) {
	if b.w-b.r >= n {
		return b.buf[b.r : b.r+n], nil
	}
	// The head keeps its buffer; reading on in it could move or overwrite it.
	fresh := make([]byte, max(n, len(b.buf)))
	b.w = copy(fresh, b.buf[b.r:b.w])
	b.buf, b.r = fresh, 0
	for b.w < n {
		if err := b.fill(); err != nil {
			return nil, unexpected(err)
		}
	}
	return b.buf[:n], nil
}

// Discard consumes n buffered bytes.
func (b *Reader) Discard(n int) { b.r += n }

// Wait blocks until at least one byte is buffered. It returns io.EOF when the
// peer has closed.
func (b *Reader) Wait() error {
	for b.r == b.w {
		if err := b.fill(); err != nil {
			return err
		}
	}
	return nil
}

// fill reads once. It may move unread bytes to the front of the buffer.
func (b *Reader) fill() error {
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
	if b.w == len(b.buf) {
		if b.r == 0 {
			grown := make([]byte, 2*len(b.buf))
			copy(grown, b.buf)
			b.buf = grown
		} else {
			b.w = copy(b.buf, b.buf[b.r:b.w])
			b.r = 0
		}
	}
	if b.beforeFill != nil {
		_ = b.beforeFill() // a Writer keeps its error; Relay asks for it
	}
	n, err := b.src.Read(b.buf[b.w:])
	b.w += n
	if n > 0 {
		return nil // an error that came with data comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// unexpected turns an end of input inside a message into io.ErrUnexpectedEOF.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// head reads up to and including the empty line that ends a head (or a trailer
// section) and returns it without that empty line. Every line must end in CRLF.
// It returns io.EOF only if the connection ended before the first byte.
func (b *Reader) head() ([]byte, error) {
	line := 0 // offset from b.r where the current line begins
	seen := 0 // offset from b.r up to which was searched
	for {
		for {
			i := bytes.IndexByte(b.buf[b.r+seen:b.w], '\n')
			if i < 0 {
				seen = b.w - b.r
				break
			}
			end := seen + i // offset of the LF
			if end == line || b.buf[b.r+end-1] != '\r' {
				return nil, bad("a line ends in a bare LF; lines end in CRLF")
			}
			if end == line+1 {
				h := b.buf[b.r : b.r+line]
				b.r += end + 1
				return h, nil
			}
			line, seen = end+1, end+1
		}
		if seen >= b.limits.Head {
			if line == 0 {
				return nil, &ParseError{414, "the request line is too long"}
			}
			return nil, &ParseError{431, "the header fields are too large"}
		}
		if err := b.fill(); err != nil {
			if b.w == b.r {
				return nil, err
			}
			return nil, unexpected(err)
		}
	}
}

// Request reads the next request head into req, checked strictly: what another
// parser could take for a different request is a *ParseError. io.EOF means that
// the client closed between requests.
func (b *Reader) Request(req *wire.Request) error {
	req.Reset()
	if err := b.skipEmptyLines(); err != nil {
		return err
	}
	head, err := b.head()
	if err != nil {
		return err
	}
	line, rest := cutLine(head)
	if err := requestLine(line, req); err != nil {
		return err
	}
	if err := fields(rest, &req.Header, b.limits.Fields); err != nil {
		return err
	}
	return requestSemantics(req)
}

// skipEmptyLines drops CRLFs before a request line (RFC 9112, section 2.2).
func (b *Reader) skipEmptyLines() error {
	for {
		if err := b.Wait(); err != nil {
			return err
		}
		if b.buf[b.r] != '\r' {
			return nil
		}
		for b.w-b.r < 2 {
			if err := b.fill(); err != nil {
				return unexpected(err)
			}
		}
		if b.buf[b.r+1] != '\n' {
			return bad("a bare CR stands before the request line")
		}
		b.r += 2
	}
}

// Response reads the next response head into res. method is the request's; it
// decides with the status whether a body follows (RFC 9112, section 6.3).
func (b *Reader) Response(res *wire.Response, method []byte) error {
	res.Reset()
	head, err := b.head()
	if err != nil {
		return err
	}
	line, rest := cutLine(head)
	if err := statusLine(line, res); err != nil {
		return err
	}
	if err := fields(rest, &res.Header, b.limits.Fields); err != nil {
		return err
	}
	return responseSemantics(res, method)
}

// Body returns the body that follows the head which was just read. Next must be
// called to its end before the next head is read.
func (b *Reader) Body(framing wire.Framing, length int64) Body {
	body := Body{r: b, framing: framing, left: length}
	switch {
	case framing == wire.NoBody, framing == wire.Fixed && length == 0:
		body.done = true
	case framing == wire.Chunked:
		body.left = 0
	}
	return body
}

// Body yields the data of one message body, without its framing.
type Body struct {
	r       *Reader
	framing wire.Framing
	left    int64 // of the fixed body, or of the current chunk
	inChunk bool
	done    bool
	Trailer wire.Header // of a chunked body, once Next returned io.EOF
}

// Done reports whether the body has been read to its end.
func (b *Body) Done() bool { return b.done }

// Next returns the next piece of data. It is valid until the next call.
// io.EOF means that the body is complete; a body that ends early gives
// io.ErrUnexpectedEOF.
func (b *Body) Next() ([]byte, error) {
	if b.done {
		return nil, io.EOF
	}
	if b.framing == wire.Chunked && b.left == 0 {
		if err := b.nextChunk(); err != nil {
			return nil, err
		}
	}
	if err := b.r.Wait(); err != nil {
		if b.framing == wire.UntilClose && errors.Is(err, io.EOF) {
			b.done = true
			return nil, io.EOF
		}
		return nil, unexpected(err)
	}
	p := b.r.buf[b.r.r:b.r.w]
	if b.framing != wire.UntilClose {
		if int64(len(p)) > b.left {
			p = p[:b.left]
		}
		b.left -= int64(len(p))
		b.done = b.left == 0 && b.framing == wire.Fixed
	}
	b.r.r += len(p)
	return p, nil
}

// nextChunk reads the line that begins the next chunk. At the last chunk it
// reads the trailer section and returns io.EOF.
func (b *Body) nextChunk() error {
	if b.inChunk {
		line, err := b.r.line(2)
		if err != nil {
			return err
		}
		if len(line) != 0 {
			return bad("a chunk is longer than its size says")
		}
	}
	line, err := b.r.line(4 << 10)
	if err != nil {
		return err
	}
	size, err := chunkSize(line)
	if err != nil {
		return err
	}
	b.inChunk = true
	if size > 0 {
		b.left = size
		return nil
	}
	section, err := b.r.head()
	if err != nil {
		return unexpected(err)
	}
	if err := fields(section, &b.Trailer, b.r.limits.Fields); err != nil {
		return err
	}
	b.Trailer.DelFunc(func(f wire.Field) bool { return !trailerAllowed(f.Name) })
	b.done = true
	return io.EOF
}

// line reads one line that ends in CRLF and returns it without the CRLF.
func (b *Reader) line(limit int) ([]byte, error) {
	seen := 0
	for {
		if i := bytes.IndexByte(b.buf[b.r+seen:b.w], '\n'); i >= 0 {
			end := seen + i
			if end == 0 || b.buf[b.r+end-1] != '\r' {
				return nil, bad("a line of the chunked body ends in a bare LF")
			}
			line := b.buf[b.r : b.r+end-1]
			b.r += end + 1
			return line, nil
		}
		seen = b.w - b.r
		if seen > limit {
			return nil, bad("a line of the chunked body is too long")
		}
		if err := b.fill(); err != nil {
			return nil, unexpected(err)
		}
	}
}
