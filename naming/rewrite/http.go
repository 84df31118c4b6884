package rewrite

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
)

// rewriter is a namer that takes arguments apart: what it makes of them goes through the
// dtab again, before the elements that follow them.
type rewriter struct {
	args    int // how many it needs
	rewrite func(args []string, rest int) (naming.Path, bool)
}

// resolve is Neg for too few arguments, and for arguments that are not as they should be, so
// that an earlier rule may answer.
func (r rewriter) resolve(args naming.Path) naming.Resolution {
	if len(args) < r.args {
		return naming.Resolution{}
	}
	rest := args[r.args:]
	p, ok := r.rewrite(args[:r.args], len(rest))
	if !ok {
		return naming.Resolution{}
	}
	return naming.Resolution{Tree: naming.Leaf(append(p, rest...))}
}

// rewriterOf returns the rewriter of a name, without a function if there is none.
func rewriterOf(name string) rewriter {
	switch name {
	case "io.buoyant.hostportPfx":
		return rewriter{2, func(args []string, rest int) (naming.Path, bool) {
			host, port, ok := hostAndService(args[1])
			return path(rest, args[0], host, port), ok
		}}
	case "io.buoyant.porthostPfx":
		return rewriter{2, func(args []string, rest int) (naming.Path, bool) {
			host, port, ok := hostAndService(args[1])
			return path(rest, args[0], port, host), ok
		}}
	case "io.buoyant.http.anyMethod":
		return rewriter{1, func(args []string, rest int) (naming.Path, bool) {
			return path(rest), isMethod(args[0])
		}}
	case "io.buoyant.http.anyMethodPfx":
		return rewriter{2, func(args []string, rest int) (naming.Path, bool) {
			return path(rest, args[0]), isMethod(args[1])
		}}
	case "io.buoyant.http.anyHost":
		return rewriter{1, func(args []string, rest int) (naming.Path, bool) {
			return path(rest), isHost(args[0])
		}}
	case "io.buoyant.http.anyHostPfx":
		return rewriter{2, func(args []string, rest int) (naming.Path, bool) {
			return path(rest, args[0]), isHost(args[1])
		}}
	case "io.buoyant.http.subdomainOf":
		return rewriter{2, func(args []string, rest int) (naming.Path, bool) {
			sub, ok := subdomain(args[0], args[1])
			return path(rest, sub), ok
		}}
	case "io.buoyant.http.subdomainOfPfx":
		return rewriter{3, func(args []string, rest int) (naming.Path, bool) {
			sub, ok := subdomain(args[0], args[2])
			return path(rest, args[1], sub), ok
		}}
	case "io.buoyant.http.domainToPath":
		return rewriter{1, func(args []string, rest int) (naming.Path, bool) {
			return domain(path(rest), args[0])
		}}
	case "io.buoyant.http.domainToPathPfx":
		return rewriter{2, func(args []string, rest int) (naming.Path, bool) {
			return domain(path(rest, args[0]), args[1])
		}}
	}
	return rewriter{}
}

// path returns a path with room for more.
func path(room int, elements ...string) naming.Path {
	return append(make(naming.Path, 0, len(elements)+room), elements...)
}

// hostAndService splits host:port at its only colon. The port is that of a Service: a number or
// a name, of lower-case letters, digits and hyphens.
func hostAndService(s string) (host, port string, ok bool) {
	host, port, ok = strings.Cut(s, ":")
	if !ok || host == "" || port == "" || len(port) > 63 || port[0] == '-' {
		return "", "", false
	}
	for i := range len(port) {
		if c := port[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return "", "", false
		}
	}
	return host, port, true
}

func isMethod(s string) bool {
	for i := range len(s) {
		if s[i] < 'A' || s[i] > 'Z' {
			return false
		}
	}
	return s != ""
}

// isHost reports whether s may be a host, with a port or without. It is Linkerd's notion: the
// dots may be anywhere.
func isHost(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case c == '.', c == ':', c == '_', c == '-':
		default:
			return false
		}
	}
	return s != ""
}

// subdomain returns what host, without its port, has before domain. That is not empty.
func subdomain(domain, host string) (string, bool) {
	if !isHost(domain) || !isHost(host) {
		return "", false
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && isNumber(host[i+1:]) {
		host = host[:i]
	}
	sub, ok := strings.CutSuffix(host, domain)
	sub, dot := strings.CutSuffix(sub, ".")
	return sub, ok && dot && sub != "" && !strings.Contains(sub, ":")
}

func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// domain appends the labels of host to p, the last first. A port stays with its label. The
// dot of a complete name is no label.
func domain(p naming.Path, host string) (naming.Path, bool) {
	if !isHost(host) {
		return nil, false
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	if slices.Contains(labels, "") {
		return nil, false
	}
	slices.Reverse(labels)
	return append(p, labels...), true
}
