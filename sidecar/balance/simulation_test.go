package balance

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// simulation is a replica set in virtual time: requests arrive at random
// moments, each goes where the picker says and waits there for one of the
// instance's workers. The same seed gives the same run.
type simulation struct {
	cfg     Config
	rate    float64       // requests per second
	length  time.Duration // of the run
	weights []float64
	// instance says how the i-th one answers a request that begins at now.
	instance func(i int, now time.Duration, r *rand.Rand) (takes time.Duration, fails bool)
	workers  int // of an instance; 0: 8
	// watch, if set, sees which instance each request goes to.
	watch func(now time.Duration, i int, p *Picker[int])
}

type event struct {
	at       int64
	instance int // -1: a request arrives
	began    int64
	fails    bool
}

type events []event

func (h events) Len() int           { return len(h) }
func (h events) Less(i, j int) bool { return h[i].at < h[j].at }
func (h events) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *events) Push(e any)        { *h = append(*h, e.(event)) }
func (h *events) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// result is what a run has shown.
type result struct {
	latencies []time.Duration
	picks     []int
}

func (r *result) share(i int) float64 { return float64(r.picks[i]) / float64(len(r.latencies)) }

func (r *result) p99() time.Duration {
	slices.Sort(r.latencies)
	return r.latencies[len(r.latencies)*99/100]
}

func (s *simulation) run(t *testing.T) *result {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	var all []*Endpoint[int]
	for i, w := range s.weights {
		e := NewEndpoint(i, w)
		e.rank = random.Uint64()
		all = append(all, e)
	}
	p := NewPicker(s.cfg, all, nil)
	p.random = random.Uint64
	p.state.cursor.Store(0)
	if s.workers == 0 {
		s.workers = 8
	}
	busy := make([]int, len(all))
	waiting := make([][]int64, len(all)) // when they began
	out := &result{picks: make([]int, len(all))}
	queue := &events{{at: 1, instance: -1}}
	start := func(i int, now, began int64) {
		takes, fails := s.instance(i, time.Duration(now), random)
		busy[i]++
		heap.Push(queue, event{now + int64(takes), i, began, fails})
	}
	for queue.Len() > 0 {
		ev := heap.Pop(queue).(event)
		now := ev.at
		if ev.instance >= 0 {
			i := ev.instance
			latency := now - ev.began
			out.latencies = append(out.latencies, time.Duration(latency))
			if ev.fails {
				latency = -1
			}
			all[i].End(now, latency)
			busy[i]--
			if len(waiting[i]) > 0 {
				start(i, now, waiting[i][0])
				waiting[i] = waiting[i][1:]
			}
			continue
		}
		if now < int64(s.length) {
			heap.Push(queue, event{at: now + int64(random.ExpFloat64()/s.rate*1e9), instance: -1})
		}
		i := p.Pick(now, nil).Value
		out.picks[i]++
		all[i].Begin(now)
		if s.watch != nil {
			s.watch(time.Duration(now), i, p)
		}
		if busy[i] < s.workers {
			start(i, now, now)
		} else {
			waiting[i] = append(waiting[i], now)
		}
	}
	for _, e := range all {
		if e.Load() != 0 {
			t.Fatalf("endpoint %d is left with load %d", e.Value, e.Load())
		}
	}
	return out
}

func equal(n int) []float64 { return slices.Repeat([]float64{1}, n) }

// takes is an exponential service time.
func takes(r *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(r.ExpFloat64() * float64(mean))
}

// slowOne answers in 10 ms on average, but instance 0 in 100 ms.
func slowOne(i int, _ time.Duration, r *rand.Rand) (time.Duration, bool) {
	if i == 0 {
		return takes(r, 100*time.Millisecond), false
	}
	return takes(r, 10*time.Millisecond), false
}

func TestOneSlowOfTen(t *testing.T) {
	for _, rate := range []float64{50, 400, 700} {
		p99 := map[Kind]time.Duration{}
		for _, k := range kinds {
			s := simulation{cfg: Config{Kind: k.kind}, rate: rate, length: time.Minute, weights: equal(10), instance: slowOne}
			r := s.run(t)
			p99[k.kind] = r.p99()
			t.Logf("%v/s %s: p99 %v, slow one gets %.2f %%", rate, k.name, r.p99().Round(time.Millisecond), 100*r.share(0))
		}
		if 2*p99[EWMA] > p99[RoundRobin] {
			t.Errorf("at %v/s the p99 of EWMA is %v, more than half of round robin's %v", rate, p99[EWMA], p99[RoundRobin])
		}
	}
}

func TestOneSlowOfTwo(t *testing.T) {
	for _, rate := range []float64{2, 20, 100, 300} {
		s := simulation{cfg: Config{Kind: EWMA}, rate: rate, length: 10 * time.Minute, weights: equal(2), instance: slowOne}
		share := s.run(t).share(0)
		t.Logf("%v/s: %.2f %%", rate, 100*share)
		if share >= 0.1 {
			t.Errorf("at %v/s EWMA sends %.1f %% to the slow one of two, want less than 10 %%", rate, 100*share)
		}
	}
	// What people should know of P2C: with little load it cannot tell.
	s := simulation{cfg: Config{Kind: P2C}, rate: 2, length: 10 * time.Minute, weights: equal(2), instance: slowOne}
	if share := s.run(t).share(0); share < 0.4 {
		t.Errorf("at 2/s P2C sends %.1f %% to the slow one of two", 100*share)
	}
}

// TestWeights keeps to the weights at any load while all instances answer alike.
func TestWeights(t *testing.T) {
	for _, k := range kinds {
		tolerance := 0.4
		switch k.kind {
		case RoundRobin:
			tolerance = 0.01
		case Heap:
			continue // goes by load first
		}
		for _, weights := range [][]float64{{1, 2}, {1, 9}, {0.1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 2, 3, 4, 5}, {10, 10, 10, 30, 30}} {
			for _, rate := range []float64{1, 50, 400} { // of an instance
				s := simulation{
					cfg:     Config{Kind: k.kind, MinAperture: len(weights)},
					rate:    rate * float64(len(weights)),
					length:  time.Duration(20_000 / rate / float64(len(weights)) * 1e9),
					weights: weights,
					workers: math.MaxInt,
					instance: func(_ int, _ time.Duration, r *rand.Rand) (time.Duration, bool) {
						return takes(r, 10*time.Millisecond), false
					},
				}
				r, sum := s.run(t), 0.0
				for _, w := range weights {
					sum += w
				}
				for i, w := range weights {
					if got, want := r.share(i), w/sum; math.Abs(got-want) > tolerance*want {
						t.Errorf("%s at %v/s: of weights %v the %d-th gets %.2f %%, want about %.2f %%", k.name, s.rate, weights, i, 100*got, 100*want)
					}
				}
			}
		}
	}
}

func TestWeightDoesNotHoldASlowOne(t *testing.T) {
	s := simulation{cfg: Config{Kind: EWMA}, rate: 50, length: 5 * time.Minute, weights: []float64{3, 1, 1}, instance: slowOne}
	if share := s.run(t).share(0); share > 0.1 {
		t.Errorf("the slow one of weight 3 gets %.1f %%", 100*share)
	}
}

func TestWeightZeroIsSpare(t *testing.T) {
	for _, k := range kinds {
		spare, a, b := NewEndpoint(0, 0), NewEndpoint(1, 1), NewEndpoint(2, 3)
		p := NewPicker(Config{Kind: k.kind}, []*Endpoint[int]{spare, a, b}, nil)
		if p.All()[0] != spare || p.Len() != 3 {
			t.Fatal("All is not what was given")
		}
		pick := func(want ...*Endpoint[int]) {
			t.Helper()
			for range 100 {
				if e := p.Pick(0, nil); !slices.Contains(want, e) {
					t.Fatalf("%s: picked endpoint %d", k.name, e.Value)
				}
			}
		}
		pick(a, b)
		a.CloseUntil(1)
		pick(b)
		b.CloseUntil(1)
		pick(spare)
		spare.CloseUntil(1)
		pick(a, b)
		if e := p.Pick(0, []*Endpoint[int]{a, b}); e != spare {
			t.Fatalf("%s: no endpoint is left but the spare one, got %v", k.name, e)
		}
		p = NewPicker(Config{Kind: k.kind}, []*Endpoint[int]{spare}, p)
		pick(spare)
	}
}

// TestBadThenGood is what EWMA does of itself with an instance that is bad for
// the first minute, without anybody closing it, and that it comes back to it.
func TestBadThenGood(t *testing.T) {
	good := func(r *rand.Rand) (time.Duration, bool) { return takes(r, 10*time.Millisecond), false }
	slow := func(r *rand.Rand) (time.Duration, bool) { return takes(r, time.Second), false }
	// An instance must not look good for failing fast.
	fails := func(*rand.Rand) (time.Duration, bool) { return time.Microsecond, true }
	for name, c := range map[string]struct {
		from time.Duration // bad until a minute later
		bad  func(*rand.Rand) (time.Duration, bool)
		most float64 // share while bad
	}{
		"slow at first":  {0, slow, 0.01},
		"slow later":     {time.Minute, slow, 0.01},
		"fails at first": {0, fails, 0.01},
		// It is as good as it was; failure accrual takes it out.
		"fails later": {time.Minute, fails, 0.3},
	} {
		var bad, all, later, allLater float64
		s := simulation{cfg: Config{Kind: EWMA}, rate: 100, length: 6 * time.Minute, weights: equal(4)}
		s.instance = func(i int, now time.Duration, r *rand.Rand) (time.Duration, bool) {
			if i == 0 && now >= c.from && now < c.from+time.Minute {
				return c.bad(r)
			}
			return good(r)
		}
		s.watch = func(now time.Duration, i int, _ *Picker[int]) {
			hit := 0.0
			if i == 0 {
				hit = 1
			}
			switch {
			case now >= c.from && now < c.from+time.Minute:
				bad, all = bad+hit, all+1
			case now >= c.from+3*time.Minute:
				later, allLater = later+hit, allLater+1
			}
		}
		s.run(t)
		t.Logf("%s: %.2f %% while bad, %.1f %% after two minutes", name, 100*bad/all, 100*later/allLater)
		if bad/all > c.most {
			t.Errorf("%s: the bad instance gets %.1f %%", name, 100*bad/all)
		}
		if later/allLater < 0.15 {
			t.Errorf("%s: two minutes after it is good again the instance gets %.1f %%, want about 25 %%", name, 100*later/allLater)
		}
	}
}

// TestAperture lets the load of fifty instances grow from 0.2 to 40 requests
// under way, and fall again.
func TestAperture(t *testing.T) {
	s := simulation{cfg: Config{Kind: Aperture}, rate: 200, length: 3 * time.Minute, weights: equal(50)}
	s.instance = func(_ int, now time.Duration, r *rand.Rand) (time.Duration, bool) {
		if now >= time.Minute && now < 2*time.Minute {
			return takes(r, 200*time.Millisecond), false
		}
		return takes(r, time.Millisecond), false
	}
	var widths [3][]int // in the second half of each minute
	used := map[int]bool{}
	s.watch = func(now time.Duration, i int, p *Picker[int]) {
		if now%time.Minute >= time.Minute/2 {
			minute := int(now / time.Minute)
			if minute < 3 {
				widths[minute] = append(widths[minute], p.state.aperture.size(1, 50))
			}
			if minute == 2 {
				used[i] = true
			}
		}
	}
	s.run(t)
	for minute, want := range [][2]int{{1, 1}, {16, 50}, {1, 1}} {
		if least, most := slices.Min(widths[minute]), slices.Max(widths[minute]); least < want[0] || most > want[1] {
			t.Errorf("minute %d: the aperture is %d to %d, want %d to %d", minute, least, most, want[0], want[1])
		}
	}
	if len(used) != 1 {
		t.Errorf("an aperture of one uses %d instances", len(used))
	}
}
