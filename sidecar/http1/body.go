package http1

import (
	"bytes"
	"errors"
	"io"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// Body returns the body that follows the head which was just read. Next must be
// called to its end before the next head is read.
func (b *Reader) Body(framing wire.Framing, length int64) Body {
	body := Body{r: b, framing: framing}
	switch {
	case framing == wire.Fixed:
		body.left, body.done = length, length == 0
	case framing == wire.NoBody:
		body.done = true
	}
	return body
}

// Body yields the data of one message body, without its framing.
type Body struct {
	r        *Reader
	framing  wire.Framing
	left     int64 // of the fixed body, or of the current chunk
	inChunk  bool  // the current chunk is read, but not its end
	last     bool  // the line of the last chunk is read, but not the trailer
	done     bool
	overhead int // bytes of framing beyond what the data justifies

	// Trailer is that of a chunked body, once Next returned io.EOF, without the
	// fields that must not be there. It is valid as long as the last piece is;
	// Relay passes it on.
	Trailer wire.Header
}

// Done reports whether the body has been read to its end.
func (b *Body) Done() bool { return b.done }

// NextFor is Next for one who passes the pieces on to w: what w holds is flushed
// before anything is waited for or overwritten. An error may be w's.
func (b *Body) NextFor(w *Writer) ([]byte, error) {
	b.r.to = w
	p, err := b.Next()
	b.r.to = nil
	return p, err
}

// Next returns the next piece of data. It is valid until the next call.
// io.EOF means that the body is complete; a body that ends early gives
// io.ErrUnexpectedEOF.
func (b *Body) Next() ([]byte, error) {
	if b.done {
		return nil, io.EOF
	}
	want := largeSize
	switch {
	case b.framing == wire.Fixed:
		want = int(min(b.left, largeSize))
	case b.framing == wire.Chunked && b.left == 0:
		if err := b.nextChunk(); err != nil {
			return nil, err
		}
	}
	if b.r.r == b.r.w {
		if err := b.r.fill(want); err != nil {
			if b.framing == wire.UntilClose && errors.Is(err, io.EOF) {
				b.done = true
				return nil, io.EOF
			}
			return nil, unexpected(err)
		}
	}
	p := b.r.buf[b.r.r:b.r.w]
	if b.framing != wire.UntilClose {
		p = p[:min(int64(len(p)), b.left)]
		b.left -= int64(len(p))
		b.done = b.left == 0 && b.framing == wire.Fixed
	}
	b.r.r += len(p)
	return p, nil
}

// maxOverhead is how much of a chunked body may be framing beyond what its data
// justifies: a sender of one-byte chunks with long extensions makes work.
const maxOverhead = 16 << 10

// nextChunk reads the line that begins the next chunk. At the last chunk it
// reads the trailer section and returns io.EOF.
func (b *Body) nextChunk() error {
	if b.inChunk {
		if err := b.endOfChunk(); err != nil {
			return err
		}
	}
	if b.last {
		return b.end()
	}
	line, err := b.sizeLine()
	if err != nil {
		return err
	}
	size, err := chunkSize(line)
	if err != nil {
		return err
	}
	if size > 0 {
		b.left, b.inChunk = size, true
		b.overhead = max(0, b.overhead+len(line)-16-2*int(min(size, largeSize)))
		if b.overhead > maxOverhead {
			return refuse(BadChunk, "the chunked body has too many extensions for its data")
		}
		return nil
	}
	b.last = true
	return b.end()
}

// end reads what follows the last chunk, and returns io.EOF.
func (b *Body) end() error {
	if err := b.trailer(); err != nil {
		return err
	}
	b.done = true
	return io.EOF
}

// endOfChunk reads the CRLF after the data of a chunk.
func (b *Body) endOfChunk() error {
	for b.r.w-b.r.r < 2 {
		if b.r.r < b.r.w && b.r.buf[b.r.r] != '\r' {
			break
		}
		if err := b.r.fill(largeSize); err != nil {
			return unexpected(err)
		}
	}
	if b.r.buf[b.r.r] != '\r' || b.r.buf[b.r.r+1] != '\n' {
		return refuse(BadChunk, "a chunk does not end in CRLF where its size says")
	}
	b.r.r += 2
	b.inChunk = false
	return nil
}

// sizeLine reads the line that begins a chunk and returns it without its CRLF.
func (b *Body) sizeLine() ([]byte, error) {
	for seen := 0; ; {
		p := b.r.buf[b.r.r:b.r.w]
		if i := bytes.IndexByte(p[seen:], '\n'); i >= 0 {
			i += seen
			switch {
			case i == 0 || p[i-1] != '\r':
				return nil, refuse(BadChunk, "a line of the chunked body ends in a bare LF")
			case i >= b.r.limits.ChunkLine:
				return nil, errChunkLine
			}
			b.r.r += i + 1
			return p[:i-1], nil
		}
		if seen = len(p); seen >= b.r.limits.ChunkLine {
			return nil, errChunkLine
		}
		if err := b.r.fill(largeSize); err != nil {
			return nil, unexpected(err)
		}
	}
}

var errChunkLine = refuse(BadChunk, "a line of the chunked body is too long")

// trailer reads the trailer section and keeps what may be there.
func (b *Body) trailer() error {
	limits := &b.r.limits
	for seen, whole := 0, false; ; {
		p := b.r.buf[b.r.r:b.r.w]
		if seen, whole, _ = scanHead(p, seen); whole || len(p) >= limits.Trailer+2 {
			break
		}
		if err := b.r.fill(largeSize); err != nil {
			return unexpected(err)
		}
	}
	all := &b.r.trailer
	all.Reset()
	n, err := parseFields(b.r.buf[b.r.r:b.r.w], all, true, limits.Trailer, limits.TrailerFields)
	if err != nil {
		var refused *ParseError
		if errors.As(err, &refused) && refused.Status == 431 {
			return refuse(TrailerTooLarge, "the trailer is too large")
		}
		return refuse(BadChunk, "trailer: "+err.Error())
	}
	b.r.r += n
	kept := all.Fields[:0]
	for _, f := range all.Fields {
		if f.Kind == wire.KindOther && trailerAllowed(f.Name) {
			kept = append(kept, f)
		}
	}
	all.Fields = kept
	b.Trailer = *all
	return nil
}

// trailerAllowed reports whether a field may come after the body. Those that
// frame, route or control a message, or say who sends it or how to read it, may
// not (RFC 9110, section 6.5.1): whoever merges them into the head would be led
// astray. That goes for all fields that have a Kind, too.
func trailerAllowed(name []byte) bool {
	switch { // these can be known only at the end
	case wire.EqualFold(name, "etag"), wire.EqualFold(name, "content-md5"), wire.EqualFold(name, "content-digest"):
		return true
	}
	return !endToEnd(name)
}

// chunkSize parses the line that begins a chunk (RFC 9112, section 7.1).
// Extensions must be well-formed; they are dropped, as section 7.1.1 allows.
func chunkSize(line []byte) (int64, error) {
	n, i := int64(0), 0
	for i < len(line) && hexDigit[line[i]] != 0 {
		n = n<<4 | int64(hexDigit[line[i]]-1)
		i++
	}
	if i == 0 || i > 15 {
		return 0, refuse(BadChunk, "a chunk size is not a hexadecimal number of at most 15 digits")
	}
	if i < len(line) && !isExtensions(line[i:]) {
		return 0, refuse(BadChunk, "the size of a chunk is followed by what is no chunk extension")
	}
	return n, nil
}

// isExtensions accepts *( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] ).
func isExtensions(b []byte) bool {
	for len(b) > 0 {
		b = skipSpace(b)
		if len(b) == 0 || b[0] != ';' {
			return false
		}
		var n int
		b = skipSpace(b[1:])
		if n = tokenLen(b); n == 0 {
			return false
		}
		b = b[n:]
		rest := skipSpace(b)
		if len(rest) == 0 || rest[0] != '=' {
			continue
		}
		b = skipSpace(rest[1:])
		if n = tokenLen(b); n == 0 {
			n = quotedLen(b)
		}
		if n == 0 {
			return false
		}
		b = b[n:]
	}
	return true
}

func skipSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	return b
}

func tokenLen(b []byte) int {
	n := 0
	for n < len(b) && class[b[n]]&isToken != 0 {
		n++
	}
	return n
}

// quotedLen returns the length of the quoted-string that b begins with, or 0.
func quotedLen(b []byte) int {
	if len(b) == 0 || b[0] != '"' {
		return 0
	}
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			i++
			if i < len(b) && !isPlain(b[i:i+1]) {
				return 0
			}
		case !isPlain(b[i : i+1]):
			return 0
		}
	}
	return 0
}
