package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

var kinds = []struct {
	name string
	kind Kind
}{{"p2c", P2C}, {"ewma", EWMA}, {"aperture", Aperture}, {"roundRobin", RoundRobin}, {"heap", Heap}}

// warm returns n endpoints that have answered before.
func warm(n int, weighted bool) []*Endpoint[int] {
	var all []*Endpoint[int]
	for i := range n {
		weight := 1.0
		if weighted {
			weight += float64(i % 7)
		}
		e := NewEndpoint(i, weight)
		e.Begin(0)
		e.End(1e6, 1e6+rand.Int64N(1e6))
		all = append(all, e)
	}
	return all
}

func TestHotPathAllocatesNothing(t *testing.T) {
	for _, k := range kinds {
		for _, weighted := range []bool{false, true} {
			all := warm(10, weighted)
			p := NewPicker(Config{Kind: k.kind}, all, nil)
			all[3].CloseUntil(math.MaxInt64)
			now := int64(0)
			var tried [1]*Endpoint[int]
			if n := testing.AllocsPerRun(1000, func() {
				now += 1e6
				e := p.Pick(now, nil)
				tried[0] = e
				e.Begin(now)
				e.End(now, 1e6)
				e = p.Pick(now, tried[:])
				e.Begin(now)
				e.End(now, -1)
			}); n != 0 {
				t.Errorf("%s allocates %v times", k.name, n)
			}
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, k := range kinds[:4] {
		for _, n := range []int{3, 100, 5000} {
			for _, weighted := range []bool{false, true} {
				name := fmt.Sprintf("%s/%d", k.name, n)
				if weighted {
					name += "/weighted"
				}
				b.Run(name, func(b *testing.B) {
					p := NewPicker(Config{Kind: k.kind, MinAperture: n}, warm(n, weighted), nil)
					now := int64(2e9)
					for b.Loop() {
						now += 20e3
						p.Pick(now, nil)
					}
				})
			}
		}
	}
}

// BenchmarkRequest is everything that a request costs here.
func BenchmarkRequest(b *testing.B) {
	for _, k := range kinds[:4] {
		b.Run(k.name, func(b *testing.B) {
			p := NewPicker(Config{Kind: k.kind}, warm(3, false), nil)
			now := int64(2e9)
			for b.Loop() {
				e := p.Pick(now, nil)
				e.Begin(now)
				now += 20e3
				e.End(now, now&0xfffff)
			}
		})
	}
}

func BenchmarkEnd(b *testing.B) {
	for _, latency := range []int64{-1, 1e6} {
		b.Run(fmt.Sprint(latency), func(b *testing.B) {
			e := warm(1, false)[0]
			now := int64(2e9)
			for b.Loop() {
				now += 100e3
				e.Begin(now)
				e.End(now, latency)
			}
		})
	}
}
