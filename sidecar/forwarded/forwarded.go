// Package forwarded writes the header Forwarded (RFC 7239), by which a proxy says
// for whom it forwards a request, and how much of that it tells is up to whoever
// runs it.
//
// It adds one element and looks at none that came: those are the word of whoever
// sent them. No X-Forwarded-For is made.
//
// Invariant: what is written is one element by the grammar of the RFC, whatever
// the request's host is.
//
//	l := forwarded.Labels{By: forwarded.Label{Kind: forwarded.IP}}
//	value = l.AppendTo(value[:0], &forwarded.Hop{Local: local, Remote: remote, Host: host})
//	// by=192.0.2.1;for=_5f0c2ab81d3e4f60;host=cart
package forwarded

import (
	"math/rand/v2"
	"net/netip"
)

// Header is the name of the field.
const Header = "Forwarded"

// Kind is how an end of a connection is called.
type Kind uint8

// The kinds, by the names that Linkerd 1.x gives them.
const (
	RequestRandom    Kind = iota // requestRandom: another name for each request
	ConnectionRandom             // connectionRandom: one name as long as the connection lasts
	IP                           // ip: the address
	IPPort                       // ip:port: the address and the port
	Router                       // router: the name of the router
	Static                       // static: a name that was chosen for it
)

// Label is how one end is called. The zero value is RequestRandom.
type Label struct {
	Kind Kind
	Text string // of Static: one or more letters, digits, ".", "_" or "-"
}

// Labels are how both ends are called. It is immutable, comparable and safe for
// concurrent use; the zero value tells nobody anything.
type Labels struct {
	By  Label // the proxy, where the request came in
	For Label // whoever sent it
}

// Hop is one request as the proxy has received it.
type Hop struct {
	Local, Remote netip.AddrPort // the ends of the connection; unknown if not valid
	Router        string         // as Label.Text; of any name by Text
	Connection    [2]uint64      // random numbers, the same as long as the connection lasts
	Host          []byte         // that the request is for; not said if empty
	HTTPS         bool           // the request's target is an https URL
}

// Text returns a name in the characters that a label may have (RFC 7239, section 6.3),
// one for each byte.
func Text(name string) string {
	if name == "" {
		return "-"
	}
	b := []byte(name)
	for i, c := range b {
		if !isLabel(c) {
			b[i] = '-'
		}
	}
	return string(b)
}

// AppendTo appends the element for a request to b.
func (l *Labels) AppendTo(b []byte, h *Hop) []byte {
	b = append(b, "by="...)
	b = l.By.appendTo(b, h, h.Local, h.Connection[0])
	b = append(b, ";for="...)
	b = l.For.appendTo(b, h, h.Remote, h.Connection[1])
	if len(h.Host) > 0 {
		b = append(b, ";host="...)
		b = appendValue(b, h.Host)
	}
	if h.HTTPS {
		b = append(b, ";proto=https"...)
	}
	return b
}

func (l *Label) appendTo(b []byte, h *Hop, end netip.AddrPort, connection uint64) []byte {
	switch l.Kind {
	case RequestRandom:
		return appendHidden(b, rand.Uint64())
	case ConnectionRandom:
		return appendHidden(b, connection)
	case Router:
		return append(append(b, '_'), h.Router...)
	case Static:
		return append(append(b, '_'), l.Text...)
	}
	if !end.IsValid() {
		return append(b, "unknown"...)
	}
	addr := end.Addr().Unmap().WithZone("") // a zone means nothing elsewhere
	switch {
	case l.Kind == IPPort:
		b = append(b, '"')
		b = netip.AddrPortFrom(addr, end.Port()).AppendTo(b)
		return append(b, '"')
	case addr.Is6():
		b = append(b, `"[`...)
		b = addr.AppendTo(b)
		return append(b, `]"`...)
	}
	return addr.AppendTo(b)
}

// appendHidden appends an obfuscated identifier (RFC 7239, section 6.3).
func appendHidden(b []byte, id uint64) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '_')
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[id>>shift&15])
	}
	return b
}

// appendValue appends a value, quoted if it is no token (RFC 9110, section 5.6).
func appendValue(b, value []byte) []byte {
	token := true
	for _, c := range value {
		token = token && isToken(c)
	}
	if token {
		return append(b, value...)
	}
	b = append(b, '"')
	for _, c := range value {
		if c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return append(b, '"')
}

func isToken(c byte) bool {
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '^', '`', '|', '~':
		return true
	}
	return isLabel(c)
}

func isLabel(c byte) bool {
	switch {
	case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		return true
	}
	return c == '-' || c == '.' || c == '_'
}
