package document_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/document"
)

func TestNearest(t *testing.T) {
	known := []string{"p2c", "ewma", "aperture", "roundRobin", "maxSize", "minSize", "idleTimeMs", "port", "dtab", "ip", "io.l5d.namerd"}
	for word, want := range map[string]string{
		"round-robin": "roundRobin", "EWMA": "ewma", "ewna": "ewma", "maxsize": "maxSize", "maxSizes": "maxSize",
		"idleTime": "idleTimeMs", "p2p": "p2c", "heap": "", "x": "", "": "", "something": "",
		"prot": "port", "opt": "", "mniSize": "minSize", "maxSzieS": "maxSize", "eawm": "", "pi": "",
		"baseDtab": "dtab", "base_dtab": "dtab", "dtabFile": "dtab", "rawDtabText": "dtab", "adminPortNumber": "port",
		"transport_kind": "", "theIp": "", "subdtabs": "", "io.l5d.namerd.thrift": "io.l5d.namerd", "defaultMaxSizePort": "maxSize",
	} {
		if got := document.Nearest(word, known); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add("a: 1\nb: {c: [1, 2]}\na: 2\n---\nx: y\n")
	f.Add("a: &a [*a]\n? [x]\n: 1\n")
	f.Fuzz(func(t *testing.T, content string) {
		r := document.Reader{File: "f"}
		root := r.Root([]byte(content))
		if root == nil {
			return
		}
		seen := map[string]bool{}
		for key := range r.Entries("", root) {
			if seen[key.Value] {
				t.Errorf("%q twice", key.Value)
			}
			seen[key.Value] = true
		}
	})
}
