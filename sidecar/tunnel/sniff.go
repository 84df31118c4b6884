package tunnel

import "bytes"

// Kind is what the first bytes of a connection are.
type Kind uint8

// The kinds.
const (
	NeedMore Kind = iota // too few bytes to tell
	Unknown              // none of those below
	HTTP1                // an HTTP/1 request, well-formed or not
	HTTP2                // the preface of HTTP/2 without TLS
	TLS                  // a TLS ClientHello
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case NeedMore:
		return "too few bytes"
	case HTTP1:
		return "HTTP/1"
	case HTTP2:
		return "HTTP/2"
	case TLS:
		return "TLS"
	}
	return "unknown"
}

// MaxSniff is how many bytes Sniff needs at most: given as many or more it
// never returns NeedMore. A ClientHello with post-quantum keys and a session
// ticket is a quarter of it.
const MaxSniff = 8 << 10

// preface begins every connection of HTTP/2 (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Sniff tells what a client speaks from the first bytes it sends, and for TLS
// the server name it asks for, in the case it wrote it, or nil if it names none.
// The name may share memory with first.
//
// The answer comes as soon as no further byte can change it. It is HTTP1 when
// the first line is a method, a space and something that ends in the version,
// or is longer than MaxSniff: SSH, SMTP, Redis and Memcached begin with words
// too, so a word does not do. Of what is no client's first word, Sniff says
// Unknown; but the clients of protocols in which the server speaks first (SMTP,
// MySQL) send nothing, so whoever waits for more must not wait for ever.
func Sniff(first []byte) (Kind, []byte) {
	first = first[:min(len(first), MaxSniff)]
	switch {
	case len(first) == 0:
		return NeedMore, nil
	case first[0] == recordHandshake:
		return sniffTLS(first)
	case bytes.HasPrefix(first, []byte(preface)):
		return HTTP2, nil
	case bytes.HasPrefix([]byte(preface), first):
		return NeedMore, nil
	}
	return sniffRequest(first), nil
}

// maxMethod is how long a method may be; the longest that is registered,
// UPDATEREDIRECTREF, has 17 letters.
const maxMethod = 32

func sniffRequest(first []byte) Kind {
	rest := first
	// Servers are to skip an empty line before a request (RFC 9112, section 2.2).
	for range 2 {
		if len(rest) > 0 && rest[0] == '\r' {
			if rest = rest[1:]; len(rest) > 0 && rest[0] != '\n' {
				return Unknown
			}
		}
		if len(rest) > 0 && rest[0] == '\n' {
			rest = rest[1:]
		}
	}
	method := 0
	for method < len(rest) && isToken(rest[method]) {
		method++
	}
	switch {
	case method > maxMethod:
		return Unknown
	case method == len(rest):
		return NeedMore
	case method == 0 || rest[method] != ' ':
		return Unknown
	}
	for i, c := range rest[method:] {
		switch {
		case c == '\n':
			line := bytes.TrimSuffix(rest[:method+i], []byte("\r"))
			if endsInVersion(line) {
				return HTTP1
			}
			return Unknown
		case c < ' ' && c != '\r' || c >= 0x7f:
			return Unknown // no target has it, and the codec would refuse it
		}
	}
	if len(first) == MaxSniff {
		return HTTP1 // for the codec to answer that the target is too long
	}
	return NeedMore
}

// endsInVersion reports whether a line ends as request lines do.
func endsInVersion(line []byte) bool {
	n := len(line) - len("HTTP/1.1")
	return n > 0 && line[n-1] == ' ' && string(line[n:n+5]) == "HTTP/" &&
		isDigit(line[n+5]) && line[n+6] == '.' && isDigit(line[n+7])
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isToken reports whether c may be part of a method (RFC 9110, section 5.6.2).
func isToken(c byte) bool {
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
