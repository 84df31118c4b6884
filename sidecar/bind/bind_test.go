package bind

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table is a source whose names are pending until they are set, and which
// counts who follows them.
type table struct {
	mu     sync.Mutex
	values map[string]*watch.Value[naming.Replicas]
	users  map[string]int
}

func newTable() *table {
	return &table{values: map[string]*watch.Value[naming.Replicas]{}, users: map[string]int{}}
}

func (t *table) value(id string) *watch.Value[naming.Replicas] {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.values[id] == nil {
		t.values[id] = watch.New(naming.Replicas{})
	}
	return t.values[id]
}

func (t *table) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	v := t.value(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users[id]++
	return v, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.users[id]--
	}
}

func (t *table) followed() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, u := range t.users {
		n += u
	}
	return n
}

func (t *table) set(service string, state naming.State) {
	t.value("/#/io.l5d.k8s/ns/" + service).Set(naming.Replicas{State: state})
}

func dtab(t *testing.T, text string) *naming.Dtab {
	t.Helper()
	d, err := naming.ParseDtab(text)
	if err != nil {
		t.Fatal(err)
	}
	return &d
}

const base = "/srv => /caller; /host => /srv; /svc => /host"

// start runs a Binder until the test's function returns.
func start(t *testing.T, d *watch.Value[*naming.Dtab], s Source) *Binder {
	b := New(Config{Dtab: d, Source: s})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return b
}

func leaf(t *testing.T, n *Name) string {
	t.Helper()
	tree, err := n.Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if tree.Kind != naming.BoundLeaf {
		return fmt.Sprint("kind ", tree.Kind)
	}
	return tree.Leaf.ID.String()
}

func TestResolveWaitsForTheNamer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules, names := watch.New[*naming.Dtab](nil), newTable()
		b := start(t, rules, names)
		n := b.Name("ns", []byte("world"), nil)
		if n.Service != "/svc/world" {
			t.Errorf("the service is %s", n.Service)
		}

		began := time.Now()
		if _, err := n.Resolve(t.Context()); !errors.Is(err, ErrTimeout) || time.Since(began) != bindingTimeout {
			t.Errorf("without a dtab: %v after %s", err, time.Since(began))
		}
		go func() {
			time.Sleep(time.Second) // virtual
			rules.Set(dtab(t, base))
			time.Sleep(time.Second)
			names.set("80/world", naming.StateNeg)
			time.Sleep(time.Second)
			names.set("http/world", naming.StateBound)
		}()
		began = time.Now()
		if got := leaf(t, n); got != "/#/io.l5d.k8s/ns/http/world" || time.Since(began) != 3*time.Second {
			t.Errorf("got %s after %s", got, time.Since(began))
		}
		names.set("80/world", naming.StateBound)
		if got := leaf(t, n); got != "/#/io.l5d.k8s/ns/80/world" {
			t.Errorf("after the first alternative appeared: %s", got)
		}
		names.set("80/world", naming.StateNeg)
		if got := leaf(t, n); got != "/#/io.l5d.k8s/ns/http/world" {
			t.Errorf("after it went: %s", got)
		}
		rules.Set(dtab(t, base+"; /host/world => $"))
		if got := leaf(t, n); got != fmt.Sprint("kind ", naming.BoundEmpty) {
			t.Errorf("after the dtab changed: %s", got)
		}
	})
}

func TestNamesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := newTable()
		b := start(t, watch.New(dtab(t, base)), names)
		names.set("80/keep", naming.StateBound)
		for i := range 3 * maxNames {
			keep := b.Name("ns", []byte("keep"), nil)
			_ = leaf(t, keep)
			service := fmt.Sprintf("s%d", i)
			names.set("80/"+service, naming.StateBound)
			_ = leaf(t, b.Name("ns", []byte(service), nil))
			time.Sleep(time.Second) // virtual: names are told apart by when they were used
		}
		if n := len(*b.names.Load()); n > maxNames {
			t.Errorf("%d names are kept, want at most %d", n, maxNames)
		}
		if (*b.names.Load())[key{"ns", "keep", ""}] == nil {
			t.Error("the name in constant use was dropped")
		}
		time.Sleep(idleFor + 2*time.Minute)
		synctest.Wait()
		if n := len(*b.names.Load()); n != 0 || names.followed() != 0 {
			t.Errorf("after a long pause %d names are kept and %d followed", n, names.followed())
		}
	})
}

func TestKnownNameAllocatesNothing(t *testing.T) {
	names := newTable()
	names.set("80/world", naming.StateBound)
	b := New(Config{Dtab: watch.New(dtab(t, base)), Source: names})
	host := []byte("world")
	ctx := context.Background()
	if n := testing.AllocsPerRun(100, func() {
		if _, err := b.Name("ns", host, nil).Resolve(ctx); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("binding a known name allocates %v times", n)
	}
}

func TestOverridesAreNamesOfTheirOwn(t *testing.T) {
	names := newTable()
	for _, s := range []string{"80/world", "80/world-v2"} {
		names.set(s, naming.StateBound)
	}
	b := New(Config{Dtab: watch.New(dtab(t, base)), Source: names})
	plain := b.Name("ns", []byte("world"), nil)
	over := b.Name("ns", []byte("world"), *dtab(t, "/host/world => /srv/world-v2"))
	same := b.Name("ns", []byte("world"), *dtab(t, "/host/world=>/srv/world-v2;"))
	if plain == over || over != same {
		t.Error("overrides are not told apart by their canonical text")
	}
	if a, c := leaf(t, plain), leaf(t, over); a != "/#/io.l5d.k8s/ns/80/world" || c != "/#/io.l5d.k8s/ns/80/world-v2" {
		t.Errorf("got %s and %s", a, c)
	}
	if other := b.Name("other", []byte("world"), nil); other == plain {
		t.Error("callers of two namespaces share a name")
	}
}
