package tracing

import (
	"bytes"
	"encoding/base64"
	"testing"
)

func parse(t *testing.T, value string) Context {
	t.Helper()
	c, ok := Parse([]byte(value))
	if !ok {
		t.Fatalf("%q is not read", value)
	}
	return c
}

// encode makes a value of so many bytes, none of them 0.
func encode(size int) []byte {
	raw := make([]byte, size)
	for i := range raw {
		raw[i] = byte(i + 1)
	}
	return base64.StdEncoding.AppendEncode(nil, raw)
}

func TestHeader(t *testing.T) {
	const example = "AAAAAAAAAKoAAAAAAAAAuwAAAAAAAADMAAAAAAAAAAY="
	c := parse(t, example)
	if want := (Context{Span: 0xaa, Parent: 0xbb, Trace: 0xcc, Flags: Known | Sampled}); c != want {
		t.Errorf("read %+v, want %+v", c, want)
	}
	if got := string(c.AppendTo([]byte("x"))); got != "x"+example {
		t.Errorf("written as %q", got)
	}
	if got := string(c.AppendRequestID([]byte("x"))); got != "x00000000000000cc" {
		t.Errorf("the request id is %q", got)
	}
	long := encode(longSize)
	c = parse(t, string(long))
	if want := (Context{0x0102030405060708, 0x090a0b0c0d0e0f10, 0x1112131415161718, 0x2122232425262728, 0x191a1b1c1d1e1f20}); c != want {
		t.Errorf("read %x, want %x", c, want)
	}
	if got := c.AppendTo(nil); !bytes.Equal(got, long) {
		t.Errorf("128 bits are written as %q", got)
	}
	if got := string(c.AppendRequestID(nil)); got != "1112131415161718" {
		t.Errorf("the request id is %q", got)
	}
}

func TestParseIgnores(t *testing.T) {
	good := string(encode(shortSize))
	values := map[string]string{
		"nothing":       "",
		"no base64":     "not base64 at all, but as long as it had to be",
		"no padding":    good[:43],
		"the URL's":     "AAAAAAAAAKoAAAAAAAAAuwAAAAAAAADMAAAAAAAA__8=",
		"a line break":  good[:20] + "\n" + good[20:43],
		"two of them":   good + ", " + good,
		"no span":       string(base64.StdEncoding.AppendEncode(nil, append(make([]byte, 8), encode(24)[:24]...))),
		"nothing but 0": string(base64.StdEncoding.AppendEncode(nil, make([]byte, shortSize))),
	}
	for _, size := range []int{1, 8, 24, 30, 31, 33, 34, 38, 39, 41, 42, 48, 64} {
		values[string(rune('0'+size))+" bytes"] = string(encode(size))
	}
	for name, value := range values {
		if c, ok := Parse([]byte(value)); ok || c != (Context{}) {
			t.Errorf("%s: %q is read as %+v", name, value, c)
		}
	}
}

func TestChild(t *testing.T) {
	root := Context{Flags: Debug}.Child()
	if root.Span == 0 || root.Parent != root.Span || root.Trace != root.Span || root.High != 0 || root.Flags != Debug {
		t.Errorf("a root is %+v", root)
	}
	in := Context{1, 2, 3, 4, 5}
	child := in.Child()
	if child.Span == 0 || child.Span == 1 || child != (Context{child.Span, 1, 3, 4, 5}) {
		t.Errorf("a child of %+v is %+v", in, child)
	}
	if again := in.Child(); again.Span == child.Span {
		t.Error("two children have one id")
	}
}

// Whether a request says l5d-sample, what came, and what goes on.
func TestDecide(t *testing.T) {
	const yes, no = Known | Sampled, Known
	for _, test := range []struct {
		rate       string
		came, goes Flags
	}{
		{"", 0, 0},
		{"", yes, yes},
		{"1", 0, yes},
		{"1.0", 0, yes},
		{"1.5", 0, yes},
		{"1e999", 0, yes},
		{"1", no, yes},
		{"1", Debug, yes | Debug},
		{"0", 0, no},
		{"0.0", 0, no},
		{"-3", 0, no},
		{"-1e999", 0, no},
		{"0", yes, no}, // Linkerd 1.x sends 6
		{"0", yes | Debug, no},
		{"1", 1 << 40, 1<<40 | yes},
		{"0", 1 << 40, 1<<40 | no},
		{"yes", 0, 0},
		{"yes", yes, yes},
		{"yes", no, no},
		{"NaN", yes, yes},
		{"1 ", 0, 0},
		{"1,1", 0, 0},
		{"a word that is much longer than any number is ever going to be", no, no},
	} {
		c := Context{1, 2, 3, 4, test.came}
		want := Context{1, 2, 3, 4, test.goes}
		if got := NewSampler(7).Decide(c, []byte(test.rate)); got != want {
			t.Errorf("l5d-sample %q makes %+v of %+v", test.rate, got, c)
		}
	}
}

func TestShare(t *testing.T) {
	s, other := NewSampler(1), NewSampler(2)
	const n = 100000
	kept, same := 0, 0
	for trace := range uint64(n) { // the worst ids: all alike
		c := Context{Span: trace, Trace: trace}
		a := s.Decide(c, []byte("0.2")).Flags.Sampled()
		if a != s.Decide(c, []byte("0.2")).Flags.Sampled() {
			t.Fatal("one trace is decided upon in two ways")
		}
		if a && !s.Decide(c, []byte("0.3")).Flags.Sampled() {
			t.Fatal("a larger share leaves out a trace of a smaller one")
		}
		if a {
			kept++
			if other.Decide(c, []byte("0.2")).Flags.Sampled() {
				same++
			}
		}
	}
	// Seven standard deviations.
	if kept < 0.19*n || kept > 0.21*n {
		t.Errorf("of %d traces %d are kept by a share of 0.2", n, kept)
	}
	if same < kept/6 || same > kept/4 {
		t.Errorf("of %d kept traces another salt keeps %d", kept, same)
	}
}

func TestSampled(t *testing.T) {
	for f, want := range map[Flags]bool{0: false, Debug: true, Known: false, Sampled: false, Known | Sampled: true, Debug | Known: true} {
		if f.Sampled() != want {
			t.Errorf("flags %d are sampled: %t", f, !want)
		}
	}
}

func TestAllocations(t *testing.T) {
	value, rate := encode(shortSize), []byte("0.25")
	b := make([]byte, 0, 128)
	var sum uint64
	if n := testing.AllocsPerRun(1000, func() {
		in, _ := Parse(value)
		c := NewSampler(3).Decide(in.Child(), rate).Child()
		b = c.AppendRequestID(c.AppendTo(b[:0]))
		sum += c.Span
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("AAAAAAAAAKoAAAAAAAAAuwAAAAAAAADMAAAAAAAAAAY="))
	f.Add(encode(longSize))
	f.Add(encode(33))
	f.Fuzz(func(t *testing.T, value []byte) {
		c, ok := Parse(value)
		if !ok {
			if c != (Context{}) {
				t.Fatalf("%q is not read, and gives %+v", value, c)
			}
			return
		}
		if again, ok := Parse(c.AppendTo(nil)); !ok || again != c {
			t.Fatalf("%q is read as %+v, written and read as %+v", value, c, again)
		}
		if id := c.AppendRequestID(nil); len(id) != 16 {
			t.Fatalf("the request id is %q", id)
		}
	})
}

func FuzzDecide(f *testing.F) {
	for _, rate := range []string{"1", "0", "0.2", "-3", "1.5", "yes", "NaN", "inf", "1e400"} {
		f.Add([]byte(rate), uint64(6))
	}
	f.Fuzz(func(t *testing.T, rate []byte, came uint64) {
		c := Context{1, 2, 3, 4, Flags(came)}
		got := NewSampler(1).Decide(c, rate)
		undecided := got
		undecided.Flags = c.Flags
		if undecided != c {
			t.Fatalf("%q changes more than the flags: %+v", rate, got)
		}
		if got != c && got.Flags&Known == 0 {
			t.Fatalf("%q decides without a decision: %+v", rate, got)
		}
	})
}

// What a request without a context costs: a new trace, and both headers.
func BenchmarkRoot(b *testing.B) {
	head := make([]byte, 0, 128)
	b.ReportAllocs()
	for b.Loop() {
		c := Context{}.Child().Child()
		head = c.AppendTo(head[:0])
		head = c.AppendRequestID(head)
	}
}

func BenchmarkHop(b *testing.B) {
	value := encode(shortSize)
	head := make([]byte, 0, 128)
	b.ReportAllocs()
	for b.Loop() {
		in, _ := Parse(value)
		c := in.Child().Child()
		head = c.AppendTo(head[:0])
		head = c.AppendRequestID(head)
	}
}
