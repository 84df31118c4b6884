package drift

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/tulle-mesh/tulle/internal/feed"
	"github.com/tulle-mesh/tulle/webhook"
)

const (
	// tick is the pause between looks at what there is to tell and to do.
	tick = 2 * time.Second
	// calm is how long all pods are not read again after they were: changes of many namespaces come together.
	calm = 10 * time.Second

	// stepTimeout bounds what is done about pods in one look.
	stepTimeout = 30 * time.Second

	// The times of client-go's own components.
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
	// relead is the pause before a replica that has lost the lease tries for it again.
	relead = time.Second
)

// Lease is the name of the Lease by which one replica leads.
const Lease = "tulle-injector-drift"

// Config is what a Controller needs. All fields without a word about it are required.
type Config struct {
	Client kubernetes.Interface
	// Injector returns the injector's configuration as of now; a change of it is seen within seconds.
	Injector func() webhook.Config
	// Escaped and Stale are what to do about such pods; empty for Report. Stale pods are not evicted.
	Escaped, Stale Action
	// PerMinute is how many pods are evicted, or workloads restarted, in a minute at most; zero for DefaultPerMinute.
	PerMinute int
	// Grace is how long a replica that has begun to lead does nothing; zero for DefaultGrace.
	Grace time.Duration
	// Hold says why nothing must be done to pods and workloads for now; empty if it may. It is asked right before, and
	// may block for a moment. Required unless both actions are Report.
	Hold func(context.Context) string
	// Namespace is where the Lease is; Identity is this replica's name in it.
	Namespace, Identity string
	// Registerer receives the metrics.
	Registerer prometheus.Registerer
	// Logger hears who leads, what is done and what fails.
	Logger *slog.Logger
}

// Controller finds pods that are not as they should be, see the package.
type Controller struct {
	cfg    Config
	state  *state
	events *recorder
	actor  *actor
	wake   chan struct{} // all pods are to be read again
	// elect, if not nil, stands in for the Lease. It is for tests.
	elect func(ctx context.Context, lead func(context.Context)) error
}

// New returns a Controller that does nothing yet. The error is that of registering metrics, or an action that is none.
func New(cfg Config) (*Controller, error) {
	var errs []error
	for _, a := range []struct {
		kind   Kind
		action *Action
	}{{Escaped, &cfg.Escaped}, {Stale, &cfg.Stale}} {
		if *a.action == "" {
			*a.action = Report
		}
		if _, err := ParseAction(a.kind, string(*a.action)); err != nil {
			errs = append(errs, fmt.Errorf("read what to do about pods that are %s: %w", a.kind, err))
		}
	}
	if cfg.PerMinute <= 0 {
		cfg.PerMinute = DefaultPerMinute
	}
	if cfg.Grace <= 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Hold == nil {
		cfg.Hold = func(context.Context) string { return "nobody says that it may be done" }
	}
	c := &Controller{cfg: cfg, state: newState(cfg.Injector, cfg.Logger), events: newRecorder(cfg.Client, cfg.Logger), wake: make(chan struct{}, 1)}
	c.state.changed = func() {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	c.state.judged = c.events.made
	c.actor = &actor{
		client: cfg.Client, log: cfg.Logger, escaped: cfg.Escaped, stale: cfg.Stale, hold: cfg.Hold, tell: c.events.note, post: postTo(cfg.Client),
		every: time.Minute / time.Duration(cfg.PerMinute),
		counted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_injector_repairs_total",
			Help: "Pods evicted and workloads restarted because pods escaped the injector or are stale, by result: ok, blocked (by a PodDisruptionBudget) or failed.",
		}, []string{"action", "result"}),
	}
	for _, action := range []Action{Evict, Restart} {
		for _, result := range []string{"ok", "blocked", "failed"} {
			c.actor.counted.WithLabelValues(string(action), result)
		}
	}
	c.elect = c.byLease
	return c, errors.Join(append(errs, cfg.Registerer.Register(c.state), cfg.Registerer.Register(c.actor.counted))...)
}

// Run works while this replica leads, until ctx is done, and then returns nil. What it learns it forgets when another
// one leads.
func (c *Controller) Run(ctx context.Context) error {
	for {
		if err := c.elect(ctx, c.lead); err != nil {
			return err
		}
		timer := time.NewTimer(relead)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// byLease waits for the Lease and runs lead while this replica has it, which is given back only when lead has returned.
func (c *Controller) byLease(ctx context.Context, lead func(context.Context)) error {
	holding, release := context.WithCancel(klog.NewContext(context.WithoutCancel(ctx), klog.Logger{})) // it would log every attempt
	defer release()
	leads, done := make(chan context.Context), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &lock{log: c.cfg.Logger, Interface: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.cfg.Namespace, Name: Lease},
			Client:     c.cfg.Client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.cfg.Identity},
		}},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true, Name: Lease,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) {
				select {
				case leads <- leading:
				case <-leading.Done():
				}
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("set up the election of a leader: %w", err)
	}
	go func() {
		defer close(done)
		elector.Run(holding)
	}()
	select {
	case leading := <-leads:
		work, stop := context.WithCancel(leading)
		defer stop()
		defer context.AfterFunc(ctx, stop)()
		c.cfg.Logger.Info("this replica looks for pods that escaped the injector")
		lead(work)
	case <-ctx.Done():
	case <-done:
	}
	release()
	<-done
	return nil
}

// lock says when the Lease begins and ceases to be out of reach, of which the elector says nothing that we hear.
type lock struct {
	resourcelock.Interface
	log     *slog.Logger
	failing bool
}

func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	l.note(ctx, err)
	return record, raw, err
}

func (l *lock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Create(ctx, record)
	l.note(ctx, err)
	return err
}

func (l *lock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Update(ctx, record)
	l.note(ctx, err)
	return err
}

func (l *lock) note(ctx context.Context, err error) {
	if apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return // as it goes among replicas
	}
	switch {
	case ctx.Err() != nil:
	case err != nil && !l.failing:
		l.failing = true
		l.log.Warn("cannot use Lease "+Lease+": it may be that no replica looks for pods that escaped the injector; trying again", "error", err)
	case err == nil && l.failing:
		l.failing = false
		l.log.Info("using Lease " + Lease + " again")
	}
}

// lead works until ctx is done.
func (c *Controller) lead(ctx context.Context) {
	c.state.lead(true)
	defer c.state.lead(false)
	c.actor.forget(time.Now().Add(c.cfg.Grace))
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := make(chan struct{})
	group.Go(func() { c.followNamespaces(ctx, sync.OnceFunc(func() { close(first) })) })
	select {
	case <-first:
	case <-ctx.Done():
		return
	}
	read := make(chan struct{})
	group.Go(func() { c.followPods(ctx, sync.OnceFunc(func() { close(read) })) })
	select {
	case <-read:
	case <-ctx.Done():
		return
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.state.configure()
		drifted, since := c.state.drifted()
		c.events.flush(ctx, drifted)
		limited, cancel := context.WithTimeout(ctx, stepTimeout)
		c.actor.step(limited, drifted, since)
		cancel()
	}
}

func (c *Controller) followNamespaces(ctx context.Context, read func()) {
	all := c.cfg.Client.CoreV1().Namespaces()
	feed.Feed{
		Kind: "namespaces", Example: &corev1.Namespace{}, Client: c.cfg.Client, Logger: c.cfg.Logger,
		List:   func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return all.List(ctx, o) },
		Watch:  all.Watch,
		Apply:  func(o runtime.Object) { c.state.applyNamespace(o.(*corev1.Namespace)) },
		Remove: c.state.removeNamespace,
		Known:  c.state.knownNamespaces,
		Read:   read,
	}.Run(ctx)
}

// followPods follows all pods that have not ended. When their namespaces or the configuration change, it reads all of
// them again: to keep them for that would cost the memory of a large cluster.
func (c *Controller) followPods(ctx context.Context, read func()) {
	all := c.cfg.Client.CoreV1().Pods(metav1.NamespaceAll)
	alive := fields.AndSelectors(fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)), fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed))).String()
	select {
	case <-c.wake: // of the namespaces that are known by now
	default:
	}
	for ctx.Err() == nil {
		round, end := context.WithCancel(ctx)
		var group sync.WaitGroup
		group.Go(func() {
			feed.Feed{
				Kind: "pods", Example: &corev1.Pod{}, Selector: alive, Client: c.cfg.Client, Logger: c.cfg.Logger, Trim: trimPod,
				List:   func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return all.List(ctx, o) },
				Watch:  all.Watch,
				Apply:  func(o runtime.Object) { c.state.applyPod(o.(*corev1.Pod)) },
				Remove: c.state.removePod,
				Known:  c.state.knownPods,
				Read:   read,
			}.Run(round)
		})
		timer := time.NewTimer(calm)
		select {
		case <-timer.C:
			select {
			case <-c.wake:
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
		timer.Stop()
		end()
		group.Wait()
	}
}

// trimPod drops what is not judged of a pod that waits for the others.
func trimPod(object any) (any, error) {
	o, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Namespace, Name: o.Name, GenerateName: o.GenerateName, UID: o.UID, ResourceVersion: o.ResourceVersion, Generation: o.Generation,
			Labels: o.Labels, Annotations: o.Annotations, OwnerReferences: o.OwnerReferences,
			CreationTimestamp: o.CreationTimestamp, DeletionTimestamp: o.DeletionTimestamp,
		},
		Spec:   o.Spec,
		Status: corev1.PodStatus{Phase: o.Status.Phase},
	}, nil
}
