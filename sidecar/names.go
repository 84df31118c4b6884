package sidecar

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/admin"
)

// names is what names mean in this proxy: a registry that can be replaced while
// requests are served. Whoever follows a name goes on following it in the next
// registry, and keeps what it knows until that one knows something. It is safe
// for concurrent use.
//
// No value is set with mu held, for the hooks of who follows it may be waiting
// for somebody who is asking for a name.
type names struct {
	current   atomic.Pointer[registry.Registry]
	renewed   chan struct{} // has a token when current is another
	direct    bool          // proxies in front of endpoints are passed by: there is nothing to show them
	replacing sync.Mutex

	mu       sync.Mutex
	followed map[string]*followed
}

// followed is a name that somebody follows.
type followed struct {
	value  watch.Value[naming.Replicas]
	direct bool
	users  int        // guarded by names.mu
	order  sync.Mutex // held while the value is set

	mu      sync.Mutex
	from    *watch.Value[naming.Replicas] // of the current registry; nil once nobody follows
	leave   func()                        // stops following from
	updated time.Time
}

// newNames returns what r says.
func newNames(r *registry.Registry) *names {
	n := &names{renewed: make(chan struct{}, 1), followed: map[string]*followed{}}
	n.current.Store(r)
	return n
}

// replace makes r count. It returns when all that is followed follows r.
func (n *names) replace(r *registry.Registry) {
	n.replacing.Lock()
	defer n.replacing.Unlock()
	n.mu.Lock()
	n.current.Store(r)
	all := maps.Clone(n.followed)
	n.mu.Unlock()
	for id, f := range all {
		f.follow(r.Replicas(id))
	}
	select {
	case n.renewed <- struct{}{}:
	default:
	}
}

// Resolver is that of the registry that counts now.
func (n *names) Resolver(state func(id naming.Path) naming.Replicas) naming.Resolver {
	return n.current.Load().Resolver(state)
}

// Replicas returns the live replica set of a bound id until release is called.
func (n *names) Replicas(id string) (value *watch.Value[naming.Replicas], release func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.followed[id]
	if f == nil {
		f = &followed{direct: n.direct, leave: func() {}}
		f.from = &f.value
		f.follow(n.current.Load().Replicas(id))
		n.followed[id] = f
	}
	f.users++
	return &f.value, sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if f.users--; f.users == 0 {
			delete(n.followed, id)
			f.end()
		}
	})
}

// follow makes from what f is, in place of what it was.
func (f *followed) follow(from *watch.Value[naming.Replicas], release func()) {
	unhook := from.Notify(func() { f.take(from) })
	leave := func() { unhook(); release() }
	f.mu.Lock()
	if f.from != nil {
		f.from, f.leave, leave = from, leave, f.leave
	}
	f.mu.Unlock()
	f.take(from)
	leave() // of the old one only now, so that what both lead to is not let go of
}

func (f *followed) end() {
	f.mu.Lock()
	leave := f.leave
	f.from = nil
	f.mu.Unlock()
	leave()
}

// take sets the latest value of from, if that is still followed.
func (f *followed) take(from *watch.Value[naming.Replicas]) {
	f.order.Lock()
	defer f.order.Unlock()
	next := from.Get()
	if f.direct {
		next = direct(next)
	}
	if next.State == naming.StatePending || next.Equal(f.value.Get()) {
		return
	}
	f.mu.Lock()
	current := f.from == from
	if current {
		f.updated = time.Now()
	}
	f.mu.Unlock()
	if current {
		f.value.Set(next)
	}
}

// direct returns r without the proxies in front of its endpoints.
func direct(r naming.Replicas) naming.Replicas {
	endpoints := slices.Clone(r.Endpoints)
	for i := range endpoints {
		endpoints[i].Hop, endpoints[i].Via, endpoints[i].Identity = naming.HopNone, "", ""
	}
	r.Endpoints = endpoints
	return r
}

// run runs the registry that counts, until ctx ends.
func (n *names) run(ctx context.Context) error {
	for {
		running, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func(r *registry.Registry) { ended <- r.Run(running) }(n.current.Load())
		var err error
		select {
		case <-n.renewed:
			stop()
			err = <-ended
		case err = <-ended:
			stop()
		}
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// list returns what is followed, by id.
func (n *names) list() []admin.Followed {
	n.mu.Lock()
	all := maps.Clone(n.followed)
	n.mu.Unlock()
	list := make([]admin.Followed, 0, len(all))
	for _, id := range slices.Sorted(maps.Keys(all)) {
		f := all[id]
		f.mu.Lock()
		list = append(list, admin.Followed{ID: id, Updated: f.updated, Replicas: f.value.Get()})
		f.mu.Unlock()
	}
	return list
}

// known returns how many names are followed, and of how many something is known.
func (n *names) count() (followed, known int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.followed {
		if f.value.Get().State != naming.StatePending {
			known++
		}
	}
	return len(n.followed), known
}
