// Package rewrite holds the namers that are built in: those under /$/, which need to know
// nothing of the world, and the shape of the names of Kubernetes Services.
//
// It turns paths into trees and ids. It does not look anything up: what is known about an
// id is for others to say; package registry puts them together.
//
// Invariant: an answer depends on the path alone.
//
//	/$/dev.tulle.service/shop/cart       → /#/io.l5d.k8s/shop/80/cart | /#/io.l5d.k8s/shop/http/cart
//	/$/dev.tulle.service/shop/cart.eu:81 → /#/io.l5d.k8s/eu/81/cart | /$/inet/cart.eu/81
//	/$/inet/db.test/5432                 → bound, for DNS to resolve
//	/$/io.buoyant.rinet/5432/db.test     → bound likewise
//	/$/io.buoyant.porthostPfx/dns/a.test:81        → /dns/81/a.test
//	/$/io.buoyant.http.domainToPathPfx/web/a.test  → /web/test/a
//	/$/nil, /$/fail                      → $, !
package rewrite

import (
	"fmt"
	"strconv"

	"github.com/tulle-mesh/tulle/naming"
)

// Service is the namer of Hosts: /$/dev.tulle.service/<caller's namespace>/<host>[:port].
const Service = "dev.tulle.service"

// Elements that names begin with.
const (
	builtIn    = "$"
	configured = "#"
	kubernetes = "io.l5d.k8s"
	files      = "io.l5d.fs"
	inet       = "inet"
	rinet      = "io.buoyant.rinet"
)

// File returns the elements of a name /#/io.l5d.fs/<element>[/element…]. It is false for
// other names and for the namer's own.
func File(p naming.Path) (elements naming.Path, ok bool) {
	if len(p) < 3 || p[0] != configured || p[1] != files {
		return nil, false
	}
	return p[2:], true
}

// KubernetesID returns /#/io.l5d.k8s/<namespace>/<port>/<name>. The port is a number of the
// Service or the name of a port.
func KubernetesID(namespace, port, name string) naming.Path {
	return naming.Path{configured, kubernetes, namespace, port, name}
}

// Inet returns the host and the port that the id /$/inet/<host>/<port> stands for, or
// /$/io.buoyant.rinet/<port>/<host>. It is false for everything that is not such an id, longer
// names included.
func Inet(id naming.Path) (host string, port uint16, ok bool) {
	if len(id) != 4 || id[0] != builtIn {
		return "", 0, false
	}
	switch host, number := id[2], id[3]; id[1] {
	case rinet:
		host, number = number, host
		fallthrough
	case inet:
		port, ok = parsePort(number)
		return host, port, ok
	}
	return "", 0, false
}

// Resolve answers for names under /$/; other names are Neg, and so are names too short for
// their namer. A namer that does not exist is an error, so that a slip in a rule does not
// silently fall through to the next; so is an address without a port that is a number.
func Resolve(p naming.Path) naming.Resolution {
	if len(p) < 2 || p[0] != builtIn {
		return naming.Resolution{}
	}
	switch args := p[2:]; p[1] {
	case "nil":
		return naming.Resolution{Tree: naming.Empty}
	case "fail":
		return naming.Resolution{Tree: naming.Fail}
	case inet:
		switch {
		case len(args) >= 2 && isPort(args[1]):
			return naming.Resolution{Bound: &naming.Bound{ID: p[:4:4], Residual: p[4:]}}
		case len(args) >= 1 && isPort(args[0]): // the host is this one
			return naming.Resolution{Bound: &naming.Bound{ID: InetID("127.0.0.1", args[0]), Residual: args[1:]}}
		}
	case rinet:
		switch {
		case len(args) < 2:
			return naming.Resolution{}
		case isPort(args[0]):
			return naming.Resolution{Bound: &naming.Bound{ID: p[:4:4], Residual: p[4:]}}
		}
	case Service:
		if len(args) < 2 { // too short to name anything
			return naming.Resolution{}
		}
		return naming.Resolution{Tree: host(args[0], args[1], args[2:])}
	default:
		if rewriter := rewriterOf(p[1]); rewriter.rewrite != nil {
			return rewriter.resolve(args)
		}
	}
	return naming.Resolution{Err: fmt.Errorf("Unknown namer: %s for path: %s", p[1], p)} //lint:ignore ST1005 the text is Linkerd's
}

// InetID returns /$/inet/<host>/<port>.
func InetID(host, port string) naming.Path { return naming.Path{builtIn, inet, host, port} }

// parsePort reads a decimal number from 1 to 65535, without leading zeros so that one port has
// one name.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0 && s[0] != '0'
}

func isPort(s string) bool {
	_, ok := parsePort(s)
	return ok
}

// IsLabel reports whether s may be the name of a Service or namespace: an RFC 1123 label,
// in lower case.
func IsLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
