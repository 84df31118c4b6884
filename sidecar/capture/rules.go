package capture

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/metadata"
)

// Table is the name of the nftables tables, one of ip and one of ip6.
const Table = "tulle"

// Priority is the socket priority (SO_PRIORITY, socket(7)) that marks the proxy's own
// connections. Everybody may set 0 to 6; this one is served like 0 wherever a queue
// looks at it, and no common option of an application sets it.
const Priority = 4

// Rules say which connections of a pod are redirected: those of TCP that leave it,
// except for the proxy's own, those to the ports in Skip, and those to addresses
// that belong to the machine: loopback, link-local, metadata.
type Rules struct {
	Port uint16 // of the proxy, on the loopback of either family
	UID  uint32 // of the proxy; only its connections that are marked pass
	Skip Ports
}

// Validate reports what is wrong with r.
func (r Rules) Validate() error {
	var errs []error
	if r.Port == 0 {
		errs = append(errs, errors.New("there is no port to redirect to"))
	}
	if r.UID == 0 {
		errs = append(errs, errors.New("the proxy cannot run as root: whoever is root in the pod would pass by it"))
	}
	if len(r.Skip) > maxRanges {
		errs = append(errs, fmt.Errorf("there are %d ranges of ports to skip, more than %d", len(r.Skip), maxRanges))
	}
	return errors.Join(errs...)
}

// maxRanges bounds the rules that each new connection passes.
const maxRanges = 256

// near returns the addresses of a family to which nothing is redirected.
func near(v6 bool) []netip.Prefix {
	all := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	all = append(all, metadata.Prefixes()...)
	var family []netip.Prefix
	for _, p := range all {
		if p.Addr().Is6() == v6 {
			family = append(family, p)
		}
	}
	return family
}
