// Package rewrite holds the namers that are built in: those under /$/, which need to know
// nothing of the world, and the shape of the names of Kubernetes Services.
//
// It turns paths into trees and ids. It does not look anything up: what is known about an
// id is for the caller to say, who has it from the namer or from DNS.
//
// Invariant: an answer depends on the path alone, but for Kubernetes names, whose state
// the caller gives.
//
//	/$/dev.tulle.service/shop/cart       → /#/io.l5d.k8s/shop/80/cart | /#/io.l5d.k8s/shop/http/cart
//	/$/dev.tulle.service/shop/cart.eu:81 → /#/io.l5d.k8s/eu/81/cart | /$/inet/cart.eu/81
//	/$/inet/db.test/5432                 → bound, for DNS to resolve
//	/$/nil, /$/fail                      → $, !
package rewrite

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

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
)

// maxFileElements bounds the directories that a name may lead through, since
// each costs a question.
const maxFileElements = 8

// Resolver returns the resolver of a proxy: Resolve for /$/ names, and for the names of
// Kubernetes Services and of files what state says of their id. Everything else is Neg.
//
// A name under /$/inet is bound at once and its state not asked for: that a host does not
// resolve is no reason to try an alternative.
//
// Of a path under /#/io.l5d.fs, the id is as long as the path of the file is: state is asked
// for one element, then for two, until it knows a file; the others are residual.
func Resolver(state func(id naming.Path) naming.Replicas) naming.Resolver {
	return func(p naming.Path) naming.Resolution {
		if bound, ok := Kubernetes(p); ok {
			return ask(bound, state)
		}
		elements, ok := File(p)
		if !ok {
			return Resolve(p)
		}
		for n := range min(len(elements), maxFileElements) {
			end := len(p) - len(elements) + n + 1
			r := ask(naming.Bound{ID: p[:end:end], Residual: p[end:]}, state)
			if r != (naming.Resolution{}) {
				return r
			}
		}
		return naming.Resolution{}
	}
}

func ask(bound naming.Bound, state func(id naming.Path) naming.Replicas) naming.Resolution {
	switch r := state(bound.ID); r.State {
	case naming.StateNeg:
		return naming.Resolution{}
	case naming.StateBound:
		return naming.Resolution{Bound: &bound}
	case naming.StateFailed:
		return naming.Resolution{Err: fmt.Errorf("resolve %s: %s", bound.ID, r.Cause)}
	}
	return naming.Resolution{Pending: true}
}

// File returns the elements of a name /#/io.l5d.fs/<element>[/element…]. It is false for
// other names and for the namer's own.
func File(p naming.Path) (elements naming.Path, ok bool) {
	if len(p) < 3 || p[0] != configured || p[1] != files {
		return nil, false
	}
	return p[2:], true
}

// Kubernetes splits a name /#/io.l5d.k8s/<namespace>/<port>/<service>[/rest] into its id, which
// is lower case, and the rest. It is false for other names and for names too short.
func Kubernetes(p naming.Path) (naming.Bound, bool) {
	const parts = 5
	if len(p) < parts || p[0] != configured || p[1] != kubernetes {
		return naming.Bound{}, false
	}
	return naming.Bound{
		ID:       KubernetesID(strings.ToLower(p[2]), strings.ToLower(p[3]), strings.ToLower(p[4])),
		Residual: p[parts:],
	}, true
}

// KubernetesID returns /#/io.l5d.k8s/<namespace>/<port>/<name>. The port is a number of the
// Service or the name of a port.
func KubernetesID(namespace, port, name string) naming.Path {
	return naming.Path{configured, kubernetes, namespace, port, name}
}

// Inet returns the host and the port that the id /$/inet/<host>/<port> stands for. It is false
// for everything that is not such an id, longer names included.
func Inet(id naming.Path) (host string, port uint16, ok bool) {
	if len(id) != 4 || id[0] != builtIn || id[1] != inet {
		return "", 0, false
	}
	port, ok = parsePort(id[3])
	return id[2], port, ok
}

// Resolve answers for names under /$/; other names are Neg. A namer that does not exist is
// an error, so that a slip in a rule does not silently fall through to the next.
func Resolve(p naming.Path) naming.Resolution {
	if len(p) < 2 || p[0] != builtIn {
		return naming.Resolution{}
	}
	switch namer, args := p[1], p[2:]; {
	case namer == "nil":
		return naming.Resolution{Tree: naming.Empty}
	case namer == "fail":
		return naming.Resolution{Tree: naming.Fail}
	case namer == inet && len(args) >= 2 && isPort(args[1]):
		return naming.Resolution{Bound: &naming.Bound{ID: p[:4:4], Residual: p[4:]}}
	case namer == inet && len(args) >= 1 && isPort(args[0]): // the host is this one
		return naming.Resolution{Bound: &naming.Bound{ID: inetID("127.0.0.1", args[0]), Residual: args[1:]}}
	case namer == Service && len(args) >= 2:
		return naming.Resolution{Tree: host(args[0], args[1], args[2:])}
	case namer == Service: // too short to name anything
		return naming.Resolution{}
	}
	return naming.Resolution{Err: fmt.Errorf("Unknown namer: %s for path: %s", p[1], p)} //lint:ignore ST1005 the text is Linkerd's
}

// host returns what a Host header means to a caller in the given namespace.
func host(namespace, hostport string, rest naming.Path) naming.Tree {
	name, port, ok := splitHostPort(strings.ToLower(hostport))
	if !ok {
		return naming.Neg
	}
	inetPort := port
	if port == "" {
		inetPort = "80"
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return naming.Leaf(inetID(name, inetPort).Join(rest...))
	}
	var tree naming.Alt
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	if svc, ns, ok := kubernetesName(labels, strings.ToLower(namespace)); ok {
		ports := []string{port}
		if port == "" {
			// The Service that a plain http://svc reaches through DNS has port 80; a
			// Linkerd 1.x dtab finds it by the name of its port.
			ports = []string{"80", "http"}
		}
		for _, port := range ports {
			tree = append(tree, naming.Leaf(KubernetesID(ns, port, svc).Join(rest...)))
		}
	}
	if len(labels) > 1 {
		tree = append(tree, naming.Leaf(inetID(name, inetPort).Join(rest...)))
	}
	switch len(tree) {
	case 0:
		return naming.Neg
	case 1:
		return tree[0]
	}
	return tree
}

func inetID(host, port string) naming.Path { return naming.Path{builtIn, inet, host, port} }

// kubernetesName reads svc, svc.ns, svc.ns.svc and svc.ns.svc.cluster.local.
func kubernetesName(labels []string, namespace string) (svc, ns string, ok bool) {
	svc, ns = labels[0], namespace
	switch {
	case len(labels) == 1:
	case len(labels) == 2,
		len(labels) == 3 && labels[2] == "svc",
		len(labels) == 5 && labels[2] == "svc" && labels[3] == "cluster" && labels[4] == "local":
		ns = labels[1]
	default:
		return "", "", false
	}
	return svc, ns, IsLabel(svc) && IsLabel(ns)
}

// splitHostPort splits host, host:port, [v6], [v6]:port and a bare v6 address. The port is
// empty if there is none; it is false if there is one that is no port, or no host.
func splitHostPort(s string) (host, port string, ok bool) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", false
		}
		// Only an address with colons is written in brackets.
		if a, err := netip.ParseAddr(s[1:end]); err != nil || !a.Is6() {
			return "", "", false
		}
		host, s = s[1:end], s[end+1:]
		if s == "" {
			return host, "", true
		}
		return host, s[1:], s[0] == ':' && isPort(s[1:])
	}
	switch strings.Count(s, ":") {
	case 0:
		return s, "", s != ""
	case 1:
		host, port, _ = strings.Cut(s, ":")
		return host, port, host != "" && isPort(port)
	}
	_, err := netip.ParseAddr(s)
	return s, "", err == nil
}

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
