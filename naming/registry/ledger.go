package registry

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

// Followed is an id that somebody follows, and what is known of it.
type Followed struct {
	ID      string    `json:"id"`
	Updated time.Time `json:"updated,omitzero"` // when that last changed while it was followed
	naming.Replicas
}

// Ledger notes which ids are followed, for people who look into a namer. The zero Ledger is
// empty; its methods may be called concurrently. A nil one notes nothing.
type Ledger struct {
	mu    sync.Mutex
	notes map[notedValue]*note
}

// notedValue tells what two sources say of one id.
type notedValue struct {
	id    string
	value *watch.Value[naming.Replicas]
}

type note struct {
	users   int // guarded by Ledger.mu
	updated atomic.Pointer[time.Time]
	unhook  func()
}

// Follow follows an id by follow, and notes it until release is called, which may be more than once.
func (l *Ledger) Follow(id string, follow func(id string) (*watch.Value[naming.Replicas], func())) (value *watch.Value[naming.Replicas], release func()) {
	value, letGo := follow(id)
	if l == nil {
		return value, letGo
	}
	key := notedValue{id, value}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.notes[key]
	if n == nil {
		n = &note{}
		touch := func() { now := time.Now(); n.updated.Store(&now) }
		n.unhook = value.Notify(touch)
		if value.Get().State != naming.StatePending {
			touch()
		}
		if l.notes == nil {
			l.notes = map[notedValue]*note{}
		}
		l.notes[key] = n
	}
	n.users++
	return value, sync.OnceFunc(func() {
		l.mu.Lock()
		if n.users--; n.users == 0 {
			delete(l.notes, key)
			n.unhook()
		}
		l.mu.Unlock()
		letGo()
	})
}

// Followed returns what is followed now, by id.
func (l *Ledger) Followed() []Followed {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	notes := maps.Clone(l.notes)
	l.mu.Unlock()
	all := make([]Followed, 0, len(notes))
	for key, n := range notes {
		f := Followed{ID: key.id, Replicas: key.value.Get()}
		if at := n.updated.Load(); at != nil {
			f.Updated = at.UTC()
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Followed) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), a.Updated.Compare(b.Updated))
	})
	return slices.CompactFunc(all, func(a, b Followed) bool { return a.ID == b.ID && a.Equal(b.Replicas) })
}

// Under reports whether an id is of the namer, or the transformer, at a prefix: that is written
// without /#, as a configuration has it, or whole.
func Under(id, prefix string) bool {
	prefix = strings.Trim(prefix, "/")
	if !strings.HasPrefix(prefix, "$/") && !strings.HasPrefix(prefix, "%/") {
		prefix = "#/" + strings.TrimPrefix(prefix, "#/")
	}
	// What transformers prepended is not the namer's.
	return strings.Contains(id+"/", "/"+prefix+"/")
}
