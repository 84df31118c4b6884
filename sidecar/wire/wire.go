// Package wire holds the message types that the parts of the proxy hand each
// other: a request head, a response head, and how the body after it is framed.
//
// It is the waist of the data path: codecs (package http1) produce and consume
// these types, the router looks only at them. It does no I/O.
//
// Invariant: the byte slices of a head point into the buffer that the codec
// read it into. They are valid until the next read of that connection, so
// whoever needs a part of a head for longer copies it.
//
//	var req wire.Request
//	if err := reader.Request(&req); err != nil { … }
//	host := req.Header.Get("host")
package wire

// Framing tells how the end of a message body is found (RFC 9112, section 6.3).
type Framing uint8

// The four ways a body can be framed.
const (
	NoBody     Framing = iota // the message ends with its head
	Fixed                     // Length bytes follow
	Chunked                   // chunks, then a trailer section
	UntilClose                // a response that lasts until the connection closes
)

// Field is one header field as it was read: case kept, surrounding white space
// of the value removed.
type Field struct{ Name, Value []byte }

// Header is the ordered list of fields of a head. The zero value is empty and
// ready to use. It is not safe for concurrent use.
type Header struct{ Fields []Field }

// Get returns the value of the first field called name (in any case), or nil.
func (h *Header) Get(name string) []byte {
	for i := range h.Fields {
		if EqualFold(h.Fields[i].Name, name) {
			return h.Fields[i].Value
		}
	}
	return nil
}

// Has reports whether there is a field called name.
func (h *Header) Has(name string) bool {
	for i := range h.Fields {
		if EqualFold(h.Fields[i].Name, name) {
			return true
		}
	}
	return false
}

// DelFunc removes every field that match accepts and keeps the order of the
// others.
func (h *Header) DelFunc(match func(Field) bool) {
	kept := h.Fields[:0]
	for _, f := range h.Fields {
		if !match(f) {
			kept = append(kept, f)
		}
	}
	h.Fields = kept
}

// Request is the head of an HTTP/1 request.
type Request struct {
	Method []byte
	Target []byte // as read: origin-form, absolute-form, authority-form or "*"
	Minor  byte   // 0 or 1, of HTTP/1.Minor
	Header Header

	// Authority is the host[:port] that the request is for: of an absolute-form
	// target, else of the Host field. Empty only in HTTP/1.0 without Host.
	Authority []byte
	// Path is the origin-form to send onward, byte for byte as the client wrote it.
	Path []byte

	Body   Framing // NoBody, Fixed or Chunked
	Length int64   // of a Fixed body, in bytes
	Close  bool    // the client wants the connection closed after the answer
}

// Reset empties the request and keeps its memory.
func (r *Request) Reset() {
	*r = Request{Header: Header{Fields: r.Header.Fields[:0]}}
}

// Safe reports whether the method is defined as safe and so as repeatable
// (RFC 9110, section 9.2.1).
func (r *Request) Safe() bool {
	switch string(r.Method) {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// Response is the head of an HTTP/1 response.
type Response struct {
	Minor  byte
	Status int
	Reason []byte
	Header Header

	Body   Framing
	Length int64
	Close  bool // the backend closes the connection after the body
}

// Reset empties the response and keeps its memory.
func (r *Response) Reset() {
	*r = Response{Header: Header{Fields: r.Header.Fields[:0]}}
}

// EqualFold reports whether b and s are the same ASCII text in any case.
// It does not allocate; s must be lower or upper case ASCII.
func EqualFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range b {
		x, y := b[i], s[i]
		if x == y {
			continue
		}
		x, y = lower(x), lower(y)
		if x != y {
			return false
		}
	}
	return true
}

// HasPrefixFold reports whether b begins with prefix in any case.
func HasPrefixFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && EqualFold(b[:len(prefix)], prefix)
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
