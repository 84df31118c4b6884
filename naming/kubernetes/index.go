// Package kubernetes tells what names mean in a cluster: which endpoints a Service has, how
// to reach each of them, and which pods live on a node.
//
// An Index is fed with Services, EndpointSlices and Pods, by Run from an API server or by
// hand, and answers from memory. It never asks for anything itself, but for the addresses of
// load balancers that have only a host name; and it knows nothing of proxies, requests or dtabs.
// ConfigMaps are the rules of those proxies that have theirs in a ConfigMap.
//
// Its names are the leaf ids of Kubernetes, as package naming/registry makes them of the names of
// configured namers:
//
//	/#/io.l5d.k8s/<namespace>/<port>/<service>             what the EndpointSlices of the Service say
//	/#/io.l5d.k8s/<namespace>/<port>/<service>/<label>/<value>   those of them that have the label
//	/#/io.l5d.k8s.external/<namespace>/<port>/<service>…   the load balancer in the Service's status
//
// Invariant: every followed value is what the objects applied so far say, computed from
// them alone: the order in which they came does not matter. It is pending until the first
// complete picture, so that a restarting controller never denies what it has not read yet.
//
//	index, err := kubernetes.NewIndex(kubernetes.Config{TrustDomain: "cluster.local"})
//	go index.Run(ctx, client)
//	replicas, release := index.Replicas(rewrite.KubernetesID("default", "80", "world"))
//	defer release()
package kubernetes

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/dns"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// DefaultIncomingPort is where proxies take mTLS, in a pod or on a host.
const DefaultIncomingPort = 4141

// Config says what an Index must know that no object of the cluster says.
type Config struct {
	// TrustDomain is that of the mesh's SPIFFE ids; "cluster.local" if empty.
	TrustDomain string
	// HostProxyIdentity is the SPIFFE id of the host proxies; if empty, that of the
	// service account tulle-host in namespace tulle.
	HostProxyIdentity string
	// HostIncomingPort is where host proxies take mTLS; DefaultIncomingPort if zero. The
	// annotation tulle.dev/incoming-port of a pod overrides it for that pod.
	HostIncomingPort int
	// Lookup resolves the host names of load balancers; dns.System if nil.
	Lookup dns.Lookup
	// Logger hears of watches that fail; nil for nobody.
	Logger *slog.Logger
}

func (c *Config) complete() error {
	c.TrustDomain = cmp.Or(c.TrustDomain, "cluster.local")
	domain := "spiffe://" + c.TrustDomain + "/"
	c.HostProxyIdentity = cmp.Or(c.HostProxyIdentity, domain+"ns/tulle/sa/tulle-host")
	c.HostIncomingPort = cmp.Or(c.HostIncomingPort, DefaultIncomingPort)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if !strings.HasPrefix(c.HostProxyIdentity, domain) {
		errs = append(errs, fmt.Errorf("identity of the host proxies %q is not of the form %sns/<namespace>/sa/<service account>", c.HostProxyIdentity, domain))
	}
	if c.HostIncomingPort < 1 || c.HostIncomingPort > 65535 {
		errs = append(errs, fmt.Errorf("incoming port of the host proxies %d is not from 1 to 65535", c.HostIncomingPort))
	}
	return errors.Join(errs...)
}

// key is namespace and name of an object.
type key = types.NamespacedName

// Index is a picture of the cluster that can be followed. Its methods may be called
// concurrently. It keeps what it needs of objects, never the objects.
//
// Values are set with the lock of the Index held: a hook on a value must not call back.
type Index struct {
	cfg    Config
	synced chan struct{}
	none   *watch.Value[naming.Replicas] // for names that are no Services
	hosts  *dns.Namer                    // of load balancers

	mu       sync.Mutex
	isSynced bool
	services map[key]*service // those that exist, have slices, or are followed
	slices   map[key]key      // the Service of each slice
	pods     map[key]*pod
	byIP     map[string][]*pod
	byNode   map[string]map[key]*pod
	users    map[dependency]map[*service]int // the Services whose endpoints depend on a pod, and how many do
	nodes    map[string]*node                // those that are followed
}

// service is a Service, its slices, and who follows its names.
type service struct {
	key    key
	says   *serviceSpec      // nil if the Service itself does not exist
	slices map[string]*slice // by name
	names  map[nameKey]*name
}

// nameKey is what a name says beside the Service.
type nameKey struct {
	external bool
	port     string
	label    label // zero if it does not matter
}

// name is a name that is followed.
type name struct {
	replicas watch.Value[naming.Replicas]
	users    int
	hosts    map[string]*host // of an external one, by id
}

// host is a host name of a load balancer, which a name follows.
type host struct {
	replicas *watch.Value[naming.Replicas]
	release  func()
}

// node is a followed node.
type node struct {
	pods  watch.Value[[]api.Pod]
	users int
}

// NewIndex returns an empty Index, which is pending until Run has read the cluster or
// MarkSynced is called. The error lists everything wrong with the Config.
func NewIndex(cfg Config) (*Index, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("make index: %w", err)
	}
	return &Index{
		cfg:      cfg,
		synced:   make(chan struct{}),
		none:     watch.New(naming.Replicas{State: naming.StateNeg}),
		hosts:    dns.New(dns.Config{Lookup: cfg.Lookup}),
		services: map[key]*service{},
		slices:   map[key]key{},
		pods:     map[key]*pod{},
		byIP:     map[string][]*pod{},
		byNode:   map[string]map[key]*pod{},
		users:    map[dependency]map[*service]int{},
		nodes:    map[string]*node{},
	}, nil
}

// MarkSynced says that everything that exists has been applied: from now on, what the Index
// does not know does not exist. Run calls it; call it when feeding an Index by hand.
func (x *Index) MarkSynced() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.isSynced {
		return
	}
	x.isSynced = true
	defer close(x.synced) // when all is published
	for _, s := range x.services {
		x.publish(s)
	}
	for name := range x.nodes {
		x.publishNode(name)
	}
}

// Synced is closed once the Index has a complete picture, and stays closed.
func (x *Index) Synced() <-chan struct{} { return x.synced }

// Replicas returns the live state of a leaf id, as in the comment of the package, until release is
// called; other names are Neg. The port is a number of the Service or the name of a port. Case does not
// matter but in the label. release may be called more than once.
func (x *Index) Replicas(id naming.Path) (*watch.Value[naming.Replicas], func()) {
	k, part, ok := parseID(id)
	if !ok {
		return x.none, func() {}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.service(k)
	n := s.names[part]
	if n == nil {
		n = &name{}
		s.names[part] = n
		x.publishName(s, part, n)
	}
	n.users++
	var once sync.Once
	return &n.replicas, func() {
		once.Do(func() {
			x.mu.Lock()
			defer x.mu.Unlock()
			if n.users--; n.users == 0 {
				x.followHosts(s.key, n, nil)
				delete(s.names, part)
				x.forget(s)
			}
		})
	}
}

// Namers whose names the Index knows.
const (
	internal = "io.l5d.k8s"
	external = "io.l5d.k8s.external"
)

// parseID takes /#/<namer>/<namespace>/<port>/<service>[/<label>/<value>] apart.
func parseID(id naming.Path) (k key, part nameKey, ok bool) {
	if len(id) != 5 && len(id) != 7 || id[0] != "#" || id[1] != internal && id[1] != external {
		return k, part, false
	}
	k = key{Namespace: strings.ToLower(id[2]), Name: strings.ToLower(id[4])}
	part = nameKey{external: id[1] == external, port: strings.ToLower(id[3])}
	if len(id) == 7 {
		part.label = newLabel(id[5], id[6])
	}
	return k, part, true
}

// Pods returns the pods of a node that have an IP of their own, live, until release is
// called: nil until the Index is synced. release may be called more than once.
func (x *Index) Pods(nodeName string) (*watch.Value[[]api.Pod], func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := x.nodes[nodeName]
	if n == nil {
		n = &node{}
		x.nodes[nodeName] = n
		x.publishNode(nodeName)
	}
	n.users++
	var once sync.Once
	return &n.pods, func() {
		once.Do(func() {
			x.mu.Lock()
			defer x.mu.Unlock()
			if n.users--; n.users == 0 {
				delete(x.nodes, nodeName)
			}
		})
	}
}

// ApplyService takes in a Service as it is now.
func (x *Index) ApplyService(o *corev1.Service) {
	says := newServiceSpec(o)
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.service(key{Namespace: o.Namespace, Name: o.Name})
	if s.says != nil && s.says.equal(says) {
		return
	}
	s.says = says
	x.publish(s)
}

// DeleteService takes in that a Service does not exist.
func (x *Index) DeleteService(namespace, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.services[key{Namespace: namespace, Name: name}]
	if s == nil {
		return
	}
	s.says = nil
	x.publish(s)
	x.forget(s)
}

// ApplySlice takes in an EndpointSlice as it is now.
func (x *Index) ApplySlice(o *discoveryv1.EndpointSlice) {
	k := key{Namespace: o.Namespace, Name: o.Name}
	owner := key{Namespace: o.Namespace, Name: o.Labels[discoveryv1.LabelServiceName]}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.slices[k] != owner {
		x.deleteSlice(k) // it changed hands
	}
	if owner.Name == "" || o.AddressType == discoveryv1.AddressTypeFQDN {
		x.deleteSlice(k)
		return
	}
	s, next := x.service(owner), newSlice(o)
	old := s.slices[k.Name]
	if old != nil && old.equal(next) {
		return
	}
	x.slices[k] = owner
	s.slices[k.Name] = next
	x.use(s, next, 1)
	x.use(s, old, -1)
	x.publish(s)
}

// DeleteSlice takes in that an EndpointSlice does not exist.
func (x *Index) DeleteSlice(namespace, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.deleteSlice(key{Namespace: namespace, Name: name})
}

// ApplyPod takes in a Pod as it is now.
func (x *Index) ApplyPod(o *corev1.Pod) {
	x.setPod(key{Namespace: o.Namespace, Name: o.Name}, x.newPod(o))
}

// DeletePod takes in that a Pod does not exist.
func (x *Index) DeletePod(namespace, name string) {
	x.setPod(key{Namespace: namespace, Name: name}, nil)
}

// service returns the entry of a Service, making one if there is none.
func (x *Index) service(k key) *service {
	s := x.services[k]
	if s == nil {
		s = &service{key: k, slices: map[string]*slice{}, names: map[nameKey]*name{}}
		x.services[k] = s
	}
	return s
}

// forget drops the entry of a Service that is nothing any more.
func (x *Index) forget(s *service) {
	if s.says == nil && len(s.slices) == 0 && len(s.names) == 0 {
		delete(x.services, s.key)
	}
}

func (x *Index) deleteSlice(k key) {
	owner, ok := x.slices[k]
	if !ok {
		return
	}
	delete(x.slices, k)
	s := x.services[owner]
	x.use(s, s.slices[k.Name], -1)
	delete(s.slices, k.Name)
	x.publish(s)
	x.forget(s)
}

// setPod replaces what is known of a pod, nil for nothing, and publishes what depends on it.
func (x *Index) setPod(k key, next *pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.pods[k]
	if old.equal(next) {
		return
	}
	affected := maps.Clone(x.users[dependency{pod: k}])
	if affected == nil {
		affected = map[*service]int{}
	}
	if old != nil {
		delete(x.pods, k)
		for _, ip := range old.ips {
			maps.Copy(affected, x.users[dependency{ip: ip}])
			x.byIP[ip] = slices.DeleteFunc(x.byIP[ip], func(p *pod) bool { return p == old })
			if len(x.byIP[ip]) == 0 {
				delete(x.byIP, ip)
			}
		}
		delete(x.byNode[old.node], k)
		if len(x.byNode[old.node]) == 0 {
			delete(x.byNode, old.node)
		}
	}
	if next != nil {
		x.pods[k] = next
		for _, ip := range next.ips {
			maps.Copy(affected, x.users[dependency{ip: ip}])
			x.byIP[ip] = append(x.byIP[ip], next)
		}
		if x.byNode[next.node] == nil {
			x.byNode[next.node] = map[key]*pod{}
		}
		x.byNode[next.node][k] = next
	}
	for s := range affected {
		x.publish(s)
	}
	if old != nil {
		x.publishNode(old.node)
	}
	if next != nil && (old == nil || old.node != next.node) {
		x.publishNode(next.node)
	}
}

// use counts what the endpoints of a slice depend on, up or down. A nil slice has none.
func (x *Index) use(s *service, l *slice, n int) {
	if l == nil {
		return
	}
	for _, e := range l.endpoints {
		d := e.dependency()
		if x.users[d] == nil {
			x.users[d] = map[*service]int{}
		}
		if x.users[d][s] += n; x.users[d][s] == 0 {
			delete(x.users[d], s)
		}
		if len(x.users[d]) == 0 {
			delete(x.users, d)
		}
	}
}

// publish sets the followed values of a Service that are not what they should be.
func (x *Index) publish(s *service) {
	if !x.isSynced {
		return
	}
	for part, n := range s.names {
		x.publishName(s, part, n)
	}
}

func (x *Index) publishName(s *service, part nameKey, n *name) {
	if !x.isSynced {
		return
	}
	var r naming.Replicas
	if part.external {
		r = x.external(s, part, n)
	} else {
		r = x.replicas(s, part)
	}
	if !r.Equal(n.replicas.Get()) {
		n.replicas.Set(r)
	}
}

// publishNode sets the pods of a node, if it is followed and they changed.
func (x *Index) publishNode(nodeName string) {
	n := x.nodes[nodeName]
	if n == nil || !x.isSynced {
		return
	}
	if pods := x.podsOf(nodeName); n.pods.Get() == nil || !slices.Equal(pods, n.pods.Get()) {
		n.pods.Set(pods)
	}
}
