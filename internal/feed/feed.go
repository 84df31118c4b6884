// Package feed passes on what an API server has of one kind of object, as it changes, and keeps
// nothing of it.
//
// It is client-go's Reflector without the informer around it: an informer keeps every object
// for whoever may ask, and those here are asked by nobody, for their receiver has taken what it
// needs. In a large cluster that is most of the memory of a controller.
//
// Invariant: what has been applied and not removed is what exists, as the API server last told. While it
// cannot be reached, nothing is said at all.
//
//	f := feed.Feed{Kind: "pods", Example: &corev1.Pod{}, Client: client, List: …, Watch: …,
//		Apply: index.applyPod, Remove: index.DeletePod, Known: index.knownPods, Read: read.Done}
//	f.Run(ctx)
package feed

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// Between attempts to reach an API server that does not answer: from 10 ms, doubling, to 2.5 s, each made longer by up
// to as much again. One that is back may cost two of them, if it no longer knows where we were: ten seconds then.
const (
	firstDelay = 10 * time.Millisecond
	longest    = 2500 * time.Millisecond
	steps      = 10
)

// Feed is one kind of object, and who hears of it. Apply, Remove, Known and Read are called from one
// goroutine. All fields but Trim and Selector are required.
type Feed struct {
	Kind    string         // as in "watch of pods failed"
	Example runtime.Object // of the type that is watched
	// Selector is a field selector. What leaves the selection is removed.
	Selector string

	Client any // that List and Watch use; fakes say of themselves what they lack
	List   func(context.Context, metav1.ListOptions) (runtime.Object, error)
	Watch  func(context.Context, metav1.ListOptions) (watch.Interface, error)

	// Trim may drop what Apply does not read of an object that is kept until all have come.
	Trim cache.TransformFunc
	// Apply takes in an object as it is now. Others may use it too: it must not be changed.
	Apply func(object runtime.Object)
	// Remove takes in that an object does not exist; it may never have been applied.
	Remove func(namespace, name string)
	// Known lists what has been applied and not removed. It is asked after each time that everything was read.
	Known func() []types.NamespacedName
	// Read is called each time that everything has been read and applied.
	Read func()

	Logger *slog.Logger
}

// Run reads everything and then follows what changes, until ctx ends; then all of its goroutines are gone. It
// never gives up.
func (f Feed) Run(ctx context.Context) {
	s := &sink{Feed: f}
	listWatch := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = f.Selector
			list, err := f.List(ctx, o)
			s.tell(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = f.Selector
			w, err := f.Watch(ctx, o)
			if o.SendInitialEvents == nil || !apierrors.IsInvalid(err) { // before Kubernetes 1.32; a list follows
				s.tell(ctx, err)
			}
			return w, err
		},
	}
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(listWatch, f.Client), f.Example, s, cache.ReflectorOptions{
		Name:    f.Kind,
		Clock:   until{ctx: ctx},
		Backoff: &wait.Backoff{Duration: firstDelay, Factor: 2, Jitter: 1, Steps: steps, Cap: longest},
	})
	// It would log every attempt; we log when it begins and ends to fail.
	reflector.RunWithContext(klog.NewContext(ctx, klog.Logger{}))
}

// until is a clock on which no pause is longer than its context lasts: after an API server that did not answer, the
// Reflector looks at nothing but the clock.
type until struct {
	clock.RealClock
	ctx context.Context
}

// After implements clock.Clock.
func (u until) After(d time.Duration) <-chan time.Time {
	over := make(chan time.Time, 1)
	tell := sync.OnceFunc(func() { over <- time.Now() })
	stop := context.AfterFunc(u.ctx, tell)
	time.AfterFunc(d, func() { stop(); tell() })
	return over
}

// sink is a cache.TransformingStore that stores nothing.
type sink struct {
	Feed
	failing atomic.Bool
}

func (s *sink) tell(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case err != nil && !s.failing.Swap(true):
		s.Logger.Warn("cannot read "+s.Kind+", going on with what is known of them and trying again", "error", err)
	case err == nil && s.failing.Swap(false):
		s.Logger.Info("reading " + s.Kind + " again")
	}
}

// Transformer implements cache.TransformingStore.
func (s *sink) Transformer() cache.TransformFunc { return s.Trim }

// Add implements cache.ReflectorStore.
func (s *sink) Add(object any) error { return s.Update(object) }

// Update implements cache.ReflectorStore.
func (s *sink) Update(object any) error {
	o, ok := object.(runtime.Object)
	if !ok {
		return fmt.Errorf("apply %s: got a %T", s.Kind, object)
	}
	s.Apply(o)
	return nil
}

// Delete implements cache.ReflectorStore.
func (s *sink) Delete(object any) error {
	o, err := meta.Accessor(object)
	if err != nil {
		return fmt.Errorf("remove %s: %w", s.Kind, err)
	}
	s.Remove(o.GetNamespace(), o.GetName())
	return nil
}

// Replace implements cache.ReflectorStore: the list is everything.
func (s *sink) Replace(list []any, _ string) error {
	exists := make(map[types.NamespacedName]struct{}, len(list))
	for _, object := range list {
		o, err := meta.Accessor(object)
		if err != nil {
			return fmt.Errorf("apply %s: %w", s.Kind, err)
		}
		exists[types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}] = struct{}{}
		if err := s.Update(object); err != nil {
			return err
		}
	}
	for _, k := range s.Known() {
		if _, ok := exists[k]; !ok {
			s.Remove(k.Namespace, k.Name)
		}
	}
	s.Read()
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing to repair.
func (s *sink) Resync() error { return nil }
