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
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

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
	// Remote says that names are bound by somebody else, whose ids Source knows as they are.
	// Then Namers do not count, and the registry only adds its own transformers.
	Remote bool
	// Getenv looks up a variable of the environment; nil: there is none.
	Getenv func(string) string
	// Inet follows the host names in files, by the ids /$/inet/<host>/<port>; nil asks Source.
	Inet func(id string) (value *watch.Value[naming.Replicas], release func())
	// Addresses returns the addresses of this machine, for Localhost; nil asks its interfaces.
	Addresses func() []netip.Addr
	// Ledger notes which ids are followed; nil: nobody does.
	Ledger *Ledger
	// Logger gets a line for each file that could not be read; nil discards them.
	Logger *slog.Logger
}

// Registry answers for names. It is safe for concurrent use.
type Registry struct {
	cfg    Config
	namers []*namer // those asked first come first

	mu           sync.Mutex
	transformers map[string]*transformer // by prefix, printed
	followed     map[string]*followed    // by id

	newsMu sync.Mutex // never held while anything is called
	news   []*followed
	wake   chan struct{} // has a token if there is news
}

// New checks the configuration; the error joins all that is wrong with it. It does no I/O.
func New(c Config) (*Registry, error) {
	if c.Getenv == nil {
		c.Getenv = func(string) string { return "" }
	}
	if c.Addresses == nil {
		c.Addresses = interfaceAddresses
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Inet == nil {
		c.Inet = c.Source.Replicas
	}
	r := &Registry{
		cfg: c, transformers: map[string]*transformer{}, followed: map[string]*followed{}, wake: make(chan struct{}, 1),
	}
	var errs []error
	if c.Distinct {
		errs = append(errs, distinct(c.Namers))
	}
	for i, n := range c.Namers {
		compiled, err := r.namer(n)
		if err != nil {
			errs = append(errs, fmt.Errorf("namers[%d]: %w", i, err))
			continue
		}
		r.namers = append(r.namers, compiled)
	}
	slices.Reverse(r.namers) // those listed last are asked first
	if err := errors.Join(append(errs, ambiguous(r.namers))...); err != nil {
		return nil, err
	}
	return r, nil
}

// Default returns the namers that hold where nothing is configured: Kubernetes,
// KubernetesExternal and Files, at their own prefixes.
func Default() []Namer {
	var all []Namer
	for _, kind := range []string{Files, KubernetesExternal, Kubernetes} {
		all = append(all, Namer{Kind: kind, Prefix: naming.Path{kind}})
	}
	return all
}

// distinct refuses prefixes that are empty or that another one begins with.
func distinct(namers []Namer) error {
	var errs []error
	for i, n := range namers {
		if len(n.Prefix) == 0 {
			errs = append(errs, fmt.Errorf("namers[%d]: the prefix is empty", i))
			continue
		}
		for j, other := range namers[:i] {
			if begins(n.Prefix, other.Prefix) || begins(other.Prefix, n.Prefix) {
				errs = append(errs, fmt.Errorf("namers[%d]: prefix %s and prefix %s of namers[%d] overlap; each must be its own", i, n.Prefix, other.Prefix, j))
			}
		}
	}
	return errors.Join(errs...)
}

// ambiguous refuses namers that may have the same ids and do not transform them alike: an id
// is the name of connections and metrics, and must not mean two things.
func ambiguous(namers []*namer) error {
	for i, n := range namers {
		for _, other := range namers[:i] {
			if n.mayShareIDs(other) && n.transformation.String() != other.transformation.String() {
				return fmt.Errorf("namers %s at prefix %s and %s at prefix %s can have the same names and have different transformers; give them different prefixes",
					n.Kind, n.Prefix, other.Kind, other.Prefix)
			}
		}
	}
	return nil
}

func begins(p, prefix naming.Path) bool {
	return len(p) >= len(prefix) && p[:len(prefix)].Equal(prefix)
}

// Run keeps files and transformed replica sets current until ctx ends; it returns nil.
func (r *Registry) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, n := range r.namers {
		if n.files != nil {
			wg.Go(func() { n.files.Run(ctx) })
		}
	}
	for {
		select {
		case <-r.wake:
			for _, f := range r.takeNews() {
				f.update(r)
			}
		case <-ctx.Done():
			return nil
		}
	}
}
