package balance

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func endpoints(n int) []*Endpoint[int] {
	var all []*Endpoint[int]
	for i := range n {
		all = append(all, NewEndpoint(i, 1))
	}
	return all
}

func TestP2CSpreadsByLoad(t *testing.T) {
	all := endpoints(4)
	p := NewPicker(Config{}, all, nil)
	for range 4000 {
		p.Pick(0, nil).Begin(0) // none ends: the loads must stay level
	}
	for _, e := range all {
		if e.Load() < 990 || e.Load() > 1010 {
			t.Errorf("endpoint %d holds %d of 4000 requests, want about 1000", e.Value, e.Load())
		}
	}
}

// TestPick checks the promises of Pick for any set in any state.
func TestPick(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := []*Endpoint[int]{}
		tried := []*Endpoint[int]{}
		now := rapid.Int64Range(0, 1e12).Draw(t, "now")
		for i := range rapid.IntRange(0, 12).Draw(t, "n") {
			e := NewEndpoint(i, rapid.SampledFrom([]float64{1, 1, 0, 3, 1e-9, 1e9, 5e-324, 1e308, -1, math.NaN(), math.Inf(1)}).Draw(t, "weight"))
			e.CloseUntil(rapid.SampledFrom([]int64{0, now, now + 1, math.MaxInt64}).Draw(t, "until"))
			for range rapid.IntRange(0, 3).Draw(t, "load") {
				e.Begin(now)
			}
			if rapid.Bool().Draw(t, "history") {
				e.Begin(now)
				e.End(now, rapid.Int64Range(-1, 1e10).Draw(t, "latency"))
			}
			all = append(all, e)
			if rapid.IntRange(0, 2).Draw(t, "tried") == 0 {
				tried = append(tried, e)
			}
		}
		cfg := Config{Kind: Kind(rapid.IntRange(0, 4).Draw(t, "kind")), MinAperture: rapid.IntRange(0, 14).Draw(t, "aperture")}
		p := NewPicker(cfg, all, NewPicker(Config{Kind: Aperture}, endpoints(3), nil))
		// rank is how good a choice is.
		rank := func(e *Endpoint[int]) int {
			switch {
			case e.Available(now) && e.Weight() > 0:
				return 2
			case e.Available(now):
				return 1
			}
			return 0
		}
		left := slices.DeleteFunc(slices.Clone(all), func(e *Endpoint[int]) bool { return slices.Contains(tried, e) })
		for range 20 {
			e := p.Pick(now, tried)
			switch {
			case e == nil && len(left) > 0:
				t.Fatal("picked nothing")
			case e == nil:
			case slices.Contains(tried, e):
				t.Fatal("picked what was tried")
			case rank(e) < rank(slices.MaxFunc(left, func(a, b *Endpoint[int]) int { return cmp.Compare(rank(a), rank(b)) })):
				t.Fatalf("picked %d, although there are better ones", e.Value)
			}
		}
	})
}

func TestClosing(t *testing.T) {
	e := NewEndpoint(0, 1)
	if !e.Available(0) {
		t.Error("closed at first")
	}
	e.CloseUntil(100)
	if e.Available(99) || !e.Available(100) {
		t.Error("not closed until 100")
	}
	e.CloseUntil(math.MaxInt64)
	if e.Available(math.MaxInt64 - 1) {
		t.Error("not closed for good")
	}
	e.Open()
	if !e.Available(0) {
		t.Error("not open")
	}
}

const ms = int64(time.Millisecond)

func TestPeakEWMA(t *testing.T) {
	e := NewEndpoint(0, 1)
	NewPicker(Config{Kind: EWMA, DecayTime: 10 * time.Second}, []*Endpoint[int]{e}, nil)
	answer := func(now, latency int64) {
		e.Begin(now)
		e.End(now, latency)
	}
	near := func(now int64, want float64) {
		t.Helper()
		if got := float64(e.Latency(now)); math.Abs(got-want) > want/1000 {
			t.Fatalf("after %v the cost is %v, want %v", time.Duration(now), time.Duration(got), time.Duration(want))
		}
	}
	if e.Latency(0) != 0 {
		t.Fatal("a latency without history")
	}
	answer(1000*ms, 20*ms)
	near(1000*ms, 20e6)
	answer(2000*ms, 100*ms) // up at once
	near(2000*ms, 100e6)
	near(12000*ms, 100e6/math.E) // decays while nothing happens
	near(1990*ms, 100e6)         // by a clock that is behind
	answer(12000*ms, 10*ms)
	cost := 100e6/math.E + 10e6*(1-1/math.E)
	near(12000*ms, cost)
	answer(12000*ms, 1*ms) // no time has passed: weighs nothing
	near(12000*ms, cost)
	answer(22000*ms, -1) // a failure holds it
	near(22000*ms, cost)
	near(32000*ms, cost/math.E)
	answer(22000*ms+int64(5*24*time.Hour), 7*ms) // the stamp has wrapped
	near(22000*ms+int64(5*24*time.Hour), 7e6)
	near(math.MaxInt64, 1)
}

func TestDecayIsExponential(t *testing.T) {
	for x := 0.0; x < 30; x += 0.01 {
		got := decay(uint32(x*1e6), math.Log2E/1e6)
		if want := math.Exp(-math.Floor(x*1e6) / 1e6); math.Abs(got-want) > want/5000 {
			t.Fatalf("decay(%v) = %v, want %v", x, got, want)
		}
	}
	if decay(math.MaxUint32, 1) != 0 {
		t.Fatal("something is left after four billion halvings")
	}
}

// An endpoint without history is tried with one request, and with the next only
// after the answer.
func TestOneRequestToTheUnknown(t *testing.T) {
	all := append(warm(3, false), NewEndpoint(3, 1))
	unknown := all[3]
	p := NewPicker(Config{Kind: EWMA}, all, nil)
	picks := func() (n int) {
		for range 300 {
			e := p.Pick(2e9, nil)
			e.Begin(2e9)
			if e == unknown {
				n++
			} else {
				e.End(2e9, 1e6)
			}
		}
		return n
	}
	if n := picks(); n != 1 {
		t.Fatalf("an unknown endpoint got %d requests at once", n)
	}
	unknown.End(2e9, ms)
	if picks() == 0 {
		t.Fatal("it got nothing after its answer")
	}
}

// Round robin is smooth: in any run of turns everyone has had the share that is
// due, within five.
func TestRoundRobinIsSmooth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []*Endpoint[int]
		sum := 0.0
		for i, w := range rapid.SliceOfN(rapid.Float64Range(0.01, 10), 1, 20).Draw(t, "weights") {
			all = append(all, NewEndpoint(i, w))
			sum += w
		}
		p := NewPicker(Config{Kind: RoundRobin}, all, nil)
		p.state.cursor.Store(rapid.Uint64().Draw(t, "cursor"))
		got := make([]float64, len(all))
		for n := range 1000 {
			got[p.Pick(0, nil).Value]++
			for i, e := range all {
				if want := float64(n+1) * e.Weight() / sum; math.Abs(got[i]-want) > 5 {
					t.Fatalf("after %d turns the %d-th has had %v, want %v", n+1, i, got[i], want)
				}
			}
		}
	})
}

func TestRoundRobinTakesTurns(t *testing.T) {
	all := endpoints(3)
	p := NewPicker(Config{Kind: RoundRobin}, all, nil)
	first := p.Pick(0, nil).Value
	for i := range 100 {
		p = NewPicker(Config{Kind: RoundRobin}, all, p) // goes on
		if e := p.Pick(0, nil); e.Value != (first+i+1)%3 {
			t.Fatalf("turn %d is of %d", i, e.Value)
		}
	}
}

func TestApertureIsHandedOn(t *testing.T) {
	p := NewPicker(Config{Kind: Aperture}, endpoints(20), nil)
	p.state.aperture.width.Store(7)
	p = NewPicker(Config{Kind: EWMA}, p.All(), p)
	p = NewPicker(Config{Kind: Aperture}, slices.Concat(p.All(), endpoints(3)), p)
	if w := p.state.aperture.size(1, p.Len()); w != 7 {
		t.Errorf("the aperture was 7 and is %d", w)
	}
	used := map[*Endpoint[int]]bool{}
	for range 1000 {
		used[p.Pick(0, nil)] = true
	}
	if len(used) != 7 {
		t.Errorf("%d endpoints are in use", len(used))
	}
	for e := range used {
		e.CloseUntil(math.MaxInt64)
	}
	for range 1000 {
		if e := p.Pick(0, nil); used[e] {
			t.Fatal("the aperture does not move on from closed endpoints")
		}
	}
}

// TestRace changes the set and the kind under requests.
func TestRace(t *testing.T) {
	all := endpoints(10)
	pickers := make(chan *Picker[int], 1)
	pickers <- NewPicker(Config{}, all, nil)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for n := range int64(3000) {
				p := <-pickers
				if n%10 == 0 {
					p = NewPicker(Config{Kind: Kind(r.IntN(5))}, all[:1+r.IntN(10)], p)
				}
				pickers <- p
				now := n * ms
				e := p.Pick(now, nil)
				e.Begin(now)
				if r.IntN(3) == 0 {
					e.CloseUntil(now + r.Int64N(5*ms))
				}
				e.SetWeight(float64(r.IntN(3)))
				e.End(now, r.Int64N(20*ms)-ms)
				e.Open()
			}
		})
	}
	wg.Wait()
	for _, e := range all {
		if e.Load() != 0 {
			t.Errorf("endpoint %d is left with load %d", e.Value, e.Load())
		}
	}
}

// A weight that changes while a picker is made is the old one for it, or the new one, and nothing in between.
func TestWeightsChangeMeanwhile(t *testing.T) {
	all := endpoints(2)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for _, e := range all {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
					e.SetWeight(float64(i % 3))
				}
			}
		})
	}
	for range 20000 {
		p := NewPicker(Config{Kind: RoundRobin}, all, nil)
		for range 3 {
			p.Pick(0, nil)
		}
	}
	close(done)
	wg.Wait()
}
