package bind

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// Name is what requests are for, as seen from a namespace. It is safe for concurrent
// use.
type Name struct {
	// Service is the service name as it is printed, such as /svc/world.
	Service string
	// Memo is for whoever uses the name to remember what it leads to.
	Memo atomic.Value

	// The key; text is the override's, exactly.
	hash                uint64
	namespace, id, text string
	next                atomic.Pointer[Name] // in the table's chain
	used                atomic.Int64         // in the time of package clock, to the second

	result atomic.Pointer[result]
	moved  *watch.Value[uint64] // grows when something changed that the name depends on

	binder   *Binder
	path     naming.Path
	override naming.Dtab
	guest    bool // in the table of those with an override

	mu     sync.Mutex // held while evaluating
	remote *remote    // guarded by mu

	// Guarded by Binder.mu.
	waiting int       // how many are in resolve
	gone    bool      // it is in no table any more
	follows []*follow // what the last evaluation asked for
	turn    uint64    // counts evaluations
}

// result is one evaluation. It is current as long as nothing has moved since.
type result struct {
	generation, moved uint64
	tree              naming.BoundTree
	err               error
}

func (r *result) settled() bool { return r.err != nil || r.tree.Kind != naming.BoundPending }

// use notes when the name was used. Not at each request: processors would wait for
// each other.
func (n *Name) use(now int64) {
	if now-n.used.Load() > int64(time.Second) {
		n.used.Store(now)
	}
}

// current returns the last evaluation if it still holds, or nil.
func (n *Name) current() *result {
	if r := n.result.Load(); r != nil && r.moved == n.moved.Get() && r.generation == n.binder.generation.Get() {
		return r
	}
	return nil
}

// Known reports whether Resolve would return at once.
func (n *Name) Known() bool {
	r := n.current()
	return r != nil && r.settled()
}

// Resolve returns what the name means now. The first time, it waits for the
// namer: up to Config.Timeout, then ErrTimeout, or ctx's error.
func (n *Name) Resolve(ctx context.Context) (naming.BoundTree, error) {
	if r := n.current(); r != nil && r.settled() {
		return r.tree, r.err
	}
	return n.resolve(ctx)
}

func (n *Name) resolve(ctx context.Context) (naming.BoundTree, error) {
	b := n.binder
	b.enter(n)
	defer b.leave(n)
	if r := n.evaluate(); r.settled() {
		return r.tree, r.err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.Timeout, ErrTimeout)
	defer cancel()
	for {
		_, replaced := b.generation.Watch()
		_, moved := n.moved.Watch()
		if r := n.evaluate(); r.settled() {
			return r.tree, r.err
		}
		select {
		case <-replaced:
		case <-moved:
		case <-ctx.Done():
			return naming.BoundTree{}, context.Cause(ctx)
		}
	}
}

// evaluate finds out what the name means. Of many who ask at once, one does.
func (n *Name) evaluate() *result {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.current(); r != nil {
		return r
	}
	b := n.binder
	// Read first: what changes meanwhile makes this result old.
	r := &result{generation: b.generation.Get(), moved: n.moved.Get()}
	defer func() { n.result.Store(r) }()
	names := b.cfg.Names.Get()
	if names == nil || !b.ruled() {
		return r // pending
	}
	a := b.ask(n, names, r.generation)
	defer a.done()
	resolver := names.Resolver(a.state)
	if b.cfg.Remote != nil {
		r.tree, r.err = n.askRemote(r.generation)
	} else {
		r.tree, r.err = naming.Bind(n.rules(), n.path, resolver)
	}
	if b.cfg.Transform != nil && r.err == nil && r.settled() {
		r.tree, r.err = b.cfg.Transform.Apply(r.tree, resolver)
	}
	if a.refused { // it is never current
		r.generation, r.tree, r.err = 0, naming.BoundTree{}, ErrFull
	}
	return r
}

// ruled reports whether the rules are known.
func (b *Binder) ruled() bool {
	return b.cfg.Dtab.Get() != nil && (b.cfg.Stored == nil || b.cfg.Stored.Get() != nil)
}

// rules returns all rules for the name, those that win last.
func (n *Name) rules() naming.Dtab {
	stored, base := n.binder.Stored(), n.binder.Base()
	all := make(naming.Dtab, 0, 1+len(stored)+len(base)+len(n.override))
	if n.namespace != "" {
		all = append(all, naming.Dentry{Prefix: callerPrefix, Dst: naming.Leaf{"$", rewrite.Service, n.namespace}})
	}
	return append(append(append(all, stored...), base...), n.override...)
}

var callerPrefix = naming.Prefix{"caller"}

// remote is a name that somebody else evaluates.
type remote struct {
	generation uint64
	get        func() (naming.BoundTree, error)
	release    func()
}

// askRemote returns what Config.Remote says. It is called with mu held.
func (n *Name) askRemote(generation uint64) (naming.BoundTree, error) {
	if n.remote == nil || n.remote.generation != generation {
		old := n.remote
		n.remote = &remote{generation: generation}
		n.remote.get, n.remote.release = n.binder.cfg.Remote.Bind(n.path, n.binder.Base().Concat(n.override...), n.move)
		if old != nil {
			old.release()
		}
	}
	return n.remote.get()
}

// move makes the name be evaluated again before its next use, and wakes who waits
// for it.
func (n *Name) move() {
	n.binder.mu.Lock()
	defer n.binder.mu.Unlock()
	n.moved.Set(n.moved.Get() + 1)
}

// Explain returns the steps by which the name leads to the replica set called id
// now, without those of Config.Transform; nil if it does not, or if somebody else
// evaluates. It is for people, not for each request.
func (n *Name) Explain(id naming.Path) []naming.Step {
	generation := n.binder.generation.Get()
	names := n.binder.cfg.Names.Get()
	if names == nil || n.binder.cfg.Remote != nil {
		return nil
	}
	b := n.binder
	p := b.passing(n)
	defer b.leave(p)
	a := b.ask(p, names, generation)
	defer a.done()
	d := naming.Delegate(n.rules(), n.path, names.Resolver(a.state))
	// Of the transformers in an id, some may be its namer's.
	for len(id) > 0 {
		if steps := d.Steps(id); steps != nil || id[0] != "%" {
			return steps
		}
		next := slices.IndexFunc(id[1:], func(e string) bool { return e == "%" || e == "#" || e == "$" })
		id = id[1+max(next, 0):]
	}
	return nil
}

// passing returns a copy of n that is in no table and forgotten by leave.
func (b *Binder) passing(n *Name) *Name {
	p := &Name{
		binder: b, Service: n.Service, namespace: n.namespace, id: n.id, path: n.path, override: n.override,
		guest: true, gone: true, moved: watch.New(uint64(1)),
	}
	b.enter(p)
	return p
}
