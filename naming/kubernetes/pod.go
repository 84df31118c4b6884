package kubernetes

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// What the injector leaves on a pod.
const (
	labelMode              = "tulle.dev/mode"
	annotationIncomingPort = "tulle.dev/incoming-port"
	proxyContainer         = "tulle-proxy"
)

// pod is what matters of a Pod. It is immutable.
type pod struct {
	key      key
	uid      types.UID
	created  time.Time
	node     string
	ips      []string
	hostIPs  []string
	sharesIP bool // its IP is the node's
	ended    bool // its IP may already be another's

	hop      naming.Hop
	incoming string // port of its proxy, unless HopNone
	identity string // of its proxy, unless HopNone
}

func (x *Index) newPod(o *corev1.Pod) *pod {
	p := &pod{
		key:      key{Namespace: o.Namespace, Name: o.Name},
		uid:      o.UID,
		created:  o.CreationTimestamp.Time,
		node:     o.Spec.NodeName,
		sharesIP: o.Spec.HostNetwork,
		ended:    o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed,
	}
	if !p.ended {
		for _, ip := range o.Status.PodIPs {
			p.ips = append(p.ips, ip.IP)
		}
		if len(p.ips) == 0 && o.Status.PodIP != "" {
			p.ips = []string{o.Status.PodIP}
		}
	}
	for _, ip := range o.Status.HostIPs {
		p.hostIPs = append(p.hostIPs, ip.IP)
	}
	if len(p.hostIPs) == 0 && o.Status.HostIP != "" {
		p.hostIPs = []string{o.Status.HostIP}
	}
	switch mode := o.Labels[labelMode]; {
	case p.sharesIP:
		// No hop: connections are made to it as to a pod outside the mesh. A proxy on the
		// node knows by their IPs which pods it answers for, and behind the node's own
		// IP is everything that runs on the node's network, the proxy included; so it
		// refuses to pass anything on to that address.
	case mode == api.ModeSidecar:
		// The label is what was asked for, the container what was given.
		if hasProxy(o.Spec.Containers) || hasProxy(o.Spec.InitContainers) {
			p.hop = naming.HopSidecar
			p.incoming = strconv.Itoa(DefaultIncomingPort)
			p.identity = "spiffe://" + x.cfg.TrustDomain + "/ns/" + o.Namespace + "/sa/" + cmp.Or(o.Spec.ServiceAccountName, "default")
		}
	case mode == api.ModeHost:
		p.hop = naming.HopHost
		p.incoming = strconv.Itoa(x.cfg.HostIncomingPort)
		p.identity = x.cfg.HostProxyIdentity
	}
	if n, err := strconv.ParseUint(o.Annotations[annotationIncomingPort], 10, 16); err == nil && n > 0 && p.hop != naming.HopNone {
		p.incoming = strconv.FormatUint(n, 10)
	}
	return p
}

func hasProxy(containers []corev1.Container) bool {
	return slices.ContainsFunc(containers, func(c corev1.Container) bool { return c.Name == proxyContainer })
}

// equal may be called on nil.
func (p *pod) equal(q *pod) bool { return reflect.DeepEqual(p, q) }

// hostIP returns the node's address of the family of ip, or its first.
func (p *pod) hostIP(ip string) string {
	for _, host := range p.hostIPs {
		if isIPv6(host) == isIPv6(ip) {
			return host
		}
	}
	if len(p.hostIPs) > 0 {
		return p.hostIPs[0]
	}
	return ""
}

func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6()
}

// youngerFirst orders pods that claim one IP, as when a deletion is seen late: the first
// has it.
func youngerFirst(a, b *pod) int {
	return cmp.Or(b.created.Compare(a.created), cmp.Compare(a.key.String(), b.key.String()))
}

// podsOf lists the pods of a node that can be told by their IP, sorted by it. Pods that run
// on the node's own network cannot, which is why they have no hop either, and those that have
// ended no longer call anyone.
func (x *Index) podsOf(nodeName string) []api.Pod {
	var live []*pod
	for _, p := range x.byNode[nodeName] {
		if !p.sharesIP && !p.ended {
			live = append(live, p)
		}
	}
	slices.SortFunc(live, youngerFirst)
	pods := []api.Pod{} // not nil: known to be none
	for _, p := range live {
		for _, ip := range p.ips {
			pods = append(pods, api.Pod{IP: ip, Namespace: p.key.Namespace, Name: p.key.Name})
		}
	}
	slices.SortStableFunc(pods, func(a, b api.Pod) int { return cmp.Compare(a.IP, b.IP) })
	return slices.CompactFunc(pods, func(a, b api.Pod) bool { return a.IP == b.IP })
}
