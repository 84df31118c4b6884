package http1

import (
	"io"
	"strconv"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// flushAt is how many bytes a Writer collects before it writes: large enough to
// make system calls few, small enough to stay in the cache.
const flushAt = 16 << 10

// Writer writes HTTP/1 messages to a connection. Everything is collected until
// Flush or until flushAt bytes have gathered. After an error every call returns
// it. It is not safe for concurrent use.
type Writer struct {
	dst   io.Writer
	buf   []byte
	err   error
	flush func() error // Flush, bound once
}

// NewWriter returns a Writer to dst.
func NewWriter(dst io.Writer) *Writer {
	w := &Writer{dst: dst, buf: make([]byte, 0, 4<<10)}
	w.flush = w.Flush
	return w
}

// RequestLine begins a request of HTTP/1.1.
func (w *Writer) RequestLine(method, target []byte) {
	w.buf = append(w.buf, method...)
	w.buf = append(w.buf, ' ')
	w.buf = append(w.buf, target...)
	w.buf = append(w.buf, " HTTP/1.1\r\n"...)
}

// StatusLine begins a response of HTTP/1.1.
func (w *Writer) StatusLine(status int, reason []byte) {
	w.buf = append(w.buf, "HTTP/1.1 "...)
	w.buf = strconv.AppendInt(w.buf, int64(status), 10)
	w.buf = append(w.buf, ' ')
	w.buf = append(w.buf, reason...)
	w.buf = append(w.buf, "\r\n"...)
}

// Field appends a header field. The caller vouches that name and value hold no
// line break.
func (w *Writer) Field(name, value []byte) {
	w.buf = append(w.buf, name...)
	w.buf = append(w.buf, ": "...)
	w.buf = append(w.buf, value...)
	w.buf = append(w.buf, "\r\n"...)
}

// FieldString is Field for strings.
func (w *Writer) FieldString(name, value string) {
	w.buf = append(w.buf, name...)
	w.buf = append(w.buf, ": "...)
	w.buf = append(w.buf, value...)
	w.buf = append(w.buf, "\r\n"...)
}

// Framing appends the header field that frames the body which follows.
func (w *Writer) Framing(framing wire.Framing, length int64) {
	switch framing {
	case wire.Fixed:
		w.buf = append(w.buf, "Content-Length: "...)
		w.buf = strconv.AppendInt(w.buf, length, 10)
		w.buf = append(w.buf, "\r\n"...)
	case wire.Chunked:
		w.buf = append(w.buf, "Transfer-Encoding: chunked\r\n"...)
	}
}

// EndHead ends the head.
func (w *Writer) EndHead() { w.buf = append(w.buf, "\r\n"...) }

// Data writes a piece of a body, as a chunk if chunked is true.
func (w *Writer) Data(p []byte, chunked bool) error {
	if len(p) == 0 {
		return w.err
	}
	if chunked {
		w.buf = strconv.AppendInt(w.buf, int64(len(p)), 16)
		w.buf = append(w.buf, "\r\n"...)
	}
	w.buf = append(w.buf, p...)
	if chunked {
		w.buf = append(w.buf, "\r\n"...)
	}
	if len(w.buf) >= flushAt {
		return w.Flush()
	}
	return w.err
}

// EndChunks writes the last chunk and the trailer section.
func (w *Writer) EndChunks(trailer *wire.Header) {
	w.buf = append(w.buf, "0\r\n"...)
	for _, f := range trailer.Fields {
		w.Field(f.Name, f.Value)
	}
	w.buf = append(w.buf, "\r\n"...)
}

// Raw appends bytes as they are.
func (w *Writer) Raw(s string) { w.buf = append(w.buf, s...) }

// Flush writes what has been collected.
func (w *Writer) Flush() error {
	if w.err == nil && len(w.buf) > 0 {
		_, w.err = w.dst.Write(w.buf)
	}
	if cap(w.buf) > 4*flushAt {
		w.buf = make([]byte, 0, flushAt)
	}
	w.buf = w.buf[:0]
	return w.err
}

// Relay copies body to w, framed as chunks if chunked is true. Nothing is held
// back while the sender pauses. readErr is a failure of the body's side,
// writeErr one of w's side.
func Relay(w *Writer, body *Body, chunked bool) (readErr, writeErr error) {
	body.r.beforeFill = w.flush
	defer func() { body.r.beforeFill = nil }()
	for {
		p, err := body.Next()
		if w.err != nil {
			return nil, w.err
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err, nil
		}
		if err := w.Data(p, chunked); err != nil {
			return nil, err
		}
	}
	if chunked {
		w.EndChunks(&body.Trailer)
	}
	return nil, w.Flush()
}
