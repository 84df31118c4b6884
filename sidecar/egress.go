package sidecar

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"github.com/tulle-mesh/tulle/internal/metadata"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/dns"
)

// egress returns the rule for addresses that a name of DNS, or an address that
// an application wrote itself, leads to, for a proxy that takes requests at these
// addresses of its own. A proxy must not lend its place in the network: not to what
// listens on its own loopback, on a node the kubelet among others, and not to a
// cloud's metadata. Nor must it call itself for ever.
//
// A proxy that is there for its own machine only may go to the loopback, which its
// callers reach without it.
func egress(podIP string, machineOnly bool, listens ...string) func(netip.AddrPort) error {
	self, _ := netip.ParseAddr(podIP)
	here := map[netip.Addr]bool{self.Unmap(): true}
	ports := map[uint16]bool{}
	for _, address := range listens {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			continue
		}
		if a, err := netip.ParseAddr(host); err == nil {
			here[a.Unmap()] = true
		}
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			ports[uint16(n)] = true
		}
	}
	return func(a netip.AddrPort) error {
		ip := a.Addr()
		switch {
		case here[ip] && ports[a.Port()]:
			return fmt.Errorf("%s is the proxy itself", a)
		case ip.IsLoopback() && !machineOnly || ip.IsUnspecified() || ip.IsMulticast():
			return fmt.Errorf("the proxy does not go to %s: loopback addresses belong to the machine that asks, and multicast to nobody", ip)
		}
		return metadata.Refuse(ip)
	}
}

// egress returns the rule of this proxy; it is not asked before New is done. Whoever
// wrote an address into the rules of a standalone proxy means it.
func (p *Proxy) egress() func(netip.AddrPort) error {
	rule := sync.OnceValue(func() func(netip.AddrPort) error {
		listens, machineOnly := []string{}, p.mesh == nil
		for _, r := range p.routes {
			for _, l := range r.servers {
				listens = append(listens, l.address)
				machineOnly = machineOnly && onLoopback(l.address)
			}
		}
		if p.mesh != nil {
			listens = append(listens, p.cfg.Incoming)
		}
		return egress(p.cfg.PodIP, machineOnly, listens...)
	})
	return func(a netip.AddrPort) error {
		if p.mesh == nil {
			for _, r := range p.routes {
				if slices.ContainsFunc(r.dtab(), func(d naming.Dentry) bool { return writes(d.Dst, a) }) {
					return nil
				}
			}
		}
		return rule()(a)
	}
}

// writes reports whether the address is written in t.
func writes(t naming.Tree, a netip.AddrPort) bool {
	switch t := t.(type) {
	case naming.Leaf:
		if len(t) < 4 || t[0] != "$" {
			return false
		}
		host, port := t[2], t[3]
		switch t[1] {
		case "inet":
		case "io.buoyant.rinet":
			host, port = port, host
		default:
			return false
		}
		ip, err := dns.Literal(host)
		return port == strconv.Itoa(int(a.Port())) && (err == nil && ip.Unmap() == a.Addr() || host == "localhost" && a.Addr().IsLoopback())
	case naming.Alt:
		return slices.ContainsFunc(t, func(t naming.Tree) bool { return writes(t, a) })
	case naming.Union:
		return slices.ContainsFunc(t, func(w naming.Weighted) bool { return writes(w.Tree, a) })
	}
	return false
}

// own returns the rule for the endpoints of a sidecar: those at the addresses of
// its pod, of which a pod with two families has more than one.
func own(podIP string) func(context.Context, string) bool {
	addresses := map[string]bool{podIP: true}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		interfaces = nil // the pod's first address is known
	}
	for _, a := range interfaces {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			addresses[n.IP.String()] = true
		}
	}
	return func(_ context.Context, ip string) bool { return addresses[ip] }
}
