//go:build e2e

package admission

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/e2e/cluster/suite"
	"github.com/tulle-mesh/tulle/internal/logtest"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/drift"
	"github.com/tulle-mesh/tulle/webhook/serving"
)

// seeker is one replica that looks for pods that escaped.
type seeker struct {
	metrics *prometheus.Registry
	log     *logtest.Buffer
	stop    func()
}

// seek starts one with the controller's rights.
func (m *mesh) seek(t *testing.T, name string, hold func(context.Context) string) *seeker {
	t.Helper()
	s := &seeker{metrics: prometheus.NewRegistry(), log: &logtest.Buffer{}}
	c, err := drift.New(drift.Config{
		Client: m.client(t), Injector: func() webhook.Config { return m.settings.Config("") },
		Escaped: drift.Action(m.settings.Inject.Escaped), Stale: drift.Action(m.settings.Inject.Stale), PerMinute: 60, Hold: hold, Grace: time.Second,
		Namespace: m.namespace, Identity: name, Registerer: s.metrics, Logger: slog.New(slog.NewTextHandler(s.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.stop = suite.Go(t, c.Run)
	return s
}

// gauge returns the value of a metric for a namespace, -1 if there is none.
func (s *seeker) gauge(t *testing.T, name, namespace string) float64 {
	t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == namespace {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// deployment makes one with a replica set, in place of Kubernetes' own controllers.
func deployment(t *testing.T, namespace, name string) *appsv1.ReplicaSet {
	t.Helper()
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}}, Spec: app().Spec}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	one := int32(1)
	d, err := api.Client().AppsV1().Deployments(namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: selector, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
	if _, err := api.Client().AppsV1().Deployments(namespace).UpdateStatus(t.Context(), d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	rs, err := api.Client().AppsV1().ReplicaSets(namespace).Create(t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name + "-5f6d", OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}},
		Spec:       appsv1.ReplicaSetSpec{Selector: selector, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// podOf makes a pod of a replica set.
func podOf(t *testing.T, rs *appsv1.ReplicaSet) *corev1.Pod {
	t.Helper()
	pod := app()
	pod.GenerateName = rs.Name + "-"
	pod.Labels = map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: "5f6d"}
	for k, v := range rs.Spec.Selector.MatchLabels {
		pod.Labels[k] = v
	}
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(rs, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	made, err := api.Client().CoreV1().Pods(rs.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// As a kubelet says; budgets do not protect a pod that does not run.
	made.Status.Phase, made.Status.Conditions = corev1.PodRunning, []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if made, err = api.Client().CoreV1().Pods(rs.Namespace).UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return made
}

// The injector is away, and pods of a namespace that takes that start without it. When it is back they are found, told
// of at their Deployment, and evicted as the budget allows; another replica goes on when the first one leaves.
func TestEscaped(t *testing.T) {
	v := values("self")
	v["injector"].(map[string]any)["escaped"] = "evict"
	m := install(t, v)
	ns := namespace(t, map[string]string{"tulle.dev/inject": "best-effort"})
	rs := deployment(t, ns, "web")
	escaped := podOf(t, rs)
	if escaped.Annotations[webhook.AnnotationStatus] != "" {
		t.Fatal("the pod is injected, though nobody injects")
	}
	// Nobody keeps the status of budgets here, and so this one allows nothing.
	budget, err := api.Client().PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &intstr.IntOrString{IntVal: 1}, Selector: rs.Spec.Selector},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.start(t, "one", serving.Config{Settle: 10 * time.Millisecond})
	await(t, "a pod to be injected", func(ctx context.Context) (bool, string) { err := admit(ctx, ns); return err == nil, fmt.Sprint(err) })
	fine := podOf(t, rs) // as the API server has it, with all that it adds
	if fine.Annotations[webhook.AnnotationStatus] == "" {
		t.Fatal("the pod is not injected")
	}
	never := func(context.Context) string { return "" }
	first := m.seek(t, "first", never)
	await(t, "the pod to be found", func(context.Context) (bool, string) {
		n, stale := first.gauge(t, "tulle_injector_escaped_pods", ns), first.gauge(t, "tulle_injector_stale_pods", ns)
		return n == 1 && stale == 0, fmt.Sprint(n, stale, first.log)
	})
	second := m.seek(t, "second", never)
	await(t, "events at the Deployment", func(context.Context) (bool, string) {
		events, err := api.Client().CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Deployment,involvedObject.name=web"})
		if err != nil {
			return false, err.Error()
		}
		got := map[string]string{}
		for _, e := range events.Items {
			got[e.Reason] = e.Message
		}
		return strings.Contains(got["Escaped"], escaped.Name) && strings.Contains(got["Injected"], fine.Name), fmt.Sprint(got, first.log)
	})
	await(t, "the budget to forbid an eviction", func(context.Context) (bool, string) {
		return strings.Contains(first.log.String(), "a PodDisruptionBudget forbids it"), first.log.String()
	})
	if second.gauge(t, "tulle_injector_escaped_pods", ns) != -1 {
		t.Error("both replicas tell")
	}
	if err := api.Client().PolicyV1().PodDisruptionBudgets(ns).Delete(t.Context(), budget.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	first.stop()
	if first.gauge(t, "tulle_injector_escaped_pods", ns) != -1 {
		t.Error("a replica that does not lead tells")
	}
	await(t, "the pod to be evicted by the other replica", func(ctx context.Context) (bool, string) {
		p, err := api.Client().CoreV1().Pods(ns).Get(ctx, escaped.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err) || err == nil && p.DeletionTimestamp != nil, second.log.String()
	})
	if _, err := api.Client().CoreV1().Pods(ns).Get(t.Context(), fine.Name, metav1.GetOptions{}); err != nil {
		t.Errorf("the pod that was as it should be: %v", err)
	}
	await(t, "none to be left", func(context.Context) (bool, string) {
		n := second.gauge(t, "tulle_injector_escaped_pods", ns)
		return n == 0, fmt.Sprint(n)
	})
}

// Pods of every form are as they should be when the API server has added its own; when their namespace wants another mode
// they are stale, and their Deployment is restarted once nothing forbids it.
func TestStale(t *testing.T) {
	v := values("self")
	v["injector"].(map[string]any)["stale"] = "restart"
	m := install(t, v)
	m.start(t, "one", serving.Config{Settle: 10 * time.Millisecond})
	ns := namespace(t, map[string]string{"tulle.dev/inject": "enabled"})
	await(t, "a pod to be injected", func(ctx context.Context) (bool, string) { err := admit(ctx, ns); return err == nil, fmt.Sprint(err) })
	rs := deployment(t, ns, "web")
	podOf(t, rs)
	var open atomic.Bool
	held := make(chan struct{}, 100)
	s := m.seek(t, "one", func(context.Context) string {
		if open.Load() {
			return ""
		}
		select {
		case held <- struct{}{}:
		default:
		}
		return "not yet"
	})
	await(t, "all to be well", func(context.Context) (bool, string) {
		e, n := s.gauge(t, "tulle_injector_escaped_pods", ns), s.gauge(t, "tulle_injector_stale_pods", ns)
		return e == 0 && n == 0, fmt.Sprint(e, n, s.log)
	})
	if _, err := api.Kubectl(t.Context(), nil, "label", "namespace", ns, "tulle.dev/mode=none"); err != nil {
		t.Fatal(err)
	}
	await(t, "the pod to be stale", func(context.Context) (bool, string) {
		n := s.gauge(t, "tulle_injector_stale_pods", ns)
		return n == 1, fmt.Sprint(n, s.log)
	})
	<-held
	d, err := api.Client().AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || d.Generation != 1 {
		t.Errorf("it was changed: %+v, %v", d.ObjectMeta, err)
	}
	open.Store(true)
	await(t, "the restart", func(ctx context.Context) (bool, string) {
		d, err := api.Client().AppsV1().Deployments(ns).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return d.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] != "" && d.Annotations["drift.tulle.dev/restarted"] != "", s.log.String()
	})
}
