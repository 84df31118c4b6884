package namer_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/naming/namer"
)

func TestPlainHost(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST:4180": true, "127.0.0.1": true, "127.0.0.1:9991": true, "[::1]": true, "[::1]:9991": true, "::1": true,
		"10.0.0.1:80": true, "": false, ":80": false, "localhost.evil.test": false, "evil.test:9991": false, "127.0.0.1.evil.test": false, "2130706433": false,
	} {
		if got := namer.PlainHost(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}
