package retry

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

func least(int64) int64  { return 0 }
func most(n int64) int64 { return n - 1 }

func TestBackoffNext(t *testing.T) {
	for _, test := range []struct {
		name   string
		b      Backoff
		random func(int64) int64
		want   []time.Duration
	}{
		{"the zero value never pauses", Backoff{}, nil, []time.Duration{0, 0, 0}},
		{"constant", Constant(5 * ms), nil, []time.Duration{5 * ms, 5 * ms, 5 * ms}},
		{"grows threefold at most", Backoff{10 * ms, time.Second}, most,
			[]time.Duration{10 * ms, 30 * ms, 90 * ms, 270 * ms, 810 * ms, time.Second, time.Second}},
		{"falls to the shortest at least", Backoff{10 * ms, time.Second}, least, []time.Duration{10 * ms, 10 * ms, 10 * ms}},
		{"no overflow", Backoff{math.MaxInt64 / 2, math.MaxInt64}, most,
			[]time.Duration{math.MaxInt64 / 2, math.MaxInt64 - 1, math.MaxInt64 - 1}},
	} {
		var pause time.Duration
		for i, want := range test.want {
			if pause = test.b.Next(pause, test.random); pause != want {
				t.Errorf("%s: pause %d is %s, want %s", test.name, i+1, pause, want)
			}
		}
	}
}

func TestBackoffStaysInBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		low := time.Duration(rapid.Int64Range(1, math.MaxInt64).Draw(t, "min"))
		b := Backoff{low, time.Duration(rapid.Int64Range(int64(low), math.MaxInt64).Draw(t, "max"))}
		if err := b.Validate(); err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		previous := time.Duration(0)
		for range 20 {
			next := b.Next(previous, r.Int64N)
			if next < b.Min || next > b.Max || previous > 0 && previous < math.MaxInt64/3 && next > 3*previous {
				t.Fatalf("%+v: %s follows %s", b, next, previous)
			}
			previous = next
		}
	})
}

func TestBackoffValidate(t *testing.T) {
	for _, b := range []Backoff{{-1, -1}, {2, 1}, {0, 1}} {
		if b.Validate() == nil {
			t.Errorf("%+v is valid", b)
		}
	}
	if err := (Backoff{}).Validate(); err != nil {
		t.Error(err)
	}
}
