package balance

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// Kind is a way to choose. In all of them endpoints are drawn in proportion to
// their weights, and an endpoint of twice the weight may have twice the requests
// in flight.
type Kind uint8

const (
	// P2C takes, of two endpoints drawn at random, the one with fewer requests
	// in flight (Mitzenmacher, "The Power of Two Choices", 2001).
	P2C Kind = iota
	// EWMA takes, of two endpoints drawn at random, the one with the lower
	// peak-EWMA latency × (requests in flight + 1). It is the only kind that
	// sees that an endpoint is slow before requests pile up there.
	EWMA
	// Aperture is P2C within a part of the set that is just large enough for
	// the load: a small set of warm connections instead of many cold ones.
	Aperture
	// RoundRobin takes one after the other, whatever their load.
	RoundRobin
	// Heap takes the endpoint with the fewest requests in flight of all. It
	// looks at every endpoint each time; P2C is nearly as good at once.
	Heap
)

// Config says how to choose. What is zero gets its default.
type Config struct {
	Kind Kind
	// DecayTime is how long EWMA takes to forget 63 % of a higher latency; 10 s.
	DecayTime time.Duration
	// SmoothWindow is the time over which Aperture averages the load; 5 s.
	SmoothWindow time.Duration
	// LowLoad and HighLoad are the requests in flight per endpoint between which
	// Aperture leaves its size as it is; 0.5 and 2.
	LowLoad, HighLoad float64
	// MinAperture is the least number of endpoints in an aperture; 1.
	MinAperture int
	// MaxEffort is how often closed endpoints are drawn before Pick looks at all
	// of them; 5.
	MaxEffort int
}

func (c Config) withDefaults() Config {
	fill(&c.DecayTime, defaultDecay)
	fill(&c.SmoothWindow, 5*time.Second)
	fill(&c.LowLoad, 0.5)
	fill(&c.HighLoad, 2)
	fill(&c.MinAperture, 1)
	fill(&c.MaxEffort, 5)
	return c
}

func fill[N int | float64 | time.Duration](v *N, fallback N) {
	if !(*v > 0) {
		*v = fallback
	}
}

// Picker chooses among the endpoints of one moment. It is immutable and safe
// for concurrent use.
type Picker[T any] struct {
	cfg  Config
	rate float64 // halvings of a cost per tick

	all   []*Endpoint[T] // as given
	pool  []*Endpoint[T] // those with a weight
	spare []*Endpoint[T] // those without

	// Of the endpoints in pool; nil if all weigh the same.
	upto  []float64 // the sum of the weights so far
	share []float64 // mean weight / weight
	guide []int32   // where in upto to begin: for each len(pool)-th of the sum
	scale float64   // from the sum to guide

	state  *state
	random func() uint64
}

// state is what the pickers of one set hand on to the next.
type state struct {
	cursor   atomic.Uint64 // of RoundRobin
	aperture aperture
}

// NewPicker returns a picker over endpoints, which it keeps and must not be
// changed afterwards. It goes on where previous was, if that is not nil: with
// its turn and its aperture, whatever the kinds.
func NewPicker[T any](cfg Config, endpoints []*Endpoint[T], previous *Picker[T]) *Picker[T] {
	p := &Picker[T]{cfg: cfg.withDefaults(), all: endpoints, random: rand.Uint64}
	p.rate = ratePerTick(p.cfg.DecayTime)
	if previous != nil {
		p.state, p.random = previous.state, previous.random
	} else {
		p.state = &state{}
		p.state.cursor.Store(p.random()) // proxies must not march in step
	}
	// A weight is read once: it may change at any moment, and all below must mean the same one.
	type weighed struct {
		endpoint *Endpoint[T]
		weight   float64
	}
	pool := make([]weighed, 0, len(endpoints))
	for _, e := range endpoints {
		e.setDecay(p.cfg.DecayTime)
		if w := e.Weight(); w > 0 {
			pool = append(pool, weighed{e, w})
		} else {
			p.spare = append(p.spare, e)
		}
	}
	if len(pool) == 0 {
		for _, e := range p.spare {
			pool = append(pool, weighed{e, 1})
		}
		p.spare = nil
	}
	if p.cfg.Kind == Aperture {
		slices.SortFunc(pool, func(a, b weighed) int { return cmp.Compare(a.endpoint.rank, b.endpoint.rank) })
	}
	weights := make([]float64, len(pool))
	for i, e := range pool {
		p.pool = append(p.pool, e.endpoint)
		weights[i] = e.weight
	}
	p.weigh(weights)
	return p
}

// weigh fills upto and share, unless all endpoints weigh the same.
func (p *Picker[T]) weigh(weights []float64) {
	if !slices.ContainsFunc(weights, func(w float64) bool { return w != weights[0] }) {
		return
	}
	p.upto = make([]float64, len(p.pool))
	p.share = make([]float64, len(p.pool))
	sum := 0.0
	for i, w := range weights {
		sum += w
		p.upto[i] = sum
	}
	p.scale = float64(len(p.pool)) / sum
	p.guide = make([]int32, len(p.pool)+1)
	for i, w := range weights {
		p.share[i] = 1 / p.scale / w
	}
	i := int32(0)
	for k := range p.guide {
		for int(i) < len(p.pool)-1 && p.upto[i]*p.scale <= float64(k) {
			i++
		}
		p.guide[k] = i
	}
}

// Len returns the number of endpoints.
func (p *Picker[T]) Len() int { return len(p.all) }

// All returns the endpoints as they were given, not to be changed.
func (p *Picker[T]) All() []*Endpoint[T] { return p.all }

// Pick returns an endpoint that is not among tried, an open one if there is
// any. Where only closed ones are left it returns one of them, because a guess
// is better than a certain failure; where all have been tried, nil.
//
// Its cost does not depend on the number of endpoints unless MaxEffort draws in
// vain or the kind is Heap.
func (p *Picker[T]) Pick(now int64, tried []*Endpoint[T]) *Endpoint[T] {
	n := len(p.pool)
	switch {
	case n == 0:
		return nil
	case p.cfg.Kind == RoundRobin:
		for range p.cfg.MaxEffort {
			if e := p.pool[p.turn()]; usable(e, now, tried) {
				return e
			}
		}
	case p.cfg.Kind == Heap:
	default:
		if p.cfg.Kind == Aperture {
			n = p.state.aperture.size(p.cfg.MinAperture, n)
		}
		if e := p.choose(n, now, tried); e != nil {
			return e
		}
	}
	return p.scan(n, now, tried)
}

// choose draws two of the first n endpoints until the better one, or else the
// other one, can be used.
func (p *Picker[T]) choose(n int, now int64, tried []*Endpoint[T]) *Endpoint[T] {
	for range p.cfg.MaxEffort {
		i, j := p.draw(n)
		if !p.better(i, j, now) {
			i, j = j, i
		}
		e, other := p.pool[i], p.pool[j]
		if !usable(e, now, tried) {
			if e, other = other, nil; !usable(e, now, tried) {
				continue
			}
		}
		if p.cfg.Kind == Aperture {
			load, count := e.Load(), 1
			if other != nil && other.Available(now) {
				load, count = load+other.Load(), 2
			}
			p.state.aperture.observe(now, n, load, count, &p.cfg)
		}
		return e
	}
	return nil
}

func usable[T any](e *Endpoint[T], now int64, tried []*Endpoint[T]) bool {
	return e.Available(now) && !slices.Contains(tried, e)
}

// draw takes two different ones of the first n endpoints at random, by weight;
// the same one twice if n is 1.
func (p *Picker[T]) draw(n int) (first, second int) {
	if n == 1 {
		return 0, 0
	}
	r := p.random()
	high, low := r>>32, r&math.MaxUint32
	if p.upto == nil {
		first, second = int(high*uint64(n)>>32), int(low*uint64(n-1)>>32)
		if second >= first {
			second++
		}
		return first, second
	}
	sum := p.upto[n-1]
	first = p.at(float64(high) / (1 << 32) * sum)
	weight := p.upto[first]
	if first > 0 {
		weight -= p.upto[first-1]
	}
	u := float64(low) / (1 << 32) * (sum - weight)
	if u >= p.upto[first]-weight {
		u += weight // leave the first one out
	}
	if second = p.at(u); second == first { // by rounding
		second = (first + 1) % n
	}
	return first, second
}

// at finds where u lies in the sums of the weights, in few steps however many
// they are ("indexed search", Chen and Asau, 1974).
func (p *Picker[T]) at(u float64) int {
	i := int(p.guide[int(u*p.scale)])
	for i < len(p.upto)-1 && p.upto[i] <= u {
		i++
	}
	return i
}

// clearly is how many times better a lighter endpoint must be to be taken
// instead of a heavier one. A heavy one is drawn first more often than second:
// if it were left for every light one that is a little better at the moment,
// that would level the weights out. Four keeps shares within 40 % of what the
// weights say while all answer alike, and still escapes from a slow endpoint.
const clearly = 4

// better reports whether the i-th endpoint, drawn first, is to be taken rather
// than the j-th.
func (p *Picker[T]) better(i, j int, now int64) bool {
	a, b := p.score(i, now), p.score(j, now)
	if p.share != nil && p.share[i] < p.share[j] {
		b *= clearly
	}
	return a <= b
}

// score is lower for an endpoint that will probably answer sooner.
func (p *Picker[T]) score(i int, now int64) float64 {
	e := p.pool[i]
	load := float64(e.load.Load())
	if p.share != nil {
		load *= p.share[i]
	}
	if p.cfg.Kind != EWMA {
		return load + 1
	}
	word := e.cost.Load()
	if word != 0 {
		return costAt(word, now, p.rate) * (load + 1)
	}
	if load == 0 {
		return 0 // has to be tried for there to be any history
	}
	return penalty * (load + 1)
}

// turn is the next index of a round robin. The multiples of the golden ratio
// fall more evenly into the sums of the weights than random numbers: in a
// thousand turns an endpoint is never more than five from its share. It needs
// no lock and no list of turns.
func (p *Picker[T]) turn() int {
	k := p.state.cursor.Add(1)
	n := len(p.pool)
	if p.upto == nil {
		return int(k % uint64(n))
	}
	const golden = 0x9E3779B97F4A7C15 // 2⁶⁴/φ
	return p.at(float64(k*golden>>11) / (1 << 53) * p.upto[n-1])
}

// scan is the slow path of Pick: the best of all that remain, a random one of
// equals. In an aperture it is the best of the first n that can be used.
func (p *Picker[T]) scan(n int, now int64, tried []*Endpoint[T]) *Endpoint[T] {
	var open, closed *Endpoint[T]
	var openScore, closedScore float64
	start, seen, load := 0, 0, int64(0)
	if p.cfg.Kind != Aperture {
		start, _ = p.draw(n)
	}
	for k := range p.pool {
		i := k + start
		if i >= len(p.pool) {
			i -= len(p.pool)
		}
		e := p.pool[i]
		if slices.Contains(tried, e) {
			continue
		}
		score := p.score(i, now)
		if e.Available(now) {
			if open == nil || score < openScore {
				open, openScore = e, score
			}
			load += e.Load()
			if seen++; seen == n {
				break
			}
		} else if closed == nil || score < closedScore {
			closed, closedScore = e, score
		}
	}
	if open != nil {
		if p.cfg.Kind == Aperture {
			p.state.aperture.observe(now, n, load, seen, &p.cfg)
		}
		return open
	}
	for _, e := range p.spare {
		if slices.Contains(tried, e) {
			continue
		}
		if e.Available(now) && (open == nil || e.Load() < open.Load()) {
			open = e
		} else if closed == nil {
			closed = e
		}
	}
	if open != nil {
		return open
	}
	return closed
}
