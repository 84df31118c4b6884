package namer_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// most is how many names a proxy is told about.
const most = 10_000

// A proxy that follows too many names is told of as many as it may be, and of each that is
// beyond that it is; the stream goes on, and what is beyond comes in once another one has gone.
func TestTooManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, src, n := memory(t, map[string]string{"default": "/svc=>/a"}), newSource(), &network{}
		defer n.serve(namer.NewStream(namer.StreamConfig{Store: store, Source: src, Logger: quiet}))()
		c, stop := n.start(t, sidecar)
		defer stop()
		<-c.Synced()
		id := func(i int) string { return fmt.Sprintf("/#/io.l5d.k8s/ns/80/s%05d", i) }
		values, releases := map[int]*watch.Value[naming.Replicas]{}, map[int]func(){}
		follow := func(i int) {
			src.name(id(i)).Set(at("10.0.0.1:80"))
			values[i], releases[i] = c.Replicas(id(i))
		}
		for i := range most + 2 {
			follow(i)
		}
		synctest.Wait()
		beyond := func() (all []int) {
			for i := range most + 3 {
				if v := values[i]; v != nil && !v.Get().Equal(at("10.0.0.1:80")) {
					if r := v.Get(); r.State != naming.StateFailed || !strings.Contains(r.Cause, "more than 10000 names") || src.usersOf(id(i)) != 0 {
						t.Fatalf("%d is %+v, with %d users", i, r, src.usersOf(id(i)))
					}
					all = append(all, i)
				}
			}
			return all
		}
		failed := beyond()
		if len(failed) != 2 || !c.Connected() || n.dialled() != 1 {
			t.Fatalf("%d are beyond, connected %v, %d connections", len(failed), c.Connected(), n.dialled())
		}
		// What is beyond may go, too, and makes no room.
		releases[failed[0]]()
		delete(values, failed[0])
		follow(most + 2)
		synctest.Wait()
		if got := beyond(); len(got) != 2 {
			t.Fatalf("then %d are beyond", len(got))
		}
		for i := range 2 {
			releases[i]()
			delete(values, i)
			synctest.Wait()
			if got := beyond(); len(got) != 1-i {
				t.Fatalf("after %d have gone, %d are beyond", i+1, len(got))
			}
		}
		stop()
		synctest.Wait()
		for i := range most + 3 {
			if n := src.usersOf(id(i)); n != 0 {
				t.Fatalf("%d has %d users after the proxy has gone", i, n)
			}
		}
	})
}

// Of names in use, those that are too long or too many are counted alone.
func TestTooManyNamesInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pages, _, store, seen := newNames(t, "/svc=>/a")
		n := &network{}
		defer n.serve(namer.NewStream(namer.StreamConfig{Store: store, Source: newSource(), Seen: seen, Logger: quiet}))()
		use := func(many int) (all []api.Name) {
			for i := range many {
				all = append(all, api.Name{Namespace: "shop", Path: fmt.Sprintf("/svc/s%d", i)})
			}
			return append(all, api.Name{Namespace: "shop", Path: "/svc/" + strings.Repeat("x", 2000)})
		}
		var inUse watch.Value[[]api.Name]
		inUse.Set(use(most + 5))
		hello := sidecar
		hello.DtabNamespace = "shop"
		c, stop := n.start(t, hello, func() []api.Name { return inUse.Get() })
		defer stop()
		<-c.Synced()
		check := func(when string, names, omitted int) {
			t.Helper()
			time.Sleep(2 * time.Second) // virtual
			synctest.Wait()
			p := planOf(t, pages, "", "/svc=>/a")
			if got := len(seen.Names("shop")); got != names || p.Omitted != omitted {
				t.Errorf("%s: %d names and %d omitted, want %d and %d", when, got, p.Omitted, names, omitted)
			}
		}
		check("too many", most, 6)
		if !c.Connected() || n.dialled() != 1 {
			t.Errorf("connected %v, %d connections", c.Connected(), n.dialled())
		}
		inUse.Set(nil)
		c.Used()
		check("none", 0, 0)
		inUse.Set(use(most + 5))
		c.Used()
		check("again", most, 6)
		stop()
		check("gone", 0, 0)
	})
}
