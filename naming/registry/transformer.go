package registry

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
	"github.com/tulle-mesh/tulle/naming/transform"
)

// marked is the first element of transformed names.
const marked = "%"

// transformer is a Transformer that is ready.
type transformer struct {
	Transformer
	prefix  naming.Path     // with the mark
	here    transform.Place // LocalNode
	port    uint16          // Port
	host    netip.Addr      // SpecificHost
	proxies string          // DaemonSet: the leaf id of its Service
}

func (r *Registry) transformer(t Transformer) (*transformer, error) {
	made := &transformer{Transformer: t}
	var err error
	own := naming.Path{t.Kind}
	switch t.Kind {
	case DaemonSet:
		namespace, port, service := strings.ToLower(t.Namespace), strings.ToLower(t.Port), strings.ToLower(t.Service)
		if !rewrite.IsLabel(namespace) || !rewrite.IsLabel(port) || !rewrite.IsLabel(service) {
			return nil, fmt.Errorf("no Service can be called %s with a port %s in a namespace %s", t.Service, t.Port, t.Namespace)
		}
		made.proxies = rewrite.KubernetesID(namespace, port, service).String()
		own = append(own, t.Namespace, t.Port, t.Service)
	case LocalNode:
		var name string
		if made.here, name, err = r.here(t); err != nil {
			return nil, err
		}
		own = append(own, name)
	case Localhost, Const, Replace:
	case Port:
		n, err := strconv.ParseUint(t.Port, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%q is no port from 1 to 65535", t.Port)
		}
		made.port = uint16(n)
		own = append(own, t.Port)
	case SpecificHost:
		if made.host, err = netip.ParseAddr(t.Host); err != nil {
			return nil, fmt.Errorf("%q is no IP address", t.Host)
		}
		made.host = made.host.Unmap()
		own = append(own, t.Host)
	default:
		return nil, fmt.Errorf("kind %q is none", t.Kind)
	}
	if t.Kind == Const || t.Kind == Replace {
		if err := checkTarget(t.Path); err != nil {
			return nil, err
		}
	}
	if len(t.Prefix) > 0 {
		own = t.Prefix
	}
	if err := checkPrefix(own); err != nil {
		return nil, err
	}
	made.prefix = append(naming.Path{marked}, own...)
	return made, nil
}

// checkTarget refuses paths that nothing answers without a dtab.
func checkTarget(p naming.Path) error {
	if len(p) < 2 || p[0] != "#" && p[0] != "$" {
		return fmt.Errorf("path %s must begin with /#/ or /$/: it is bound without a dtab", p)
	}
	return nil
}

// checkPrefix refuses prefixes of which nobody could tell where they end in an id.
func checkPrefix(p naming.Path) error {
	if len(p) == 0 || slices.ContainsFunc(p, isMark) {
		return fmt.Errorf("prefix %s must have elements, none of which is #, $ or %%", p)
	}
	return nil
}

func isMark(e string) bool { return e == "#" || e == "$" || e == marked }

// here returns where this process runs, and what a LocalNode calls that.
func (r *Registry) here(t Transformer) (transform.Place, string, error) {
	node, pod := r.cfg.Getenv("NODE_NAME"), r.cfg.Getenv("POD_IP")
	place := transform.Place{Node: node}
	place.IP, _ = netip.ParseAddr(pod)
	if node == "" && !(t.Subnet && place.IP.Unmap().Is4()) {
		return place, "", errors.New("the variable NODE_NAME is not set, and must be the name of this node; a pod gets it from spec.nodeName. " +
			"Where every node has one /24 network of pods, matchSubnet: true and the variable POD_IP (status.podIP) do as well")
	}
	name, variable := pod, "POD_IP"
	if t.HostNetwork {
		name, variable = node, "NODE_NAME"
	}
	if name == "" && len(t.Prefix) == 0 {
		return place, "", fmt.Errorf("the variable %s is not set, which the names of the transformer have in them; set it, or a prefix", variable)
	}
	return place, name, nil
}

// picks reports whether the transformer chooses the name instead of changing its endpoints.
func (t *transformer) picks() bool { return t.Kind == Const || t.Kind == Replace }

// same reports whether the two do the same to a replica set.
func (t *transformer) same(other *transformer) bool {
	if t.picks() {
		return t.Kind == other.Kind
	}
	return t.Kind == other.Kind && t.Subnet == other.Subnet && t.port == other.port && t.host == other.host && t.proxies == other.proxies
}

// apply returns what the transformer makes of r.
func (t *transformer) apply(r *Registry, replicas, proxies naming.Replicas) naming.Replicas {
	switch t.Kind {
	case DaemonSet:
		return transform.Proxies(replicas, proxies, t.Subnet)
	case LocalNode:
		return transform.Local(replicas, t.here, t.Subnet)
	case Localhost:
		all := r.cfg.Addresses()
		return transform.Hosts(replicas, func(a netip.Addr) bool { return slices.Contains(all, a) })
	case Port:
		return transform.Port(replicas, t.port)
	case SpecificHost:
		return transform.Hosts(replicas, func(a netip.Addr) bool { return a == t.host })
	}
	return replicas
}

// interfaceAddresses returns the addresses of this machine's interfaces, none if they cannot be
// known.
func interfaceAddresses() []netip.Addr {
	interfaces, _ := net.InterfaceAddrs()
	var all []netip.Addr
	for _, i := range interfaces {
		if n, ok := i.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				all = append(all, a.Unmap())
			}
		}
	}
	return all
}

// Transformation is what a list of transformers does to bound trees. A nil one does nothing.
// It is immutable.
type Transformation struct {
	transformers []*transformer
	prefix       naming.Path // of all, the last first, if none picks
	picks        bool
}

// Transformation returns the transformers of an interpreter, which apply in order; nil if there
// are none. Replicas knows their ids from now on. The error joins all that is wrong.
func (r *Registry) Transformation(ts []Transformer) (*Transformation, error) {
	if len(ts) == 0 {
		return nil, nil
	}
	all := &Transformation{}
	var errs []error
	for i, t := range ts {
		made, err := r.transformer(t)
		if err == nil {
			made, err = r.know(made)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("transformers[%d]: %s: %w", i, t.Kind, err))
			continue
		}
		all.transformers = append(all.transformers, made)
		all.prefix = append(made.prefix.Join(), all.prefix...)
		all.picks = all.picks || made.picks()
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return all, nil
}

// know keeps t by its prefix.
func (r *Registry) know(t *transformer) (*transformer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := t.prefix.String()
	if known := r.transformers[key]; known != nil && !known.same(t) {
		return nil, fmt.Errorf("prefix %s is that of another transformer, which does something else; give it one of its own", t.prefix[1:])
	}
	r.transformers[key] = t
	return t, nil
}

// String returns the prefixes of the transformers as they are in ids, empty if there are none;
// for those that choose another name, with that.
func (t *Transformation) String() string {
	if t == nil {
		return ""
	}
	var b strings.Builder
	for _, x := range slices.Backward(t.transformers) {
		b.WriteString(x.prefix.String())
		if x.picks() {
			b.WriteString(x.Path.String())
		}
	}
	return b.String()
}

// Apply returns what the transformers make of t. resolve is for Const and Replace, whose paths
// are bound without a dtab; its errors are returned.
func (t *Transformation) Apply(tree naming.BoundTree, resolve naming.Resolver) (naming.BoundTree, error) {
	if t == nil {
		return tree, nil
	}
	if !t.picks {
		return tree.Map(func(b naming.Bound) naming.BoundTree { return prefixed(t.prefix, b).Tree() }), nil
	}
	for _, x := range t.transformers {
		under := func(b naming.Bound) naming.BoundTree { return prefixed(x.prefix, b).Tree() }
		if !x.picks() {
			tree = tree.Map(under)
			continue
		}
		if x.Kind == Replace && tree.Kind != naming.BoundLeaf && tree.Kind != naming.BoundUnion {
			continue
		}
		other, err := naming.Bind(nil, x.Path, resolve)
		if err != nil {
			return naming.BoundTree{}, err
		}
		other = other.Map(under)
		if x.Kind == Const {
			tree = other
		} else {
			tree = tree.Map(func(naming.Bound) naming.BoundTree { return other })
		}
	}
	return tree, nil
}

func prefixed(prefix naming.Path, b naming.Bound) naming.Bound {
	return naming.Bound{ID: prefix.Join(b.ID...), Residual: b.Residual}
}

// resolution is Apply for the answer of a namer, which is Bound or Neg.
func (t *Transformation) resolution(r naming.Resolution, resolve naming.Resolver) naming.Resolution {
	if !t.picks {
		if r.Bound != nil {
			b := prefixed(t.prefix, *r.Bound)
			r.Bound = &b
		}
		return r
	}
	tree := naming.BoundTree{Kind: naming.BoundNeg}
	if r.Bound != nil {
		tree = r.Bound.Tree()
	}
	tree, err := t.Apply(tree, resolve)
	switch {
	case err != nil:
		return naming.Resolution{Err: err}
	case tree.Kind == naming.BoundLeaf:
		return naming.Resolution{Bound: &tree.Leaf}
	case tree.Kind == naming.BoundPending:
		return naming.Resolution{Pending: true}
	case tree.Kind == naming.BoundFail:
		return naming.Resolution{Tree: naming.Fail}
	case tree.Kind == naming.BoundEmpty:
		return naming.Resolution{Tree: naming.Empty}
	}
	return naming.Resolution{} // there is no union: nothing but a dtab has any
}
