//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/bind"
)

// rules are five, of which a new name needs all.
const rules = "/srv => /#/io.l5d.k8s/shop/http ; /old => /srv ; /host => /old ; /host/* => /srv ; /svc => /host"

// everything is a source in which each name exists, with a value of its own as a proxy has it.
type everything struct{}

func (everything) Replicas(string) (*watch.Value[naming.Replicas], func()) {
	return watch.New(naming.Of(naming.Endpoint{Address: "10.0.0.1:80", Weight: 1})), func() {}
}

// binder is what a proxy turns hosts into names with, as a mesh has it by default.
func binder() (*bind.Binder, error) {
	dtab, err := naming.ParseDtab(rules)
	if err != nil {
		return nil, err
	}
	names, err := registry.New(registry.Config{Namers: registry.Default(), Source: everything{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return bind.New(bind.Config{Dtab: watch.New(&dtab), Names: watch.New[bind.Names](names)}), nil
}

func resolve(b *bind.Binder, id []byte, now int64) error {
	n, err := b.Name("shop", id, nil, now)
	if err != nil {
		return err
	}
	tree, err := n.Resolve(context.Background())
	if err == nil && tree.Kind != naming.BoundLeaf {
		err = fmt.Errorf("%s is bound to nothing", id)
	}
	return err
}

// lookup measures what each request pays for its name once that is bound, among as many as a proxy keeps: in
// nanoseconds, and in heap allocations.
func (b *bench) lookup() (times, allocs figure, err error) {
	names, err := binder()
	if err != nil {
		return times, allocs, err
	}
	now := clock.Now()
	for i := range bind.DefaultPaths {
		if err := resolve(names, fmt.Appendf(nil, "service-%d", i), now); err != nil {
			return times, allocs, err
		}
	}
	id := []byte("service-7")
	for round := range b.rounds {
		r := testing.Benchmark(func(b *testing.B) {
			for b.Loop() {
				if err := resolve(names, id, now); err != nil {
					b.Fatal(err)
				}
			}
		})
		times.ours, allocs.ours = append(times.ours, float64(r.T.Nanoseconds())/float64(r.N)), append(allocs.ours, float64(r.MemAllocs)/float64(r.N))
		b.say("name, round %d of %d: %.1f ns", round+1, b.rounds, times.ours[round])
	}
	return times, allocs, nil
}

// bind measures what the first request for a name pays, in microseconds, in a cache that is full.
func (b *bench) bind() (f figure, err error) {
	names, err := binder()
	if err != nil {
		return f, err
	}
	n := 0
	var id []byte
	for round := range b.rounds {
		r := testing.Benchmark(func(b *testing.B) {
			for b.Loop() {
				n++
				id = fmt.Appendf(id[:0], "service-%d", n)
				if err := resolve(names, id, clock.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
		f.ours = append(f.ours, float64(r.T.Nanoseconds())/1e3/float64(r.N))
		b.say("new name, round %d of %d: %.2f us", round+1, b.rounds, f.ours[round])
	}
	return f, nil
}
