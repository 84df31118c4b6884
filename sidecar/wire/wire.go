// Package wire holds the message types that the parts of the proxy hand each
// other: a request head, a response head, and how the body after it is framed.
//
// It is the waist of the data path: codecs (package http1) produce and consume
// these types, the router looks only at them. It does no I/O.
//
// Invariant: the byte slices of a head point into the buffer that the codec
// read it into. They are valid until the next head of that connection is read
// or its buffers are given back, so whoever needs a part for longer copies it.
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
type Field struct {
	Name, Value []byte
	Kind        Kind
}

// Header is the ordered list of fields of a head. The zero value is empty and
// ready to use. It is not safe for concurrent use.
type Header struct {
	Fields []Field // grows by Add only
	seen   uint64  // one bit for each Kind there is
}

// Add appends a field. What its name means is for the caller to say; see KindOf.
func (h *Header) Add(name, value []byte, kind Kind) {
	h.Fields = append(h.Fields, Field{name, value, kind})
	h.seen |= 1 << kind
}

// HasKind reports whether a field of this kind was added. It costs nothing.
func (h *Header) HasKind(k Kind) bool { return h.seen&(1<<k) != 0 }

// Value returns the value of the first field of this kind, or nil.
func (h *Header) Value(k Kind) []byte {
	if !h.HasKind(k) {
		return nil
	}
	for i := range h.Fields {
		if h.Fields[i].Kind == k {
			return h.Fields[i].Value
		}
	}
	return nil
}

// Drop removes the fields whose kind match accepts, and keeps the order of the
// others.
func (h *Header) Drop(match func(Kind) bool) {
	all := h.Fields
	h.Reset()
	for _, f := range all {
		if !match(f.Kind) {
			h.Add(f.Name, f.Value, f.Kind)
		}
	}
}

// Reset empties the header and keeps its memory.
func (h *Header) Reset() { *h = Header{Fields: h.Fields[:0]} }

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
	Expect bool    // the client waits for a 100 (Continue) before it sends the body
	// Upgrade is the protocol that the client offers to switch to, if it does so
	// by the rules: named in Upgrade, which Connection lists, in HTTP/1.1.
	Upgrade []byte
}

// Reset empties the request and keeps its memory.
func (r *Request) Reset() {
	r.Header.Reset()
	*r = Request{Header: r.Header}
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
	r.Header.Reset()
	*r = Response{Header: r.Header}
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
