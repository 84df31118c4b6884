package tunnel

// The numbers of TLS 1.2 and 1.3 (RFC 8446) that a ClientHello is found by.
const (
	recordHandshake     = 22
	maxRecord           = 16 << 10
	handshakeHello      = 1
	extensionServerName = 0 // RFC 6066, section 3
	nameHost            = 0
	maxHost             = 255
)

// sniffTLS reads a ClientHello that may be spread over several records, which
// some clients do on purpose.
func sniffTLS(first []byte) (Kind, []byte) {
	var hello []byte // the handshake message so far
	for rest := first; ; {
		header := fields{b: rest}
		if kind, ok := header.uint(1); ok && kind != recordHandshake {
			return Unknown, nil
		}
		if major, ok := header.uint(1); ok && major != 3 {
			return Unknown, nil
		}
		if minor, ok := header.uint(1); ok && minor > 4 {
			return Unknown, nil
		}
		length, ok := header.uint(2)
		if ok && (length == 0 || length > maxRecord) {
			return Unknown, nil
		}
		part := header.b[:min(length, len(header.b))]
		if hello == nil {
			hello = part[:len(part):len(part)] // appending copies
		} else {
			hello = append(hello, part...)
		}
		message := fields{b: hello}
		if kind, ok := message.uint(1); ok && kind != handshakeHello {
			return Unknown, nil
		}
		size, sized := message.uint(3)
		switch {
		case sized && size <= len(message.b):
			name, ok := serverName(message.b[:size])
			if !ok {
				return Unknown, nil
			}
			return TLS, name
		case ok && length == len(part): // and the message goes on in the next record
		case len(first) == MaxSniff:
			return TLS, nil // too long to find its name
		default:
			return NeedMore, nil
		}
		rest = header.b[length:]
	}
}

// serverName returns the host that a ClientHello names, if it does; false if it
// is none. What is no host name counts as none named.
func serverName(hello []byte) (name []byte, ok bool) {
	f := fields{b: hello}
	_, _ = f.take(2 + 32) // version and random
	_, _ = f.sub(1)       // session ID
	_, _ = f.sub(2)       // cipher suites
	_, ok = f.sub(1)      // compression methods
	if len(f.b) == 0 {    // a client of TLS 1.2 may send no extensions
		return nil, ok
	}
	extensions, ok := f.sub(2)
	for ok && len(extensions.b) > 0 {
		var kind int
		var body fields
		kind, _ = extensions.uint(2)
		if body, ok = extensions.sub(2); ok && kind == extensionServerName {
			name, ok = firstHost(body)
		}
	}
	return name, ok
}

func firstHost(body fields) (name []byte, ok bool) {
	list, ok := body.sub(2)
	for ok && len(list.b) > 0 {
		var kind int
		var host fields
		kind, _ = list.uint(1)
		if host, ok = list.sub(2); ok && kind == nameHost && name == nil && isHost(host.b) {
			name = host.b
		}
	}
	return name, ok
}

func isHost(b []byte) bool {
	for _, c := range b {
		if !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return 0 < len(b) && len(b) <= maxHost
}

// fields reads the numbers and length-prefixed parts of TLS from b. After the
// first that is not there whole, everything is missing.
type fields struct {
	b      []byte
	failed bool
}

// uint reads a big-endian number of n bytes.
func (f *fields) uint(n int) (int, bool) {
	part, ok := f.take(n)
	v := 0
	for _, c := range part {
		v = v<<8 | int(c)
	}
	return v, ok
}

// take returns the next n bytes.
func (f *fields) take(n int) ([]byte, bool) {
	if f.failed || len(f.b) < n {
		f.failed = true
		return nil, false
	}
	part := f.b[:n:n]
	f.b = f.b[n:]
	return part, true
}

// sub returns what follows its length, a number of n bytes.
func (f *fields) sub(n int) (fields, bool) {
	length, _ := f.uint(n)
	part, ok := f.take(length)
	return fields{b: part}, ok
}
