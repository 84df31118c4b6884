package router_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/router"
)

// traps is a network in which the router's connections to endpoints panic on
// demand.
type traps struct {
	*memory
	read, write atomic.Bool
}

func (n *traps) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := n.memory.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return &trap{conn, n}, nil
}

type trap struct {
	net.Conn
	n *traps
}

func (c *trap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.n.read.Load() {
		panic("a trap in Read")
	}
	return n, err
}

func (c *trap) Write(b []byte) (int, error) {
	if c.n.write.Load() {
		panic("a trap in Write")
	}
	return c.Conn.Write(b)
}

// A panic ends its own exchange and takes nothing with it: no place for a
// connection, no place at the endpoint, no probe.
func TestPanicLeavesNothingBehind(t *testing.T) {
	const words = "client: {maxConcurrentRequestsPerEndpoint: 1, hostConnectionPool: {maxSize: 1}, " + ejects + "}"
	for name, test := range map[string]struct {
		size int // of the body
		trap func(n *traps) *atomic.Bool
	}{
		"while the head is written":  {0, func(n *traps) *atomic.Bool { return &n.write }},
		"while the answer is read":   {0, func(n *traps) *atomic.Bool { return &n.read }},
		"while the body is uploaded": {1 << 20, func(n *traps) *atomic.Bool { return &n.write }},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &traps{memory: &memory{listeners: map[string]*pipes{}}}
			m := startOn(t, n, router.OutgoingConfig{Grace: time.Second}, words)
			var sick atomic.Bool
			m.table.service("world", m.backend(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if sick.Load() {
					w.WriteHeader(500)
				}
			}))
			c := m.client(t)
			fall := func() {
				t.Helper()
				test.trap(n).Store(true)
				if res, body, err := try(c, "POST", "http://world/", strings.NewReader(strings.Repeat("x", test.size))); err == nil {
					t.Errorf("%s: %d %q", name, res.StatusCode, body)
				}
				synctest.Wait()
				test.trap(n).Store(false)
				if load := m.endpoints()[0].Load(); load != 0 {
					t.Errorf("%s: %d requests count as under way", name, load)
				}
			}
			fall()
			for range 5 {
				sick.Store(true)
				get(t, c, "http://world/")
			}
			if got := m.transitions(t); got != [3]float64{1, 0, 0} {
				t.Errorf("%s: after five failures: %v", name, got)
			}
			sick.Store(false)
			time.Sleep(10 * time.Second) // virtual
			fall()                       // as the probe
			if res, _ := get(t, c, "http://world/"); res.StatusCode != 200 {
				t.Errorf("%s: at the end: %d %v", name, res.StatusCode, res.Header)
			}
			if got := m.transitions(t); got != [3]float64{1, 2, 1} {
				t.Errorf("%s: at the end: %v", name, got)
			}
		})
	}
}
