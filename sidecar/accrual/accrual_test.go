package accrual

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const s = int64(time.Second)

func half() float64 { return 0.5 }

// step is a request that ends at once, and what is to be seen of it.
type step struct {
	at   int64
	do   string // ok, fail: a request that must be admitted; probe…: as the probe; no: not admitted
	want int64  // closed until; 0: open
}

func play(t *testing.T, a *Accrual, steps []step) {
	t.Helper()
	var closed int64
	for i, st := range steps {
		admitted, probe := a.Admit(st.at)
		wantProbe := st.do == "probe ok" || st.do == "probe fail"
		if admitted != (st.do != "no") || probe != wantProbe {
			t.Fatalf("step %d (%s at %v): admitted %v, probe %v", i, st.do, time.Duration(st.at), admitted, probe)
		}
		if st.do == "no" {
			continue
		}
		until, changed := a.Observe(st.at, st.do == "ok" || st.do == "probe ok", probe)
		if changed {
			closed = until
		} else if until != closed {
			t.Fatalf("step %d: closed until %v without a change from %v", i, until, closed)
		}
		if closed != st.want {
			t.Fatalf("step %d (%s at %v): closed until %v, want %v", i, st.do, time.Duration(st.at), time.Duration(closed), time.Duration(st.want))
		}
	}
}

func times(n int, st step) []step {
	var all []step
	for range n {
		all = append(all, st)
	}
	return all
}

func join(parts ...[]step) []step {
	var all []step
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func TestTransitions(t *testing.T) {
	constant := Backoff{Min: 5 * time.Second}
	jittered := Backoff{5 * time.Second, 15 * time.Second} // with half(): ¾ of 5, 10, 15, 15
	const ms = s / 1000
	for name, c := range map[string]struct {
		cfg   Config
		steps []step
	}{
		"none": {Config{}, times(100, step{1, "fail", 0})},
		"a success breaks the row": {Config{Kind: Consecutive, Failures: 3, Backoff: constant}, []step{
			{1, "fail", 0}, {1, "fail", 0}, {1, "ok", 0}, {1, "fail", 0}, {1, "fail", 0}, {1, "fail", 1 + 5*s},
			{5 * s, "no", 0},
		}},
		"a good probe revives and resets the row": {Config{Kind: Consecutive, Failures: 2, Backoff: constant}, []step{
			{0, "fail", 0}, {0, "fail", 5 * s}, {5*s - 1, "no", 0}, {5 * s, "probe ok", 0},
			{5 * s, "fail", 0}, {5 * s, "ok", 0}, {6 * s, "fail", 0}, {6 * s, "fail", 11 * s},
		}},
		"bad probes eject for longer, a good one resets the backoff": {Config{Kind: Consecutive, Failures: 1, Backoff: jittered}, []step{
			{0, "fail", 3750 * ms}, {4 * s, "probe fail", 11500 * ms}, {11 * s, "no", 0},
			{12 * s, "probe fail", 23250 * ms}, {24 * s, "probe fail", 35250 * ms},
			{36 * s, "probe ok", 0}, {40 * s, "fail", 43750 * ms},
		}},
		"a backoff of nothing is half-open at once": {Config{Kind: Consecutive, Failures: 1}, []step{
			{0, "fail", 1}, {1, "probe fail", 1}, {1, "probe fail", 1}, {2, "probe ok", 0}, {2, "ok", 0},
		}},
		"the success rate needs its requests": {Config{Kind: SuccessRate, SuccessRate: 0.9, Requests: 10, Backoff: constant},
			join(times(9, step{1, "fail", 0}), times(1, step{1, "fail", 1 + 5*s}))},
		"the success rate forgets": {Config{Kind: SuccessRate, SuccessRate: 0.5, Requests: 10, Backoff: constant}, join(
			// 1 → exp(-n/10) < 0.5 with n = 7
			times(50, step{1, "ok", 0}), times(6, step{1, "fail", 0}), times(1, step{1, "fail", 1 + 5*s}),
			[]step{{6 * s, "probe ok", 0}},
			times(9, step{7 * s, "fail", 0}), times(1, step{7 * s, "fail", 12 * s}),
		)},
		"a success never ejects": {Config{Kind: SuccessRate, SuccessRate: 1, Requests: 3, Backoff: constant}, join(
			times(2, step{1, "fail", 0}), times(20, step{1, "ok", 0}), times(1, step{1, "fail", 1 + 5*s}),
		)},
		"the window needs five requests": {Config{Kind: Windowed, SuccessRate: 0.9, Window: 10 * time.Second, Backoff: constant},
			join(times(4, step{s, "fail", 0}), times(1, step{s, "fail", 6 * s}))},
		"requests before the window do not count": {Config{Kind: Windowed, SuccessRate: 0.9, Window: 10 * time.Second, Backoff: constant}, []step{
			{0, "fail", 0}, {4 * s, "fail", 0}, {8 * s, "fail", 0}, {12 * s, "fail", 0}, {16 * s, "fail", 0}, {20 * s, "fail", 0},
			{20 * s, "fail", 0}, {20 * s, "fail", 25 * s},
		}},
		"the window weighs time, not requests": {Config{Kind: Windowed, SuccessRate: 0.5, Window: 10 * time.Second, Backoff: constant}, join(
			times(1000, step{s, "ok", 0}),
			times(1000, step{s + ms/2, "fail", 0}),                                  // a burst within a moment
			[]step{{4 * s, "fail", 0}, {7 * s, "fail", 0}, {9 * s, "fail", 14 * s}}, // exp(-0.8) < 0.5
		)},
		"the window starts anew after a good probe": {Config{Kind: Windowed, SuccessRate: 0.5, Window: 10 * time.Second, Backoff: constant}, join(
			times(4, step{s, "fail", 0}), []step{{s, "fail", 6 * s}, {6 * s, "probe ok", 0}},
			times(4, step{7 * s, "fail", 0}), []step{{7 * s, "fail", 12 * s}, {12 * s, "probe fail", 17 * s}},
		)},
	} {
		t.Run(name, func(t *testing.T) { play(t, New(c.cfg, half), c.steps) })
	}
}

func TestOneProbe(t *testing.T) {
	a := New(Config{Kind: Consecutive, Failures: 1, Backoff: Backoff{Min: time.Second}}, half)
	a.Observe(0, false, false)
	if ok, probe := a.Admit(s); !ok || !probe {
		t.Fatal("no probe after the backoff")
	}
	if ok, _ := a.Admit(100 * s); ok {
		t.Fatal("a second request while the probe is under way")
	}
	a.Release(false)
	if ok, _ := a.Admit(100 * s); ok {
		t.Fatal("another request's release ended the probe")
	}
	a.Release(true)
	if ok, probe := a.Admit(100 * s); !ok || !probe {
		t.Fatal("no probe after one without a verdict")
	}
}

// What was under way when the endpoint was ejected says little; what gets
// through because there is no other endpoint says more.
func TestLateAnswers(t *testing.T) {
	a := New(Config{Kind: Consecutive, Failures: 1, Backoff: Backoff{Min: time.Second}}, half)
	until, _ := a.Observe(0, false, false)
	observe := func(success bool, n int) bool {
		for range n {
			if got, changed := a.Observe(1, success, false); changed {
				return got == 0
			} else if got != until {
				t.Fatalf("closed until %d became %d", until, got)
			}
		}
		return false
	}
	if observe(true, reviveAfter-1) || observe(false, 1) || observe(true, reviveAfter-1) {
		t.Fatal("revived by a few late answers")
	}
	if !observe(true, 1) {
		t.Fatal("not revived although all answers are good")
	}

	a.Observe(0, false, false)
	a.Admit(s)
	if observe(true, 3*reviveAfter) {
		t.Fatal("revived although a probe is under way")
	}
	if until, changed := a.Observe(s, false, true); !changed || until != 2*s {
		t.Fatal("the probe did not decide")
	}
}

func TestSetConfig(t *testing.T) {
	three := Config{Kind: Consecutive, Failures: 3, Backoff: Backoff{Min: time.Second}}
	two := three
	two.Failures = 2
	a := New(three, half)
	a.Observe(0, false, false)
	a.SetConfig(two)
	if until, changed := a.Observe(0, false, false); !changed || until != s {
		t.Fatal("the row of failures was forgotten")
	}
	if until, changed := a.SetConfig(three); changed || until != s {
		t.Fatal("a reload changed an ejection")
	}
	if until, changed := a.SetConfig(Config{}); !changed || until != 0 {
		t.Fatal("None left the endpoint ejected")
	}
	rate := Config{Kind: SuccessRate, SuccessRate: 0.5, Requests: 2, Backoff: Backoff{Min: time.Second}}
	a.SetConfig(rate)
	play(t, a, []step{{0, "fail", 0}, {0, "fail", s}})

	// A probe of before None must not let a second one through.
	a.Admit(s)
	a.SetConfig(Config{})
	a.SetConfig(rate)
	a.Observe(2*s, false, false)
	a.Observe(2*s, false, false)
	if ok, _ := a.Admit(10 * s); ok {
		t.Fatal("a second probe")
	}
	a.Observe(10*s, true, true)
	if ok, probe := a.Admit(10 * s); !ok || probe {
		t.Fatal("not alive after a good probe")
	}
}

func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Backoff{
			Min: time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "min")),
			Max: time.Duration(rapid.Int64().Draw(t, "max")),
		}
		n := rapid.IntRange(0, 100).Draw(t, "n")
		r := rapid.Float64Range(0, 0.999).Draw(t, "r")
		d := b.after(n, r)
		if b.Max <= b.Min {
			if d != b.Min {
				t.Fatalf("%v, want the constant %v", d, b.Min)
			}
			return
		}
		full := max(b.Min, 1)
		for range n {
			if full > b.Max/2 {
				full = b.Max
				break
			}
			full *= 2
		}
		if d < full/2 || d > full {
			t.Fatalf("%v after %d failed probes is not between half and full of %v", d, n, full)
		}
	})
}

// TestStateMachine plays any requests that overlap in any way.
func TestStateMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		config := func() Config {
			return Config{
				Kind:        Kind(rapid.IntRange(0, 3).Draw(t, "kind")),
				Failures:    rapid.IntRange(1, 4).Draw(t, "failures"),
				SuccessRate: rapid.Float64Range(0, 1).Draw(t, "rate"),
				Requests:    rapid.IntRange(1, 6).Draw(t, "requests"),
				Window:      time.Duration(rapid.Int64Range(1, 30*s).Draw(t, "window")),
				Backoff:     Backoff{time.Second, 8 * time.Second},
			}
		}
		cfg := config()
		a := New(cfg, func() float64 { return rapid.Float64Range(0, 0.999).Draw(t, "r") })
		var now, closed int64
		var underway []bool // whether it is the probe
		probes := 0
		end := func(t *rapid.T) (probe bool) {
			if len(underway) == 0 {
				t.Skip()
			}
			i := rapid.IntRange(0, len(underway)-1).Draw(t, "request")
			probe = underway[i]
			underway = append(underway[:i], underway[i+1:]...)
			if probe {
				probes--
			}
			return probe
		}
		observe := func(success bool) func(*rapid.T) {
			return func(t *rapid.T) {
				probe := end(t)
				was := closed
				until, changed := a.Observe(now, success, probe)
				if changed {
					closed = until
				}
				switch {
				case probe && !changed:
					t.Fatal("a probe changed nothing")
				case until != closed:
					t.Fatalf("closed until %d, want %d", until, closed)
				case success && until != 0 && (probe || was == 0):
					t.Fatal("ejected after a success")
				case changed && until != 0 && (until < now+s/2 || until > now+8*s):
					t.Fatalf("ejected at %d until %d", now, until)
				case changed && until != 0 && cfg.Kind == None && !probe:
					t.Fatal("ejected by None")
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) { now += rapid.Int64Range(0, 5*s).Draw(t, "passes") },
			"begin": func(t *rapid.T) {
				admitted, probe := a.Admit(now)
				switch {
				case probe && (!admitted || closed == 0 || now < closed):
					t.Fatal("a probe without need")
				case admitted && !probe && closed != 0:
					t.Fatal("admitted although ejected")
				case !admitted && closed == 0:
					t.Fatal("refused although alive")
				case !admitted && now >= closed && probes == 0:
					t.Fatal("no probe although it is time")
				}
				if probe {
					if probes++; probes > 1 {
						t.Fatal("two probes")
					}
				}
				underway = append(underway, probe) // if not admitted, for want of another
			},
			"succeed": observe(true),
			"fail":    observe(false),
			"release": func(t *rapid.T) { a.Release(end(t)) },
			"reload": func(t *rapid.T) {
				cfg = config()
				if until, changed := a.SetConfig(cfg); changed {
					closed = until
				}
			},
		})
	})
}

// TestRace lets many goroutines fail and succeed at once and counts the probes.
func TestRace(t *testing.T) {
	for _, kind := range []Kind{Consecutive, SuccessRate, Windowed} {
		a := New(Config{Kind: kind, Failures: 2, SuccessRate: 0.8, Requests: 3, Window: time.Second, Backoff: Backoff{time.Millisecond, 5 * time.Millisecond}}, rand.Float64)
		var mu sync.Mutex
		probes, ejections := 0, 0
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(i)))
				for i := range int64(5000) {
					now := i * 1e6
					admitted, probe := a.Admit(now)
					if !admitted && r.IntN(4) > 0 {
						continue
					}
					if probe {
						mu.Lock()
						if probes++; probes > 1 {
							t.Error("two probes")
						}
						mu.Unlock()
						mu.Lock()
						probes--
						mu.Unlock()
					}
					if probe && r.IntN(5) == 0 {
						a.Release(probe)
						continue
					}
					if until, changed := a.Observe(now, r.IntN(2) == 0, probe); changed && until != 0 {
						mu.Lock()
						ejections++
						mu.Unlock()
					}
					if r.IntN(100) == 0 {
						a.SetConfig(a.rule.Load().Config)
					}
				}
			})
		}
		wg.Wait()
		if ejections == 0 {
			t.Errorf("kind %d: never ejected", kind)
		}
	}
}

func TestAliveAllocatesNothing(t *testing.T) {
	for kind := range Windowed + 1 {
		a := New(Config{Kind: kind, Failures: 5, SuccessRate: 0.5, Requests: 100, Window: time.Minute}, half)
		now := int64(0)
		if n := testing.AllocsPerRun(1000, func() {
			now += 1e6
			_, probe := a.Admit(now)
			a.Observe(now, now%10e6 != 0, probe)
		}); n != 0 {
			t.Errorf("kind %d allocates %v times", kind, n)
		}
	}
}

func BenchmarkAlive(b *testing.B) {
	for kind, name := range []string{"None", "Consecutive", "SuccessRate", "Windowed"} {
		b.Run(name, func(b *testing.B) {
			a := New(Config{Kind: Kind(kind), Failures: 5, SuccessRate: 0.5, Requests: 100, Window: time.Minute}, half)
			a.Observe(0, false, false)
			now := int64(0)
			for b.Loop() {
				now += 50e3
				_, probe := a.Admit(now)
				a.Observe(now, true, probe)
			}
		})
	}
}
