//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// stream is a load of requests that nobody repeats, neither the client nor a
// library below it, so that one lost connection is one failure.
type stream struct {
	stop func()

	mu       sync.Mutex
	answers  map[string]int // by kind
	slowest  time.Duration
	failures []string
}

// stream sends POSTs to a URL by way of a proxy until stop is called: each on a
// connection of its own, many on one, and few on one, with pauses in between.
func startStream(t *testing.T, target string, proxies ...string) *stream {
	s := &stream{answers: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, proxy := range proxies {
		for kind, pause := range map[string]time.Duration{"new connection": 20 * time.Millisecond, "busy connection": 5 * time.Millisecond,
			"calm connection": time.Second, "lazy connection": 4 * time.Second} {
			wg.Go(func() {
				for ctx.Err() == nil {
					err := s.connection(ctx, kind, target, proxy, pause)
					if err != nil {
						s.mu.Lock()
						s.failures = append(s.failures, fmt.Sprintf("%s %s by way of %s: %v", time.Now().Format("15:04:05.000"), kind, proxy, err))
						s.mu.Unlock()
						select { // else it would only count how fast it is refused
						case <-time.After(pause):
						case <-ctx.Done():
						}
					}
				}
			})
		}
	}
	s.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(s.stop)
	return s
}

// connection uses one connection for as long as it may.
func (s *stream) connection(ctx context.Context, kind, target, proxy string, pause time.Duration) error {
	c, err := net.DialTimeout("tcp", proxy, 5*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	in := bufio.NewReader(c)
	for {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		began := time.Now()
		if _, err := fmt.Fprintf(c, "POST %s/ HTTP/1.1\r\nHost: %s\r\nContent-Length: 5\r\n\r\nhello", target, strings.TrimPrefix(target, "http://")); err != nil {
			return err
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 {
			return fmt.Errorf("%d %q %v", res.StatusCode, body, err)
		}
		s.mu.Lock()
		s.answers[kind]++
		s.slowest = max(s.slowest, time.Since(began))
		s.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if res.Close || kind == "new connection" {
			return nil
		}
	}
}

// check fails the test if a request of the step failed.
func (s *stream) check(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.failures {
		if i == 5 {
			t.Errorf("and %d more", len(s.failures)-i)
			break
		}
		t.Errorf("failed: %s", f)
	}
	t.Logf("%d failures, answers: %v, the slowest after %v", len(s.failures), s.answers, s.slowest)
	s.failures, s.answers, s.slowest = nil, map[string]int{}, 0
}

// hostPods returns the pods of the host proxies by name, also those that are
// going.
func hostPods(t *testing.T) map[string]corev1.Pod {
	t.Helper()
	list, err := mesh.Client().CoreV1().Pods("tulle").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=host"})
	if err != nil {
		t.Fatal(err)
	}
	pods := map[string]corev1.Pod{}
	for _, p := range list.Items {
		pods[p.Name] = p
	}
	return pods
}

// settled waits until the host proxies are one for each node, ready, and for
// each whether its name was among the earlier ones is as told.
func settled(t *testing.T, before map[string]corev1.Pod, same bool) {
	t.Helper()
	kubectl(t, "rollout", "status", "-n", "tulle", "--timeout=120s", "daemonset/tulle-host")
	await(t, "one host proxy on each node", func(context.Context) (bool, string) {
		now := hostPods(t)
		ok := len(now) == 2
		var state []string
		for name, p := range now {
			_, known := before[name]
			ok = ok && known == same && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].Ready
			state = append(state, fmt.Sprintf("%s on %s, %s", name, p.Spec.NodeName, p.Status.Phase))
		}
		return ok, strings.Join(state, "; ")
	})
}

// The host proxies are replaced under load, by good ones and by bad ones, and no
// request fails.
func TestHostProxyUpgrade(t *testing.T) {
	ns := namespace(t, "e2e-upgrade", "host")
	app{namespace: ns, name: "world", text: "world", node: "n2"}.start(t)
	app{namespace: ns, name: "hello", text: "Hello", target: "world", node: "n1"}.start(t)
	target, proxies := "http://hello."+ns, []string{hostProxy(t, "n1"), hostProxy(t, "n2")}
	for _, p := range proxies {
		reach(t, client(t, p), target)
	}
	s := startStream(t, target, proxies...)

	t.Run("restart", func(t *testing.T) {
		before := hostPods(t)
		began := time.Now()
		kubectl(t, "rollout", "restart", "-n", "tulle", "daemonset/tulle-host")
		settled(t, before, false)
		t.Logf("replaced on both nodes after %.1f s", time.Since(began).Seconds())
		for _, p := range hostPods(t) {
			if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
				t.Errorf("%s was restarted %d times", p.Name, n)
			}
			if log := kubectl(t, "logs", "-n", "tulle", p.Name); !strings.Contains(log, "took over the listeners") {
				t.Errorf("%s did not take over:\n%s", p.Name, log)
			}
		}
		s.check(t)
	})

	// newcomer waits for a new pod, in a state.
	newcomer := func(t *testing.T, before map[string]corev1.Pod, what string, ok func(corev1.ContainerStatus) bool) {
		await(t, "a new host proxy that "+what, func(context.Context) (bool, string) {
			for name, p := range hostPods(t) {
				if _, known := before[name]; !known && len(p.Status.ContainerStatuses) == 1 {
					c := p.Status.ContainerStatuses[0]
					return ok(c), c.String()
				}
			}
			return false, "none"
		})
	}
	undo := func(t *testing.T, before map[string]corev1.Pod) {
		kubectl(t, "rollout", "undo", "-n", "tulle", "daemonset/tulle-host")
		settled(t, before, true)
		s.check(t)
	}

	// One that cannot start is never taken for ready, although the old one
	// answers at its port.
	t.Run("a proxy that does not start", func(t *testing.T) {
		before := hostPods(t)
		patchHost(t, `[{"op": "add", "path": "/spec/template/spec/containers/0/args", "value": ["--log-level=loud"]}]`)
		newcomer(t, before, "failed", func(c corev1.ContainerStatus) bool {
			if c.Ready {
				t.Error("it counts as ready")
			}
			return c.RestartCount >= 1
		})
		undo(t, before)
	})

	// One that serves already, but not for long enough, gives back.
	t.Run("a proxy that is taken back", func(t *testing.T) {
		before := hostPods(t)
		patchHost(t, `[{"op": "replace", "path": "/spec/minReadySeconds", "value": 600}]`)
		restore := sync.OnceFunc(func() { patchHost(t, `[{"op": "replace", "path": "/spec/minReadySeconds", "value": 5}]`) })
		defer restore()
		kubectl(t, "rollout", "restart", "-n", "tulle", "daemonset/tulle-host")
		newcomer(t, before, "is ready", func(c corev1.ContainerStatus) bool { return c.Ready })
		kubectl(t, "rollout", "undo", "-n", "tulle", "daemonset/tulle-host")
		restore()
		settled(t, before, true)
		s.check(t)
	})
}

func patchHost(t *testing.T, patch string) {
	t.Helper()
	kubectl(t, "patch", "-n", "tulle", "daemonset/tulle-host", "--type=json", "-p", patch)
}
