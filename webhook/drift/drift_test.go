package drift

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/webhook"
)

func (w *world) expectMetrics(text string) {
	w.t.Helper()
	const help = `
# HELP tulle_injector_escaped_pods Pods of a namespace of the mesh that run outside of it and should not. Only the replica that leads tells.
# TYPE tulle_injector_escaped_pods gauge
%s
# HELP tulle_injector_stale_pods Pods of a namespace of the mesh whose injection is not the one that they would get now. Only the replica that leads tells.
# TYPE tulle_injector_stale_pods gauge
%s
`
	escaped, stale, _ := strings.Cut(text, "/")
	if err := testutil.GatherAndCompare(w.metrics, strings.NewReader(fmt.Sprintf(help, strings.TrimSpace(escaped), strings.TrimSpace(stale))), "tulle_injector_escaped_pods", "tulle_injector_stale_pods"); err != nil {
		w.t.Error(err)
	}
}

// What is counted follows pods, namespaces and the configuration; nothing is done, and nothing is said of others.
func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", "")
		w.namespace("shop", "enabled")
		w.namespace("try", "best-effort")
		w.namespace("other", "disabled")
		w.deployment("web", 2)
		w.create(plain("other", "web", "web-1"))
		w.create(inject(t, plain("shop", "web", "fine"), shop("enabled"), injectorConfig()))
		var port atomic.Int32
		w.config.Injector = func() webhook.Config {
			cfg := injectorConfig()
			cfg.OutgoingPort = int(port.Load())
			return cfg
		}
		w.run()
		pass(tick)
		w.expectMetrics(`tulle_injector_escaped_pods{namespace="shop"} 2
tulle_injector_escaped_pods{namespace="try"} 0
/ tulle_injector_stale_pods{namespace="shop"} 0
tulle_injector_stale_pods{namespace="try"} 0`)

		port.Store(4440)
		pass(2*calm + tick)
		w.expectMetrics(`tulle_injector_escaped_pods{namespace="shop"} 2
tulle_injector_escaped_pods{namespace="try"} 0
/ tulle_injector_stale_pods{namespace="shop"} 1
tulle_injector_stale_pods{namespace="try"} 0`)

		// A namespace joins, another one leaves.
		namespaces := schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
		for name, value := range map[string]string{"other": "enabled", "shop": "disabled"} {
			if err := w.client.Tracker().Update(namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{webhook.LabelInject: value}}}, ""); err != nil {
				t.Fatal(err)
			}
		}
		pass(2*calm + tick)
		w.expectMetrics(`tulle_injector_escaped_pods{namespace="other"} 1
tulle_injector_escaped_pods{namespace="try"} 0
/ tulle_injector_stale_pods{namespace="other"} 0
tulle_injector_stale_pods{namespace="try"} 0`)
		pass(time.Hour)
		if w.so() != "" {
			t.Errorf("it did %s", w.so())
		}
		for _, e := range w.events() {
			if strings.Contains(e, "other") && !strings.Contains(e, "web") {
				t.Errorf("event %s", e)
			}
		}
	})
}

// One workload at a time, when the former is ready again, and no faster than may be.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Restart, Restart)
		w.config.PerMinute = 2
		w.namespace("shop", "enabled")
		for _, name := range []string{"a", "b", "c"} {
			w.deployment(name, 3)
		}
		w.takes.Store(int64(50 * time.Second))
		w.run()
		w.hold("break-glass is open")
		pass(10 * time.Minute)
		if w.so() != "" {
			t.Errorf("it did %s while it was told not to", w.so())
		}
		w.hold("")
		w.again()
		pass(10 * time.Minute)
		if w.so() != "restart a, restart b, restart c" {
			t.Fatalf("it did %s", w.so())
		}
		for i := 1; i < 3; i++ {
			if d := w.at[i] - w.at[i-1]; d < 50*time.Second || d > 50*time.Second+4*tick {
				t.Errorf("restart %d came %s after the one before", i, d)
			}
		}
		w.expectMetrics("tulle_injector_escaped_pods{namespace=\"shop\"} 0\n/tulle_injector_stale_pods{namespace=\"shop\"} 0")

		w.takes.Store(int64(time.Second))
		w.again()
		for _, name := range []string{"d", "e"} {
			w.deployment(name, 1)
		}
		pass(5 * time.Minute)
		if n := len(w.at); n != 5 || w.at[4]-w.at[3] < 30*time.Second {
			t.Errorf("at %s", w.at)
		}
	})
}

// A budget that forbids an eviction keeps its own workload waiting, and no other.
func TestEvict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Evict, Report)
		w.namespace("shop", "enabled")
		w.deployment("a", 1)
		w.deployment("b", 2)
		w.create(plain("shop", "", "bare"))
		job := plain("shop", "", "job-1")
		yes := true
		job.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "job", UID: "j", Controller: &yes}}
		w.create(job)
		refused := plain("shop", "a", "refused")
		refused.Annotations = map[string]string{webhook.AnnotationMode: "ambient"}
		w.create(refused)
		w.block("a", true)
		w.run()
		pass(5 * time.Minute)
		if n := strings.Count(w.so(), "evict b"); n != 2 || strings.Contains(w.so(), "evict a") {
			t.Errorf("it did %s", w.so())
		}
		if n := strings.Count(w.so(), "blocked a"); n < 2 || n > 5 {
			t.Errorf("%d attempts in five minutes at what is forbidden: %s at %s", n, w.so(), w.at)
		}
		w.block("a", false)
		pass(20 * time.Minute)
		if n := strings.Count(w.so(), "evict a"); n != 1 {
			t.Errorf("in the end it did %s", w.so())
		}
		// The pod without a controller, the Job's and the one that would be refused are left.
		w.expectMetrics("tulle_injector_escaped_pods{namespace=\"shop\"} 3\n/tulle_injector_stale_pods{namespace=\"shop\"} 0")
	})
}

// What has not helped is not done again, not by another leader either.
func TestInVain(t *testing.T) {
	for _, action := range []Action{Evict, Restart} {
		t.Run(string(action), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, action, Report)
				w.injector = false
				w.namespace("shop", "enabled")
				w.deployment("a", 1)
				stop := w.run()
				pass(time.Hour)
				if got := w.so(); got != string(action)+" a" {
					t.Errorf("it did %s", got)
				}
				if action == Restart {
					stop()
					w.config.Registerer = prometheus.NewRegistry()
					w.run()
					pass(time.Hour)
					if got := w.so(); got != "restart a" {
						t.Errorf("another leader did %s", got)
					}
				}
			})
		})
	}
}

// In an upgrade an old replica may lead while new ones inject: it does not undo their work. And no leader begins at once.
func TestUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Report, Restart)
		w.config.Grace = 0
		w.namespace("shop", "enabled")
		w.deployment("old", 0)
		w.deployment("new", 0)
		other := injectorConfig()
		other.OutgoingPort = 4440
		w.create(inject(t, w.pod("old"), shop("enabled"), other))
		w.run()
		pass(DefaultGrace - 2*tick)
		if w.so() != "" {
			t.Errorf("it did %s at once", w.so())
		}
		w.create(inject(t, w.pod("new"), shop("enabled"), other))
		pass(10 * time.Minute)
		if w.so() != "restart old" {
			t.Errorf("it did %s", w.so())
		}
		w.expectMetrics("tulle_injector_escaped_pods{namespace=\"shop\"} 0\n/tulle_injector_stale_pods{namespace=\"shop\"} 1")
	})
}

// A workload that does not come back stops everything.
func TestStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Evict, Report)
		w.namespace("shop", "enabled")
		w.deployment("a", 1)
		w.deployment("b", 1)
		w.takes.Store(int64(2 * time.Hour))
		w.run()
		pass(time.Hour)
		if w.so() != "evict a" || !strings.Contains(w.log.String(), "stopped evicting and restarting") {
			t.Errorf("it did %s\n%s", w.so(), w.log)
		}
		w.takes.Store(int64(time.Second))
		pass(90 * time.Minute)
		if w.so() != "evict a, evict b" {
			t.Errorf("then it did %s", w.so())
		}
	})
}

// Workloads whose pods a new template does not replace are left alone, as are those that replace pods already.
func TestNotRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Restart, Report)
		w.namespace("shop", "enabled")
		w.deployment("paused", 1)
		w.update("paused", func(d *appsv1.Deployment) { d.Spec.Paused = true })
		w.deployment("rolling", 1)
		w.update("rolling", func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 0 })
		w.run()
		pass(10 * time.Minute)
		if w.so() != "" || !strings.Contains(w.log.String(), "it is paused") {
			t.Errorf("it did %s\n%s", w.so(), w.log)
		}
	})
}

// A thousand pods make a handful of events, on the Deployment.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Report, Report)
		w.namespace("shop", "enabled")
		w.deployment("web", 0)
		w.run()
		pass(tick)
		w.many(1000, func(int) { w.replaced("web") })
		for i := range 5 {
			pod := w.pod("web")
			pod.Labels[webhook.LabelInject] = "false"
			pod.Name = fmt.Sprintf("out-%d", i)
			w.create(pod)
		}
		pass(time.Minute)
		got := w.events()
		if len(got) != 2 || !strings.HasPrefix(got[0], "Deployment/web Injected web-0001") && !strings.HasPrefix(got[0], "Deployment/web Injected web-") ||
			!strings.HasSuffix(got[0], "and 995 more: in the mesh in mode host") || !strings.HasPrefix(got[1], "Deployment/web InjectionSkipped out-0, out-1, out-2, out-3, out-4: not in the mesh: opted_out") {
			t.Errorf("events:\n%s", strings.Join(got, "\n"))
		}
		w.deployment("escaped", 1000)
		// Without a controller each is a subject of its own.
		w.many(200, func(i int) { w.create(plain("shop", "", fmt.Sprintf("bare-%d", i))) })
		w.create(plain("elsewhere", "", "bare"))
		pass(time.Minute)
		got = w.events()
		n := 0
		for _, e := range got {
			if strings.HasPrefix(e, "Deployment/escaped Escaped ") && strings.Contains(e, "and 995 more: it runs outside of the mesh") {
				n++
			}
		}
		if n != 1 || len(got) > burst+4 {
			t.Errorf("%d events, %d of the Deployment:\n%s", len(got), n, strings.Join(got, "\n"))
		}
		pass(20 * time.Minute)
		if n := len(w.events()); n > 2*burst+4 {
			t.Errorf("%d events after twenty minutes", n)
		}
	})
}

// A Lease that must not be used is told of once, and taken when it may.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Report, Report)
		w.namespace("shop", "enabled")
		var forbidden atomic.Bool
		forbidden.Store(true)
		w.client.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
			if forbidden.Load() {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "leases"}, Lease, nil)
			}
			return false, nil, nil
		})
		c, err := New(w.config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		pass(10 * time.Minute)
		if n := strings.Count(w.log.String(), "cannot use Lease"); n != 1 || strings.Contains(w.log.String(), "this replica looks") {
			t.Errorf("the log:\n%s", w.log)
		}
		forbidden.Store(false)
		pass(10 * time.Second)
		if !strings.Contains(w.log.String(), "this replica looks") {
			t.Errorf("then the log:\n%s", w.log)
		}
		w.expectMetrics("tulle_injector_escaped_pods{namespace=\"shop\"} 0\n/tulle_injector_stale_pods{namespace=\"shop\"} 0")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		lease, err := w.client.CoordinationV1().Leases("tulle").Get(context.Background(), Lease, metav1.GetOptions{})
		if err != nil || lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" {
			t.Errorf("it was not given back: %+v, %v", lease, err)
		}
	})
}

func TestActions(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		text string
		ok   bool
	}{{Escaped, "report", true}, {Escaped, "evict", true}, {Stale, "restart", true}, {Stale, "evict", false}, {Escaped, "", false}, {Escaped, "kill", false}} {
		if a, err := ParseAction(c.kind, c.text); (err == nil) != c.ok || c.ok && string(a) != c.text {
			t.Errorf("%s %q: %q, %v", c.kind, c.text, a, err)
		}
	}
	if _, err := ParseAction(Stale, "x"); !strings.Contains(err.Error(), "allowed: report, restart") {
		t.Error(err)
	}
}
