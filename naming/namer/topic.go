package namer

import (
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// topics are the things that sessions follow at present, each followed and marshalled once for
// all of them: a thousand proxies that follow one name cost one look at it.
type topics struct {
	mu  sync.Mutex
	all map[string]*topic
}

// topic is one thing that sessions follow.
type topic struct {
	key  string
	show func() *api.FromNamer // the present state, nil if it is the last one or not to be sent
	stop func()                // stops following it

	stale atomic.Bool // the state may be another than line

	mu   sync.Mutex
	subs map[*subscription]struct{}
	line []byte // the last state, nil if there was none
	seq  uint64 // counts the states that were shown
}

// join adds sub to the topic of that key, which start makes if there is none.
func (t *topics) join(key string, sub *subscription, start func() *topic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if sub.topic = t.all[key]; sub.topic == nil {
		sub.topic = start()
		sub.topic.key = key
		t.all[key] = sub.topic
	}
	sub.topic.mu.Lock()
	defer sub.topic.mu.Unlock()
	sub.topic.subs[sub] = struct{}{}
}

// leave removes sub from its topic, which ends with the last one.
func (t *topics) leave(sub *subscription) {
	t.mu.Lock()
	topic := sub.topic
	topic.mu.Lock()
	delete(topic.subs, sub)
	last := len(topic.subs) == 0
	topic.mu.Unlock()
	if last {
		delete(t.all, topic.key)
	}
	t.mu.Unlock()
	if last {
		topic.stop()
	}
}

// newTopic follows a value: equal tells states that are one to a proxy, and show makes a message
// of a state, or nil if it is not to be sent.
func newTopic[T any](value *watch.Value[T], release func(), equal func(a, b T) bool, show func(T) *api.FromNamer) *topic {
	t := &topic{subs: map[*subscription]struct{}{}}
	t.stale.Store(true)
	var last *T
	t.show = func() *api.FromNamer {
		v := value.Get()
		if last != nil && equal(v, *last) {
			return nil
		}
		message := show(v)
		if message != nil {
			last = &v
		}
		return message
	}
	unhook := value.Notify(t.changed)
	t.stop = func() { unhook(); release() }
	return t
}

// changed marks the topic at all who follow it. It is called from the hooks of values, so it
// takes no locks but the topic's and the sessions'.
func (t *topic) changed() {
	t.stale.Store(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	for sub := range t.subs {
		sub.session.mark(sub)
	}
}

// state returns the last state as a line, nil if there is none yet, and its number.
func (t *topic) state() (last []byte, seq uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stale.CompareAndSwap(true, false) { // what is set from now on makes it stale again
		if message := t.show(); message != nil {
			t.line, t.seq = line(message), t.seq+1
		}
	}
	return t.line, t.seq
}
