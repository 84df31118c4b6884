package tracing

import (
	"strings"
	"testing"
)

func collect(fields ...string) *B3 {
	var b B3
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		b.Add([]byte(name), []byte(value))
	}
	return &b
}

func TestB3(t *testing.T) {
	const span, parent = "00000000000000aa", "00000000000000bb"
	for _, test := range []struct {
		name   string
		fields []string
		want   Context
	}{
		{"nothing", nil, Context{}},
		{"all", []string{"X-B3-TraceId: 00000000000000cc", "X-B3-SpanId: " + span, "X-B3-ParentSpanId: " + parent, "X-B3-Sampled: 1", "X-B3-Flags: 0"},
			Context{0xaa, 0xbb, 0xcc, 0, Known | Sampled}},
		{"128 bits", []string{"x-b3-traceid: 00000000000000dd00000000000000CC", "x-b3-spanid: " + span}, Context{0xaa, 0xaa, 0xcc, 0xdd, 0}},
		{"128 bits that are 64", []string{"x-b3-traceid: 000000000000000000000000000000cc", "x-b3-spanid: " + span}, Context{0xaa, 0xaa, 0xcc, 0, 0}},
		{"no span", []string{"x-b3-traceid: 00000000000000cc", "x-b3-parentspanid: " + parent, "x-b3-sampled: true"}, Context{Flags: Known | Sampled}},
		{"no trace", []string{"x-b3-spanid: " + span, "x-b3-parentspanid: " + parent}, Context{0xaa, 0xbb, 0xbb, 0, 0}},
		{"only a span", []string{"x-b3-spanid: " + span}, Context{0xaa, 0xaa, 0xaa, 0, 0}},
		{"a trace of odd length", []string{"x-b3-traceid: 0cc", "x-b3-spanid: " + span}, Context{0xaa, 0xaa, 0xaa, 0, 0}},
		{"half a trace", []string{"x-b3-traceid: 00000000000000dd0000000000000xyz", "x-b3-spanid: " + span}, Context{0xaa, 0xaa, 0xaa, 0, 0}},
		{"a trace of 0", []string{"x-b3-traceid: 0000000000000000", "x-b3-spanid: " + span}, Context{0xaa, 0xaa, 0xaa, 0, 0}},
		{"a bad first half", []string{"x-b3-traceid: zz000000000000dd00000000000000cc", "x-b3-spanid: " + span}, Context{0xaa, 0xaa, 0xaa, 0, 0}},
		{"a bad span", []string{"x-b3-traceid: 00000000000000cc", "x-b3-spanid: 0x000000000000aa"}, Context{}},
		{"no", []string{"x-b3-spanid: " + span, "x-b3-sampled: 0"}, Context{0xaa, 0xaa, 0xaa, 0, Known}},
		{"false", []string{"x-b3-sampled: false"}, Context{Flags: Known}},
		{"debug", []string{"x-b3-flags: 1"}, Context{Flags: Debug}},
		{"twice", []string{"x-b3-spanid: " + span, "x-b3-spanid: " + parent}, Context{0xaa, 0xaa, 0xaa, 0, 0}},
		{"others", []string{"x-b3-spanid-of: " + span, "x-b3: 1", "b3: 1", "x-b3-parentspanidx: " + span}, Context{}},
	} {
		if got := collect(test.fields...).Context(); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
	if rate := collect("x-b3-sampled: 0.5").Rate(); string(rate) != "0.5" {
		t.Errorf("a share is %q", rate)
	}
	if rate := collect("x-b3-sampled: true").Rate(); rate != nil {
		t.Errorf("yes is the share %q", rate)
	}
}

func TestAppendB3(t *testing.T) {
	long, short := Context{0xaa, 0xbb, 0xcc, 0xdd, Known | Sampled}, Context{0xaa, 0xaa, 0xaa, 0, Debug}
	for name, want := range map[string][2]string{
		B3Trace:   {"00000000000000dd00000000000000cc", "00000000000000aa"},
		B3Span:    {"00000000000000aa", "00000000000000aa"},
		B3Parent:  {"00000000000000bb", "00000000000000aa"},
		B3Sampled: {"1", "1"},
		B3Flags:   {"0", "1"},
		"other":   {"", ""},
	} {
		if got := [2]string{string(long.AppendB3(nil, name)), string(short.AppendB3(nil, name))}; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := (Context{}).AppendB3(nil, B3Sampled); string(got) != "0" {
		t.Errorf("undecided is sent as %q", got)
	}
}

func FuzzB3(f *testing.F) {
	f.Add("00000000000000dd00000000000000cc", "00000000000000aa", "00000000000000bb", "1", "1")
	f.Add("00000000000000cc", "00000000000000aa", "", "0.2", "")
	f.Fuzz(func(t *testing.T, trace, span, parent, sampled, flags string) {
		c := collect(B3Trace+": "+trace, B3Span+": "+span, B3Parent+": "+parent, B3Sampled+": "+sampled, B3Flags+": "+flags).Context()
		if (c.Span == 0) != (c.Trace == 0) || (c.Span == 0) != (c.Parent == 0) {
			t.Fatalf("half a span: %+v", c)
		}
		var written []string
		for _, name := range []string{B3Trace, B3Span, B3Parent, B3Sampled, B3Flags} {
			written = append(written, name+": "+string(c.AppendB3(nil, name)))
		}
		again := collect(written...).Context()
		if c.Span != 0 && (again.Span != c.Span || again.Parent != c.Parent || again.Trace != c.Trace || again.High != c.High) {
			t.Fatalf("%+v is written as %q", c, written)
		}
	})
}
