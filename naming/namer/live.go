package namer

import (
	"context"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

// live is for what is evaluated again whenever something that it was made of changes: it follows
// the states that an evaluation asks for, and lets go of those that the next one does not. It
// belongs to one goroutine.
type live struct {
	registry Registry
	keep     bool // let go of nothing before close
	round    int
	asked    map[string]*asked
	inputs   []func()      // what stops following the other things
	wake     chan struct{} // one token: something may be another than it was
}

// asked is a state that an evaluation asked for.
type asked struct {
	value *watch.Value[naming.Replicas]
	stop  func()
	round int             // the last one that asked
	state naming.Replicas // as it is for that round: one evaluation sees one state of a name
}

func newLive(registry Registry) *live {
	return &live{registry: registry, asked: map[string]*asked{}, wake: make(chan struct{}, 1)}
}

func (l *live) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// dtab follows the dtab of a namespace until close.
func (l *live) dtab(store Store, namespace string) *watch.Value[*Versioned] {
	value, release := store.Watch(namespace)
	unhook := value.Notify(l.signal)
	l.inputs = append(l.inputs, unhook, release)
	return value
}

// state returns what is known of a bound id.
func (l *live) state(id naming.Path) naming.Replicas {
	key := id.String()
	a := l.asked[key]
	if a == nil {
		value, release := l.registry.Replicas(key)
		unhook := value.Notify(l.signal)
		a = &asked{value: value, stop: func() { unhook(); release() }}
		l.asked[key] = a
	}
	if a.round != l.round {
		a.round, a.state = l.round, a.value.Get()
	}
	return a.state
}

// run calls evaluate now and at every change until it returns false, and returns nil; or until
// ctx ends, and returns why.
func (l *live) run(ctx context.Context, evaluate func() (more bool)) error {
	for {
		l.round++
		if !evaluate() {
			return nil
		}
		for key, a := range l.asked {
			if a.round != l.round && !l.keep {
				delete(l.asked, key)
				a.stop()
			}
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// after makes evaluate be called again once d has passed.
func (l *live) after(d time.Duration) {
	timer := time.AfterFunc(d, l.signal)
	l.inputs = append(l.inputs, func() { timer.Stop() })
}

// close lets go of everything.
func (l *live) close() {
	for _, a := range l.asked {
		a.stop()
	}
	for _, stop := range l.inputs {
		stop()
	}
}
