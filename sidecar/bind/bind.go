// Package bind turns the host of a request into the name of a replica set, by
// the base dtab, one rule for the caller's namespace, and the request's own rules.
//
// It does not route or connect: what comes out is a [naming.BoundTree]. Names
// are bound in the proxy, so an override costs no round trip; what the
// namer streams is the base dtab and the state of the names that are asked for.
//
// Invariant: a bound name is evaluated again before its next use once the dtab
// changed or a name it depends on appeared or vanished. Changes of endpoints
// alone do not matter here.
//
//	b := bind.New(bind.Config{Dtab: dtab, Source: namer})
//	name := b.Name("default", []byte("world"), nil)
//	tree, err := name.Resolve(ctx)
package bind

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

const (
	// maxNames bounds the cache, so that callers who invent hosts or overrides
	// cannot fill the memory. Linkerd 1.x has the same default.
	maxNames = 1000
	// idleFor is how long an unused name stays bound and watched.
	idleFor = 10 * time.Minute
	// bindingTimeout is how long a request waits for a name's first answer.
	bindingTimeout = 10 * time.Second
	// maxFollows bounds the names that the namer is asked about. A name asks
	// about a few, so only invented ones get this far.
	maxFollows = 4 * maxNames
	// askedLately protects what a name that is being evaluated has asked for.
	askedLately = 2 * bindingTimeout
)

// ErrTimeout is returned by Resolve when a name has had no answer in time.
var ErrTimeout = errors.New("the namer has not answered")

// Source follows replica sets.
type Source interface {
	// Replicas returns the live state of a bound name until release is called.
	// It neither blocks nor fails: an unknown name is pending, then something.
	Replicas(id string) (value *watch.Value[naming.Replicas], release func())
}

// Config is what a Binder works with.
type Config struct {
	Dtab   *watch.Value[*naming.Dtab] // the base dtab; nil until it is known
	Source Source
}

// Binder binds names. It is safe for concurrent use.
type Binder struct {
	dtab       *watch.Value[*naming.Dtab]
	source     Source
	generation *watch.Value[uint64] // grows with every change that may move a name

	names atomic.Pointer[map[key]*Name] // copied on write, under mu

	mu       sync.Mutex
	follows  map[string]*follow
	madeRoom time.Time // see makeRoom
}

// key is what a name's meaning depends on. override is its exact text.
type key struct{ namespace, authority, override string }

// follow is a name that the source is asked about.
type follow struct {
	value *watch.Value[naming.Replicas]
	state atomic.Uint32 // the naming.State last seen
	asked int64         // when last, in Unix seconds; guarded by Binder.mu
	stop  func()
}

// New returns a Binder with nothing bound.
func New(c Config) *Binder {
	b := &Binder{
		dtab:       c.Dtab,
		source:     c.Source,
		generation: watch.New(uint64(1)),
		follows:    map[string]*follow{},
	}
	b.names.Store(&map[key]*Name{})
	b.dtab.Notify(b.moved) // for as long as both live
	return b
}

// Run forgets idle names until ctx ends, and then all.
func (b *Binder) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			b.sweep(now.Add(-idleFor))
		case <-ctx.Done():
			b.sweep(time.Now().Add(time.Second))
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

// Base returns the current base dtab, empty until it is known.
func (b *Binder) Base() naming.Dtab {
	if d := b.dtab.Get(); d != nil {
		return *d
	}
	return nil
}

// Name returns the name of authority (host[:port]) for callers in namespace,
// with the rules of override on top. It neither blocks nor resolves. If the name
// is known already it takes no lock and, without an override, does not allocate.
func (b *Binder) Name(namespace string, authority []byte, override naming.Dtab) *Name {
	text := ""
	if len(override) > 0 {
		text = override.Exact()
	}
	if n := (*b.names.Load())[key{namespace, string(authority), text}]; n != nil {
		n.used.Store(time.Now().Unix())
		return n
	}
	return b.add(key{namespace, string(authority), text}, override)
}

func (b *Binder) add(k key, override naming.Dtab) *Name {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := *b.names.Load()
	if n := old[k]; n != nil {
		return n
	}
	n := &Name{
		binder:   b,
		caller:   naming.Dentry{Prefix: naming.Prefix{"caller"}, Dst: naming.Leaf{"$", "dev.tulle.service", k.namespace}},
		path:     naming.Path{"svc", k.authority},
		override: override,
	}
	n.Service = n.path.String()
	n.used.Store(time.Now().Unix())
	names := make(map[key]*Name, len(old)+1)
	var idlest key
	for k, n := range old {
		names[k] = n
		if first := names[idlest]; first == nil || n.used.Load() < first.used.Load() {
			idlest = k
		}
	}
	if len(names) >= maxNames {
		delete(names, idlest)
	}
	names[k] = n
	b.names.Store(&names)
	return n
}

// sweep forgets names unused since t, and unfollows what no name needs.
func (b *Binder) sweep(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := map[key]*Name{}
	for k, n := range *b.names.Load() {
		if n.used.Load() >= t.Unix() {
			names[k] = n
		}
	}
	b.names.Store(&names)
	b.unfollow(needed(names), t)
}

// unfollow forgets what is not needed and was not asked for since t. It is
// called with mu held.
func (b *Binder) unfollow(needed map[string]bool, t time.Time) {
	for id, f := range b.follows {
		if !needed[id] && f.asked < t.Unix() {
			f.stop()
			delete(b.follows, id)
		}
	}
}

// needed returns the ids that the names depend on, as of their last evaluation.
func needed(names map[key]*Name) map[string]bool {
	all := map[string]bool{}
	for _, n := range names {
		if r := n.result.Load(); r != nil {
			for _, id := range r.asked {
				all[id] = true
			}
		}
	}
	return all
}

// makeRoom forgets names that nothing depends on, at most once a second, and
// reports whether there is room for another. It is called with mu held.
func (b *Binder) makeRoom(now time.Time) bool {
	if now.Sub(b.madeRoom) >= time.Second {
		b.madeRoom = now
		b.unfollow(needed(*b.names.Load()), now.Add(-askedLately))
	}
	return len(b.follows) < maxFollows
}

// state returns what the source knows of a bound name, and follows it from now on.
func (b *Binder) state(id string) naming.Replicas {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.follows[id]
	if f == nil {
		if len(b.follows) >= maxFollows && !b.makeRoom(time.Now()) {
			return naming.Replicas{State: naming.StateFailed, Cause: "this proxy follows too many names at the moment"}
		}
		value, release := b.source.Replicas(id)
		f = &follow{value: value}
		unhook := value.Notify(func() {
			// Only the kind of the state decides where names lead.
			if s := uint32(value.Get().State); f.state.Swap(s) != s {
				b.moved()
			}
		})
		// Only if the hook has not seen something newer meanwhile.
		f.state.CompareAndSwap(uint32(naming.StatePending), uint32(value.Get().State))
		f.stop = func() { unhook(); release() }
		b.follows[id] = f
	}
	f.asked = time.Now().Unix()
	return f.value.Get()
}

// Name is a host as seen from a namespace. It is safe for concurrent use.
type Name struct {
	// Service is the service name as it is printed, such as /svc/world.
	Service string
	// Memo is for whoever uses the name to remember what it leads to.
	Memo atomic.Value

	binder   *Binder
	caller   naming.Dentry
	path     naming.Path
	override naming.Dtab
	used     atomic.Int64 // Unix seconds

	mu     sync.Mutex // held while evaluating
	result atomic.Pointer[result]
}

type result struct {
	generation uint64
	tree       naming.BoundTree
	err        error
	asked      []string // the bound names that were looked at
}

// Resolve returns what the name means now. The first time, it waits for the
// namer: up to ten seconds, then ErrTimeout, or ctx's error.
func (n *Name) Resolve(ctx context.Context) (naming.BoundTree, error) {
	if r := n.result.Load(); r != nil && r.generation == n.binder.generation.Get() && r.settled() {
		return r.tree, r.err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bindingTimeout, ErrTimeout)
	defer cancel()
	for {
		generation, changed := n.binder.generation.Watch()
		r := n.evaluate(generation)
		if r.settled() {
			return r.tree, r.err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return naming.BoundTree{}, context.Cause(ctx)
		}
	}
}

func (r *result) settled() bool { return r.err != nil || r.tree.Kind != naming.BoundPending }

func (n *Name) evaluate(generation uint64) *result {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.result.Load(); r != nil && r.generation >= generation {
		return r
	}
	r := &result{generation: generation} // pending
	base := n.binder.dtab.Get()
	if base == nil {
		return r
	}
	r.tree, r.err = naming.Bind(n.rules(*base), n.path, rewrite.Resolver(func(id naming.Path) naming.Replicas {
		text := id.String()
		r.asked = append(r.asked, text)
		return n.binder.state(text)
	}))
	n.result.Store(r)
	return r
}

// rules returns all rules for the name, those that win last.
func (n *Name) rules(base naming.Dtab) naming.Dtab {
	return naming.Dtab{n.caller}.Concat(base...).Concat(n.override...)
}

// Explain returns the steps by which the name leads to the replica set called id
// now; nil if it does not. It is for people, not for each request.
func (n *Name) Explain(id naming.Path) []naming.Step {
	return naming.Explain(n.rules(n.binder.Base()), n.path, rewrite.Resolver(func(id naming.Path) naming.Replicas {
		return n.binder.state(id.String())
	}), id)
}
