package wire

import "testing"

// A name that is only the prefix is one of its kind, too.
func TestKindsOfPrefixes(t *testing.T) {
	for name, want := range map[string]Kind{
		"l5d-": KindL5d, "l5d": KindOther, "l5d-x": KindL5d, "l5d-err": KindErr, "l5d-ctx-": KindL5d, "l5d-ctx-x": KindCtxOther, "l5d-dst-": KindL5d,
		"tulle-": KindTulle, "tulle": KindOther, "tulle-x": KindTulle, "tulle-code": KindCode,
		"x-b3-": KindB3, "x-b3": KindOther, "x-b3-traceid": KindB3, "": KindOther,
	} {
		if got := KindOf([]byte(name)); got != want {
			t.Errorf("%q is of kind %d, want %d", name, got, want)
		}
	}
}
