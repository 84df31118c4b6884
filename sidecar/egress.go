package sidecar

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// metadata are the addresses, beside the link-local ones, where clouds answer
// with credentials and settings of whoever asks; through a host proxy that would
// be the node.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("fd00:ec2::/32"),      // AWS over IPv6
}

// egress returns the rule for addresses that a name of DNS, or an address that
// an application wrote itself, leads to. A proxy must not lend its place in the
// network: not to what listens on its own loopback, on a node the kubelet among
// others, and not to a cloud's metadata. Nor must it call itself for ever.
//
// A standalone proxy that listens on loopback serves its own machine only, which
// reaches its loopback without it.
func (c *Config) egress() func(netip.AddrPort) error {
	self, _ := netip.ParseAddr(c.PodIP) // Validate has looked
	loops := map[netip.AddrPort]bool{}
	local := false
	if a, err := netip.ParseAddrPort(c.Outgoing); err == nil && c.Mode == ModeStandalone {
		local = a.Addr().IsLoopback()
		loops[a] = true
	}
	for _, address := range []string{c.Outgoing, c.Incoming} {
		if _, port, err := net.SplitHostPort(address); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				loops[netip.AddrPortFrom(self.Unmap(), uint16(n))] = true
			}
		}
	}
	return func(a netip.AddrPort) error {
		ip := a.Addr()
		bad := ip.IsLoopback() && !local || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast()
		for _, m := range metadata {
			bad = bad || m.Contains(ip)
		}
		switch {
		case loops[a]:
			return fmt.Errorf("%s is the proxy itself", a)
		case bad:
			return fmt.Errorf("the proxy does not go to %s: loopback, link-local and metadata addresses belong to the machine that asks", ip)
		}
		return nil
	}
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
