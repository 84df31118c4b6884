package http1

import (
	"io"
	"strconv"
	"sync"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

const (
	// referAt is from what size on a piece of a body is not copied to where the
	// rest of the message is collected, if the connection is a PartsWriter.
	referAt = 2 << 10
	// flushAt is how many bytes are collected before they are written: large
	// enough to make system calls few, small enough to stay in the cache. It is
	// also what one record of TLS holds.
	flushAt = 16 << 10
	// maxParts is how many parts are written at once.
	maxParts = 16
)

// A PartsWriter is a connection that writes several pieces by one system call.
type PartsWriter interface {
	io.Writer
	// WriteParts writes all of the parts, in order, unless it fails. It may change
	// the slices, not the bytes in them, and keeps neither.
	WriteParts(parts [][]byte) error
}

// Writer writes HTTP/1 messages to a connection. Everything is collected until
// Flush, or until it is much; then the Writer holds no memory any more. After an
// error every call returns it. It is not safe for concurrent use.
type Writer struct {
	dst   io.Writer
	multi PartsWriter // dst, or nil
	buf   []byte      // what has been collected; nil while that is nothing
	parts *parts      // or, if not nil: what comes before buf[from:]
	from  int
	err   error
}

// parts are pieces to be written at once: of Writer.buf, and of what Data got.
type parts struct {
	n, size int
	list    [maxParts][]byte
}

var spareParts = sync.Pool{New: func() any { return new(parts) }}

// NewWriter returns a Writer to dst, which it makes the best of if it is a
// PartsWriter.
func NewWriter(dst io.Writer) *Writer {
	w := &Writer{dst: dst}
	w.multi, _ = dst.(PartsWriter)
	return w
}

// RequestLine begins a request of HTTP/1.1.
func (w *Writer) RequestLine(method, target []byte) {
	w.room(len(method) + len(target) + len("  HTTP/1.1\r\n"))
	b := append(w.buf, method...)
	b = append(b, ' ')
	b = append(b, target...)
	w.buf = append(b, " HTTP/1.1\r\n"...)
}

// StatusLine begins a response of HTTP/1.1.
func (w *Writer) StatusLine(status int, reason []byte) {
	w.room(len("HTTP/1.1 \r\n") + maxInt + len(reason))
	b := append(w.buf, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, reason...)
	w.buf = append(b, "\r\n"...)
}

// Field appends a header field. The caller vouches that name and value hold no
// line break.
func (w *Writer) Field(name, value []byte) {
	w.room(len(name) + len(value) + 4)
	b := append(w.buf, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	w.buf = append(b, "\r\n"...)
}

// FieldString is Field for strings.
func (w *Writer) FieldString(name, value string) {
	w.room(len(name) + len(value) + 4)
	b := append(w.buf, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	w.buf = append(b, "\r\n"...)
}

// maxInt is the length of the longest number in decimal.
const maxInt = 20

// Framing appends the header field that frames the body which follows.
func (w *Writer) Framing(framing wire.Framing, length int64) {
	w.room(len("Transfer-Encoding: chunked\r\n") + maxInt)
	switch framing {
	case wire.Fixed:
		b := append(w.buf, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		w.buf = append(b, "\r\n"...)
	case wire.Chunked:
		w.buf = append(w.buf, "Transfer-Encoding: chunked\r\n"...)
	}
}

// EndHead ends the head.
func (w *Writer) EndHead() { w.Raw("\r\n") }

// Raw appends bytes as they are.
func (w *Writer) Raw(s string) {
	w.room(len(s))
	w.buf = append(w.buf, s...)
}

// room makes sure that n bytes fit into buf.
func (w *Writer) room(n int) {
	if cap(w.buf)-len(w.buf) < n {
		w.grow(n)
	}
}

func (w *Writer) grow(n int) {
	if w.parts != nil { // some of them lie in buf, so it cannot be left
		_ = w.Flush()
	}
	next := append(borrow(max(len(w.buf)+n, min(2*len(w.buf), largeSize)))[:0], w.buf...)
	giveBack(w.buf)
	w.buf = next
}

// Data writes a piece of a body, as a chunk if chunked is true. p must not change
// before the next Flush has returned.
func (w *Writer) Data(p []byte, chunked bool) error {
	if len(p) == 0 {
		return w.err
	}
	if chunked {
		w.room(maxInt + 2)
		w.buf = append(strconv.AppendInt(w.buf, int64(len(p)), 16), "\r\n"...)
	}
	switch {
	case w.multi != nil && len(p) >= referAt:
		w.refer(p)
	case w.multi == nil && len(p) >= flushAt:
		w.pass(p)
	default:
		w.room(len(p))
		w.buf = append(w.buf, p...)
	}
	if chunked {
		w.Raw("\r\n")
	}
	if len(w.buf) >= flushAt || w.parts != nil && (w.parts.size >= largeSize || w.parts.n > maxParts-3) {
		return w.Flush()
	}
	return w.err
}

// refer makes p a part. There is always room for it, what came before it and
// what will come after.
func (w *Writer) refer(p []byte) {
	if w.parts == nil {
		w.parts = spareParts.Get().(*parts)
	}
	w.cut()
	w.parts.add(p)
}

// cut makes a part of what was collected since the last one.
func (w *Writer) cut() {
	if w.from < len(w.buf) {
		w.parts.add(w.buf[w.from:])
		w.from = len(w.buf)
	}
}

func (p *parts) add(b []byte) {
	p.list[p.n] = b
	p.n++
	p.size += len(b)
}

// pass writes a long piece past the buffer, but for what makes the collected
// bytes a full record.
func (w *Writer) pass(p []byte) {
	if n := flushAt - len(w.buf); len(w.buf) > 0 && n > 0 {
		w.room(n)
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
	}
	if w.Flush() == nil && len(p) > 0 {
		_, w.err = w.dst.Write(p)
	}
}

// EndChunks writes the last chunk and the trailer section.
func (w *Writer) EndChunks(trailer *wire.Header) {
	w.Raw("0\r\n")
	for i := range trailer.Fields {
		w.Field(trailer.Fields[i].Name, trailer.Fields[i].Value)
	}
	w.Raw("\r\n")
}

// Flush writes what has been collected.
func (w *Writer) Flush() error {
	switch {
	case w.parts != nil:
		w.cut()
		if w.err == nil {
			w.err = w.multi.WriteParts(w.parts.list[:w.parts.n])
		}
		clear(w.parts.list[:w.parts.n])
		w.parts.n, w.parts.size = 0, 0
		spareParts.Put(w.parts)
		w.parts = nil
	case w.err == nil && len(w.buf) > 0:
		_, w.err = w.dst.Write(w.buf)
	}
	giveBack(w.buf)
	w.buf, w.from = nil, 0
	return w.err
}

// Relay copies body to w, framed as chunks if chunked is true. Nothing is held
// back while the sender pauses, nor when it fails. readErr is a failure of the
// body's side, writeErr one of w's side.
func Relay(w *Writer, body *Body, chunked bool) (readErr, writeErr error) {
	body.r.to = w
	for readErr == nil && w.err == nil {
		var p []byte
		if p, readErr = body.Next(); readErr == nil {
			_ = w.Data(p, chunked)
		}
	}
	if w.err != nil {
		readErr = nil // if any, it is this one
	}
	if readErr == io.EOF {
		readErr = nil
		if chunked {
			w.EndChunks(&body.Trailer)
		}
	}
	writeErr = w.Flush()
	body.r.to = nil
	body.r.release()
	return readErr, writeErr
}
