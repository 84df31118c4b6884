package tracing

// The B3 fields of Zipkin, one header for each (openzipkin/b3-propagation).
const (
	B3Trace   = "x-b3-traceid" // 16 or 32 hexadecimal digits
	B3Span    = "x-b3-spanid"
	B3Parent  = "x-b3-parentspanid"
	B3Sampled = "x-b3-sampled" // 1 or 0
	B3Flags   = "x-b3-flags"   // 1 is Debug
)

// B3 collects the B3 fields of one request. The zero value has none.
type B3 struct{ trace, span, parent, sampled, flags []byte }

// Add takes a field, if it is one of B3 and the first of its name. The name may
// be in any case; the value must not change before the last call of Context.
func (b *B3) Add(name, value []byte) {
	if len(name) < len("x-b3-flags") {
		return
	}
	var lower [len(B3Parent)]byte
	n := copy(lower[:], name)
	for i := range lower[:n] {
		if 'A' <= lower[i] && lower[i] <= 'Z' {
			lower[i] += 'a' - 'A'
		}
	}
	at := (*[]byte)(nil)
	switch string(lower[:n]) {
	case B3Trace:
		at = &b.trace
	case B3Span:
		at = &b.span
	case B3Parent:
		at = &b.parent
	case B3Sampled:
		at = &b.sampled
	case B3Flags:
		at = &b.flags
	}
	if at != nil && *at == nil && n == len(name) {
		*at = value
	}
}

// Context returns the span that the fields tell, and zero ids without a span id.
// A trace or parent that is missing is taken from the other or the span. Its
// flags may be set either way.
func (b *B3) Context() Context {
	var c Context
	if string(b.flags) == "1" {
		c.Flags = Debug
	}
	switch string(b.sampled) {
	case "1", "true":
		c.Flags |= Known | Sampled
	case "0", "false":
		c.Flags |= Known
	}
	span, ok := parseHex(b.span)
	if !ok {
		return c
	}
	c.Span, c.Parent, c.Trace = span, span, span
	if parent, ok := parseHex(b.parent); ok {
		c.Parent, c.Trace = parent, parent
	}
	low := b.trace
	if len(low) == 32 {
		c.High, ok = parseHex(low[:16])
		low = low[16:]
		ok = ok || string(b.trace[:16]) == "0000000000000000"
	}
	if trace, whole := parseHex(low); whole && ok {
		c.Trace = trace
	} else {
		c.High = 0
	}
	return c
}

// Rate returns the value of B3Sampled if it is neither yes nor no: a share, for
// Sampler.Decide, or nothing.
func (b *B3) Rate() []byte {
	switch string(b.sampled) {
	case "1", "true", "0", "false":
		return nil
	}
	return b.sampled
}

// parseHex reads 16 hexadecimal digits. It is false for fewer, more, and 0.
func parseHex(b []byte) (id uint64, ok bool) {
	if len(b) != 16 {
		return 0, false
	}
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		id = id<<4 | uint64(c)
	}
	return id, id != 0
}

// AppendB3 appends the value of the B3 field called name to b.
func (c Context) AppendB3(b []byte, name string) []byte {
	switch name {
	case B3Trace:
		if c.High != 0 {
			b = appendHex(b, c.High)
		}
		return appendHex(b, c.Trace)
	case B3Span:
		return appendHex(b, c.Span)
	case B3Parent:
		return appendHex(b, c.Parent)
	case B3Sampled:
		return appendBit(b, c.Flags.Sampled())
	case B3Flags:
		return appendBit(b, c.Flags&Debug != 0)
	}
	return b
}

func appendBit(b []byte, set bool) []byte {
	if set {
		return append(b, '1')
	}
	return append(b, '0')
}
