package feed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

func TestMain(m *testing.M) {
	// One of them rests between errors, and takes virtual time for a clock that was set back.
	utilruntime.ErrorHandlers = nil
	goleak.VerifyTestMain(m)
}

// server is an API server with pods, which can be out of order.
type server struct {
	mu      sync.Mutex
	version int
	pods    map[string]bool
	watch   *watch.FakeWatcher
	err     error
	lists   int
	asked   []string // selectors
}

// IsWatchListSemanticsUnSupported says that it has no streaming lists.
func (s *server) IsWatchListSemanticsUnSupported() bool { return true }

func (s *server) list(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	s.asked = append(s.asked, o.FieldSelector)
	if s.err != nil {
		return nil, s.err
	}
	list := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(s.version)}}
	for name := range s.pods {
		list.Items = append(list.Items, *pod(name))
	}
	return list, nil
}

func (s *server) follow(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, o.FieldSelector)
	if s.err != nil {
		return nil, s.err
	}
	s.watch = watch.NewFakeWithChanSize(10, false)
	return s.watch, nil
}

// expire ends the watch and says that what has happened meanwhile is forgotten.
func (s *server) expire(pods ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.pods = map[string]bool{}
	for _, p := range pods {
		s.pods[p] = true
	}
	s.watch.Error(&apierrors.NewResourceExpired("too old").ErrStatus)
}

func (s *server) listed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists
}

func (s *server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: "1"}}
}

// What is told is what exists, through lost watches and an API server that is away.
func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{pods: map[string]bool{"a": true, "b": true}, version: 1}
		var log bytes.Buffer
		known, reads := map[string]int{}, 0
		f := Feed{
			Kind: "pods", Example: &corev1.Pod{}, Selector: "x=y", Client: s, List: s.list, Watch: s.follow,
			Apply:  func(o runtime.Object) { known[o.(*corev1.Pod).Name]++ },
			Remove: func(_, name string) { delete(known, name) },
			Known: func() (all []types.NamespacedName) {
				for name := range known {
					all = append(all, types.NamespacedName{Namespace: "shop", Name: name})
				}
				return all
			},
			Read:   func() { reads++ },
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); f.Run(ctx) }()
		expect := func(what, want string, wantReads int) {
			t.Helper()
			synctest.Wait()
			if got := strings.Join(slices.Sorted(maps.Keys(known)), " "); got != want || reads != wantReads {
				t.Errorf("%s: %q after %d readings, want %q after %d", what, got, reads, want, wantReads)
			}
		}
		expect("read", "a b", 1)
		s.watch.Add(pod("c"))
		s.watch.Delete(pod("a"))
		expect("watched", "b c", 1)
		s.expire("b", "d")
		time.Sleep(time.Second)
		expect("read again", "b d", 2)

		s.fail(errors.New("connection refused"))
		s.expire("e")
		lists := s.listed()
		time.Sleep(10 * time.Minute)
		expect("away", "b d", 2)
		if n := s.listed() - lists; n < 100 || n > 260 {
			t.Errorf("it was asked %d times in ten minutes", n)
		}
		s.fail(nil)
		time.Sleep(4 * longest)
		expect("back", "e", 3)

		cancel()
		<-done
		if got := log.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "connection refused") || !strings.Contains(got, "reading pods again") {
			t.Errorf("it logs\n%s", got)
		}
		for _, selector := range s.asked {
			if selector != "x=y" {
				t.Errorf("it asks for %q", selector)
			}
		}
	})
}

// streaming is a server that has streaming lists too.
type streaming struct{ *server }

func (streaming) IsWatchListSemanticsUnSupported() bool { return false }

// However long the pause is after an API server that did not answer, what ends does so at once.
func TestFeedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, err := range []error{syscall.ECONNREFUSED, errors.New("no route to host")} {
			s := &server{err: err}
			f := Feed{Kind: "pods", Example: &corev1.Pod{}, Client: streaming{s}, List: s.list, Watch: s.follow, Logger: slog.New(slog.DiscardHandler)}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); f.Run(ctx) }()
			time.Sleep(time.Minute)
			synctest.Wait()
			cancel()
			began := time.Now()
			<-done
			if took := time.Since(began); took > 0 {
				t.Errorf("%v: it ended after %s", err, took)
			}
		}
	})
}
