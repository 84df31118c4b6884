package sidecar

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// leafTable is a registry.Source whose names are pending until they are set, and
// which counts who follows them.
type leafTable struct {
	mu     sync.Mutex
	values map[string]*watch.Value[naming.Replicas]
	users  map[string]int
}

func newLeafTable() *leafTable {
	return &leafTable{values: map[string]*watch.Value[naming.Replicas]{}, users: map[string]int{}}
}

func (l *leafTable) value(id string) *watch.Value[naming.Replicas] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.values[id] == nil {
		l.values[id] = &watch.Value[naming.Replicas]{}
	}
	return l.values[id]
}

func (l *leafTable) set(id, address string) {
	l.value(id).Set(naming.Of(naming.Endpoint{Address: address, Weight: 1, Hop: naming.HopSidecar, Via: "10.0.0.9:4141", Identity: "spiffe://x/y"}))
}

func (l *leafTable) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	v := l.value(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users[id]++
	return v, sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.users[id]--
	})
}

func (l *leafTable) used() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, u := range l.users {
		n += u
	}
	return n
}

func mustRegistry(t *testing.T, source registry.Source, yaml string) *registry.Registry {
	t.Helper()
	namers, _, err := registry.Parse("namers.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.New(registry.Config{Namers: namers, Source: source})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What is followed goes on through another registry, and nothing that was known
// is forgotten before something else is known.
func TestNamesOutliveTheirRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leaves := newLeafTable()
		n := newNames(mustRegistry(t, leaves, "- kind: io.l5d.k8s\n  prefix: /edge\n"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.run(ctx) }()
		const id = "/#/edge/shop/http/cart"
		value, release := n.Replicas(id)
		again, releaseAgain := n.Replicas(id)
		if value != again || value.Get().State != naming.StatePending {
			t.Error("who follows one name shares its value, which is pending at first")
		}
		changes := 0
		value.Notify(func() { changes++ })
		leaves.set("/#/io.l5d.k8s/shop/http/cart", "10.0.0.1:80")
		synctest.Wait()
		address := func() string {
			if e := value.Get().Endpoints; len(e) == 1 {
				return e[0].Address
			}
			return value.Get().State.String()
		}
		if address() != "10.0.0.1:80" || changes != 1 {
			t.Errorf("the name is %s after %d changes", address(), changes)
		}

		// The same in other words: nothing happens.
		n.replace(mustRegistry(t, leaves, "- kind: io.l5d.k8s\n  prefix: /edge\n- kind: io.l5d.k8s\n  prefix: /other\n"))
		synctest.Wait()
		if changes != 1 || leaves.used() != 1 {
			t.Errorf("%d changes, %d leaves are followed", changes, leaves.used())
		}
		// Another meaning: the old one stays until the new one is known.
		n.replace(mustRegistry(t, leaves, "- kind: io.l5d.k8s.external\n  prefix: /edge\n"))
		synctest.Wait()
		if address() != "10.0.0.1:80" || changes != 1 {
			t.Errorf("the name is %s before the new registry knows it", address())
		}
		leaves.set("/#/io.l5d.k8s/shop/http/cart", "10.0.0.2:80") // is of the past
		leaves.set("/#/io.l5d.k8s.external/shop/http/cart", "192.0.2.1:80")
		synctest.Wait()
		if address() != "192.0.2.1:80" || changes != 2 || leaves.used() != 1 {
			t.Errorf("the name is %s after %d changes, %d leaves are followed", address(), changes, leaves.used())
		}
		// No meaning at all.
		n.replace(mustRegistry(t, leaves, "[]"))
		synctest.Wait()
		if address() != "neg" || leaves.used() != 0 {
			t.Errorf("the name is %s, %d leaves are followed", address(), leaves.used())
		}
		n.replace(mustRegistry(t, leaves, "- kind: io.l5d.k8s\n  prefix: /edge\n"))
		synctest.Wait()
		if followed, known := n.count(); address() != "10.0.0.2:80" || followed != 1 || known != 1 || n.list()[0].ID != id || n.list()[0].Updated.IsZero() {
			t.Errorf("the name is %s of %v", address(), n.list())
		}
		release()
		release()
		if leaves.used() != 1 {
			t.Error("released twice by one")
		}
		releaseAgain()
		if followed, _ := n.count(); followed != 0 || leaves.used() != 0 {
			t.Errorf("%d names and %d leaves are followed by nobody", followed, leaves.used())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestDirectNamesPassProxiesBy(t *testing.T) {
	leaves := newLeafTable()
	n := newNames(mustRegistry(t, leaves, "[]"))
	n.direct = true
	leaves.set("/#/io.l5d.k8s/shop/http/cart", "10.0.0.1:80")
	value, release := n.Replicas("/#/io.l5d.k8s/shop/http/cart")
	defer release()
	if e := value.Get().Endpoints; len(e) != 1 || e[0].Hop != naming.HopNone || e[0].Via != "" || e[0].Identity != "" {
		t.Errorf("%+v", e)
	}
}

// Registries are replaced while names come and go.
func TestNamesUnderway(t *testing.T) {
	leaves := newLeafTable()
	texts := []string{"- kind: io.l5d.k8s\n  prefix: /edge\n", "- kind: io.l5d.k8s.external\n  prefix: /edge\n"}
	n := newNames(mustRegistry(t, leaves, texts[0]))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 300 {
				value, release := n.Replicas([]string{"/#/edge/a/http/b", "/#/edge/a/http/c"}[i%2])
				value.Get()
				release()
			}
		})
	}
	for i := range 50 {
		n.replace(mustRegistry(t, leaves, texts[i%2]))
		leaves.set("/#/io.l5d.k8s/a/http/b", "10.0.0.1:80")
	}
	wg.Wait()
	if followed, _ := n.count(); followed != 0 || leaves.used() != 0 {
		t.Errorf("%d names and %d leaves are followed by nobody", followed, leaves.used())
	}
}
