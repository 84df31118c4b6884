package classify

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

func TestParse(t *testing.T) {
	for i, name := range Names() {
		k, err := Parse(name)
		if err != nil || k != Kind(i) || k.String() != name {
			t.Errorf("Parse(%q) = %v, %v", name, k, err)
		}
		if short, err := Parse(strings.TrimPrefix(name, Prefix)); err != nil || short != k {
			t.Errorf("without its prefix, %q is %v, %v", name, short, err)
		}
	}
	for _, name := range []string{"", Prefix, "nonretryable5xx", "io.l5d.h2.nonRetryable5XX", Prefix + Prefix + "allSuccessful"} {
		_, err := Parse(name)
		if err == nil {
			t.Errorf("Parse(%q) succeeds", name)
			continue
		}
		for _, want := range Names() {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error for %q does not name %s: %v", name, want, err)
			}
		}
	}
}

func TestKinds(t *testing.T) {
	methods := strings.Fields("GET HEAD OPTIONS TRACE PUT DELETE POST PATCH CONNECT PURGE get")
	for _, test := range []struct {
		kind      Kind
		retryable string // methods
	}{
		{NonRetryable5XX, ""},
		{RetryableRead5XX, "GET HEAD OPTIONS TRACE"},
		{RetryableIdempotent5XX, "GET HEAD OPTIONS TRACE PUT DELETE"},
		{RetryableAll5XX, "GET HEAD OPTIONS TRACE PUT DELETE POST PATCH"},
		{AllSuccessful, ""},
	} {
		retryable := map[string]bool{}
		for _, m := range strings.Fields(test.retryable) {
			retryable[m] = true
		}
		for _, m := range methods {
			method := []byte(m)
			failure := Failure
			if retryable[m] {
				failure = Retryable
			}
			if got := test.kind.Failed(method); got != failure {
				t.Errorf("%s: an error of %s is a %s, want %s", test.kind, m, got, failure)
			}
			for _, status := range []int{100, 200, 304, 404, 429, 499} {
				if got := test.kind.Class(method, status); got != Success {
					t.Errorf("%s: %d to %s is a %s", test.kind, status, m, got)
				}
			}
			for _, status := range []int{500, 502, 503, 599, 600, 999} {
				want := failure
				if test.kind == AllSuccessful {
					want = Success
				}
				if got := test.kind.Class(method, status); got != want {
					t.Errorf("%s: %d to %s is a %s, want %s", test.kind, status, m, got, want)
				}
			}
		}
	}
}

func TestOverride(t *testing.T) {
	for _, test := range []struct {
		class         Class
		method, value string
		want          Class
	}{
		{Failure, "POST", "true", Retryable},
		{Failure, "POST", "True", Retryable},
		{Failure, "PURGE", "true", Retryable},
		{Failure, "CONNECT", "true", Failure},
		{Failure, "GET", "false", Failure},
		{Failure, "GET", "1", Failure},
		{Failure, "GET", "", Failure},
		{Success, "GET", "true", Success},
		{Retryable, "GET", "false", Retryable},
	} {
		if got := test.class.Override([]byte(test.method), []byte(test.value)); got != test.want {
			t.Errorf("a %s of %s with %q is a %s, want %s", test.class, test.method, test.value, got, test.want)
		}
	}
}

func TestSuccessClass(t *testing.T) {
	for _, c := range []Class{Success, Failure, Retryable} {
		if Succeeded([]byte(c.Value())) != (c == Success) || c.Failed() != (c != Success) {
			t.Errorf("%s is lost on the way: %s", c, c.Value())
		}
	}
	for value, want := range map[string]bool{
		"1": true, "0.5": true, "1e-3": true, "0": false, "-1": false, "": false, "yes": false, "NaN": false,
		" 1.0": false, strings.Repeat("1", 33): false,
	} {
		if got := Succeeded([]byte(value)); got != want {
			t.Errorf("%q is a success: %v", value, got)
		}
	}
}

func TestNacked(t *testing.T) {
	for _, test := range []struct {
		status int
		fields string
		want   Nack
	}{
		{503, "", NoNack},
		{503, "Retry-After: 5", NoNack},
		{503, "Retry-After: 00", NoNack},
		{503, "Retry-After: 0", Requeue},
		{503, "Finagle-Http-Nack:", Requeue},
		{503, "finagle-http-nack: false", Requeue},
		{503, "finagle-http-nonretryable-nack: true", DoNotSend},
		{503, "finagle-http-nack: true, finagle-http-nonretryable-nack: true", DoNotSend},
		{500, "finagle-http-nack: true", NoNack},
		{429, "Retry-After: 0", NoNack},
		{200, "finagle-http-nonretryable-nack: true", NoNack},
	} {
		var h wire.Header
		for _, field := range strings.Split(test.fields, ", ") {
			name, value, _ := strings.Cut(field, ":")
			h.Fields = append(h.Fields, wire.Field{Name: []byte(name), Value: []byte(strings.TrimSpace(value))})
		}
		if got := Nacked(test.status, &h); got != test.want {
			t.Errorf("%d with %q: nack %d, want %d", test.status, test.fields, got, test.want)
		}
	}
}

func TestClassesAllocateNothing(t *testing.T) {
	method, value := []byte("GET"), []byte("0.25")
	var h wire.Header
	h.Fields = append(h.Fields, wire.Field{Name: []byte("Retry-After"), Value: []byte("0")})
	if n := testing.AllocsPerRun(1000, func() {
		c := RetryableAll5XX.Class(method, 503).Override(method, value)
		_ = c.Value()
		Succeeded(value)
		Nacked(503, &h)
	}); n != 0 {
		t.Errorf("a classification allocates %v times", n)
	}
}

func BenchmarkClass(b *testing.B) {
	method := []byte("DELETE")
	for b.Loop() {
		RetryableIdempotent5XX.Class(method, 503)
	}
}
