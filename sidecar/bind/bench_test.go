package bind

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

// fiveRules is a dtab as a mesh has it.
const fiveRules = base + "; /host/world => /srv/world-v1; /host/world => /srv/world-v2 | /srv/world-v1"

// BenchmarkKnownName is what each request pays: 60 ns at most, and no memory.
func BenchmarkKnownName(b *testing.B) {
	names := newWorld()
	names.set("80/world", naming.StateBound)
	binder := New(Config{Dtab: watch.New(dtab(b, base)), Names: names.names()})
	// Among as many others as a proxy keeps.
	for i := range DefaultPaths - 1 {
		name(b, binder, "ns", fmt.Sprintf("service-%d", i), nil)
	}
	ctx, id := b.Context(), []byte("world")
	b.ReportAllocs()
	for b.Loop() {
		n, err := binder.Name("ns", id, nil, at)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := n.Resolve(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkColdName is what the first request for a name pays, whose replica sets are
// known, in a full cache: 25 µs at most.
func BenchmarkColdName(b *testing.B) {
	names := newWorld()
	names.set("80/world-v1", naming.StateNeg)
	names.set("80/world-v2", naming.StateNeg)
	names.set("http/world-v2", naming.StateBound)
	binder := New(Config{Dtab: watch.New(dtab(b, fiveRules)), Names: names.names()})
	ctx := b.Context()
	var id []byte
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		id = fmt.Appendf(id[:0], "/world/%d", i)
		n, err := binder.Name("ns", id, nil, clock.Now())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := n.Resolve(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
