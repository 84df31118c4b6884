package router

import (
	"net"
	"testing"
)

// Whatever a client sends, a proxy to go on to has a host and a port, or there is
// none.
func FuzzParseChain(f *testing.F) {
	f.Add([]byte("Basic Y2hhaW4tYUhSMGNEb3ZMM0E2TVRJek5BOg=="))
	f.Add([]byte("basic Y2hhaW4tITo="))
	f.Add([]byte("Bearer x"))
	f.Fuzz(func(t *testing.T, value []byte) {
		u, err := parseChain(value)
		if u == nil {
			return
		}
		if host, port, splitErr := net.SplitHostPort(string(u.authority)); err != nil || splitErr != nil || host == "" || port == "" {
			t.Errorf("%q: %q %v %v", value, u.authority, err, splitErr)
		}
	})
}
