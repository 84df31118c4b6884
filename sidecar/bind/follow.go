package bind

import (
	"errors"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

// follow is a bound name that Names is asked about. What is not final is guarded by
// Binder.mu.
type follow struct {
	value *watch.Value[naming.Replicas]
	stop  func()

	state naming.State // last seen
	old   bool         // it is of names that were replaced
	// names are those that depend on it, with the turn of the evaluation that asked. If
	// there are none it is followed until the next sweep: an evaluation that goes
	// another way often comes back.
	names map[*Name]uint64
}

// What names may follow. That is for those that are kept: one that is being evaluated
// follows what it has to.
const (
	// perName is how many bound names there may be for each name that is kept: a name
	// asks about a few, so only invented ones get this far. Those with an override have
	// half of that beside it.
	perName = 4
	// minRoom is how many there may be however few names are kept, or a few that are in
	// constant use and ask about many push each other out.
	minRoom = perName * DefaultPaths
	// spare is what may be followed on top while all that is followed is being waited
	// for: what one evaluation can ask about, but not each of a thousand, for the namer
	// has to watch it all.
	spare = 1000
	// pause is how long no room is looked for after there was little: it takes long, and
	// others wait meanwhile.
	pause = 10 * time.Millisecond
)

// ErrFull is returned by Resolve when the name asks about more than there is room to
// follow. It says nothing of the name: nobody remembers it, and once others have gone
// the name has room.
var ErrFull = errors.New("this proxy follows too many names at the moment")

// asking is one evaluation of a name.
type asking struct {
	b          *Binder
	n          *Name
	names      Names
	generation uint64 // in which names were read
	turn       uint64
	asked      []*follow
	refused    bool // it could not follow all that it asked about
}

func (b *Binder) ask(n *Name, names Names, generation uint64) *asking {
	b.mu.Lock()
	defer b.mu.Unlock()
	n.turn++
	return &asking{b: b, n: n, names: names, generation: generation, turn: n.turn}
}

// state returns what is known of an id, which the name depends on from now on.
func (a *asking) state(id naming.Path) naming.Replicas {
	b, text := a.b, id.String()
	b.mu.Lock()
	f := b.follows[text]
	if f != nil && !f.old {
		defer b.mu.Unlock()
		return a.note(f)
	}
	r := &b.plain
	if a.n.guest {
		r = &b.guest
	}
	var stops []func()
	ok := !a.refused    // as nobody remembers the result, no more of it is followed
	if ok && f == nil { // an old one has the room that the new one is to have
		stops, ok = b.room(r)
	}
	if ok {
		r.coming++
	}
	b.mu.Unlock()
	// Which may wait for evaluations of names that nobody asked for when they were
	// forgotten, so never for this one.
	for _, stop := range stops {
		stop()
	}
	if !ok {
		a.refused = true
		return naming.Replicas{State: naming.StateFailed, Cause: ErrFull.Error()}
	}
	// Without the lock: whoever sets the value may hold one of theirs and call changed.
	value, release := a.names.Replicas(text)
	mine, spare := &follow{value: value, names: map[*Name]uint64{}}, func() {}
	unhook := value.Notify(func() { b.changed(mine) })
	mine.stop = func() { unhook(); release() }

	b.mu.Lock()
	r.coming--
	f = b.follows[text]
	if f != nil && !f.old { // somebody else was quicker
		spare = mine.stop
	} else {
		if f != nil {
			spare = f.stop
		}
		f = mine
		f.state = value.Get().State
		f.old = a.generation != b.generation.Get()
		b.follows[text] = f
	}
	replicas := a.note(f)
	b.mu.Unlock()
	spare()
	return replicas
}

// note is called with Binder.mu held.
func (a *asking) note(f *follow) naming.Replicas {
	if f.names[a.n] != a.turn {
		f.names[a.n] = a.turn
		a.asked = append(a.asked, f)
	}
	return f.value.Get()
}

// done ends the evaluation: the name depends on nothing else.
func (a *asking) done() {
	b, n := a.b, a.n
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range n.follows {
		if f.names[n] != a.turn {
			delete(f.names, n)
		}
	}
	n.follows = a.asked
}

// changed is called after f's value was set. Only the kind of the state decides where
// names lead.
func (b *Binder) changed(f *follow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	state := f.value.Get().State
	if state == f.state {
		return
	}
	f.state = state
	for n := range f.names {
		n.moved.Set(n.moved.Get() + 1)
	}
}

// enter and leave are around whatever makes a name follow something.
func (b *Binder) enter(n *Name) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n.waiting++
}

func (b *Binder) leave(n *Name) {
	b.mu.Lock()
	n.waiting--
	release := func() {}
	if n.gone && n.waiting == 0 {
		release = b.detach(n)
	}
	b.mu.Unlock()
	release()
}

// detach takes a name off what it follows; from then on it has no result. It is
// called with mu held, and what it returns without.
func (b *Binder) detach(n *Name) (release func()) {
	for _, f := range n.follows {
		delete(f.names, n)
	}
	n.follows = nil
	// The result would not be told of changes.
	n.moved.Set(n.moved.Get() + 1)
	if b.cfg.Remote == nil {
		return func() {}
	}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		b.mu.Lock()
		again := n.waiting > 0
		b.mu.Unlock()
		if n.remote != nil && !again {
			n.remote.release()
			n.remote = nil
		}
	}
}

// unfollow forgets what no name needs. It is called with mu held, and what it returns
// without.
func (b *Binder) unfollow() (stops []func()) {
	for id, f := range b.follows {
		if len(f.names) == 0 {
			stops = append(stops, f.stop)
			delete(b.follows, id)
		}
	}
	return stops
}

// room makes room to follow one more name: what no name needs goes first, and then the
// names that are idle for longest, with what they alone need. Names with an override
// and those without do not push each other out. It is false if there is no room as all
// that is followed is being waited for. It is called with mu held, and what it returns
// without.
func (b *Binder) room(r *room) (stops []func(), ok bool) {
	guest := r == &b.guest
	if r.left > 0 {
		r.left--
		return nil, true
	}
	now := clock.Now()
	if now < r.again {
		return nil, false
	}
	stops = b.unfollow()
	held := r.coming
	for _, f := range b.follows {
		if f.holds(guest) {
			held++
		}
	}
	// To look at all takes long, so some room is made in advance.
	if want := r.limit - r.limit/8 - 1; held > want {
		for _, n := range r.table.idlest() {
			if held <= want {
				break
			}
			if n.waiting > 0 {
				continue
			}
			for _, f := range n.follows {
				if f.holds(guest) {
					if delete(f.names, n); !f.holds(guest) {
						held--
					}
				}
			}
			r.table.remove(n)
			stops = append(stops, b.forget(n))
		}
		stops = append(stops, b.unfollow()...)
	}
	// Of what is spare a part at a time, too, so that it is left for those who wait.
	rest, part := r.limit+spare-held-1, r.limit/8
	r.left = max(r.limit-held-1, min(rest, part), 0)
	if rest < part {
		r.again = now + int64(pause)
	}
	return stops, rest >= 0
}

// holds reports whether f takes of the room of names with an override, or of that of
// those without: theirs is what any of them needs. It is called with mu held.
func (f *follow) holds(guest bool) bool {
	for n := range f.names {
		if !n.guest {
			return !guest
		}
	}
	return guest && len(f.names) > 0
}
