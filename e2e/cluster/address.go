package cluster

import (
	"errors"
	"net"
	"net/netip"
)

// OwnAddress returns an IPv4 address of this machine that endpoints of a Service may have, which loopback's may not. So
// an API server that runs here without nodes can reach programs beside it through a Service.
func OwnAddress() (netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("this machine has no IPv4 address but loopback's, and Services may not lead there")
}
