package registry

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// maxPicks bounds how often a Const or Replace of a namer may lead to a namer that has one.
const maxPicks = 8

// Resolver returns the resolver of all names that a dtab says nothing about. state says what
// is known of a bound id, without blocking; it is given ids that Replicas knows, always those
// without transformers: that these leave nothing is no reason to try an alternative.
//
// A name under /$/inet is bound at once and its state not asked for, for the same reason: that
// a host does not resolve is none.
func (r *Registry) Resolver(state func(id naming.Path) naming.Replicas) naming.Resolver {
	return func(p naming.Path) naming.Resolution { return r.resolve(p, state, 0) }
}

func (r *Registry) resolve(p naming.Path, state func(id naming.Path) naming.Replicas, picks int) naming.Resolution {
	if len(p) == 0 || p[0] != mark {
		return rewrite.Resolve(p)
	}
	if r.cfg.Remote { // all that a transformer can choose is what has endpoints
		switch state(p).State {
		case naming.StatePending:
			return naming.Resolution{Pending: true}
		case naming.StateNeg:
			return naming.Resolution{}
		}
		return naming.Resolution{Bound: &naming.Bound{ID: p}}
	}
	if picks > maxPicks {
		return naming.Resolution{Err: fmt.Errorf("resolve %s: the transformers %s and %s of its namers lead in a circle", p, Const, Replace)}
	}
	for _, n := range r.namers {
		if !begins(p, n.prefix) {
			continue
		}
		answer := n.resolve(p, state)
		if n.transformation != nil && answer.Tree == nil && !answer.Pending && answer.Err == nil {
			answer = n.transformation.resolution(answer, func(p naming.Path) naming.Resolution {
				return r.resolve(p, state, picks+1)
			})
		}
		if !isNeg(answer) {
			return answer
		}
	}
	return naming.Resolution{}
}

// Replicas returns the live replica set of a bound id until release is called: of one that a
// Resolver or a Transformation of this registry returned, or asked for. An id whose namer or
// transformer is not configured is Neg; what is no id has failed.
func (r *Registry) Replicas(id string) (value *watch.Value[naming.Replicas], release func()) {
	return r.cfg.Ledger.Follow(id, r.replicas)
}

func (r *Registry) replicas(id string) (value *watch.Value[naming.Replicas], release func()) {
	p, err := naming.ParsePath(id)
	if err != nil {
		return settled(naming.Replicas{State: naming.StateFailed, Cause: fmt.Sprintf("%q is no id: %s", id, err)})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.followed[id]
	if f == nil {
		steps, rest, ok := r.steps(p)
		leaves := r.leaves(rest)
		if !ok || len(leaves) == 0 {
			return settled(naming.Replicas{State: naming.StateNeg})
		}
		if len(steps) == 0 && len(leaves) == 1 {
			return leaves[0].follow(leaves[0].id) // as it is
		}
		f = r.follow(steps, leaves)
		r.followed[id] = f
	}
	f.users++
	return &f.value, sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if f.users--; f.users == 0 {
			delete(r.followed, id)
			f.stop()
		}
	})
}

func settled(r naming.Replicas) (*watch.Value[naming.Replicas], func()) {
	return watch.New(r), func() {}
}

// Knows reports whether all transformers of an id are this registry's; an id without any is known.
func (r *Registry) Knows(id naming.Path) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _, ok := r.steps(id)
	return ok
}

// steps returns the transformers of an id that change its endpoints, the innermost first, and
// the id without any. It is false for one that is not known, and called with mu held.
func (r *Registry) steps(id naming.Path) (steps []*transformer, rest naming.Path, ok bool) {
	for len(id) > 0 && id[0] == marked {
		end := 1
		for end < len(id) && !isMark(id[end]) {
			end++
		}
		t := r.transformers[id[:end].String()]
		if t == nil {
			return steps, id, r.cfg.Remote
		}
		if !t.picks() {
			steps = append([]*transformer{t}, steps...)
		}
		id = id[end:]
	}
	return steps, id, true
}

// leaf is an id, and who follows it.
type leaf struct {
	id     string
	follow func(id string) (*watch.Value[naming.Replicas], func())
}

// leaves returns what an id without transformers may come down to. If namers overlap that may
// be several: the first that is not Neg counts, as for the name.
func (r *Registry) leaves(id naming.Path) (all []leaf) {
	if r.cfg.Remote {
		return []leaf{{id.String(), r.cfg.Source.Replicas}}
	}
	if host, port, ok := rewrite.Inet(id); ok {
		return []leaf{{rewrite.InetID(host, fmt.Sprint(port)).String(), r.cfg.Source.Replicas}}
	}
	for _, n := range r.namers {
		p, ok := n.leaf(id)
		switch {
		case !ok:
		case n.files != nil:
			all = append(all, leaf{p.String(), n.files.Replicas})
		default:
			all = append(all, leaf{p.String(), r.cfg.Source.Replicas})
		}
	}
	return all
}

// followed is an id that somebody follows, whose replica set is made of others.
type followed struct {
	value watch.Value[naming.Replicas]
	users int // guarded by Registry.mu

	leaves  []*watch.Value[naming.Replicas]
	steps   []*transformer
	proxies []*watch.Value[naming.Replicas] // of each step, nil if it needs none
	stop    func()

	queued atomic.Bool // it is among Registry.news
	mu     sync.Mutex  // held while f is made, and while value is made and set
}

// follow is called with mu held.
func (r *Registry) follow(steps []*transformer, leaves []leaf) *followed {
	f := &followed{steps: steps, proxies: make([]*watch.Value[naming.Replicas], len(steps))}
	f.mu.Lock() // Run may hear of a change before all is followed
	var stops []func()
	follow := func(l leaf) *watch.Value[naming.Replicas] {
		value, release := l.follow(l.id)
		unhook := value.Notify(func() { r.changed(f) })
		stops = append(stops, unhook, release)
		return value
	}
	for _, l := range leaves {
		f.leaves = append(f.leaves, follow(l))
	}
	for i, t := range steps {
		if t.proxies != "" {
			f.proxies[i] = follow(leaf{t.proxies, r.cfg.Source.Replicas})
		}
	}
	f.stop = func() {
		for _, stop := range stops {
			stop()
		}
	}
	f.mu.Unlock()
	f.update(r)
	return f
}

// changed tells Run that something that f is made of has changed. It is called by who set that,
// with whatever locks they hold.
func (r *Registry) changed(f *followed) {
	if f.queued.Swap(true) {
		return
	}
	r.newsMu.Lock()
	r.news = append(r.news, f)
	r.newsMu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Registry) takeNews() []*followed {
	r.newsMu.Lock()
	defer r.newsMu.Unlock()
	news := r.news
	r.news = nil
	return news
}

// update makes f's value of what is known now.
func (f *followed) update(r *Registry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queued.Store(false) // before the values are read: a later change is news
	var now naming.Replicas
	for _, l := range f.leaves {
		if now = l.Get(); now.State != naming.StateNeg {
			break
		}
	}
	for i, t := range f.steps {
		var proxies naming.Replicas
		if f.proxies[i] != nil {
			proxies = f.proxies[i].Get()
		}
		now = t.apply(r, now, proxies)
	}
	if !now.Equal(f.value.Get()) {
		f.value.Set(now)
	}
}
