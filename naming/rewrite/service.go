package rewrite

import (
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
)

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
		return naming.Leaf(InetID(name, inetPort).Join(rest...))
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
		tree = append(tree, naming.Leaf(InetID(name, inetPort).Join(rest...)))
	}
	switch len(tree) {
	case 0:
		return naming.Neg
	case 1:
		return tree[0]
	}
	return tree
}

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
