package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

func start(t *testing.T, x *Index, client *fake.Clientset) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx, client) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

// await waits for a value to be as wanted.
func await(t *testing.T, v *watch.Value[naming.Replicas], want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if r, err := v.Wait(ctx, func(r naming.Replicas) bool { return show(r) == want }); err != nil {
		t.Fatalf("still %s, want %s", show(r), want)
	}
}

func TestRun(t *testing.T) {
	ctx := t.Context()
	client := fake.NewClientset(
		svc("cart", "http:80:8080"),
		eps("cart-1", "cart", "http:8080", ep("10.0.0.1", "pod=a")),
		po("a", "10.0.0.1", "sidecar"),
	)
	x := newIndex(t)
	cart := follow(t, x, "80", "cart")
	if cart.Get().State != naming.StatePending {
		t.Fatal("not pending")
	}
	start(t, x, client)
	<-x.Synced()
	if got := show(cart.Get()); got != "bound 10.0.0.1:8080>sidecar>10.0.0.1:4141" {
		t.Fatalf("synced with %s", got)
	}
	slices, pods := client.DiscoveryV1().EndpointSlices("shop"), client.CoreV1().Pods("shop")
	if _, err := slices.Update(ctx, eps("cart-1", "cart", "http:8080", ep("10.0.0.1", "pod=a"), ep("10.0.0.2", "pod=b")), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Create(ctx, po("b", "10.0.0.2", "host"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, cart, "bound 10.0.0.1:8080>sidecar>10.0.0.1:4141 10.0.0.2:8080>host>192.168.0.1:4141")
	if err := pods.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, cart, "bound 10.0.0.2:8080>host>192.168.0.1:4141")
	if err := slices.Delete(ctx, "cart-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, cart, "neg")
	if _, err := slices.Create(ctx, eps("cart-2", "cart", "http:8080", ep("10.0.0.2", "pod=b")), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, cart, "bound 10.0.0.2:8080>host>192.168.0.1:4141")
	if err := client.CoreV1().Services("shop").Delete(ctx, "cart", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, cart, "neg")
}

// An API server that refuses one kind: nothing is denied until all is known.
func TestRunForbidden(t *testing.T) {
	client := fake.NewClientset(svc("cart", "http:80:8080"))
	refused := make(chan struct{})
	refuse := func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("pods are forbidden")
	}
	client.PrependReactor("list", "pods", refuse)
	client.PrependWatchReactor("pods", clienttesting.DefaultWatchReactor(nil, errors.New("pods are forbidden")))
	var log syncBuffer
	log.seen = sync.OnceFunc(func() { close(refused) })
	x, err := NewIndex(Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	cart := follow(t, x, "80", "cart")
	start(t, x, client)
	<-refused
	select {
	case <-x.Synced():
		t.Error("synced without pods")
	default:
	}
	if got := show(cart.Get()); got != "pending" {
		t.Errorf("without pods it is %s", got)
	}
}

// syncBuffer is a log that says when something about pods has been written.
type syncBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	seen func()
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.b.Write(p)
	if strings.Contains(s.b.String(), "pods are forbidden") {
		s.seen()
	}
	return n, err
}

// What an informer keeps says the same as the whole object, and little more.
func TestTrim(t *testing.T) {
	p := po("a", "10.0.0.1", "sidecar", func(p *corev1.Pod) {
		p.UID, p.ResourceVersion = "u", "7"
		p.Labels["app"], p.Annotations["big"] = "x", strings.Repeat("x", 1000)
		p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "SECRET", Value: "x"}}
		annotate(p, "5141")
	})
	x := newIndex(t)
	kept, err := trim(p)
	if err != nil {
		t.Fatal(err)
	}
	if got := kept.(*corev1.Pod); !x.newPod(got).equal(x.newPod(p)) {
		t.Errorf("trimmed it is %+v", x.newPod(got))
	} else if got.ResourceVersion != "7" || len(got.Labels) != 1 || len(got.Annotations) != 1 || got.ManagedFields != nil || got.Spec.Containers != nil {
		t.Errorf("kept %+v", got)
	}
	s := svc("cart", "http:80:web", "x:81:82")
	s.Spec.ClusterIP, s.Labels = "10.9.9.9", map[string]string{"version": "v1"}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	if kept, _ := trim(s); !newServiceSpec(kept.(*corev1.Service)).equal(newServiceSpec(s)) || kept.(*corev1.Service).Spec.ClusterIP != "" {
		t.Errorf("kept %+v", kept)
	}
	l := eps("a", "cart", "http:80", ep("10.0.0.1", "pod=x", "uid=1", "node=n1", "unready", "terminating"), ep("10.0.0.2"))
	l.Labels["x"] = "y"
	if kept, _ := trim(l); !newSlice(kept.(*discoveryv1.EndpointSlice)).equal(newSlice(l)) {
		t.Errorf("kept %+v", kept)
	}
	if kept, err := trim("a tombstone"); kept != "a tombstone" || err != nil {
		t.Errorf("kept %v, %v", kept, err)
	}
}
