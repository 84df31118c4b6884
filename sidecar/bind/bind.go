// Package bind turns what a request is for into the name of a replica set, by
// the base dtab, one rule for the caller's namespace, and the request's own rules.
//
// It does not route or connect: what comes out is a [naming.BoundTree]. Names
// are bound in the proxy, so an override costs no round trip; what the
// namer streams is the base dtab and the state of the names that are asked for.
// Only where Config.Remote is set does somebody else evaluate.
//
// Invariant: a bound name is evaluated again before its next use once the dtab
// changed or a name it depends on appeared or vanished. Changes of endpoints
// alone do not matter here, nor do names that it does not depend on. Requests
// with rules of their own have room of their own, so they push no other name out.
//
//	b := bind.New(bind.Config{Dtab: dtab, Names: names})
//	name, err := b.Name("default", []byte("world"), nil, clock.Now())
//	tree, err := name.Resolve(ctx)
package bind

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

// What holds where a Config says nothing; Linkerd 1.x has the same defaults.
const (
	DefaultTimeout = 10 * time.Second
	DefaultPaths   = 1000
	DefaultIdleTTL = 10 * time.Minute
)

// ErrTimeout is returned by Resolve when a name has had no answer in time.
var ErrTimeout = errors.New("the namer has not answered")

// Names is what names mean where the dtab says nothing.
type Names interface {
	// Resolver answers for paths by what state says of the ids that they may have.
	Resolver(state func(id naming.Path) naming.Replicas) naming.Resolver
	// Replicas returns the live state of a bound name until release is called.
	// It neither blocks nor fails: an unknown name is pending, then something.
	Replicas(id string) (value *watch.Value[naming.Replicas], release func())
}

// Transform changes what names are bound to.
type Transform interface {
	Apply(t naming.BoundTree, resolve naming.Resolver) (naming.BoundTree, error)
}

// Remote evaluates names elsewhere, by rules that are kept there.
type Remote interface {
	// Bind follows what a path means under further rules, which win, until release
	// is called. get is pending until that is known, and keeps what was known last;
	// its error says why there is nothing to keep. changed is called after get has
	// changed, must be quick, and may be called once more after release.
	Bind(path naming.Path, rules naming.Dtab, changed func()) (get func() (naming.BoundTree, error), release func())
}

// Config is what a Binder works with. Fields that are zero have their default.
type Config struct {
	// Dtab is the base dtab; nil inside until it is known.
	Dtab *watch.Value[*naming.Dtab]
	// Stored are rules that an interpreter keeps, which Dtab wins over; nil inside
	// until they are known. The default is none.
	Stored *watch.Value[*naming.Dtab]
	// Names may be replaced, or set again because it says other things of paths; nil
	// inside until there are any.
	Names     *watch.Value[Names]
	Prefix    naming.Path // of service names; /svc
	Transform Transform   // none
	// Remote evaluates instead, and Names serves the Transform alone.
	Remote  Remote
	Timeout time.Duration // how long a request waits for a name's first answer
	// Paths is how many names are kept without an override, and how many with one.
	Paths   int
	IdleTTL time.Duration // how long an unused name stays bound and watched
	// Added is called after InUse has got another name; it must be quick. The default does nothing.
	Added func()
}

// Binder binds names. It is safe for concurrent use.
type Binder struct {
	cfg        Config
	generation *watch.Value[uint64] // grows with every change that may move any name

	// Names are looked up without a lock. Guests are those with an override.
	names, guests *table

	mu           sync.Mutex         // guards changes of names and guests, and what follows
	follows      map[string]*follow // by id
	plain, guest room               // for what names follow, and guests
}

// room is how much of something there may be.
type room struct {
	table *table
	limit int
	left  int   // may be added before it is to be counted again
	again int64 // in the time of package clock: not to be counted before
	// coming is how many have room and are not there yet.
	coming int
}

// New returns a Binder with nothing bound.
func New(c Config) *Binder {
	if c.Prefix == nil {
		c.Prefix = naming.Path{"svc"}
	}
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.Paths = cmp.Or(c.Paths, DefaultPaths)
	c.IdleTTL = cmp.Or(c.IdleTTL, DefaultIdleTTL)
	b := &Binder{
		cfg: c, generation: watch.New(uint64(1)), names: newTable(c.Paths), guests: newTable(c.Paths), follows: map[string]*follow{},
	}
	b.furnish(max(minRoom, perName*c.Paths))
	// For as long as both live.
	c.Dtab.Notify(b.moved)
	if c.Stored != nil {
		c.Stored.Notify(b.moved)
	}
	c.Names.Notify(b.renamed)
	return b
}

// furnish says how many bound names may be followed: half of it for guests beside it.
func (b *Binder) furnish(limit int) {
	b.plain = room{table: b.names, limit: limit, left: limit}
	b.guest = room{table: b.guests, limit: limit / 2, left: limit / 2}
}

// Run forgets idle names until ctx ends, and then all.
func (b *Binder) Run(ctx context.Context) error {
	tick := time.NewTicker(min(time.Minute, max(b.cfg.IdleTTL/2, time.Second)))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			b.sweep(clock.Now() - int64(b.cfg.IdleTTL))
		case <-ctx.Done():
			b.sweep(clock.Now() + int64(time.Hour))
			return nil
		}
	}
}

// moved makes every name be evaluated again before its next use.
func (b *Binder) moved() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.generation.Set(b.generation.Get() + 1)
}

// renamed is moved after the names were replaced: the new ones have to be asked.
// What is followed of the old ones is kept until then, so that nothing that both
// know is lost between them.
func (b *Binder) renamed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.follows {
		f.old = true
	}
	b.generation.Set(b.generation.Get() + 1)
}

// Base returns the current base dtab, empty until it is known.
func (b *Binder) Base() naming.Dtab { return present(b.cfg.Dtab) }

// Stored returns the rules that the interpreter keeps, empty until they are known
// or if there are none.
func (b *Binder) Stored() naming.Dtab { return present(b.cfg.Stored) }

func present(v *watch.Value[*naming.Dtab]) naming.Dtab {
	if v == nil {
		return nil
	}
	if d := v.Get(); d != nil {
		return *d
	}
	return nil
}

// Config returns the configuration with its defaults.
func (b *Binder) Config() Config { return b.cfg }

// Name returns the name of id for callers in namespace, with the rules of override
// on top. id is one element under the prefix, or, if it begins with a slash, a
// printed path; then the error is a *naming.ParseError if it is none. now is the
// time of package clock.
//
// It neither blocks nor resolves. If the name is known already it takes no lock and,
// without an override, does not allocate.
func (b *Binder) Name(namespace string, id []byte, override naming.Dtab, now int64) (*Name, error) {
	table, text := b.names, ""
	if len(override) > 0 {
		table, text = b.guests, override.Exact()
	}
	hash := table.hash(namespace, id, text)
	if n := table.find(hash, namespace, id, text); n != nil {
		n.use(now)
		return n, nil
	}
	n, err := b.newName(namespace, id, override)
	if err != nil {
		return nil, err
	}
	n.hash, n.text, n.guest = hash, text, len(override) > 0
	n.used.Store(now)
	b.mu.Lock()
	if known := table.find(hash, namespace, id, text); known != nil {
		b.mu.Unlock()
		return known, nil
	}
	gone := table.add(n)
	release := b.forget(gone)
	b.mu.Unlock()
	release()
	if !n.guest && b.cfg.Added != nil {
		b.cfg.Added()
	}
	return n, nil
}

// newName returns a name that is in no table.
func (b *Binder) newName(namespace string, id []byte, override naming.Dtab) (*Name, error) {
	n := &Name{binder: b, namespace: namespace, id: string(id), override: override, moved: watch.New(uint64(1))}
	if len(id) == 0 || id[0] != '/' {
		n.path = b.cfg.Prefix.Join(n.id)
	} else {
		rest, err := naming.ParsePath(n.id)
		if err != nil {
			return nil, err
		}
		n.path = b.cfg.Prefix.Join(rest...)
	}
	n.Service = n.path.String()
	return n, nil
}

// sweep forgets names unused since then, and what no name needs.
func (b *Binder) sweep(since int64) {
	b.mu.Lock()
	var releases []func()
	for _, t := range []*table{b.names, b.guests} {
		for _, n := range t.all() {
			if n.used.Load() < since {
				t.remove(n)
				releases = append(releases, b.forget(n))
			}
		}
	}
	stops := b.unfollow()
	b.mu.Unlock()
	for _, f := range append(releases, stops...) {
		f()
	}
}

// forget takes a name that has left its table off what it follows, at the latest
// when nobody waits for it any more. The function it returns is to be called without
// mu, which is held here.
func (b *Binder) forget(n *Name) (release func()) {
	if n == nil {
		return func() {}
	}
	n.gone = true
	if n.waiting > 0 {
		return func() {}
	}
	return b.detach(n)
}

// Use is a name in use.
type Use struct {
	Namespace string   // of its callers
	Path      string   // the service name, printed
	Bound     []string // the ids of the replica sets that it leads to at present, printed
}

// InUse returns the names in use, in order, but for those with an override: they are
// the matter of one request.
func (b *Binder) InUse() []Use {
	b.mu.Lock()
	names := b.names.all()
	b.mu.Unlock()
	all := make([]Use, 0, len(names))
	for _, n := range names {
		u := Use{Namespace: n.namespace, Path: n.Service}
		if r := n.result.Load(); r != nil {
			u.Bound = leaves(r.tree, nil)
			slices.Sort(u.Bound)
			u.Bound = slices.Compact(u.Bound)
		}
		all = append(all, u)
	}
	slices.SortFunc(all, func(x, y Use) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Path, y.Path))
	})
	return all
}

func leaves(t naming.BoundTree, ids []string) []string {
	if t.Kind == naming.BoundLeaf {
		return append(ids, t.Leaf.ID.String())
	}
	for _, b := range t.Branches {
		ids = leaves(b.Tree, ids)
	}
	return ids
}
