package drift

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tulle-mesh/tulle/internal/logtest"
	"github.com/tulle-mesh/tulle/webhook"
)

func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = nil // one of them rests between errors
	goleak.VerifyTestMain(m)
}

// world is a cluster whose controllers replace pods that are gone, in virtual time.
type world struct {
	t        *testing.T
	client   *fake.Clientset
	metrics  *prometheus.Registry
	config   Config
	log      *logtest.Buffer
	takes    atomic.Int64 // nanoseconds until a replacement is ready
	injector bool         // that answers

	mu      sync.Mutex
	done    []string // what was done to pods and workloads
	at      []time.Duration
	began   time.Time
	blocked map[string]bool // workloads whose budget allows nothing
	held    string
	names   int
}

func newWorld(t *testing.T, escaped, stale Action) *world {
	w := &world{t: t, client: fake.NewClientset(), metrics: prometheus.NewRegistry(), log: &logtest.Buffer{}, injector: true, blocked: map[string]bool{}, began: time.Now()}
	w.takes.Store(int64(20 * time.Second))
	w.config = Config{
		Client: w.client, Injector: injectorConfig, Escaped: escaped, Stale: stale, Namespace: "tulle", Identity: "a", Grace: tick, Registerer: w.metrics,
		Logger: slog.New(slog.NewTextHandler(w.log, nil)),
		Hold: func(context.Context) string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.held
		},
	}
	w.client.PrependReactor("create", "pods/eviction", func(a clienttesting.Action) (bool, runtime.Object, error) {
		e := a.(clienttesting.CreateAction).GetObject().(*policyv1.Eviction)
		object, err := w.client.Tracker().Get(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, e.Namespace, e.Name)
		if err != nil {
			return true, nil, err
		}
		pod := object.(*corev1.Pod)
		if *e.DeleteOptions.Preconditions.UID != pod.UID {
			return true, nil, apierrors.NewConflict(corev1.Resource("pods"), e.Name, fmt.Errorf("another pod"))
		}
		owner, _ := ownerOf(pod)
		w.mu.Lock()
		blocked := w.blocked[owner.Name]
		w.mu.Unlock()
		if blocked {
			w.note("blocked " + owner.Name)
			return true, nil, apierrors.NewTooManyRequests("the budget allows none", 10)
		}
		w.note("evict " + owner.Name)
		go w.replace(pod)
		return true, nil, nil
	})
	w.client.PrependReactor("patch", "deployments", func(a clienttesting.Action) (bool, runtime.Object, error) {
		p := a.(clienttesting.PatchAction)
		var d struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
			Spec     struct {
				Template struct {
					Metadata metav1.ObjectMeta `json:"metadata"`
				} `json:"template"`
			} `json:"spec"`
		}
		if err := json.Unmarshal(p.GetPatch(), &d); err != nil || d.Spec.Template.Metadata.Annotations[annotationRestartedAt] == "" {
			w.t.Errorf("patch %s: %v", p.GetPatch(), err)
		}
		w.note("restart " + p.GetName())
		w.update(p.GetName(), func(o *appsv1.Deployment) { o.Annotations = d.Metadata.Annotations; o.Status.UpdatedReplicas = 0 })
		go w.roll(p.GetName())
		return true, &appsv1.Deployment{}, nil
	})
	return w
}

// again counts the time from now.
func (w *world) again() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began = time.Now()
}

func (w *world) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done, w.at = append(w.done, what), append(w.at, time.Since(w.began).Round(time.Second))
}

// so is all that was done so far.
func (w *world) so() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.done, ", ")
}

func (w *world) hold(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = why
}

func (w *world) block(name string, blocked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blocked[name] = blocked
}

func (w *world) namespace(name, value string) {
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{webhook.LabelInject: value}}})
}

func (w *world) create(o runtime.Object) {
	if err := w.client.Tracker().Add(o); err != nil {
		w.t.Error(err)
	}
}

// many makes many, no faster than a fake's watch takes them.
func (w *world) many(n int, one func(i int)) {
	for i := range n {
		one(i)
		if i%50 == 49 {
			synctest.Wait()
		}
	}
}

// deployment makes one, with its replica set and pods that escaped.
func (w *world) deployment(name string, pods int) {
	yes, n := true, int32(pods)
	w.create(&appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("d-" + name)},
		Spec:       appsv1.DeploymentSpec{Replicas: &n},
		Status:     appsv1.DeploymentStatus{Replicas: n, UpdatedReplicas: n, AvailableReplicas: n},
	})
	w.create(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name + "-5f6d", UID: types.UID("rs-" + name), OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: "Deployment", Name: name, UID: types.UID("d-" + name), Controller: &yes}}}})
	w.many(pods, func(int) { w.create(w.pod(name)) })
}

func (w *world) pod(deployment string) *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names++
	return plain("shop", deployment, fmt.Sprintf("%s-%04d", deployment, w.names))
}

// replaced is a pod made now.
func (w *world) replaced(deployment string) {
	pod := w.pod(deployment)
	if w.injector {
		pod = inject(w.t, pod, shop("enabled"), injectorConfig())
	}
	w.create(pod)
}

func (w *world) update(name string, how func(*appsv1.Deployment)) {
	deployments := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	o, err := w.client.Tracker().Get(deployments, "shop", name)
	if err != nil {
		w.t.Error(err)
		return
	}
	d := o.(*appsv1.Deployment).DeepCopy()
	how(d)
	if err := w.client.Tracker().Update(deployments, d, "shop"); err != nil {
		w.t.Error(err)
	}
}

func (w *world) remove(pod *corev1.Pod) {
	if err := w.client.Tracker().Delete(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, pod.Namespace, pod.Name); err != nil {
		w.t.Error(err)
	}
}

// replace is what a Deployment does about a pod that goes.
func (w *world) replace(pod *corev1.Pod) {
	owner, _ := ownerOf(pod)
	w.update(owner.Name, func(d *appsv1.Deployment) { d.Status.AvailableReplicas-- })
	w.remove(pod)
	time.Sleep(time.Duration(w.takes.Load()))
	w.replaced(owner.Name)
	w.update(owner.Name, func(d *appsv1.Deployment) { d.Status.AvailableReplicas++ })
}

// roll is what a Deployment does about a new template.
func (w *world) roll(name string) {
	time.Sleep(time.Duration(w.takes.Load()))
	pods, err := w.client.CoreV1().Pods("shop").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		w.t.Error(err)
		return
	}
	for i := range pods.Items {
		if owner, _ := ownerOf(&pods.Items[i]); owner.Name == name {
			w.replaced(name)
			w.remove(&pods.Items[i])
		}
	}
	w.update(name, func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = d.Status.Replicas })
}

// run runs a controller that leads, until the test ends or stop is called.
func (w *world) run() (stop func()) {
	c, err := New(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	c.actor.post = func(ctx context.Context, e *policyv1.Eviction) error { // a fake has no REST client
		return w.client.PolicyV1().Evictions(e.Namespace).Evict(ctx, e)
	}
	c.elect = func(ctx context.Context, lead func(context.Context)) error { lead(ctx); return nil }
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// events are those that were written, as "kind/name reason message".
func (w *world) events() []string {
	list, err := w.client.CoreV1().Events("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		w.t.Error(err)
		return nil
	}
	var all []string
	for _, e := range list.Items {
		all = append(all, fmt.Sprintf("%s/%s %s %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message))
	}
	slices.Sort(all)
	return all
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
