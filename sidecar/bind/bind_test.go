package bind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is what names mean by the rules of package rewrite. They are pending until
// they are set, and who follows them is counted.
type world struct {
	mu     sync.Mutex
	values map[string]*watch.Value[naming.Replicas]
	users  map[string]int
}

func newWorld() *world {
	return &world{values: map[string]*watch.Value[naming.Replicas]{}, users: map[string]int{}}
}

func (w *world) value(id string) *watch.Value[naming.Replicas] {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.values[id] == nil {
		w.values[id] = watch.New(naming.Replicas{})
	}
	return w.values[id]
}

func (w *world) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	v := w.value(id)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.users[id]++
	return v, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.users[id]--
	}
}

func (w *world) followed() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.users {
		n += u
	}
	return n
}

func (w *world) set(service string, state naming.State) {
	w.value("/#/io.l5d.k8s/ns/" + service).Set(naming.Replicas{State: state})
}

func (w *world) Resolver(state func(id naming.Path) naming.Replicas) naming.Resolver {
	r, err := registry.New(registry.Config{Namers: registry.Default(), Source: w})
	if err != nil {
		return func(naming.Path) naming.Resolution { return naming.Resolution{Err: err} }
	}
	return r.Resolver(state)
}

func (w *world) names() *watch.Value[Names] { return watch.New[Names](w) }

// at is a moment of package clock for who does not care.
const at = 1

func name(t testing.TB, b *Binder, namespace, id string, override naming.Dtab) *Name {
	t.Helper()
	n, err := b.Name(namespace, []byte(id), override, clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func dtab(t testing.TB, text string) *naming.Dtab {
	t.Helper()
	d, err := naming.ParseDtab(text)
	if err != nil {
		t.Fatal(err)
	}
	return &d
}

const base = "/srv => /caller; /host => /srv; /svc => /host"

// start runs a Binder until the test's function returns.
func start(t *testing.T, cfg Config) *Binder {
	b := New(cfg)
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

// kept returns the names in a table, which has to know how many they are.
func kept(b *Binder, t *table) []*Name {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := t.all()
	if len(all) != t.names {
		panic(fmt.Sprintf("a table of %d names counts %d", len(all), t.names))
	}
	return all
}

func TestResolveWaitsForTheNamer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules, names := watch.New[*naming.Dtab](nil), newWorld()
		b := start(t, Config{Dtab: rules, Names: names.names()})
		n := name(t, b, "ns", "world", nil)
		if n.Service != "/svc/world" {
			t.Errorf("the service is %s", n.Service)
		}

		began := time.Now()
		if _, err := n.Resolve(t.Context()); !errors.Is(err, ErrTimeout) || time.Since(began) != DefaultTimeout {
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
		names := newWorld()
		b := start(t, Config{Dtab: watch.New(dtab(t, base)), Names: names.names()})
		names.set("80/keep", naming.StateBound)
		for i := range 3 * DefaultPaths {
			keep := name(t, b, "ns", "keep", nil)
			_ = leaf(t, keep)
			service := fmt.Sprintf("s%d", i)
			names.set("80/"+service, naming.StateBound)
			_ = leaf(t, name(t, b, "ns", service, nil))
			time.Sleep(time.Second) // virtual: names are told apart by when they were used
		}
		if n := len(kept(b, b.names)); n > DefaultPaths {
			t.Errorf("%d names are kept, want at most %d", n, DefaultPaths)
		}
		if !slices.ContainsFunc(kept(b, b.names), func(n *Name) bool { return n.id == "keep" }) {
			t.Error("the name in constant use was dropped")
		}
		time.Sleep(DefaultIdleTTL + 2*time.Minute)
		synctest.Wait()
		if n := len(kept(b, b.names)); n != 0 || names.followed() != 0 {
			t.Errorf("after a long pause %d names are kept and %d followed", n, names.followed())
		}
	})
}

func TestKnownNameAllocatesNothing(t *testing.T) {
	names := newWorld()
	names.set("80/world", naming.StateBound)
	b := New(Config{Dtab: watch.New(dtab(t, base)), Names: names.names()})
	host := []byte("world")
	ctx := context.Background()
	if n := testing.AllocsPerRun(100, func() {
		n, err := b.Name("ns", host, nil, at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Resolve(ctx); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("binding a known name allocates %v times", n)
	}
}

func TestOverridesAreNamesOfTheirOwn(t *testing.T) {
	names := newWorld()
	for _, s := range []string{"80/world", "80/world-v2"} {
		names.set(s, naming.StateBound)
	}
	b := New(Config{Dtab: watch.New(dtab(t, base)), Names: names.names()})
	plain := name(t, b, "ns", "world", nil)
	over := name(t, b, "ns", "world", *dtab(t, "/host/world => /srv/world-v2"))
	same := name(t, b, "ns", "world", *dtab(t, "/host/world=>/srv/world-v2;"))
	if plain == over || over != same {
		t.Error("overrides are not told apart by their canonical text")
	}
	if a, c := leaf(t, plain), leaf(t, over); a != "/#/io.l5d.k8s/ns/80/world" || c != "/#/io.l5d.k8s/ns/80/world-v2" {
		t.Errorf("got %s and %s", a, c)
	}
	if other := name(t, b, "other", "world", nil); other == plain {
		t.Error("callers of two namespaces share a name")
	}
}
