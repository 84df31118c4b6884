package http1

import (
	"bytes"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// cutLine splits off the first CRLF-terminated line.
func cutLine(head []byte) (line, rest []byte) {
	i := bytes.IndexByte(head, '\n')
	if i < 1 {
		return nil, nil
	}
	return head[:i-1], head[i+1:]
}

func requestLine(line []byte, req *wire.Request) error {
	sp := bytes.IndexByte(line, ' ')
	if sp < 1 || !isToken(line[:sp]) {
		return bad("the request line has no valid method; it reads METHOD SP target SP HTTP/1.1")
	}
	req.Method = line[:sp]
	rest := line[sp+1:]
	sp = bytes.IndexByte(rest, ' ')
	if sp < 1 {
		return bad("the request line has no target or no version; it reads METHOD SP target SP HTTP/1.1")
	}
	req.Target = rest[:sp]
	for _, c := range req.Target {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return bad("the request target holds a character that must be percent-encoded")
		}
	}
	minor, err := version(rest[sp+1:])
	req.Minor = minor
	return err
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
	if len(v) == 8 && bytes.HasPrefix(v, []byte("HTTP/")) {
		return 0, &ParseError{505, "this port speaks HTTP/1.0 and HTTP/1.1 only"}
	}
	return 0, bad("the first line does not end in a version such as HTTP/1.1")
}

// fields parses CRLF-terminated field lines (RFC 9112, section 5).
func fields(lines []byte, h *wire.Header, limit int) error {
	for len(lines) > 0 {
		var line []byte
		line, lines = cutLine(lines)
		colon := bytes.IndexByte(line, ':')
		switch {
		case len(line) > 0 && (line[0] == ' ' || line[0] == '\t'):
			return bad("a header field is folded over two lines; write it on one")
		case colon < 1 || !isToken(line[:colon]):
			return bad("a header line does not begin with a field name and a colon")
		case len(h.Fields) == limit:
			return &ParseError{431, "there are too many header fields"}
		}
		value := trimOWS(line[colon+1:])
		if !isFieldValue(value) {
			return bad("the value of header field " + string(line[:colon]) + " holds a control character")
		}
		h.Fields = append(h.Fields, wire.Field{Name: line[:colon], Value: value})
	}
	return nil
}

// framing is what the fields of a head say about its body and connection.
type framing struct {
	length    int64
	hasLength bool
	chunked   bool
	close     bool
	keepAlive bool
}

// bodyFields reads the framing fields and refuses what RFC 9112, section 6
// calls an error or leaves open to more than one reading.
func bodyFields(h *wire.Header, minor byte) (framing, error) {
	var f framing
	codings := 0
	for i := range h.Fields {
		name, value := h.Fields[i].Name, h.Fields[i].Value
		switch {
		case wire.EqualFold(name, "content-length"):
			if f.hasLength {
				return f, bad("there is more than one Content-Length")
			}
			n, ok := decimal(value)
			if !ok {
				return f, bad("the Content-Length is not a plain decimal number")
			}
			f.length, f.hasLength = n, true
		case wire.EqualFold(name, "transfer-encoding"):
			codings++
			if codings > 1 || !wire.EqualFold(value, "chunked") {
				return f, &ParseError{501, "the only transfer coding understood is chunked, once"}
			}
			f.chunked = true
		case wire.EqualFold(name, "connection"):
			EachElement(value, func(e []byte) {
				f.close = f.close || wire.EqualFold(e, "close")
				f.keepAlive = f.keepAlive || wire.EqualFold(e, "keep-alive")
			})
		}
	}
	if f.chunked && f.hasLength {
		return f, bad("there are both Content-Length and Transfer-Encoding; send one")
	}
	if f.chunked && minor == 0 {
		return f, bad("HTTP/1.0 has no Transfer-Encoding")
	}
	f.close = f.close || minor == 0 && !f.keepAlive
	return f, nil
}

func requestSemantics(req *wire.Request) error {
	f, err := bodyFields(&req.Header, req.Minor)
	if err != nil {
		return err
	}
	req.Close = f.close
	switch {
	case f.chunked:
		req.Body = wire.Chunked
	case f.hasLength && f.length > 0:
		req.Body, req.Length = wire.Fixed, f.length
	}
	hosts := 0
	for i := range req.Header.Fields {
		if wire.EqualFold(req.Header.Fields[i].Name, "host") {
			hosts++
			req.Authority = req.Header.Fields[i].Value
		}
	}
	if hosts > 1 {
		return bad("there is more than one Host")
	}
	if hosts == 0 && req.Minor == 1 {
		return bad("HTTP/1.1 needs a Host header field")
	}
	if err := target(req); err != nil {
		return err
	}
	if !isAuthority(req.Authority) {
		return bad("the host holds a character that a host cannot have")
	}
	return nil
}

// target splits the request target into Authority and Path (RFC 9112, section 3.2).
func target(req *wire.Request) error {
	t := req.Target
	switch {
	case t[0] == '/':
		req.Path = t
		return nil
	case string(req.Method) == "CONNECT":
		req.Authority = t
		return nil
	case len(t) == 1 && t[0] == '*' && string(req.Method) == "OPTIONS":
		req.Path = t
		return nil
	case wire.HasPrefixFold(t, "http://"):
		rest := t[len("http://"):]
		end := bytes.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		// RFC 9112, section 3.2.2: the authority of the target replaces Host.
		req.Authority = rest[:end]
		req.Path = rest[end:]
		if len(req.Authority) == 0 {
			return bad("the request target names no host")
		}
		if len(req.Path) == 0 {
			req.Path = slash
			if string(req.Method) == "OPTIONS" {
				req.Path = asterisk
			}
		}
		if req.Path[0] == '?' {
			req.Path = append([]byte{'/'}, req.Path...)
		}
		return nil
	case wire.HasPrefixFold(t, "https://"):
		return bad("the request target is an https URL; ask the proxy for http:// or use CONNECT")
	}
	return bad("the request target is neither a path nor an http:// URL")
}

var (
	slash    = []byte("/")
	asterisk = []byte("*")
)

func responseSemantics(res *wire.Response, method []byte) error {
	f, err := bodyFields(&res.Header, res.Minor)
	if err != nil {
		return err
	}
	res.Close = f.close
	switch {
	case res.Status < 200, res.Status == 204, res.Status == 304, string(method) == "HEAD":
		res.Body = wire.NoBody
	case f.chunked:
		res.Body = wire.Chunked
	case f.hasLength:
		res.Body, res.Length = wire.Fixed, f.length
	default:
		res.Body, res.Close = wire.UntilClose, true
	}
	return nil
}

// trailerAllowed reports whether a field may come after the body. Those that
// frame or route a message, or say who sends it, may not (RFC 9110, section
// 6.5.1): whoever merges them into the head would be led astray. That goes for
// the mesh's own fields too.
func trailerAllowed(name []byte) bool {
	for _, forbidden := range [...]string{
		"authorization", "cache-control", "connection", "content-encoding", "content-length", "content-range",
		"content-type", "cookie", "expect", "host", "keep-alive", "max-forwards", "set-cookie", "te", "trailer",
		"transfer-encoding", "upgrade", "via",
	} {
		if wire.EqualFold(name, forbidden) {
			return false
		}
	}
	return !wire.HasPrefixFold(name, "proxy-") && !wire.HasPrefixFold(name, "l5d-") && !wire.HasPrefixFold(name, "tulle-")
}

// chunkSize parses the line that begins a chunk; extensions are skipped
// (RFC 9112, section 7.1.1).
func chunkSize(line []byte) (int64, error) {
	digits := line
	if i := bytes.IndexByte(line, ';'); i >= 0 {
		digits = trimOWS(line[:i])
		if !isFieldValue(line[i:]) {
			return 0, bad("a chunk extension holds a control character")
		}
	}
	if len(digits) == 0 || len(digits) > 15 {
		return 0, bad("a chunk size is not a hexadecimal number of at most 15 digits")
	}
	var n int64
	for _, c := range digits {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, bad("a chunk size is not a hexadecimal number")
		}
		n = n<<4 | int64(c)
	}
	return n, nil
}

// EachElement calls f for every element of a comma-separated list.
func EachElement(list []byte, f func([]byte)) {
	for len(list) > 0 {
		element := list
		if i := bytes.IndexByte(list, ','); i >= 0 {
			element, list = list[:i], list[i+1:]
		} else {
			list = nil
		}
		if element = trimOWS(element); len(element) > 0 {
			f(element)
		}
	}
}

func decimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
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

// tokens marks the bytes of a token (RFC 9110, section 5.6.2).
var tokens = func() (t [256]bool) {
	for c := range 256 {
		t[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c < 128 && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0
	}
	return t
}()

func isToken(b []byte) bool {
	for _, c := range b {
		if !tokens[c] {
			return false
		}
	}
	return len(b) > 0
}

// isFieldValue refuses control characters, CR and NUL among them (RFC 9110,
// section 5.5).
func isFieldValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isAuthority accepts the characters of host[:port] without user information
// (RFC 3986, section 3.2), which has no place in a request.
func isAuthority(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || bytes.IndexByte([]byte("/?#@\\<>\"{}|^`"), c) >= 0 {
			return false
		}
	}
	return true
}
