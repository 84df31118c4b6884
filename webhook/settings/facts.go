package settings

import (
	"cmp"
	"iter"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
)

// Facts is what the nodes of a cluster decide where settings say "auto". The zero Facts are those of nodes with IPv4
// addresses whose kubelets know sidecars, the common case.
type Facts struct {
	// HostAddress is hostIP if all nodes have an IPv4 address first, hostIPv6 if all have an IPv6 address first, and
	// service if they differ; empty for hostIP.
	HostAddress string
	// Classic is whether a kubelet is older than 1.29, which first knew sidecars without being asked.
	Classic bool
}

// Node is what counts of one node.
type Node struct {
	// IPv6 is whether its first internal address, the one a pod is told as status.hostIP, is of IPv6.
	IPv6 bool
	// Classic is whether its kubelet does not know sidecars.
	Classic bool
}

// Words for a host address.
const (
	hostIP      = "hostIP"
	hostIPv6    = "hostIPv6"
	hostService = "service"
)

// NodeOf returns what counts of a node. A node without an internal address counts as one of IPv4, and one whose kubelet
// does not say its version as new: neither runs pods yet. A node of Windows counts not at all, ok is false.
func NodeOf(n *corev1.Node) (node Node, ok bool) {
	if cmp.Or(n.Labels[corev1.LabelOSStable], n.Status.NodeInfo.OperatingSystem) == "windows" {
		return Node{}, false // no pod there is injected
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			ip, err := netip.ParseAddr(a.Address)
			node.IPv6 = err == nil && ip.Is6() && !ip.Is4In6()
			break
		}
	}
	if v, err := version.ParseGeneric(n.Status.NodeInfo.KubeletVersion); err == nil {
		node.Classic = v.LessThan(version.MajorMinor(1, 29))
	}
	return node, true
}

// Survey returns the facts of these nodes.
func Survey(nodes iter.Seq[Node]) Facts {
	var f Facts
	for n := range nodes {
		address := hostIP
		if n.IPv6 {
			address = hostIPv6
		}
		if f.HostAddress != "" && f.HostAddress != address {
			address = hostService
		}
		f.HostAddress = address
		f.Classic = f.Classic || n.Classic
	}
	return f
}

// Resolve returns s with every "auto" replaced by what the facts decide.
func (s Settings) Resolve(f Facts) Settings {
	if s.Inject.HostAddress == Auto {
		s.Inject.HostAddress = cmp.Or(f.HostAddress, hostIP)
	}
	if s.Inject.NativeSidecar == Auto {
		s.Inject.NativeSidecar = strconv.FormatBool(!f.Classic)
	}
	return s
}
