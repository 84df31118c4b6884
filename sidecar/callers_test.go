package sidecar

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The addresses are of documentation networks (RFC 5737): nothing routes to
// them specially, so only the neighbours tell pods from others.
func TestCallersNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		self, err := localAddress("192.0.2.1")
		if err != nil {
			self = "203.0.113.9" // a machine without any route
		}
		pods := watch.New([]api.Pod{{IP: "192.0.2.7", Namespace: "shop", Name: "cart"}})
		n := newNode(pods, self, "fallback")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = n.run(ctx) }()
		defer func() { cancel(); <-done }()
		synctest.Wait()

		elapsed := func(ip, want string) time.Duration {
			t.Helper()
			began := time.Now()
			if got, err := n.namespace(ctx, ip); got != want || (err != nil) != (want == "") {
				t.Errorf("a caller at %s is in %q, %v, want %q", ip, got, err, want)
			}
			return time.Since(began)
		}
		for ip, want := range map[string]string{"192.0.2.7": "shop", "127.0.0.1": "fallback", self: "fallback", "198.51.100.1": "fallback", "nonsense": "fallback"} {
			if d := elapsed(ip, want); d != 0 {
				t.Errorf("%s was made to wait %s", ip, d)
			}
		}
		// A neighbour of a known pod may be a pod that is not known yet.
		go func() {
			time.Sleep(time.Second) // virtual
			pods.Set([]api.Pod{{IP: "192.0.2.7", Namespace: "shop"}, {IP: "192.0.2.8", Namespace: "bank"}})
		}()
		if d := elapsed("192.0.2.8", "bank"); d != time.Second {
			t.Errorf("the new pod was known after %s, want 1s", d)
		}
		// One that never becomes one is refused: no namespace is its own.
		if d := elapsed("192.0.2.99", ""); d != newsAfter {
			t.Errorf("the stranger waited %s, want %s", d, newsAfter)
		}
		// An address that passes on to a pod is that pod's at once.
		pods.Set([]api.Pod{{IP: "192.0.2.99", Namespace: "zoo"}})
		if d := elapsed("192.0.2.99", "zoo"); d != 0 {
			t.Errorf("the pod waited %s", d)
		}
		if !n.ours(ctx, "192.0.2.99") || n.ours(ctx, "192.0.2.7") {
			t.Error("the proxy is wrong about which pods are its own")
		}
	})
}

// Before the first list of pods nobody is taken for a stranger.
func TestCallersBeforeTheFirstList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pods := watch.New[[]api.Pod](nil)
		n := newNode(pods, "203.0.113.9", "fallback")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = n.run(ctx) }()
		defer func() { cancel(); <-done }()
		synctest.Wait()

		began := time.Now()
		if ns, err := n.namespace(ctx, "192.0.2.7"); err == nil || time.Since(began) != listAfter {
			t.Errorf("got %q, %v after %s, want an error after %s", ns, err, time.Since(began), listAfter)
		}
		if ns, err := n.namespace(ctx, "127.0.0.1"); err != nil || ns != "fallback" {
			t.Errorf("a caller on the node itself: %q, %v", ns, err)
		}
		go func() {
			time.Sleep(4 * time.Second) // virtual
			pods.Set([]api.Pod{{IP: "192.0.2.7", Namespace: "shop"}})
		}()
		if ns, err := n.namespace(ctx, "192.0.2.7"); err != nil || ns != "shop" {
			t.Errorf("got %q, %v", ns, err)
		}
	})
}
