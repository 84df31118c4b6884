package http1

import (
	"bytes"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// framing is what the fields of a head say about its body and connection.
type framing struct {
	length    int64
	hasLength bool
	chunked   bool
	close     bool
	upgrade   bool // Connection lists it
}

// bodyFields reads the framing fields and refuses what RFC 9112, section 6
// calls an error or leaves open to more than one reading.
func bodyFields(h *wire.Header, minor byte) (framing, error) {
	var f framing
	keepAlive := false
	for i := range h.Fields {
		value := h.Fields[i].Value
		switch h.Fields[i].Kind {
		case wire.KindContentLength:
			if f.hasLength {
				return f, refuse(Framing, "there is more than one Content-Length")
			}
			n, ok := decimal(value)
			if !ok {
				return f, refuse(Framing, "the Content-Length is not a plain decimal number")
			}
			f.length, f.hasLength = n, true
		case wire.KindTransferEncoding:
			if f.chunked {
				return f, refuse(Framing, "there is more than one Transfer-Encoding")
			}
			if err := onlyChunked(value); err != nil {
				return f, err
			}
			f.chunked = true
		case wire.KindConnection:
			for list := value; len(list) > 0; {
				var option []byte
				option, list = nextElement(list)
				f.close = f.close || wire.EqualFold(option, "close")
				f.upgrade = f.upgrade || wire.EqualFold(option, "upgrade")
				keepAlive = keepAlive || wire.EqualFold(option, "keep-alive")
			}
		}
	}
	if f.chunked && f.hasLength {
		return f, refuse(Framing, "there are both Content-Length and Transfer-Encoding; send one")
	}
	if f.chunked && minor == 0 {
		return f, refuse(Framing, "HTTP/1.0 has no Transfer-Encoding")
	}
	f.close = f.close || minor == 0 && !keepAlive
	return f, nil
}

// onlyChunked accepts a Transfer-Encoding of "chunked". A list of codings that
// are registered and end in it is honest but not understood; whatever else is
// there is meant for a parser that repairs it.
func onlyChunked(value []byte) error {
	if wire.EqualFold(value, "chunked") {
		return nil
	}
	for list := value; ; {
		var coding []byte
		coding, list = nextElement(list)
		switch {
		case list == nil && wire.EqualFold(coding, "chunked"):
			return refuse(UnsupportedCoding, "the only transfer coding understood is chunked")
		case wire.EqualFold(coding, "gzip"), wire.EqualFold(coding, "deflate"), wire.EqualFold(coding, "compress"),
			wire.EqualFold(coding, "x-gzip"), wire.EqualFold(coding, "x-compress"):
		default:
			return refuse(Framing, "the Transfer-Encoding is not chunked")
		}
	}
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
	if err := host(req); err != nil {
		return err
	}
	if err := target(req); err != nil {
		return err
	}
	if req.Body != wire.NoBody && (string(req.Method) == "TRACE" || string(req.Method) == "CONNECT") {
		return refuse(Framing, "a "+string(req.Method)+" request has no body")
	}
	if req.Header.HasKind(wire.KindExpect) {
		if err := expect(req); err != nil {
			return err
		}
	}
	if f.upgrade && req.Minor == 1 {
		req.Upgrade = req.Header.Value(wire.KindUpgrade)
	}
	return nil
}

// expect reads Expect (RFC 9110, section 10.1.1). One without a body to wait
// with, or in HTTP/1.0, means nothing, and some servers lose count of messages
// over it: it counts as one of the connection and is not handed on.
func expect(req *wire.Request) error {
	seen := false
	for i := range req.Header.Fields {
		f := &req.Header.Fields[i]
		if f.Kind != wire.KindExpect {
			continue
		}
		if seen || !wire.EqualFold(f.Value, "100-continue") {
			return refuse(BadExpectation, "the only expectation that can be met is 100-continue, once")
		}
		seen = true
		if req.Body == wire.NoBody || req.Minor == 0 {
			f.Kind = wire.KindListed
		} else {
			req.Expect = true
		}
	}
	return nil
}

// host reads Host (RFC 9112, section 3.2) into Authority.
func host(req *wire.Request) error {
	seen := false
	for i := range req.Header.Fields {
		if req.Header.Fields[i].Kind != wire.KindHost {
			continue
		}
		if seen {
			return refuse(BadHost, "there is more than one Host")
		}
		seen = true
		req.Authority = req.Header.Fields[i].Value
	}
	switch {
	case !seen && req.Minor == 1:
		return refuse(BadHost, "HTTP/1.1 needs a Host header field")
	case len(req.Authority) > 0 && !isAuthority(req.Authority):
		return refuse(BadHost, "the Host is not of the form name or name:port")
	}
	return nil
}

// target splits the request target into Authority and Path (RFC 9112, section 3.2).
func target(req *wire.Request) error {
	t := req.Target
	switch {
	case string(req.Method) == "CONNECT":
		if _, port := splitPort(t); !isAuthority(t) || len(port) == 0 {
			return refuse(BadTarget, "the target of CONNECT is not of the form name:port")
		}
		req.Authority = t
		return nil
	case t[0] == '/':
		req.Path = t
	case len(t) == 1 && t[0] == '*' && string(req.Method) == "OPTIONS":
		req.Path = t
	case wire.HasPrefixFold(t, "http://"):
		return absoluteTarget(req, t[len("http://"):])
	case wire.HasPrefixFold(t, "https://"):
		return refuse(BadTarget, "the request target is an https URL; ask the proxy for http:// or use CONNECT")
	default:
		return refuse(BadTarget, "the request target is neither a path nor an http:// URL")
	}
	if len(req.Authority) == 0 && req.Minor == 1 {
		return refuse(BadHost, "the Host is empty")
	}
	return nil
}

// absoluteTarget splits what follows http://. Its authority replaces that of
// Host (RFC 9112, section 3.2.2).
func absoluteTarget(req *wire.Request, rest []byte) error {
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	req.Authority, req.Path = rest[:end], rest[end:]
	switch {
	case !isAuthority(req.Authority):
		return refuse(BadTarget, "the request target names no host of the form name or name:port")
	case len(req.Path) == 0 && string(req.Method) == "OPTIONS":
		req.Path = asterisk
	case len(req.Path) == 0:
		req.Path = slash
	case req.Path[0] == '?':
		req.Path = append([]byte{'/'}, req.Path...)
	}
	return nil
}

var (
	slash    = []byte("/")
	asterisk = []byte("*")
)

// splitPort splits host:port at the last colon that is not part of an IPv6
// literal.
func splitPort(authority []byte) (host, port []byte) {
	i := bytes.LastIndexByte(authority, ':')
	if i < 0 || authority[len(authority)-1] == ']' {
		return authority, nil
	}
	return authority[:i], authority[i+1:]
}

// isAuthority accepts host or host:port without user information, which has no
// place in a request (RFC 9110, sections 4.2.4 and 7.2; RFC 3986, section 3.2).
func isAuthority(b []byte) bool {
	host, port := splitPort(b)
	if len(port) > 5 || len(host) == 0 {
		return false
	}
	n := 0
	for _, c := range port {
		if !isDigit(c) {
			return false
		}
		n = n*10 + int(c-'0')
	}
	if n > 65535 {
		return false
	}
	if host[0] == '[' {
		return isIPLiteral(host)
	}
	for i := 0; i < len(host); i++ {
		switch c := host[i]; {
		case class[c]&isHost != 0:
		case c == '%' && i+2 < len(host) && hexDigit[host[i+1]] != 0 && hexDigit[host[i+2]] != 0:
			i += 2
		default:
			return false
		}
	}
	return true
}

// isIPLiteral accepts what looks like an IPv6 address in brackets. Whether it is
// one is for whoever connects to say.
func isIPLiteral(b []byte) bool {
	if len(b) < 4 || b[len(b)-1] != ']' {
		return false
	}
	for _, c := range b[1 : len(b)-1] {
		if hexDigit[c] == 0 && c != ':' && c != '.' {
			return false
		}
	}
	return bytes.Count(b, []byte{':'}) >= 2
}

func responseSemantics(res *wire.Response, method []byte) error {
	if string(method) == "CONNECT" && res.Status/100 == 2 {
		return nil // a tunnel begins; RFC 9110, section 9.3.6, voids framing fields
	}
	f, err := bodyFields(&res.Header, res.Minor)
	if err != nil {
		return err
	}
	res.Close = f.close
	switch {
	case res.Status < 200:
		// What follows would be taken for the next head.
		if f.chunked || f.length > 0 {
			return refuse(Framing, "an interim response has a body")
		}
	case res.Status == 204 || res.Status == 304:
		// A server that breaks the rules of these may well send a body, too.
		res.Close = res.Close || f.chunked || res.Status == 204 && f.length > 0
	case string(method) == "HEAD":
	case f.chunked:
		res.Body = wire.Chunked
	case f.hasLength:
		res.Body, res.Length = wire.Fixed, f.length
	default:
		res.Body, res.Close = wire.UntilClose, true
	}
	return nil
}

func decimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// hexDigit maps hexadecimal digits to their value plus one, all else to 0.
var hexDigit = func() (t [256]byte) {
	for c := range byte(10) {
		t['0'+c] = c + 1
	}
	for c := range byte(6) {
		t['a'+c], t['A'+c] = c+11, c+11
	}
	return t
}()
