package deadline

import (
	"math"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(stamp, at int64) Deadline { return Deadline{stamp, at, true} }

func TestParse(t *testing.T) {
	for value, want := range map[string]Deadline{
		"1000000000000 1002000000000": at(1000e9, 1002e9),
		"0 0":                         at(0, 0),
		"007 08":                      at(7, 8),
		"9223372036854775807 9223372036854775807": at(math.MaxInt64, math.MaxInt64),
		"":                                   {},
		" ":                                  {},
		"1":                                  {},
		"1 ":                                 {},
		" 1":                                 {},
		"1  2":                               {},
		"1 2 ":                               {},
		"1 2 3":                              {},
		"1\t2":                               {},
		"1,2":                                {},
		"+1 2":                               {},
		"1 -2":                               {},
		"0x1 2":                              {},
		"1e9 2e9":                            {},
		"1.0 2.0":                            {},
		"1 9223372036854775808":              {},
		"99999999999999999999999999999999 1": {},
		"1 99999999999999999999999999999999": {},
	} {
		if got := Parse([]byte(value)); got != want {
			t.Errorf("Parse(%q) = %+v, want %+v", value, got, want)
		}
	}
}

func TestMerge(t *testing.T) {
	for _, test := range []struct {
		values string
		want   Deadline
		read   int
	}{
		{"", Deadline{}, 0},
		{"5 10", at(5, 10), 1},
		{"5 10|6 20", at(6, 10), 2},
		{"6 20|5 10", at(6, 10), 2},
		{"5 10|nonsense|4 9", at(5, 9), 2},
		{"nonsense|7", Deadline{}, 0},
	} {
		var d Deadline
		read := 0
		for _, value := range strings.Split(test.values, "|") {
			if d.Merge([]byte(value)) {
				read++
			}
		}
		if d != test.want || read != test.read {
			t.Errorf("%q merges to %+v from %d values, want %+v from %d", test.values, d, read, test.want, test.read)
		}
	}
}

func TestTighten(t *testing.T) {
	for _, test := range []struct {
		name    string
		d       Deadline
		now     int64
		timeout time.Duration
		want    Deadline
	}{
		{"creates", Deadline{}, 1000e9, time.Second, at(1000e9, 1001e9)},
		{"tightens", at(999e9, 1002e9), 1000e9, 500 * time.Millisecond, at(1000e9, 1000.5e9)},
		{"keeps an earlier one", at(999e9, 1000.1e9), 1000e9, time.Second, at(1000e9, 1000.1e9)},
		{"keeps a later stamp, of a clock that is ahead", at(1001e9, 1002e9), 1000e9, time.Second, at(1001e9, 1001e9)},
		{"no timeout", at(1, 2), 1000e9, 0, at(1, 2)},
		{"no timeout and no deadline", Deadline{}, 1000e9, -1, Deadline{}},
		{"an endless timeout", Deadline{}, 1000e9, math.MaxInt64, at(1000e9, math.MaxInt64)},
	} {
		d := test.d
		d.Tighten(test.now, test.timeout)
		if d != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, d, test.want)
		}
	}
}

// The example of the header's description.
func TestForward(t *testing.T) {
	var d Deadline
	d.Merge([]byte("998000000000 1002000000000"))
	d.Tighten(1000e9, 500*time.Millisecond)
	if got, want := string(d.AppendTo([]byte("x"))), "x1000000000000 1000500000000"; got != want {
		t.Errorf("forwarded %q, want %q", got, want)
	}
	if got := string(Deadline{}.AppendTo(nil)); got != "" {
		t.Errorf("no deadline is written as %q", got)
	}
}

func TestExpiredAndLeft(t *testing.T) {
	for _, test := range []struct {
		d       Deadline
		now     int64
		expired bool
		left    time.Duration
	}{
		{Deadline{}, math.MaxInt64, false, math.MaxInt64},
		{at(0, 10), 9, false, 1},
		{at(0, 10), 10, true, 0},
		{at(0, 10), math.MaxInt64, true, 0},
		{at(0, 0), math.MinInt64, false, math.MaxInt64},
		{at(0, math.MaxInt64), -1, false, math.MaxInt64},
		{at(0, math.MaxInt64), 0, false, math.MaxInt64},
	} {
		if expired, left := test.d.Expired(test.now), test.d.Left(test.now); expired != test.expired || left != test.left {
			t.Errorf("%+v at %d: expired %v, left %d; want %v, %d", test.d, test.now, expired, left, test.expired, test.left)
		}
	}
}

// Whatever the order of headers and timeouts, the deadline is the earliest.
func TestNeverLater(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d Deadline
		earliest, latest := new(big.Int), int64(0)
		for i := range rapid.IntRange(1, 10).Draw(t, "steps") {
			stamp := rapid.Int64Range(0, math.MaxInt64).Draw(t, "stamp")
			end := big.NewInt(rapid.Int64Range(1, math.MaxInt64).Draw(t, "end"))
			if rapid.Bool().Draw(t, "timeout") {
				d.Tighten(stamp, time.Duration(end.Int64()))
				end.Add(end, big.NewInt(stamp))
			} else {
				d.Merge(at(stamp, end.Int64()).AppendTo(nil))
			}
			if i == 0 || end.Cmp(earliest) < 0 {
				earliest = end
			}
			latest = max(latest, stamp)
		}
		if most := big.NewInt(math.MaxInt64); earliest.Cmp(most) > 0 {
			earliest = most
		}
		if want := at(latest, earliest.Int64()); d != want {
			t.Fatalf("%+v, want %+v", d, want)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"1 2", "1000000000000 1002000000000", "1  2", "9223372036854775808 1", "-1 2", "1 2\x00"} {
		f.Add([]byte(seed))
	}
	syntax := regexp.MustCompile(`^(\d+) (\d+)$`)
	f.Fuzz(func(t *testing.T, value []byte) {
		d := Parse(value)
		want := Deadline{}
		if m := syntax.FindStringSubmatch(string(value)); m != nil && !strings.HasSuffix(string(value), "\n") {
			var stamp, end big.Int
			stamp.SetString(m[1], 10)
			end.SetString(m[2], 10)
			if stamp.IsInt64() && end.IsInt64() {
				want = at(stamp.Int64(), end.Int64())
			}
		}
		if d != want {
			t.Fatalf("Parse(%q) = %+v, want %+v", value, d, want)
		}
		if d.Known && Parse(d.AppendTo(nil)) != d {
			t.Fatalf("%+v is not read back from %q", d, d.AppendTo(nil))
		}
	})
}

func TestAllocatesNothing(t *testing.T) {
	value, buf := []byte("1000000000000 1002000000000"), make([]byte, 0, 64)
	if n := testing.AllocsPerRun(1000, func() {
		var d Deadline
		d.Merge(value)
		d.Tighten(1000e9, time.Second)
		buf = d.AppendTo(buf[:0])
	}); n != 0 {
		t.Errorf("a request allocates %v times", n)
	}
}

func BenchmarkForward(b *testing.B) {
	value, buf := []byte("1000000000000 1002000000000"), make([]byte, 0, 64)
	for b.Loop() {
		var d Deadline
		d.Merge(value)
		d.Tighten(1000e9, time.Second)
		buf = d.AppendTo(buf[:0])
	}
}
