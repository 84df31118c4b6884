package kubernetes

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// serviceSpec is what matters of a Service. It is immutable.
type serviceSpec struct {
	ports   []servicePort
	labels  []label
	ingress []string // IPs and host names of its load balancer
}

type servicePort struct {
	name   string
	number int32
	target string // the name of the target port, if it has one
}

// newServiceSpec keeps the TCP ports of a Service: the mesh carries nothing else.
func newServiceSpec(o *corev1.Service) *serviceSpec {
	s := &serviceSpec{labels: newLabels(o.Labels)}
	for _, p := range o.Spec.Ports {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			continue
		}
		port := servicePort{name: p.Name, number: p.Port}
		if p.TargetPort.Type == intstr.String {
			port.target = p.TargetPort.StrVal
		}
		s.ports = append(s.ports, port)
	}
	for _, i := range o.Status.LoadBalancer.Ingress {
		if at := cmp.Or(i.IP, i.Hostname); at != "" {
			s.ingress = append(s.ingress, at)
		}
	}
	return s
}

func (s *serviceSpec) equal(o *serviceSpec) bool {
	return slices.Equal(s.ports, o.ports) && slices.Equal(s.labels, o.labels) && slices.Equal(s.ingress, o.ingress)
}

// label is a label of an object. Its value is lower case, as it is in names.
type label struct{ key, value string }

func newLabel(key, value string) label { return label{key, strings.ToLower(value)} }

func newLabels(all map[string]string) []label {
	var labels []label
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if k != discoveryv1.LabelServiceName && k != discoveryv1.LabelManagedBy { // told otherwise, and nothing to select by
			labels = append(labels, newLabel(k, all[k]))
		}
	}
	return labels
}

// selects reports whether labels have the one that a name asks for, if it asks for any.
func (n nameKey) selects(labels []label) bool {
	return n.label == (label{}) || slices.Contains(labels, n.label)
}

// slice is what matters of an EndpointSlice. It is immutable.
type slice struct {
	labels    []label
	ports     []slicePort
	endpoints []endpoint
}

type slicePort struct {
	name   string
	number int32
}

// endpoint is one address of a slice. The API allows several and says to use the first.
type endpoint struct {
	ip    string
	node  string
	state endpointState
	pod   key // zero if it refers to no pod
	uid   types.UID
}

// endpointState is what the conditions of an endpoint come to.
type endpointState uint8

const (
	stateReady   endpointState = iota // it is to be used
	stateUnready                      // it is not, but may be some day
	stateLeaving                      // it still serves, and is to be used if no other is ready
	stateGone                         // it is terminating and serves no more
)

func newEndpointState(c discoveryv1.EndpointConditions) endpointState {
	ready := c.Ready == nil || *c.Ready // unknown counts as ready
	serving := ready
	if c.Serving != nil {
		serving = *c.Serving
	}
	switch {
	case ready:
		return stateReady
	case !value(c.Terminating):
		return stateUnready
	case serving:
		return stateLeaving
	}
	return stateGone
}

// dependency is what an endpoint's hop depends on: the pod it refers to or, without one,
// whatever pod has its IP.
type dependency struct {
	pod key
	ip  string
}

func (e endpoint) dependency() dependency {
	if e.pod != (key{}) {
		return dependency{pod: e.pod}
	}
	return dependency{ip: e.ip}
}

func newSlice(o *discoveryv1.EndpointSlice) *slice {
	s := &slice{labels: newLabels(o.Labels)}
	for _, p := range o.Ports {
		if p.Port == nil || p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			continue
		}
		s.ports = append(s.ports, slicePort{value(p.Name), *p.Port})
	}
	for _, e := range o.Endpoints {
		if len(e.Addresses) == 0 {
			continue
		}
		endpoint := endpoint{
			ip:    e.Addresses[0],
			node:  value(e.NodeName),
			state: newEndpointState(e.Conditions),
		}
		if r := e.TargetRef; r != nil && r.Kind == "Pod" {
			endpoint.pod, endpoint.uid = key{Namespace: r.Namespace, Name: r.Name}, r.UID
			if r.Namespace == "" {
				endpoint.pod.Namespace = o.Namespace
			}
		}
		s.endpoints = append(s.endpoints, endpoint)
	}
	return s
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func (s *slice) equal(o *slice) bool {
	return slices.Equal(s.labels, o.labels) && slices.Equal(s.ports, o.ports) && slices.Equal(s.endpoints, o.endpoints)
}

// port returns the number that a port of the Service has in this slice. Slices may differ:
// a named target port can have one number in old pods and another in new ones.
func (s *slice) port(names []string) (int32, bool) {
	for _, name := range names {
		if i := slices.IndexFunc(s.ports, func(p slicePort) bool { return p.name == name }); i >= 0 {
			return s.ports[i].number, true
		}
	}
	return 0, false
}

// port returns the port of a Service that has the number.
func (s *serviceSpec) port(number string) (servicePort, bool) {
	n, err := strconv.ParseInt(number, 10, 32)
	i := slices.IndexFunc(s.ports, func(p servicePort) bool { return p.number == int32(n) })
	if err != nil || i < 0 {
		return servicePort{}, false
	}
	return s.ports[i], true
}

// isNumber tells numbers from names of ports, which have a letter.
func isNumber(port string) bool {
	_, err := strconv.ParseInt(port, 10, 32)
	return err == nil
}

// sliceNames returns the names under which slices may have the port: the Service's name for
// it, which is what Kubernetes and kube-proxy go by, then that of its target port, for
// slices written by hand. It is empty if the Service has no such port.
func (s *serviceSpec) sliceNames(port string) []string {
	if !isNumber(port) {
		return []string{port}
	}
	p, ok := s.port(port)
	switch {
	case !ok:
		return nil
	case p.target != "":
		return []string{p.name, p.target}
	}
	return []string{p.name}
}

// replicas says what a port of a Service is now:
//
//	the Service, the port or every endpoint is missing   Neg: alternatives are tried
//	there are ready endpoints                            bound to these
//	none is ready, some terminate and still serve        bound to these
//	otherwise                                            bound to nothing: alternatives are not tried
//
// A ready endpoint whose pod we do not know yet is one that is not ready: pods and slices come
// in any order, and requests must not move to the alternative for the moment between. So is one
// whose pod has ended or is deleted, until its slice says so.
//
// That endpoints which terminate are used when nothing else is left is what kube-proxy does
// (https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-to-terminating-endpoints):
// the last pods of a Service end requests that come while its load balancers hear of it.
//
// An endpoint that terminates and does not serve counts as missing. Kubernetes keeps it in
// the slice until its pod is gone; were it counted, scaling to zero would fail requests for
// that time before it moved them to the alternative.
//
// Both address families count: a pod that a Service of two families lists in both is there twice.
func (x *Index) replicas(s *service, part nameKey) naming.Replicas {
	neg := naming.Replicas{State: naming.StateNeg}
	if s.says == nil {
		return neg // slices outlive their Service until they are collected
	}
	names, unready := s.says.sliceNames(part.port), false
	var ready, leaving []naming.Endpoint
	// In order, for of an address that is listed twice the first stays.
	for _, sliceName := range slices.Sorted(maps.Keys(s.slices)) {
		l := s.slices[sliceName]
		number, ok := l.port(names)
		if !ok || !part.selects(l.labels) {
			continue
		}
		for _, e := range l.endpoints {
			to := &ready
			switch e.state {
			case stateUnready:
				unready = true
				continue
			case stateGone:
				continue
			case stateLeaving:
				to = &leaving
			}
			if endpoint, ok := x.endpoint(e, number); ok {
				*to = append(*to, endpoint)
			} else if e.state == stateReady {
				unready = true
			}
		}
	}
	switch {
	case len(ready) > 0:
		return naming.Of(ready...)
	case len(leaving) > 0:
		return naming.Of(leaving...)
	case unready:
		return naming.Of()
	}
	return neg
}

// external says what a port of a Service is from outside the cluster: the addresses that its
// load balancer has, with the port of the Service. It is Neg if the Service or the port is missing, or
// there is no load balancer. A host name that does not resolve has no addresses.
func (x *Index) external(s *service, part nameKey, n *name) naming.Replicas {
	neg := naming.Replicas{State: naming.StateNeg}
	if s.says == nil || !part.selects(s.says.labels) {
		x.followHosts(s.key, n, nil)
		return neg
	}
	port, ok := s.says.port(part.port)
	if i := slices.IndexFunc(s.says.ports, func(p servicePort) bool { return p.name == part.port }); i >= 0 {
		port, ok = s.says.ports[i], true
	}
	if !ok || len(s.says.ingress) == 0 {
		x.followHosts(s.key, n, nil)
		return neg
	}
	number := strconv.Itoa(int(port.number))
	var endpoints []naming.Endpoint
	var hosts []string
	for _, at := range s.says.ingress {
		if _, err := netip.ParseAddr(at); err == nil {
			endpoints = append(endpoints, naming.Endpoint{Address: net.JoinHostPort(at, number), Weight: 1})
		} else {
			hosts = append(hosts, rewrite.InetID(at, number).String())
		}
	}
	x.followHosts(s.key, n, hosts)
	pending := false
	for _, id := range hosts {
		r := n.hosts[id].replicas.Get()
		pending = pending || r.State == naming.StatePending
		endpoints = append(endpoints, r.Endpoints...)
	}
	if pending && len(endpoints) == 0 {
		return naming.Replicas{}
	}
	return naming.Of(endpoints...)
}

// followHosts has a name follow these hosts and no others.
func (x *Index) followHosts(k key, n *name, ids []string) {
	for id, h := range n.hosts {
		if !slices.Contains(ids, id) {
			h.release()
			delete(n.hosts, id)
		}
	}
	for _, id := range ids {
		if n.hosts[id] != nil {
			continue
		}
		if n.hosts == nil {
			n.hosts = map[string]*host{}
		}
		replicas, release := x.hosts.Replicas(id)
		stop := replicas.Notify(func() {
			x.mu.Lock()
			defer x.mu.Unlock()
			if s := x.services[k]; s != nil {
				x.publish(s)
			}
		})
		n.hosts[id] = &host{replicas, func() { stop(); release() }}
	}
}

// endpoint returns how to reach an endpoint. It is false if that is not known yet, for the
// endpoint refers to a pod that we have not seen, or not as it is now: Pods and slices are
// watched apart and come in any order. Were it published all the same, it would be as an
// endpoint outside the mesh, and requests that are to be encrypted would go out in clear
// text. It is taken up when the pod arrives, a moment later.
func (x *Index) endpoint(e endpoint, port int32) (naming.Endpoint, bool) {
	number := strconv.Itoa(int(port))
	out := naming.Endpoint{Address: net.JoinHostPort(e.ip, number), Node: e.node, Weight: 1}
	p := x.podOf(e)
	if p == nil {
		return out, e.pod == (key{})
	}
	if out.Node == "" {
		out.Node = p.node
	}
	switch out.Hop = p.hop; p.hop {
	case naming.HopSidecar:
		out.Via, out.Identity = net.JoinHostPort(e.ip, p.incoming), p.identity
	case naming.HopHost:
		host := p.hostIP(e.ip)
		if host == "" {
			return out, false
		}
		out.Via, out.Identity = net.JoinHostPort(host, p.incoming), p.identity
	}
	return out, true
}

// podOf returns the pod behind an endpoint, or nil.
func (x *Index) podOf(e endpoint) *pod {
	if e.pod == (key{}) {
		// Written by hand: whoever has the IP. On an IP that pods share with their node
		// there is no telling, and it is nobody.
		var owner *pod
		for _, p := range x.byIP[e.ip] {
			if !p.sharesIP && (owner == nil || youngerFirst(p, owner) < 0) {
				owner = p
			}
		}
		return owner
	}
	p := x.pods[e.pod]
	if p == nil || !slices.Contains(p.ips, e.ip) || e.uid != "" && p.uid != "" && e.uid != p.uid {
		return nil // unknown, or another of the same name
	}
	return p
}

// Names returns the ids of all ports of all Services that exist, by number and by name, in no order.
func (x *Index) Names() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []string
	for k, s := range x.services {
		if s.says == nil {
			continue
		}
		for _, p := range s.says.ports {
			all = append(all, rewrite.KubernetesID(k.Namespace, strconv.Itoa(int(p.number)), k.Name).String())
			if p.name != "" {
				all = append(all, rewrite.KubernetesID(k.Namespace, p.name, k.Name).String())
			}
		}
	}
	return all
}
