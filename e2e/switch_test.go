//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// load is a steady stream of requests and what came of them.
type load struct {
	stop func() load

	answered int
	failures []string
}

// steady sends one request to a URL every interval, whether or not earlier ones
// are answered, until stop is called: GETs and POSTs with a body in turn, because
// a proxy can send the one again when a connection breaks, and the other only
// while it still has the body.
func steady(t *testing.T, c *http.Client, target string, interval time.Duration) *load {
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	l := &load{}
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			wg.Go(func() {
				began, method := time.Now(), http.MethodGet
				status, body, err := 0, "", error(nil)
				if i%2 == 0 {
					status, body, err = get(context.WithoutCancel(ctx), c, target)
				} else {
					method = http.MethodPost
					status, body, err = post(context.WithoutCancel(ctx), c, target, "a small body")
				}
				mu.Lock()
				defer mu.Unlock()
				if err != nil || status != 200 {
					l.failures = append(l.failures, fmt.Sprintf("%s %s: %d %q %v", began.Format("15:04:05.000"), method, status, body, err))
					return
				}
				l.answered++
			})
		}
	})
	l.stop = func() load {
		cancel()
		wg.Wait()
		return *l
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return l
}

// A namespace changes its mode by its label and a rolling restart, both ways,
// under load, and no request fails.
func TestSwitchModesUnderLoad(t *testing.T) {
	ns := namespace(t, "e2e-switch", "host")
	world := app{namespace: ns, name: "world", text: "world", replicas: 2}.start(t)
	hello := app{namespace: ns, name: "hello", text: "Hello", target: "world", replicas: 2}.start(t)
	c := client(t, hostProxy(t, "n1"))
	target := "http://hello." + ns
	expectWorld := func() {
		t.Helper()
		if status, body, err := get(t.Context(), c, target); err != nil || status != 200 {
			t.Fatalf("%d %q %v", status, body, err)
		}
	}
	reach(t, c, target)
	l := steady(t, c, target, 20*time.Millisecond)
	for _, mode := range []string{"sidecar", "host"} {
		kubectl(t, "label", "--overwrite", "namespace", ns, "tulle.dev/mode="+mode)
		for _, a := range []app{world, hello} {
			kubectl(t, "rollout", "restart", "-n", ns, "deployment/"+a.name)
		}
		for _, a := range []app{world, hello} {
			a.ready(t)
			await(t, "the old pods of "+a.name+" to be gone", func(context.Context) (bool, string) {
				out := kubectl(t, "get", "pods", "-n", ns, "-l", "app="+a.name+",tulle.dev/mode!="+mode, "-o", "name")
				return out == "", out
			})
			for _, p := range a.pods(t) {
				if got := p.Labels["tulle.dev/mode"]; got != mode {
					t.Errorf("pod %s has mode %q, want %s", p.Name, got, mode)
				}
			}
		}
		expectWorld()
	}
	result := l.stop()
	t.Logf("%d requests were answered during the two switches", result.answered)
	if len(result.failures) > 0 {
		t.Errorf("%d requests failed, the first: %s", len(result.failures), result.failures[0])
	}
	if result.answered < 100 {
		t.Errorf("only %d requests were sent; that is no steady load", result.answered)
	}
}
