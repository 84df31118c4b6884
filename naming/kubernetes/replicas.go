package kubernetes

import (
	"maps"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/naming"
)

// servicePort is what matters of a port of a Service.
type servicePort struct {
	name   string
	number int32
	target string // the name of the target port, if it has one
}

// servicePorts returns the TCP ports of a Service: the mesh carries nothing else.
func servicePorts(o *corev1.Service) []servicePort {
	var ports []servicePort
	for _, p := range o.Spec.Ports {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			continue
		}
		port := servicePort{name: p.Name, number: p.Port}
		if p.TargetPort.Type == intstr.String {
			port.target = p.TargetPort.StrVal
		}
		ports = append(ports, port)
	}
	return ports
}

// slice is what matters of an EndpointSlice. It is immutable.
type slice struct {
	ports     []slicePort
	endpoints []endpoint
}

type slicePort struct {
	name   string
	number int32
}

// endpoint is one address of a slice. The API allows several and says to use the first.
type endpoint struct {
	ip                 string
	node               string
	ready, terminating bool
	pod                key // zero if it refers to no pod
	uid                types.UID
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
	s := &slice{}
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
			ip:          e.Addresses[0],
			node:        value(e.NodeName),
			ready:       e.Conditions.Ready == nil || *e.Conditions.Ready, // unknown counts as ready
			terminating: value(e.Conditions.Terminating),
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
	return slices.Equal(s.ports, o.ports) && slices.Equal(s.endpoints, o.endpoints)
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

// sliceNames returns the names under which slices may have the port: the Service's name for
// it, which is what Kubernetes and kube-proxy go by, then that of its target port, for
// slices written by hand. It is empty if the Service has no such port.
func (s *service) sliceNames(port string) []string {
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return []string{port}
	}
	i := slices.IndexFunc(s.ports, func(p servicePort) bool { return p.number == int32(number) })
	switch {
	case i < 0:
		return nil
	case s.ports[i].target != "":
		return []string{s.ports[i].name, s.ports[i].target}
	}
	return []string{s.ports[i].name}
}

// replicas says what a port of a Service is now:
//
//	the Service, the port or every endpoint is missing   Neg: alternatives are tried
//	there are endpoints, none of them ready              bound to nothing: they are not
//	otherwise                                            bound to the ready ones
//
// An endpoint that is terminating and not ready counts as missing. Kubernetes keeps it in
// the slice until its pod is gone; were it counted, scaling to zero would fail requests for
// that time before it moved them to the alternative.
func (x *Index) replicas(s *service, port string) naming.Replicas {
	neg := naming.Replicas{State: naming.StateNeg}
	if !s.exists {
		return neg // slices outlive their Service until they are collected
	}
	names, exists := s.sliceNames(port), false
	var endpoints []naming.Endpoint
	// In order, for of an address that is listed twice the first stays.
	for _, sliceName := range slices.Sorted(maps.Keys(s.slices)) {
		l := s.slices[sliceName]
		number, ok := l.port(names)
		if !ok {
			continue
		}
		for _, e := range l.endpoints {
			if !e.ready {
				exists = exists || !e.terminating
				continue
			}
			if endpoint, ok := x.endpoint(e, number); ok {
				exists = true
				endpoints = append(endpoints, endpoint)
			}
		}
	}
	if !exists {
		return neg
	}
	return naming.Of(endpoints...)
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
