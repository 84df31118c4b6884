package http1

import (
	"bytes"
	"encoding/binary"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

var (
	errLineTooLong  = refuse(LineTooLong, "the first line is too long")
	errHeadTooLarge = refuse(HeadTooLarge, "the header fields are too large")
	errBareLF       = bad("a line ends in a bare LF; lines end in CRLF")
	errBareCR       = bad("a CR stands alone; lines end in CRLF")
)

// parseRequest parses the request head that p begins with, in one pass. n is its
// length; 0 means that it is not whole yet.
func parseRequest(p []byte, req *wire.Request, limits *Limits) (n int, err error) {
	line, n, err := firstLine(p, limits)
	if n == 0 {
		return 0, err
	}
	if err := requestLine(line, req); err != nil {
		return 0, err
	}
	rest, err := parseFields(p[n:], &req.Header, true, limits.Head, limits.Fields)
	if rest == 0 {
		return 0, err
	}
	return n + rest, nil
}

// parseResponse is parseRequest for a response.
func parseResponse(p []byte, res *wire.Response, limits *Limits) (n int, err error) {
	line, n, err := firstLine(p, limits)
	if n == 0 {
		return 0, err
	}
	if err := statusLine(line, res); err != nil {
		return 0, err
	}
	rest, err := parseFields(p[n:], &res.Header, false, limits.Head, limits.Fields)
	if rest == 0 {
		return 0, err
	}
	return n + rest, nil
}

// firstLine cuts the first line off, without its CRLF. n is its length with it.
func firstLine(p []byte, limits *Limits) (line []byte, n int, err error) {
	i := bytes.IndexByte(p, '\n')
	switch {
	case i >= limits.Line || i < 0 && len(p) >= limits.Line:
		return nil, 0, errLineTooLong
	case i < 0:
		return nil, 0, nil
	case i == 0 || p[i-1] != '\r':
		return nil, 0, errBareLF
	}
	return p[:i-1], i + 1, nil
}

func requestLine(line []byte, req *wire.Request) error {
	sp := 0
	for sp < len(line) && class[line[sp]]&isToken != 0 {
		sp++
	}
	if sp == 0 || sp == len(line) || line[sp] != ' ' {
		return bad("the request line has no valid method; it reads METHOD SP target SP HTTP/1.1")
	}
	req.Method = line[:sp]
	end := bytes.LastIndexByte(line, ' ')
	if end <= sp+1 {
		return bad("the request line has no target or no version; it reads METHOD SP target SP HTTP/1.1")
	}
	minor, err := version(line[end+1:])
	if err != nil {
		return err
	}
	req.Minor = minor
	req.Target = line[sp+1 : end]
	for _, c := range req.Target {
		if class[c]&isTarget == 0 {
			return bad("the request target holds a character that must be percent-encoded")
		}
	}
	return nil
}

func statusLine(line []byte, res *wire.Response) error {
	if len(line) < 12 || line[8] != ' ' || (len(line) > 12 && line[12] != ' ') {
		return bad("the status line is malformed")
	}
	minor, err := version(line[:8])
	if err != nil {
		return err
	}
	res.Minor = minor
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return bad("the status is not a number of three digits")
		}
		res.Status = res.Status*10 + int(c-'0')
	}
	if res.Status < 100 {
		return bad("the status is below 100")
	}
	if len(line) > 13 {
		res.Reason = line[13:]
		if !isFieldValue(res.Reason) {
			return bad("the reason phrase holds a control character")
		}
	}
	return nil
}

func version(v []byte) (minor byte, err error) {
	switch string(v) {
	case "HTTP/1.1":
		return 1, nil
	case "HTTP/1.0":
		return 0, nil
	}
	if len(v) == 8 && string(v[:5]) == "HTTP/" && isDigit(v[5]) && v[6] == '.' && isDigit(v[7]) {
		return 0, refuse(UnsupportedVersion, "this port speaks HTTP/1.0 and HTTP/1.1 only")
	}
	return 0, bad("the first line does not end in a version such as HTTP/1.1")
}

// longest is more than the longest name that wire.KindOf knows.
const longest = 32

// parseFields parses the field lines (RFC 9112, section 5) that p begins with,
// and the empty line after them. n is the length of it all; 0 without an error
// means that it is not whole yet. In a request, names that some servers take for
// those of a Kind are refused.
func parseFields(p []byte, h *wire.Header, request bool, maxBytes, maxFields int) (n int, err error) {
	var lower [longest]byte
	for {
		line := p[n:]
		if len(line) == 0 || len(line) == 1 && line[0] == '\r' {
			break
		}
		if line[0] == '\r' {
			if line[1] != '\n' {
				return 0, errBareCR
			}
			if h.HasKind(wire.KindConnection) {
				markListed(h)
			}
			return n + 2, nil
		}
		colon := 0
		for colon < len(line) {
			c := lowered[line[colon]]
			if c == 0 {
				break
			}
			lower[colon%longest] = c
			colon++
		}
		if colon == len(line) {
			break
		}
		if colon == 0 || line[colon] != ':' {
			return 0, nameError(line, colon)
		}
		lf := bytes.IndexByte(line[colon:], '\n')
		if lf < 0 {
			break
		}
		lf += colon
		if line[lf-1] != '\r' {
			return 0, errBareLF
		}
		n += lf + 1
		if n > maxBytes {
			return 0, errHeadTooLarge
		}
		if len(h.Fields) == maxFields {
			return 0, refuse(TooManyFields, "there are too many header fields")
		}
		name, value := line[:colon], trimOWS(line[colon+1:lf-1])
		if !isFieldValue(value) {
			return 0, bad("the value of header field " + string(name) + " holds a control character")
		}
		if colon >= longest { // so it is the beginning that tells its kind, if anything
			for i := range lower {
				lower[i] = lowered[name[i]]
			}
		}
		kind := wire.KindOf(lower[:min(colon, longest)])
		if kind != wire.KindOther && bytes.IndexByte(name, '_') >= 0 {
			if request {
				return 0, bad("some servers take the header field " + string(name) + " for the one with - in place of _")
			}
			kind = wire.KindOther
		}
		h.Add(name, value, kind)
	}
	if len(p) >= maxBytes+2 {
		return 0, errHeadTooLarge
	}
	return 0, nil
}

// nameError says why no field name and colon stand at the beginning of a line.
func nameError(line []byte, end int) error {
	switch {
	case end == 0 && (line[0] == ' ' || line[0] == '\t'):
		return bad("a header field is folded over two lines; write it on one")
	case line[end] == '\n':
		return errBareLF
	case line[end] == ' ' || line[end] == '\t':
		return bad("white space stands before the colon of a header field")
	}
	return bad("a header line does not begin with a field name and a colon")
}

// markListed gives the fields that a Connection field names their Kind. Those
// that are for the recipient of the message can not be made to vanish that way:
// RFC 9110, section 7.6.1, forbids to list them, and doing so is a known trick
// to strip what a server relies on.
func markListed(h *wire.Header) {
	for i := range h.Fields {
		if h.Fields[i].Kind != wire.KindConnection {
			continue
		}
		for list := h.Fields[i].Value; len(list) > 0; {
			var option []byte
			option, list = nextElement(list)
			if wire.EqualFold(option, "close") || wire.EqualFold(option, "keep-alive") || endToEnd(option) {
				continue
			}
			for j := range h.Fields {
				if f := &h.Fields[j]; f.Kind == wire.KindOther && len(f.Name) == len(option) && equalFold(f.Name, option) {
					f.Kind = wire.KindListed
				}
			}
		}
	}
}

// endToEnd reports whether a field is for the recipient of a message, whatever a
// Connection field says. Fields of a Kind are not asked for.
func endToEnd(name []byte) bool {
	for _, f := range [...]string{
		"accept", "age", "allow", "authorization", "cache-control", "cookie", "date", "etag", "expires", "from",
		"last-modified", "location", "origin", "pragma", "range", "referer", "retry-after", "server", "set-cookie",
		"user-agent", "vary", "www-authenticate", "x-real-ip", "x-request-id",
	} {
		if wire.EqualFold(name, f) {
			return true
		}
	}
	for _, prefix := range [...]string{"accept-", "access-control-", "content-", "if-", "sec-", "x-b3-", "x-envoy-", "x-forwarded-"} {
		if wire.HasPrefixFold(name, prefix) {
			return true
		}
	}
	return false
}

// EachElement calls f for every element of a comma-separated list.
func EachElement(list []byte, f func([]byte)) {
	for len(list) > 0 {
		var element []byte
		if element, list = nextElement(list); len(element) > 0 {
			f(element)
		}
	}
}

// nextElement cuts the first element off a comma-separated list. It may be empty.
func nextElement(list []byte) (element, rest []byte) {
	if i := bytes.IndexByte(list, ','); i >= 0 {
		return trimOWS(list[:i]), list[i+1:]
	}
	return trimOWS(list), nil
}

func trimOWS(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func equalFold(a, b []byte) bool {
	for i := range a {
		if lowerCase(a[i]) != lowerCase(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

func lowerCase(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// What a byte may be part of.
const (
	isToken  = 1 << iota // RFC 9110, section 5.6.2
	isTarget             // a request target: printable ASCII, but no space and no #
	isHost               // a registered name, without the comma, which makes it a list to some
)

var class = func() (t [256]byte) {
	for c := range 128 {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if letter || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0 {
			t[c] |= isToken
		}
		if c > ' ' && c < 0x7f && c != '#' {
			t[c] |= isTarget
		}
		if letter || bytes.IndexByte([]byte("-._~!$&'()*+;="), byte(c)) >= 0 {
			t[c] |= isHost
		}
	}
	return t
}()

// lowered maps the bytes of a token to lower case, with - for _ because that is
// how CGI reads names; all others to 0.
var lowered = func() (t [256]byte) {
	for c := range 128 {
		if class[c]&isToken != 0 {
			t[c] = lowerCase(byte(c))
		}
	}
	t['_'] = '-'
	return t
}()

// isFieldValue refuses control characters, CR and NUL among them (RFC 9110,
// section 5.5). It looks at eight bytes at a time.
func isFieldValue(b []byte) bool {
	if len(b) < 8 {
		return isPlain(b)
	}
	for i := 0; ; i += 8 {
		i = min(i, len(b)-8) // the last eight may overlap those before
		word := b[i : i+8]
		if anyControl(binary.LittleEndian.Uint64(word)) && !isPlain(word) {
			return false
		}
		if i == len(b)-8 {
			return true
		}
	}
}

// anyControl reports whether one of the eight bytes in x is below 0x20 or is
// 0x7f. It is true of a tab, which isPlain allows.
func anyControl(x uint64) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	del := x ^ 0x7f*ones
	return ((x-0x20*ones)&^x|(del-ones)&^del)&tops != 0
}

func isPlain(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
