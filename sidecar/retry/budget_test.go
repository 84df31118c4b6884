package retry

import (
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBudgetBalance(t *testing.T) {
	for _, test := range []struct {
		name     string
		cfg      Config
		requests int
		want     int
	}{
		{"Linkerd's defaults, idle", DefaultConfig, 0, 100},
		{"four requests pay for none", DefaultConfig, 4, 100},
		{"five pay for one", DefaultConfig, 5, 101},
		{"a cost that is no whole number is cut", Config{0, 0.3, 10 * time.Second}, 10, 3},
		{"more retries than requests", Config{0, 2, 10 * time.Second}, 10, 20},
		{"the largest part", Config{0, MaxPercent, 10 * time.Second}, 1, 1000},
		{"the reserve alone", Config{10, 0, 2 * time.Second}, 1000, 20},
		{"nothing", Config{0, 0, 10 * time.Second}, 1000, 0},
		{"a part too small to matter", Config{3, 1e-300, time.Second}, 1000, 3},
		{"a huge reserve", Config{math.MaxInt64, 0, time.Minute}, 0, 1 << 62},
	} {
		b := NewBudget(test.cfg)
		for range test.requests {
			b.Deposit(0)
		}
		if got := b.Balance(0); got != test.want {
			t.Errorf("%s: the balance after %d requests is %d, want %d", test.name, test.requests, got, test.want)
		}
		if got := b.TryWithdraw(0); got != (test.want > 0) {
			t.Errorf("%s: TryWithdraw is %v with balance %d", test.name, got, test.want)
		}
	}
}

// backend fails requests as told and counts what the budget let through.
type backend struct{ tries, exhausted int }

// serve sends a request whose first failures tries fail, and reports success.
func (s *backend) serve(b *Budget, failures int) bool {
	b.Deposit(0)
	for try := 1; ; try++ {
		s.tries++
		if try > failures {
			return true
		}
		if !b.TryWithdraw(0) {
			s.exhausted++
			return false
		}
	}
}

func TestBudgetOfRequests(t *testing.T) {
	const always = math.MaxInt
	for _, test := range []struct {
		name     string
		cfg      Config
		failures []int // of each request in turn
		ok       []bool
		tries    int
		balance  int
	}{
		{"two requests pay for one retry", Config{0, 0.5, 10 * time.Second}, []int{0, 1}, []bool{true, true}, 3, 0},
		{"a third that fails is not retried", Config{0, 0.5, 10 * time.Second}, []int{0, 1, 1}, []bool{true, true, false}, 4, 0},
		{"every request fails once", Config{0, 1, 10 * time.Second}, []int{1, 1, 1, 1, 1, 1}, []bool{true, true, true, true, true, true}, 12, 0},
		{"no retries", Config{0, 0, 10 * time.Second}, []int{1, always}, []bool{false, false}, 2, 0},
		{"an idle service that always fails", DefaultConfig, []int{always}, []bool{false}, 101, 0},
	} {
		b := NewBudget(test.cfg)
		var s backend
		for i, failures := range test.failures {
			if ok := s.serve(b, failures); ok != test.ok[i] {
				t.Errorf("%s: request %d succeeded: %v", test.name, i+1, ok)
			}
		}
		failed := 0
		for _, ok := range test.ok {
			if !ok {
				failed++
			}
		}
		if s.tries != test.tries || s.exhausted != failed || b.Balance(0) != test.balance {
			t.Errorf("%s: %d tries, %d times exhausted, balance %d; want %d, %d, %d",
				test.name, s.tries, s.exhausted, b.Balance(0), test.tries, failed, test.balance)
		}
	}
}

func TestBudgetExpires(t *testing.T) {
	const second = int64(time.Second)
	b := NewBudget(Config{0, 1, 10 * time.Second})
	b.Deposit(0)
	if b.Balance(10*second-1) != 1 || b.Balance(10*second) != 0 {
		t.Error("a deposit does not last for its TTL exactly")
	}
	b.Deposit(20*second + second/2)
	if b.Balance(30*second-1) != 1 || b.Balance(30*second) != 0 {
		t.Error("a deposit inside a slice lasts until its slice is a TTL old")
	}

	// What was taken from the reserve comes back when it is a TTL old.
	b = NewBudget(Config{1, 0, 10 * time.Second})
	for range 10 {
		if !b.TryWithdraw(second) {
			t.Fatal("the reserve ended early")
		}
	}
	if b.TryWithdraw(11*second - 1) {
		t.Error("the reserve was full again early")
	}
	if got := b.Balance(11 * second); got != 10 {
		t.Errorf("the reserve holds %d retries after a TTL, want 10", got)
	}
}

// What a request that began long ago reports late must neither vanish nor open
// an old slice again.
func TestBudgetStaleNow(t *testing.T) {
	const second = int64(time.Second)
	b := NewBudget(Config{0, 1, 10 * time.Second})
	b.Deposit(100 * second)
	b.Deposit(90 * second) // the same place in the ring, ten slices before
	b.Deposit(-1)
	if got := b.Balance(100 * second); got != 3 {
		t.Errorf("balance %d, want 3", got)
	}
	if got := b.Balance(110 * second); got != 0 {
		t.Errorf("balance %d after a TTL, want 0", got)
	}
	if !b.TryWithdraw(90 * second) {
		t.Error("a stale caller may not withdraw")
	}
}

// The wall clock in nanoseconds fits too.
func TestBudgetFarFuture(t *testing.T) {
	b := NewBudget(Config{0, 1, time.Second})
	now := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	b.Deposit(now)
	if b.Balance(now) != 1 || b.Balance(now+int64(time.Second)) != 0 {
		t.Error("deposits of a late time are not counted for a TTL")
	}
}

func TestBudgetSetConfig(t *testing.T) {
	const second = int64(time.Second)
	b := NewBudget(Config{0, 1, 10 * time.Second})
	for i := range int64(10) {
		b.Deposit(i * second)
	}
	b.TryWithdraw(9 * second)
	check := func(now int64, want int) {
		t.Helper()
		if got := b.Balance(now); got != want {
			t.Errorf("balance %d, want %d", got, want)
		}
	}
	check(9*second, 9)
	b.SetConfig(Config{0, 0.5, 10 * time.Second}) // ten deposits, one retry at the new price
	check(9*second, 4)
	b.SetConfig(Config{2, 0.5, 10 * time.Second})
	check(9*second, 24)
	b.SetConfig(Config{0, 0, 10 * time.Second})
	check(9*second, 0)
	b.SetConfig(Config{0, 1, 60 * time.Second}) // nothing is lost by a longer TTL
	check(9*second, 9)
	check(59*second, 9)
	b.SetConfig(Config{0, 1, 10 * time.Second}) // slices of six seconds: 0 and 6
	check(9*second, 9)
	check(10*second, 3) // the first six are gone
	b.SetConfig(Config{0, 1, time.Second})
	check(16*second, 0)
	b.Deposit(16 * second)
	check(16*second, 1)
}

// entry is one deposit or withdrawal in the model.
type entry struct {
	at    int64
	retry bool
}

// model is the definition of the bucket, in so many words.
type model struct {
	cfg     Config
	entries []entry
}

func (m *model) balance(now int64) int64 {
	pays, cost := 1000.0, math.Trunc(1000/m.cfg.PercentCanRetry)
	if m.cfg.PercentCanRetry == 0 {
		pays, cost = 0, 1
	}
	tokens := float64(m.cfg.MinPerSec) * m.cfg.TTL.Seconds() * cost
	slice := int64(m.cfg.TTL / slices)
	for _, e := range m.entries {
		switch {
		case now/slice-e.at/slice >= slices:
		case e.retry:
			tokens -= cost
		default:
			tokens += pays
		}
	}
	return int64(math.Floor(max(tokens, 0) / cost))
}

func TestBudgetIsItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		config := rapid.Custom(func(t *rapid.T) Config {
			return Config{
				MinPerSec:       rapid.IntRange(0, 5).Draw(t, "min"),
				PercentCanRetry: rapid.OneOf(rapid.Just(0.0), rapid.SampledFrom([]float64{0.2, 0.3, 0.5, 1, 7, 1000}), rapid.Float64Range(0.001, 1000)).Draw(t, "percent"),
				TTL:             time.Duration(rapid.IntRange(1, 60).Draw(t, "ttl")) * time.Second,
			}
		})
		cfg := config.Draw(t, "config")
		b, m := NewBudget(cfg), model{cfg: cfg}
		now := rapid.Int64Range(0, 1<<40).Draw(t, "start")
		t.Repeat(map[string]func(*rapid.T){
			"deposit": func(t *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(t, "requests") {
					b.Deposit(now)
					m.entries = append(m.entries, entry{at: now})
				}
			},
			"withdraw": func(t *rapid.T) {
				want := m.balance(now) > 0
				if got := b.TryWithdraw(now); got != want {
					t.Fatalf("TryWithdraw is %v, want %v", got, want)
				}
				if want {
					m.entries = append(m.entries, entry{at: now, retry: true})
				}
			},
			"wait": func(t *rapid.T) {
				now += rapid.OneOf(rapid.Int64Range(0, int64(time.Second)), rapid.Int64Range(0, int64(2*time.Minute))).Draw(t, "wait")
			},
			"configure": func(t *rapid.T) { // another TTL is another test's
				m.cfg = config.Draw(t, "config")
				m.cfg.TTL = cfg.TTL
				b.SetConfig(m.cfg)
			},
			"": func(t *rapid.T) {
				if got, want := int64(b.Balance(now)), m.balance(now); got != want {
					t.Fatalf("the balance is %d, want %d", got, want)
				}
			},
		})
	})
}

func TestBudgetConcurrently(t *testing.T) {
	const workers, each = 8, 5000
	b := NewBudget(Config{0, 0.5, 10 * time.Second})
	var granted atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range int64(each) {
				b.Deposit(i * int64(time.Millisecond))
				if b.TryWithdraw(i * int64(time.Millisecond)) {
					granted.Add(1)
				}
				b.Balance(i)
			}
		})
	}
	wg.Wait()
	total := int(granted.Load()) + b.Balance(each*int64(time.Millisecond))
	if total != workers*each/2 {
		t.Errorf("%d requests paid for %d retries, want %d", workers*each, total, workers*each/2)
	}
}

func TestBudgetAllocatesNothing(t *testing.T) {
	b := NewBudget(DefaultConfig)
	now := int64(0)
	if n := testing.AllocsPerRun(1000, func() {
		now += int64(time.Millisecond)
		b.Deposit(now)
		b.TryWithdraw(now)
		b.Balance(now)
	}); n != 0 {
		t.Errorf("a request allocates %v times", n)
	}
}

func TestConfigValidate(t *testing.T) {
	if err := DefaultConfig.Validate(); err != nil {
		t.Error(err)
	}
	bad := Config{MinPerSec: -1, PercentCanRetry: math.NaN(), TTL: time.Hour}
	err := bad.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"per second", "part of requests", "time to live"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not speak of the %s", err, want)
		}
	}
}

func TestMaxRequeues(t *testing.T) {
	for balance, want := range map[int]int{0: 0, 1: 1, 5: 1, 6: 2, 100: 20, 101: 21} {
		if got := MaxRequeues(balance); got != want {
			t.Errorf("MaxRequeues(%d) = %d, want %d", balance, got, want)
		}
	}
}

func BenchmarkDeposit(b *testing.B) {
	budget := NewBudget(DefaultConfig)
	now := int64(0)
	for b.Loop() {
		now += 10_000
		budget.Deposit(now)
	}
}

func BenchmarkDepositParallel(b *testing.B) {
	budget := NewBudget(DefaultConfig)
	b.RunParallel(func(p *testing.PB) {
		now := int64(0)
		for p.Next() {
			now += 10_000
			budget.Deposit(now)
		}
	})
}

func BenchmarkTryWithdraw(b *testing.B) {
	budget := NewBudget(DefaultConfig)
	now := int64(0)
	for b.Loop() {
		now += 10_000
		budget.TryWithdraw(now)
	}
}
