// Package store keeps dtabs in Kubernetes: it is a namer.Store on the objects dtabs.l5d.io of one Kubernetes
// namespace, one for each dtab namespace, as namerd has them.
//
// It follows the objects by a watch, and writes by compare and swap. It does not define the
// kind, which the chart does, and it has no leader: any number of replicas read, write and note in the status
// who changed what, each what it sees first.
//
// Invariant: what is served depends on the objects alone, so all replicas that see the same serve the same,
// under the same version. An object that does not parse, and an API server that is away, change nothing: the
// last rules that parsed are served on, after a restart too, from the history in the status.
//
//	s, err := store.New(store.Config{Client: client, Namespace: "tulle"})
//	go s.Run(ctx)
//	version, err := s.Put(ctx, "default", namer.Change{Dtab: dtab, By: "ada"})
//	dtab, release := s.Watch("default")
package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/workqueue"

	"github.com/tulle-mesh/tulle/internal/feed"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/namer"
)

var _ namer.Store = (*Store)(nil)

// How long to wait before a status that could not be written is tried again, doubling.
const (
	firstDelay = 100 * time.Millisecond
	maxDelay   = time.Minute
)

// lookPatience is how long a reader waits for the API server before the last that is known has to do.
const lookPatience = time.Second

// Config says where the objects are.
type Config struct {
	// Client may get, list, watch, create, update and delete dtabs.l5d.io in the Namespace, and patch
	// dtabs.l5d.io/status.
	Client    dynamic.Interface
	Namespace string // of Kubernetes; required
	// Logger gets a line for each change, and for what does not parse; nil for nobody.
	Logger *slog.Logger
}

// Store implements [namer.Store]. Nothing is known, and readers wait, until Run has read the objects once.
//
// Versions change when rules do: a write of the rules that are there already succeeds and changes nothing.
// A write returns when this Store has seen it too; what other replicas watch has it a moment later.
type Store struct {
	log       *slog.Logger
	client    dynamic.Interface
	objects   dynamic.ResourceInterface
	namespace string
	names     watch.Value[[]string]

	mu      sync.Mutex
	read    bool
	entries map[string]*entry
	record  func(name string) // has the status of an object looked at; does nothing but in Run
}

// entry is a dtab namespace that exists or is watched; guarded by Store.mu.
type entry struct {
	dtab     watch.Value[*namer.Versioned]
	seen     watch.Value[seen]
	state    *state // nil if it does not exist
	watchers int
}

// seen says which state of the object has been taken in; zero if there is none.
type seen struct {
	uid        types.UID
	generation int64
}

// New makes a Store. It does no I/O.
func New(cfg Config) (*Store, error) {
	if cfg.Client == nil || cfg.Namespace == "" {
		return nil, errors.New("make the store of dtabs: it needs a client and a namespace")
	}
	s := &Store{
		log: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)), client: cfg.Client, namespace: cfg.Namespace,
		objects: cfg.Client.Resource(Resource()).Namespace(cfg.Namespace),
		entries: map[string]*entry{}, record: func(string) {},
	}
	return s, nil
}

// Run reads the objects, follows them and keeps their status, until ctx ends; it returns nil with every goroutine gone.
// It is called once.
func (s *Store) Run(ctx context.Context) error {
	example := &unstructured.Unstructured{}
	example.SetGroupVersionKind(Resource().GroupVersion().WithKind(Kind))
	f := feed.Feed{
		Kind: "dtabs.l5d.io", Example: example, Client: s.client, Logger: s.log,
		List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := s.objects.List(ctx, o)
			return list, explain(err)
		},
		Watch: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			w, err := s.objects.Watch(ctx, o)
			return w, explain(err)
		},
		Apply:  func(o runtime.Object) { s.apply(decode(o.(*unstructured.Unstructured))) },
		Remove: func(_, name string) { s.remove(name) },
		Known:  s.known, Read: s.markRead,
	}
	queue := workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstDelay, maxDelay))
	s.mu.Lock()
	s.record = queue.Add
	s.mu.Unlock()
	var group sync.WaitGroup
	group.Go(func() { f.Run(ctx) })
	group.Go(func() { s.recordAll(ctx, queue) })
	<-ctx.Done()
	queue.ShutDown()
	group.Wait()
	return nil
}

// entry returns the entry of a namespace, making one if there is none.
func (s *Store) entry(name string) *entry {
	e := s.entries[name]
	if e == nil {
		e = &entry{}
		s.entries[name] = e
		s.publish(e)
	}
	return e
}

// publish sets what is served, if it is known.
func (s *Store) publish(e *entry) {
	if !s.read {
		return
	}
	next := &namer.Versioned{}
	if e.state != nil {
		next = e.state.served
	}
	if now := e.dtab.Get(); now == nil || now.Version != next.Version {
		e.dtab.Set(next)
	}
}

func (s *Store) publishNames() {
	names := []string{}
	for name, e := range s.entries {
		if e.state != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if s.read && (s.names.Get() == nil || !slices.Equal(names, s.names.Get())) {
		s.names.Set(names)
	}
}

// apply takes in an object as it is now.
func (s *Store) apply(o *object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(o.Name)
	old := e.state
	e.state = newState(o, e.revisions(o.UID))
	s.publish(e)
	e.seen.Set(seen{o.UID, o.Generation})
	if old == nil {
		s.publishNames()
	}
	if old == nil || old.object.UID != o.UID || old.object.Generation != o.Generation {
		r := o.revision()
		attrs := []any{"dtab", o.Name, "version", e.state.served.Version, "rules", len(e.state.served.Dtab), "by", r.By}
		if e.state.wrong != nil {
			s.log.Warn("a dtab does not parse, its last rules that did are served", append(attrs, "error", e.state.wrong)...)
		} else {
			s.log.Info("serve a dtab", attrs...)
		}
	}
	// What is large has been read and is needed no more.
	o.ManagedFields, o.Annotations, o.Labels = nil, nil, nil
	s.record(o.Name)
}

// revisions returns what is known of the object with that UID beside what it says itself.
func (e *entry) revisions(uid types.UID) []revision {
	if e.state == nil || e.state.object.UID != uid {
		return nil
	}
	return e.state.history
}

// remove takes in that an object does not exist.
func (s *Store) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[name]
	if e == nil || e.state == nil {
		return
	}
	s.log.Info("a dtab is deleted", "dtab", name, "version", e.state.served.Version)
	e.state = nil
	s.publish(e)
	e.seen.Set(seen{})
	s.publishNames()
	s.forget(name, e)
}

// forget drops an entry that is nothing any more.
func (s *Store) forget(name string, e *entry) {
	if e.state == nil && e.watchers == 0 && s.entries[name] == e {
		delete(s.entries, name)
	}
}

func (s *Store) known() []types.NamespacedName {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []types.NamespacedName
	for name, e := range s.entries {
		if e.state != nil {
			all = append(all, types.NamespacedName{Namespace: s.namespace, Name: name})
		}
	}
	return all
}

// markRead takes in that every object has been applied.
func (s *Store) markRead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read {
		return
	}
	s.read = true
	for _, name := range slices.Sorted(maps.Keys(s.entries)) {
		s.publish(s.entries[name])
	}
	s.publishNames()
}

// follow returns the entry of a namespace and keeps it until release is called, which may be more than once.
func (s *Store) follow(name string) (e *entry, release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e = s.entry(name)
	e.watchers++
	return e, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.watchers--
		s.forget(name, e)
	})
}

// Names implements namer.Store.
func (s *Store) Names() *watch.Value[[]string] { return &s.names }

// Watch implements namer.Store.
func (s *Store) Watch(namespace string) (*watch.Value[*namer.Versioned], func()) {
	e, release := s.follow(namespace)
	return &e.dtab, release
}

// Get implements namer.Store. It asks the API server, so that what was written at one replica is read at every
// other. While that does not answer, it is what the watch has told last.
func (s *Store) Get(ctx context.Context, namespace string) (*namer.Versioned, error) {
	now, err := s.look(ctx, namespace)
	if err != nil {
		return nil, err
	}
	return now.served, nil
}

// History implements namer.Store, and asks as Get does. What did not parse is not part of it.
func (s *Store) History(ctx context.Context, namespace string) ([]namer.Revision, error) {
	now, err := s.look(ctx, namespace)
	if err != nil {
		return nil, err
	}
	var all []namer.Revision
	for _, r := range now.history {
		dtab, _ := parse(r.Dentries) // what does not parse is not in it
		all = append(all, namer.Revision{Versioned: namer.Versioned{Dtab: dtab, Version: now.object.version(r.Generation)}, Time: r.Time.Time, By: r.By})
	}
	return all, nil
}

// look returns the newest state that is to be had, or namer.ErrNotFound.
func (s *Store) look(ctx context.Context, name string) (*state, error) {
	asking, cancel := context.WithTimeout(ctx, lookPatience)
	now, _, fault := s.present(asking, name)
	cancel()
	if fault == nil {
		if now == nil {
			return nil, namer.ErrNotFound
		}
		return now, nil
	}
	e, release := s.follow(name)
	defer release()
	if _, err := e.dtab.Wait(ctx, func(v *namer.Versioned) bool { return v != nil }); err != nil {
		return nil, fmt.Errorf("wait until Kubernetes has told the dtabs: %w: %w", err, fault)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.state == nil {
		return nil, namer.ErrNotFound
	}
	return e.state, nil
}

// recordAll writes the status of objects that have changed, until the queue is shut down.
func (s *Store) recordAll(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string]) {
	for {
		name, ended := queue.Get()
		if ended {
			return
		}
		err := s.recordOne(ctx, name)
		switch {
		case err == nil:
			queue.Forget(name)
		case ctx.Err() == nil:
			if queue.NumRequeues(name) == 0 {
				s.log.Warn("cannot note the history of a dtab, trying again", "dtab", name, "error", err)
			}
			queue.AddRateLimited(name)
		}
		queue.Done(name)
	}
}

func (s *Store) recordOne(ctx context.Context, name string) error {
	s.mu.Lock()
	e := s.entries[name]
	if e == nil || e.state == nil {
		s.mu.Unlock()
		return nil
	}
	now := e.state
	s.mu.Unlock()
	patch, err := now.outdated(metav1.Now())
	if err != nil || patch == nil {
		return err
	}
	_, err = s.objects.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // it has changed, by another replica perhaps: what it is now is on its way to us
	}
	return err
}
