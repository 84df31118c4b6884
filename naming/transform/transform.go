// Package transform holds what transformers do to a replica set: replace its endpoints by
// the proxies on their nodes, keep some of them, or change their port.
//
// It is functions of replica sets and nothing else. Which apply to which name, and what the
// ids are then called, is package registry's business.
//
// Invariant: only bound replica sets are changed; what is pending, Neg or failed stays so. A
// bound set of which nothing is left is Neg, which is no reason to try an alternative: by then
// the name is bound.
//
//	local := transform.Local(replicas, transform.Place{Node: "node-a"}, false)
//	viaProxies := transform.Proxies(replicas, proxies, false)
package transform

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/naming"
)

// Place is where something runs. Either field may be unknown: empty.
type Place struct {
	Node string
	IP   netip.Addr
}

// SameNode reports whether two places are on one node: by the name of the node, if both are
// known. Otherwise they are not, unless bySubnet says that every node has one /24 network of
// IPv4 addresses, and both addresses are in the same. Two unknown nodes are not the same.
func SameNode(a, b Place, bySubnet bool) bool {
	if a.Node != "" && b.Node != "" {
		return a.Node == b.Node
	}
	if !bySubnet {
		return false
	}
	network, ok := subnet(a.IP)
	return ok && network.Contains(b.IP.Unmap())
}

func subnet(ip netip.Addr) (netip.Prefix, bool) {
	ip = ip.Unmap()
	if !ip.Is4() {
		return netip.Prefix{}, false
	}
	network, err := ip.Prefix(24)
	return network, err == nil
}

// Proxies replaces the endpoints of r by those of proxies that run on their nodes. A proxy is
// there once, however many endpoints are on its node, and has the weight that it has among the
// proxies: it shares requests out by itself. While nothing is known of the proxies, nothing is
// known of the result.
func Proxies(r, proxies naming.Replicas, bySubnet bool) naming.Replicas {
	if r.State != naming.StateBound || len(r.Endpoints) == 0 {
		return r
	}
	if proxies.State == naming.StateFailed {
		proxies.Cause = "the proxies of the nodes: " + proxies.Cause
	}
	if len(proxies.Endpoints) == 0 && proxies.State == naming.StateBound {
		proxies.State = naming.StateNeg
	}
	nodes := map[string]bool{}
	var networks, nameless map[netip.Prefix]bool // of all endpoints, of those on unknown nodes
	if bySubnet {
		networks, nameless = map[netip.Prefix]bool{}, map[netip.Prefix]bool{}
	}
	for _, e := range r.Endpoints {
		nodes[e.Node] = true
		if network, ok := subnet(address(e).Addr()); ok && bySubnet {
			networks[network] = true
			if e.Node == "" {
				nameless[network] = true
			}
		}
	}
	return keep(proxies, func(p naming.Endpoint) bool {
		if p.Node != "" && nodes[p.Node] {
			return true
		}
		network, ok := subnet(address(p).Addr())
		if p.Node != "" {
			return ok && nameless[network]
		}
		return ok && networks[network]
	})
}

// Local keeps the endpoints that run on the node of here.
func Local(r naming.Replicas, here Place, bySubnet bool) naming.Replicas {
	return keep(r, func(e naming.Endpoint) bool {
		return SameNode(here, Place{Node: e.Node, IP: address(e).Addr()}, bySubnet)
	})
}

// Hosts keeps the endpoints at addresses that want accepts.
func Hosts(r naming.Replicas, want func(netip.Addr) bool) naming.Replicas {
	return keep(r, func(e naming.Endpoint) bool { return want(address(e).Addr()) })
}

// Port puts all endpoints on one port. Of those that have the same address then, the first
// stays. A proxy in front of an endpoint stays where it is.
func Port(r naming.Replicas, port uint16) naming.Replicas {
	if len(r.Endpoints) == 0 {
		return r
	}
	moved := make([]naming.Endpoint, len(r.Endpoints))
	for i, e := range r.Endpoints {
		if a := address(e); a.IsValid() {
			e.Address = netip.AddrPortFrom(a.Addr(), port).String()
		}
		moved[i] = e
	}
	return naming.Of(moved...)
}

// keep returns r with those endpoints that are wanted. r itself may be returned.
func keep(r naming.Replicas, wanted func(naming.Endpoint) bool) naming.Replicas {
	if r.State != naming.StateBound || len(r.Endpoints) == 0 {
		return r
	}
	var kept []naming.Endpoint
	for _, e := range r.Endpoints {
		if wanted(e) {
			kept = append(kept, e)
		}
	}
	switch len(kept) {
	case 0:
		return naming.Replicas{State: naming.StateNeg}
	case len(r.Endpoints):
		return r
	}
	return naming.Replicas{State: naming.StateBound, Endpoints: kept} // in order as they were
}

// address returns the address of an endpoint, invalid if it has none that can be read.
func address(e naming.Endpoint) netip.AddrPort {
	a, err := netip.ParseAddrPort(e.Address)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
