package drift

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Action is what is done about pods that are not as they should be.
type Action string

const (
	// Report tells of them, and does nothing else.
	Report Action = "report"
	// Evict has the API server evict them, one after the other, which respects PodDisruptionBudgets.
	Evict Action = "evict"
	// Restart restarts their workload, as "kubectl rollout restart" does.
	Restart Action = "restart"
)

const (
	// annotationRestartedAt is that of "kubectl rollout restart".
	annotationRestartedAt = "kubectl.kubernetes.io/restartedAt"
	// annotationRestarted, on the workload, says when it was restarted last and for which injection, so that no replica
	// restarts it again and again in vain.
	annotationRestarted = "drift.tulle.dev/restarted"
)

const (
	// DefaultPerMinute is how many pods are evicted, or workloads restarted, in a minute at most.
	DefaultPerMinute = 6
	// DefaultGrace is more than an upgrade of the controller takes, in which an old replica may lead once more.
	DefaultGrace = 2 * time.Minute
	// patience is how long a workload that was not ready before may take; one that was ready has all the time it needs.
	patience = 10 * time.Minute
	// takeEffect is how long nothing is read from a workload's status after something was done to it.
	takeEffect = 10 * time.Second
	// again is how long a workload is left alone for which it has not helped, or which cannot be restarted.
	again = 24 * time.Hour
	// slack is what clocks may be apart.
	slack = time.Minute
	// A workload whose budget forbids an eviction is tried again after firstBackoff, doubling to longestBackoff.
	firstBackoff   = 30 * time.Second
	longestBackoff = 10 * time.Minute
)

// workload is one that pods belong to.
type workload struct {
	namespace string
	owner     Owner
}

func (w workload) String() string { return w.namespace + "/" + w.owner.String() }

// memory is what is remembered of a workload.
type memory struct {
	at      time.Time // of the last time something was done
	wants   string    // for which injection
	until   time.Time // left alone until then
	backoff time.Duration
	// known are the pods that were there when one was evicted: they are not what came of that.
	known map[types.UID]bool
}

// actor does something about pods, a workload at a time. It is used by one goroutine.
type actor struct {
	client    kubernetes.Interface
	log       *slog.Logger
	escaped   Action
	stale     Action
	every     time.Duration
	hold      func(context.Context) string
	counted   *prometheus.CounterVec
	tell      func(e *entry, reason, text string) // at the workload
	post      func(context.Context, *policyv1.Eviction) error
	next      time.Time // not before
	held      string
	memories  map[workload]*memory
	current   *workload // which is to become ready again
	since     time.Time
	wasReady  bool
	complains bool
}

// forget begins a new time of leading, in which nothing is done before a time.
func (a *actor) forget(before time.Time) {
	a.memories, a.current, a.held, a.next = map[workload]*memory{}, nil, "", before
}

func (a *actor) action(k Kind) Action {
	if k == Escaped {
		return a.escaped
	}
	return a.stale
}

// step does at most one thing about the pods that are not as they should be, which has been the same since then.
func (a *actor) step(ctx context.Context, drifted []*entry, since time.Time) {
	now := time.Now()
	if a.current != nil && !a.settled(ctx, now) || now.Before(a.next) {
		return
	}
	pods := map[workload][]*entry{}
	var order []workload
	for _, e := range drifted {
		if e.kind == Stale && e.created.After(since) {
			// Another replica injects in another way: an upgrade is under way, and ours may be the old way.
			continue
		}
		w := workload{e.namespace, e.owner}
		if action := a.action(e.kind); action == Report || action == "" || !e.finding().Repairable() || !controls(e.owner, action) || a.rests(w, e, now) {
			continue
		}
		if pods[w] == nil {
			order = append(order, w)
		}
		pods[w] = append(pods[w], e)
	}
	if len(order) == 0 {
		return
	}
	held := a.hold(ctx)
	if held != a.held {
		a.held = held
		if held != "" {
			a.log.Info("leaving pods as they are for now, which are to be evicted or whose workloads are to be restarted", "why", held, "workloads", len(order))
		}
	}
	if held != "" || ctx.Err() != nil {
		return
	}
	for _, w := range order {
		if a.do(ctx, w, pods[w], now) {
			a.next = now.Add(a.every)
			return
		}
	}
}

// controls reports whether an action can be taken with pods of such an owner. A Job's pods are its work: they are left
// to end.
func controls(o Owner, action Action) bool {
	switch o.Kind {
	case "Deployment", "StatefulSet", "DaemonSet":
		return true
	case "ReplicaSet":
		return action == Evict
	}
	return false
}

// rests reports whether nothing is to be done about a pod for now: its workload backs off, or something was done to the
// workload for the same end, and the pod is as it is all the same.
func (a *actor) rests(w workload, e *entry, now time.Time) bool {
	m := a.memories[w]
	if m == nil {
		return false
	}
	if now.Before(m.until) {
		return true
	}
	if e.wants != m.wants || !now.Before(m.at.Add(again)) {
		return false
	}
	return !m.known[e.uid] // a restart makes all pods anew: what is still there, or again, it does not help
}

func (a *actor) memory(w workload) *memory {
	m := a.memories[w]
	if m == nil {
		m = &memory{}
		a.memories[w] = m
	}
	return m
}

// do does one thing about pods of one workload, and reports whether it did.
func (a *actor) do(ctx context.Context, w workload, pods []*entry, now time.Time) bool {
	status, err := a.look(ctx, w)
	if err != nil {
		if !apierrors.IsNotFound(err) && ctx.Err() == nil {
			a.fail(w, now, "look at a workload whose pods are not as they should be", err)
		}
		return false
	}
	if status.rolling {
		return false // it is making new pods already
	}
	e := pods[0]
	action := a.action(e.kind)
	a.wasReady = status.ready
	if action == Evict {
		return a.evict(ctx, w, pods, now)
	}
	if status.fixed != "" {
		a.memory(w).until = now.Add(again)
		a.log.Warn("a workload is to be restarted to renew its pods, but is not restarted by that: do it by hand", "workload", w.String(), "why", status.fixed)
		return false
	}
	if m := a.memory(w); m.at.IsZero() { // somebody else may have led before
		m.at, m.wants = parseRestarted(status.annotations[annotationRestarted])
		if pods = slices.DeleteFunc(pods, func(e *entry) bool { return a.rests(w, e, now) }); len(pods) == 0 {
			return false
		}
	}
	return a.restart(ctx, w, pods, now)
}

func (a *actor) evict(ctx context.Context, w workload, pods []*entry, now time.Time) bool {
	e := pods[0]
	err := a.post(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: e.namespace, Name: e.name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &e.uid}},
	})
	m := a.memory(w)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // it is another one by now
		return false
	case apierrors.IsTooManyRequests(err):
		m.backoff = min(max(2*m.backoff, firstBackoff), longestBackoff)
		m.until = now.Add(m.backoff)
		a.counted.WithLabelValues(string(Evict), "blocked").Inc()
		a.log.Info("a pod is not evicted for now: a PodDisruptionBudget forbids it", "pod", e.namespace+"/"+e.name, "again", m.backoff)
		return false
	case err != nil:
		if ctx.Err() == nil {
			a.counted.WithLabelValues(string(Evict), "failed").Inc()
			a.fail(w, now, "evict a pod", err)
		}
		return false
	}
	m.at, m.wants, m.backoff, m.known = now, e.wants, 0, map[types.UID]bool{}
	for _, other := range pods[1:] {
		m.known[other.uid] = true
	}
	a.done(w, Evict, now)
	a.tell(e, reasonEvicted, e.message)
	a.log.Info("evicted a pod", "pod", e.namespace+"/"+e.name, "workload", w.String(), "why", e.message)
	return true
}

// postTo returns how to evict. The client's own way repeats what a budget forbids, ten times and with the pauses that the
// API server asks for, while all else would wait.
func postTo(client kubernetes.Interface) func(context.Context, *policyv1.Eviction) error {
	return func(ctx context.Context, e *policyv1.Eviction) error {
		return client.PolicyV1().RESTClient().Post().AbsPath("/api/v1").Namespace(e.Namespace).Resource("pods").Name(e.Name).SubResource("eviction").
			MaxRetries(0).Body(e).Do(ctx).Error()
	}
}

func (a *actor) restart(ctx context.Context, w workload, pods []*entry, now time.Time) bool {
	e := pods[0]
	stamp := now.UTC().Format(time.RFC3339)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{annotationRestarted: stamp + " " + e.wants}},
		"spec":     map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]string{annotationRestartedAt: stamp}}}},
	})
	if err == nil {
		switch w.owner.Kind {
		case "Deployment":
			_, err = a.client.AppsV1().Deployments(w.namespace).Patch(ctx, w.owner.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		case "StatefulSet":
			_, err = a.client.AppsV1().StatefulSets(w.namespace).Patch(ctx, w.owner.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		case "DaemonSet":
			_, err = a.client.AppsV1().DaemonSets(w.namespace).Patch(ctx, w.owner.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		}
	}
	switch {
	case apierrors.IsNotFound(err):
		return false
	case err != nil:
		if ctx.Err() == nil {
			a.counted.WithLabelValues(string(Restart), "failed").Inc()
			a.fail(w, now, "restart a workload", err)
		}
		return false
	}
	m := a.memory(w)
	m.at, m.wants, m.backoff, m.known = now, e.wants, 0, nil
	a.done(w, Restart, now)
	for _, e := range pods {
		a.tell(e, reasonRestarted, e.message)
	}
	a.log.Info("restarted a workload", "workload", w.String(), "pods", len(pods), "why", e.message)
	return true
}

func (a *actor) done(w workload, action Action, now time.Time) {
	a.counted.WithLabelValues(string(action), "ok").Inc()
	a.current, a.since, a.complains = &w, now, false
}

// fail leaves a workload alone for a while.
func (a *actor) fail(w workload, now time.Time, what string, err error) {
	m := a.memory(w)
	m.backoff = min(max(2*m.backoff, firstBackoff), longestBackoff)
	m.until = now.Add(m.backoff)
	a.log.Warn("cannot "+what, "workload", w.String(), "error", err, "again", m.backoff)
}

// settled reports whether the workload to which something was done last is ready again, or need not be waited for.
func (a *actor) settled(ctx context.Context, now time.Time) bool {
	if now.Sub(a.since) < takeEffect {
		return false
	}
	status, err := a.look(ctx, *a.current)
	switch {
	case apierrors.IsNotFound(err), err == nil && status.ready && !status.rolling:
	case !a.wasReady && now.Sub(a.since) > patience:
		a.log.Warn("going on, though a workload that was not ready before is not ready now either", "workload", a.current.String())
	default:
		if now.Sub(a.since) > patience && !a.complains {
			a.complains = true
			a.log.Warn("stopped evicting and restarting: a workload is not ready again since its pods were made anew", "workload", a.current.String())
		}
		return false
	}
	a.current = nil
	return true
}

// condition is how a workload is.
type condition struct {
	ready       bool   // all pods are there and ready
	rolling     bool   // some are being replaced
	fixed       string // why a new template does not replace them by itself; empty if it does
	annotations map[string]string
}

// look reads how a workload is.
func (a *actor) look(ctx context.Context, w workload) (condition, error) {
	get := metav1.GetOptions{}
	switch w.owner.Kind {
	case "Deployment":
		o, err := a.client.AppsV1().Deployments(w.namespace).Get(ctx, w.owner.Name, get)
		if err != nil {
			return condition{}, err
		}
		n, s := replicas(o.Spec.Replicas), o.Status
		c := condition{annotations: o.Annotations, ready: s.AvailableReplicas >= n, rolling: s.ObservedGeneration < o.Generation || s.UpdatedReplicas < n || s.Replicas > s.UpdatedReplicas}
		if o.Spec.Paused {
			c.fixed = "it is paused"
		}
		return c, nil
	case "StatefulSet":
		o, err := a.client.AppsV1().StatefulSets(w.namespace).Get(ctx, w.owner.Name, get)
		if err != nil {
			return condition{}, err
		}
		n, s := replicas(o.Spec.Replicas), o.Status
		update := n
		if r := o.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
			update = max(0, n-*r.Partition)
		}
		c := condition{annotations: o.Annotations, ready: s.ReadyReplicas >= n, rolling: s.ObservedGeneration < o.Generation || s.CurrentRevision != s.UpdateRevision && s.UpdatedReplicas < update}
		switch {
		case o.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType:
			c.fixed, c.rolling = "its updateStrategy is OnDelete", s.ObservedGeneration < o.Generation
		case update < n:
			c.fixed = "its updateStrategy has a partition"
		}
		return c, nil
	case "DaemonSet":
		o, err := a.client.AppsV1().DaemonSets(w.namespace).Get(ctx, w.owner.Name, get)
		if err != nil {
			return condition{}, err
		}
		n, s := o.Status.DesiredNumberScheduled, o.Status
		c := condition{annotations: o.Annotations, ready: s.NumberAvailable >= n, rolling: s.ObservedGeneration < o.Generation || s.UpdatedNumberScheduled < n}
		if o.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
			c.fixed, c.rolling = "its updateStrategy is OnDelete", s.ObservedGeneration < o.Generation
		}
		return c, nil
	case "ReplicaSet":
		o, err := a.client.AppsV1().ReplicaSets(w.namespace).Get(ctx, w.owner.Name, get)
		if err != nil {
			return condition{}, err
		}
		return condition{ready: o.Status.AvailableReplicas >= replicas(o.Spec.Replicas), rolling: o.Status.ObservedGeneration < o.Generation}, nil
	}
	return condition{}, apierrors.NewNotFound(corev1.Resource(strings.ToLower(w.owner.Kind)), w.owner.Name)
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// parseRestarted reads when a workload was restarted last, and for which injection; zero if it was not.
func parseRestarted(text string) (at time.Time, wants string) {
	stamp, wants, _ := strings.Cut(text, " ")
	at, err := time.Parse(time.RFC3339, stamp)
	if err != nil || at.After(time.Now().Add(slack)) {
		return time.Time{}, ""
	}
	return at, wants
}

// ParseAction reads an action, of those allowed for the kind.
func ParseAction(k Kind, text string) (Action, error) {
	allowed := []Action{Report, Evict, Restart}
	if k == Stale {
		allowed = []Action{Report, Restart}
	}
	if slices.Contains(allowed, Action(text)) {
		return Action(text), nil
	}
	return "", fmt.Errorf("it is %q, allowed: %s", text, strings.Trim(strings.ReplaceAll(fmt.Sprint(allowed), " ", ", "), "[]"))
}
