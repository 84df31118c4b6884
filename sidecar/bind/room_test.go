package bind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

// six is a dtab by which each name asks about six others, of which the last is there for
// some.
const six = "/svc => /srv6; /svc => /srv5; /svc => /srv4; /svc => /srv3; /svc => /srv2; /svc => /srv1; " +
	"/srv1 => /#/io.l5d.k8s/ns/p1; /srv2 => /#/io.l5d.k8s/ns/p2; /srv3 => /#/io.l5d.k8s/ns/p3; " +
	"/srv4 => /#/io.l5d.k8s/ns/p4; /srv5 => /#/io.l5d.k8s/ns/p5; /srv6 => /#/io.l5d.k8s/ns/p6"

// there makes a name of six bound, to its last alternative.
func (w *world) there(id string) {
	w.nowhere(id)
	w.set("p6/"+id, naming.StateBound)
}

// nowhere makes a name of six one that does not exist.
func (w *world) nowhere(id string) {
	for i := range 6 {
		w.set(fmt.Sprintf("p%d/%s", i+1, id), naming.StateNeg)
	}
}

func (b *Binder) following() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.follows)
}

// Names that somebody invents keep no other from being bound, and a name that is asked
// for all the time stays.
func TestInventedNamesKeepNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := newWorld()
		b := start(t, Config{Dtab: watch.New(dtab(t, six)), Names: names.names(), Paths: 100})
		b.furnish(perName * 100)
		names.there("keep")
		names.there("web")
		keep := name(t, b, "ns", "keep", nil)
		for i := range 500 {
			if got := leaf(t, name(t, b, "ns", "keep", nil)); got != "/#/io.l5d.k8s/ns/p6/keep" {
				t.Fatalf("after %d names it is %s", i, got)
			}
			id := fmt.Sprintf("no%d", i)
			names.nowhere(id)
			if got := leaf(t, name(t, b, "ns", id, nil)); got != fmt.Sprint("kind ", naming.BoundNeg) {
				t.Fatalf("invented name %d: %s", i, got)
			}
			if n := b.following(); n > perName*100 {
				t.Fatalf("after %d names %d are followed", i, n)
			}
			time.Sleep(time.Second) // virtual: names are told apart by when they were used
		}
		if got := leaf(t, name(t, b, "ns", "web", nil)); got != "/#/io.l5d.k8s/ns/p6/web" {
			t.Errorf("a service that was not asked for before: %s", got)
		}
		if name(t, b, "ns", "keep", nil) != keep || keep.current() == nil {
			t.Error("the name in constant use was forgotten")
		}
		if n := len(kept(b, b.names)); n < 100*perName/6/2 {
			t.Errorf("only %d names are kept", n)
		}
	})
}

// However little room there is, the alternatives of one name have enough.
func TestOneNameHasRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := newWorld()
		names.there("world")
		b := start(t, Config{Dtab: watch.New(dtab(t, six)), Names: names.names(), Paths: 1})
		b.furnish(perName)
		for range 3 {
			if got := leaf(t, name(t, b, "ns", "world", nil)); got != "/#/io.l5d.k8s/ns/p6/world" {
				t.Errorf("it is %s", got)
			}
			if got := leaf(t, name(t, b, "ns", "world", *dtab(t, "/x => /y"))); got != "/#/io.l5d.k8s/ns/p6/world" {
				t.Errorf("with an override it is %s", got)
			}
			names.there("web")
			tree, err := name(t, b, "ns", "web", *dtab(t, "/svc/web => /srv5/web & (/srv4/web | /srv3/web | /srv6/web) & /srv6/world")).Resolve(t.Context())
			if err != nil || len(tree.Branches) != 2 {
				t.Errorf("of a union %v is left, %v", tree, err)
			}
		}
	})
}

// Overrides have half as much room, and it is theirs alone.
func TestGuestsHaveRoomOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := newWorld()
		b := start(t, Config{Dtab: watch.New(dtab(t, six)), Names: names.names(), Paths: 30})
		b.furnish(perName * 30)
		for i := range 20 { // all the room that there is
			names.there(fmt.Sprintf("s%d", i))
			_ = leaf(t, name(t, b, "ns", fmt.Sprintf("s%d", i), nil))
		}
		plain := kept(b, b.names)
		for i := range 100 {
			id := fmt.Sprintf("g%d", i)
			names.there(id)
			if got := leaf(t, name(t, b, "ns", "s1", *dtab(t, "/svc/s1 => /svc/"+id))); got != "/#/io.l5d.k8s/ns/p6/"+id {
				t.Errorf("override %d: %s", i, got)
			}
			if n := b.following(); n > perName*30*3/2 {
				t.Fatalf("after %d overrides %d are followed", i, n)
			}
			time.Sleep(time.Second)
		}
		if got := kept(b, b.names); !slices.Equal(got, plain) {
			t.Errorf("of %d names %d are left", len(plain), len(got))
		}
		for _, n := range plain {
			if n.current() == nil {
				t.Errorf("%s is to be evaluated again", n.Service)
			}
		}
		before := len(kept(b, b.guests))
		names.there("new")
		_ = leaf(t, name(t, b, "ns", "new", nil))
		if after := len(kept(b, b.guests)); before == 0 || after != before {
			t.Errorf("a name without an override pushed out %d of %d with one", before-after, before)
		}
	})
}

// Overrides that wait have a limit all together, for each has a watch at the namer; who
// is refused is served as soon as others have gone.
func TestGuestsThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := newWorld()
		b := start(t, Config{Dtab: watch.New(dtab(t, base)), Names: names.names(), Paths: 1})
		b.furnish(perName)
		branches := make([]string, 334)
		override := func(i int) naming.Dtab {
			for k := range branches {
				branches[k] = fmt.Sprintf("/#/io.l5d.k8s/ns/80/w%d-%d", i, k)
			}
			return *dtab(t, "/svc => "+strings.Join(branches, " & "))
		}
		ctx, cancel := context.WithCancel(t.Context())
		full := make(chan error, 10)
		for i := range cap(full) {
			n := name(t, b, "ns", "world", override(i))
			go func() {
				_, err := n.Resolve(ctx)
				full <- err
			}()
			synctest.Wait()
		}
		if n := b.following(); n > perName/2+spare {
			t.Errorf("%d are followed", n)
		}
		names.set("80/world", naming.StateBound)
		if got := leaf(t, name(t, b, "ns", "world", nil)); got != "/#/io.l5d.k8s/ns/80/world" {
			t.Errorf("meanwhile a plain name is %s", got)
		}
		names.set("80/over", naming.StateBound)
		refused := name(t, b, "ns", "world", *dtab(t, "/svc => /#/io.l5d.k8s/ns/80/world & /#/io.l5d.k8s/ns/80/over"))
		if tree, err := refused.Resolve(t.Context()); !errors.Is(err, ErrFull) {
			t.Errorf("while so many wait an override is %v, %v", tree, err)
		}
		cancel()
		refusals := 0
		for range cap(full) {
			if errors.Is(<-full, ErrFull) {
				refusals++
			}
		}
		if refusals != cap(full)-3 {
			t.Errorf("%d of %d were refused", refusals, cap(full))
		}
		time.Sleep(pause) // virtual
		if tree, err := refused.Resolve(t.Context()); err != nil || len(tree.Branches) != 2 {
			t.Errorf("after they have gone it is %v, %v", tree, err)
		}
	})
}

// A few names in constant use stay, though each asks about many others; many have more room.
func TestFewNamesStay(t *testing.T) {
	for paths, want := range map[int]int{1: 4000, 1000: 4000, 2000: 8000} {
		if b := New(Config{Dtab: watch.New(dtab(t, six)), Names: newWorld().names(), Paths: paths}); b.plain.limit != want || b.guest.limit != want/2 {
			t.Errorf("for %d names there is room for %d, and %d of guests", paths, b.plain.limit, b.guest.limit)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		names := newWorld()
		b := start(t, Config{Dtab: watch.New(dtab(t, six)), Names: names.names(), Paths: 100})
		var first []*Name
		for round := range 4 {
			for i := range 100 {
				id := fmt.Sprintf("s%d", i)
				if round == 0 {
					names.there(id)
					first = append(first, name(t, b, "ns", id, nil))
				} else if n := name(t, b, "ns", id, nil); n != first[i] || !n.Known() {
					t.Fatalf("in round %d %s is evaluated again", round, id)
				}
				_ = leaf(t, first[i])
			}
			time.Sleep(2 * time.Second)
		}
	})
}

// Who waits goes on to follow what it waits for, however long ago it was asked for.
func TestWhoWaitsIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := newWorld()
		b := start(t, Config{Dtab: watch.New(dtab(t, base)), Names: names.names()})
		b.furnish(16)
		slow := name(t, b, "ns", "slow", nil)
		done := make(chan error, 1)
		go func() {
			_, err := slow.Resolve(t.Context())
			done <- err
		}()
		synctest.Wait()
		for i := range 100 {
			time.Sleep(time.Millisecond)
			id := fmt.Sprintf("s%d", i)
			names.set("80/"+id, naming.StateBound)
			_ = leaf(t, name(t, b, "ns", id, nil))
			if n := b.following(); n > 16 {
				t.Fatalf("%d are followed", n)
			}
		}
		if name(t, b, "ns", "slow", nil) != slow || slow.Known() {
			t.Errorf("it was forgotten, or is known: %v", slow.Known())
		}
		names.set("80/slow", naming.StateBound)
		if err := <-done; err != nil || !slow.Known() {
			t.Errorf("it is known: %v, %v", slow.Known(), err)
		}
	})
}

// looks counts how often room was looked for, as each name adds one to what is followed.
type looks struct {
	b *Binder
	n int
}

func (l *looks) during(f func()) {
	before := l.b.plain.left
	if f(); l.b.plain.left != before-1 {
		l.n++
	}
}

// Room is made for many names at a time, and what several of them share goes with the last.
func TestRoomIsSeldomLookedFor(t *testing.T) {
	for _, rules := range []string{base, "/svc => /own & /shared; /own => /#/io.l5d.k8s/ns/80; /shared/* => /#/io.l5d.k8s/ns/80/all"} {
		synctest.Test(t, func(t *testing.T) {
			names := newWorld()
			names.set("80/all", naming.StateBound)
			b := start(t, Config{Dtab: watch.New(dtab(t, rules)), Names: names.names()})
			b.furnish(80)
			l := looks{b: b}
			for i := range 400 {
				id := fmt.Sprintf("s%d", i)
				names.set("80/"+id, naming.StateBound)
				l.during(func() {
					if _, err := name(t, b, "ns", id, nil).Resolve(t.Context()); err != nil {
						t.Error(err)
					}
				})
				if n := b.following(); n > 80 {
					t.Fatalf("%s: after %d names %d are followed", rules, i+1, n)
				}
				time.Sleep(time.Second)
			}
			if l.n == 0 || l.n > 320/10+2 {
				t.Errorf("%s: room was looked for %d times", rules, l.n)
			}
		})
	}
}

// Names without an override that wait have a limit, too, and beyond it room is looked for
// every now and then, not for each.
func TestNamesThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 80
		names := newWorld()
		b := start(t, Config{Dtab: watch.New(dtab(t, base)), Names: names.names(), Paths: 2 * spare})
		b.furnish(limit)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2*spare)
		l := looks{b: b}
		for i := range limit + spare {
			n := name(t, b, "ns", fmt.Sprintf("s%d", i), nil)
			l.during(func() {
				go func() {
					_, err := n.Resolve(ctx)
					ended <- err
				}()
				synctest.Wait()
			})
			if len(ended) > 0 {
				t.Fatalf("after %d: %v", i, <-ended)
			}
		}
		if n := b.following(); n != limit+spare || l.n > spare/(limit/8)+1 {
			t.Errorf("%d are followed, room was looked for %d times", n, l.n)
		}
		names.set("80/late", naming.StateBound)
		late := name(t, b, "ns", "late", nil)
		for range 2 {
			if _, err := late.Resolve(t.Context()); !errors.Is(err, ErrFull) || late.Known() || b.following() > limit+spare {
				t.Errorf("one more is known: %v, %v; %d are followed", late.Known(), err, b.following())
			}
			time.Sleep(pause) // virtual; then room is looked for
		}
		if got := leaf(t, name(t, b, "ns", "late", *dtab(t, "/x => /y"))); got != "/#/io.l5d.k8s/ns/80/late" {
			t.Errorf("meanwhile with an override it is %s", got)
		}
		if _, err := name(t, b, "ns", "later", nil).Resolve(t.Context()); !errors.Is(err, ErrFull) {
			t.Errorf("another one has room: %v", err)
		}
		cancel()
		for range limit + spare {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("who waited: %v", err)
			}
		}
		names.set("80/last", naming.StateBound)
		last := name(t, b, "ns", "last", nil)
		if _, err := last.Resolve(t.Context()); !errors.Is(err, ErrFull) {
			t.Errorf("room is looked for at once: %v", err)
		}
		time.Sleep(pause) // virtual
		if got := leaf(t, last); got != "/#/io.l5d.k8s/ns/80/last" {
			t.Errorf("after they have gone it is %s", got)
		}
		if n := b.following(); n > limit {
			t.Errorf("then %d are followed", n)
		}
	})
}

// gated lets nobody begin to follow a name until the gate is open.
type gated struct {
	*world
	gate  chan struct{}
	asked atomic.Int32
}

func (g *gated) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	g.asked.Add(1)
	<-g.gate
	return g.world.Replicas(id)
}

// Of many who ask at once, each has room before it is there.
func TestAllAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := &gated{world: newWorld(), gate: make(chan struct{})}
		b := start(t, Config{Dtab: watch.New(dtab(t, base)), Names: watch.New[Names](names)})
		b.furnish(80)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range 80 + spare + 100 {
			n := name(t, b, "ns", fmt.Sprintf("s%d", i), nil)
			all.Go(func() { _, _ = n.Resolve(ctx) })
		}
		synctest.Wait()
		if n := names.asked.Load(); n != 80+spare {
			t.Errorf("%d are asked about", n)
		}
		close(names.gate)
		synctest.Wait()
		if n := b.following(); n != 80+spare || b.plain.coming != 0 {
			t.Errorf("%d are followed, %d are to come", n, b.plain.coming)
		}
		cancel()
		all.Wait()
	})
}

// Where the names are replaced, what is followed of the old ones takes no room from the new.
func TestReplacedNamesHaveTheRoomOfTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := newWorld()
		all := names.names()
		b := start(t, Config{Dtab: watch.New(dtab(t, base)), Names: all})
		b.furnish(80)
		for i := range 80 {
			names.set(fmt.Sprintf("80/s%d", i), naming.StateBound)
			_ = leaf(t, name(t, b, "ns", fmt.Sprintf("s%d", i), nil))
		}
		for range 3 {
			all.Set(names)
			for _, n := range kept(b, b.names) {
				_ = leaf(t, n)
			}
			if n := len(kept(b, b.names)); n != 80 || b.following() != 80 {
				t.Fatalf("%d names are left, which follow %d", n, b.following())
			}
		}
	})
}
