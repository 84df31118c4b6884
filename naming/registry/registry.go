// Package registry says what names under /#/, /%/ and /$/ mean in one process: it holds the
// namers and transformers that a configuration lists, in the words of Linkerd 1.x, beside the
// built-in namers of package rewrite.
//
// It knows how names are written and what a transformer makes of a replica set. It does not
// watch Kubernetes and does not ask DNS: its [Source] does, which is asked for leaf ids:
//
//	/#/io.l5d.k8s/<namespace>/<port>/<service>[/<label>/<value>]
//	/#/io.l5d.k8s.external/<namespace>/<port>/<service>[/<label>/<value>]
//	/#/io.l5d.fs/<name>…          of namers without a directory of their own
//	/$/inet/<host>/<port>
//
// Invariant: an id means the same set of endpoints for as long as a Registry lives. A namer
// with another prefix has other ids, and a transformer has ids under /%/<its prefix>, though
// the leaf may be the same.
//
//	namers, warnings, err := registry.Parse("namers.yaml", content)
//	r, err := registry.New(registry.Config{Namers: namers, Source: source})
//	go r.Run(ctx)
//	tree, err := naming.Bind(dtab, path, r.Resolver(state))
//	value, release := r.Replicas(tree.Leaf.ID.String())
package registry

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

// Kinds of namers.
const (
	Kubernetes         = "io.l5d.k8s"
	KubernetesHere     = "io.l5d.k8s.ns" // in the namespace that an environment variable says
	KubernetesExternal = "io.l5d.k8s.external"
	Files              = "io.l5d.fs"
	Rewrite            = "io.l5d.rewrite"
)

// Namer is one namer of a configuration. Fields that are not of its Kind are zero.
type Namer struct {
	Kind   string
	Prefix naming.Path // what its names have after /#

	LabelSelector string // of the Kubernetes kinds: a label, whose value is one more element
	EnvVar        string // KubernetesHere
	RootDir       string // Files: empty leaves them to the Source
	Pattern, Name string // Rewrite: see naming.Pattern

	Transformers []Transformer
}

// Kinds of transformers.
const (
	DaemonSet    = "io.l5d.k8s.daemonset"
	LocalNode    = "io.l5d.k8s.localnode"
	Localhost    = "io.l5d.localhost"
	Port         = "io.l5d.port"
	SpecificHost = "io.l5d.specificHost"
	Const        = "io.l5d.const"
	Replace      = "io.l5d.replace"
)

// Transformer is one transformer of a configuration. Fields that are not of its Kind are zero.
type Transformer struct {
	Kind string
	// Prefix is what its ids have after /%, empty for that of its kind.
	Prefix naming.Path

	Namespace, Service string      // DaemonSet
	Port               string      // DaemonSet: of the Service; Port: a number
	Host               string      // SpecificHost: an IP address
	Path               naming.Path // Const, Replace
	// HostNetwork changes nothing but the Prefix of a LocalNode: nodes are told by their names.
	HostNetwork bool
	// Subnet lets DaemonSet and LocalNode tell nodes by the /24 network of an IPv4 address
	// where no side has the name of a node.
	Subnet bool
}

// Source follows what a registry's names come down to.
type Source interface {
	// Replicas returns the live state of a leaf id until release is called. It neither
	// blocks nor fails: what is unknown is pending, then something.
	Replicas(id string) (value *watch.Value[naming.Replicas], release func())
}

// Config is what a Registry is made of.
type Config struct {
	Namers []Namer // those listed last are asked first
	// Distinct refuses a prefix that another namer's begins with, as namerd does.
	Distinct bool
	Source   Source
	// Getenv looks up a variable of the environment; nil: there is none.
	Getenv func(string) string
	// Addresses returns the addresses of this machine, for Localhost; nil: it has none.
	Addresses func() []netip.Addr
	// Logger gets a line for each file that could not be read; nil discards them.
	Logger *slog.Logger
}

// Registry answers for names. It is safe for concurrent use.
type Registry struct{}

// New checks the configuration. It does no I/O.
func New(c Config) (*Registry, error) { return &Registry{}, nil }

// Default returns the namers that hold where nothing is configured: Kubernetes,
// KubernetesExternal and Files, at their own prefixes.
func Default() []Namer {
	var all []Namer
	for _, kind := range []string{Files, KubernetesExternal, Kubernetes} {
		all = append(all, Namer{Kind: kind, Prefix: naming.Path{kind}})
	}
	return all
}

// Run keeps files and transformed replica sets current until ctx ends; it returns nil.
func (r *Registry) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Resolver returns the resolver of all names that a dtab says nothing about. state says what
// is known of a bound id, without blocking; it is given ids that Replicas knows, always those
// without transformers: that these leave nothing is no reason to try an alternative.
func (r *Registry) Resolver(state func(id naming.Path) naming.Replicas) naming.Resolver {
	return func(naming.Path) naming.Resolution { return naming.Resolution{} }
}

// Replicas returns the live replica set of a bound id until release is called: of one that a
// Resolver or a Transformation of this registry returned, or asked for. Others are Neg or failed.
func (r *Registry) Replicas(id string) (value *watch.Value[naming.Replicas], release func()) {
	return watch.New(naming.Replicas{State: naming.StateNeg}), func() {}
}

// Transformation is what a list of transformers does to bound trees. A nil one does nothing.
type Transformation struct{}

// Transformation returns the transformers of an interpreter, which apply in order. Replicas
// knows their ids from now on.
func (r *Registry) Transformation(ts []Transformer) (*Transformation, error) { return nil, nil }

// Apply returns what the transformers make of t. resolve is for Const and Replace, whose paths
// are bound without a dtab; its errors are returned.
func (t *Transformation) Apply(tree naming.BoundTree, resolve naming.Resolver) (naming.BoundTree, error) {
	return tree, nil
}
