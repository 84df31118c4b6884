package drift

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/webhook"
)

// Reasons of events on workloads, beside those that are a Kind.
const (
	reasonInjected = "Injected"
	reasonSkipped  = "InjectionSkipped"
	// What was done about pods:
	reasonEvicted   = "EvictedToRepair"
	reasonRestarted = "RestartedToRepair"
)

const (
	settle  = 5 * time.Second  // that pods of one workload are gathered before the first event
	repeat  = 10 * time.Minute // between events of one workload that say the same of more pods
	remind  = 30 * time.Minute // between events about what is still so; they are kept for an hour
	burst   = 10               // events of one namespace at once
	refill  = 30 * time.Second // for each one more
	samples = 5                // names of pods in an event
	// perFlush is how many are written at a time, in all: certificates of pods go over the same client.
	perFlush = 20
	// writeTimeout bounds one event.
	writeTimeout = 10 * time.Second
)

// about is what events are told apart by.
type about struct {
	namespace string
	owner     types.UID // the pod's controller, or the pod itself
	reason    string
	why       webhook.Reason
	text      string
}

// line is one event that was or is to be written.
type line struct {
	pod     *entry // one of them
	count   int    // of pods
	names   []string
	first   time.Time
	written time.Time // zero: not yet
	told    int       // the count that was written
	times   int32     // that it was written
	current bool      // it still holds
}

// recorder gathers what is to be said of pods into few events on workloads.
type recorder struct {
	client kubernetes.Interface
	log    *slog.Logger

	failing bool // of flush

	mu     sync.Mutex
	lines  map[about]*line
	tokens map[string]tokens // by namespace
}

type tokens struct {
	left int
	at   time.Time
}

func newRecorder(client kubernetes.Interface, log *slog.Logger) *recorder {
	return &recorder{client: client, log: log, lines: map[about]*line{}, tokens: map[string]tokens{}}
}

func keyOf(e *entry, reason, text string) about {
	owner := e.direct.UID
	if e.direct.Kind == "" {
		owner = e.uid
	}
	return about{e.namespace, owner, reason, e.reason, text}
}

// made notes what became of a pod that was made just now.
func (r *recorder) made(e *entry) {
	switch {
	case time.Since(e.created) > fresh || e.kind == Escaped || !e.observed || e.reason == webhook.NamespaceExcluded || e.reason == webhook.NotEnabled:
		return // an escape is told of as long as it is one
	case e.mode != "" && !e.left:
		r.note(e, reasonInjected, fmt.Sprintf("in the mesh in mode %s", e.mode))
	case e.mode != "":
		r.note(e, reasonSkipped, "all containers have proxies of their own and are left alone")
	case e.reason != webhook.MirrorPod:
		r.note(e, reasonSkipped, "not in the mesh: "+string(e.reason))
	}
}

func (r *recorder) note(e *entry, reason, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := keyOf(e, reason, text)
	l := r.lines[key]
	if l == nil {
		l = &line{first: time.Now()}
		r.lines[key] = l
	}
	l.add(e)
}

func (l *line) add(e *entry) {
	l.pod = e
	if l.count++; len(l.names) < samples {
		l.names = append(l.names, e.name)
	}
}

// flush writes what is due, given the pods that are not as they should be now. It is called from one goroutine.
func (r *recorder) flush(ctx context.Context, drifted []*entry) {
	now := time.Now()
	for _, d := range r.take(drifted, now) {
		limited, cancel := context.WithTimeout(ctx, writeTimeout)
		err := r.write(limited, d.key, &d.line, now)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if failing := err != nil; failing != r.failing {
			r.failing = failing
			if failing {
				r.log.Warn("cannot write events about pods", "error", err)
			}
		}
	}
}

// due is a line whose turn it is.
type due struct {
	key  about
	line line
}

// take returns the lines to write, and counts them as written.
func (r *recorder) take(drifted []*entry, now time.Time) []due {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gather(drifted, now)
	keys := slices.SortedFunc(maps.Keys(r.lines), func(a, b about) int {
		// What is wrong comes first, should it be too much.
		return strings.Compare(rank(a)+a.namespace+string(a.owner)+a.text, rank(b)+b.namespace+string(b.owner)+b.text)
	})
	var all []due
	for _, key := range keys {
		l := r.lines[key]
		switch {
		case lasting(key.reason) && !l.current, !lasting(key.reason) && now.Sub(l.first) > time.Hour:
			delete(r.lines, key)
		case len(all) == perFlush: // the next time
		case l.due(key, now):
			l.written, l.told = now, l.count // even if there are too many: its turn is over
			if r.allow(key.namespace, now) {
				l.times++
				all = append(all, due{key, *l})
			}
		}
	}
	maps.DeleteFunc(r.tokens, func(_ string, t tokens) bool { return now.Sub(t.at) > burst*refill })
	return all
}

// gather brings the lines about what is wrong up to date.
func (r *recorder) gather(drifted []*entry, now time.Time) {
	for key, l := range r.lines {
		if lasting(key.reason) {
			l.current, l.count, l.names = false, 0, nil
		}
	}
	for _, e := range drifted {
		key := keyOf(e, string(e.kind), e.message)
		l := r.lines[key]
		if l == nil {
			l = &line{first: now}
			r.lines[key] = l
		}
		l.current = true
		l.add(e)
	}
}

// lasting reports whether the reason is of a state, not of what has happened.
func lasting(reason string) bool { return reason == string(Escaped) || reason == string(Stale) }

func rank(a about) string {
	switch a.reason {
	case string(Escaped):
		return "0"
	case string(Stale):
		return "1"
	case reasonEvicted, reasonRestarted:
		return "2"
	case reasonSkipped:
		return "3"
	}
	return "4"
}

func (l *line) due(key about, now time.Time) bool {
	switch {
	case l.written.IsZero():
		return now.Sub(l.first) >= settle
	case l.count != l.told:
		return now.Sub(l.written) >= repeat
	}
	return lasting(key.reason) && now.Sub(l.written) >= remind
}

// allow takes the right to write one event of a namespace.
func (r *recorder) allow(namespace string, now time.Time) bool {
	t, ok := r.tokens[namespace]
	if !ok {
		t = tokens{burst, now}
	}
	if n := int(now.Sub(t.at) / refill); n > 0 {
		t.left, t.at = min(burst, t.left+n), t.at.Add(time.Duration(n)*refill)
	}
	if t.left == 0 {
		r.tokens[namespace] = t
		return false
	}
	t.left--
	r.tokens[namespace] = t
	return true
}

// message is what the event says.
func (l *line) message(key about) string {
	names := strings.Join(l.names, ", ")
	if more := l.count - len(l.names); more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	if key.text == "" {
		return names
	}
	return names + ": " + key.text
}

// write makes the event, or brings the one that is there up to date. Its name follows from what it says, so that
// another replica goes on with it.
func (r *recorder) write(ctx context.Context, key about, l *line, now time.Time) error {
	object, unfound := involved(ctx, r.client, key.namespace, l.pod.name, l.pod.uid, l.pod.direct)
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %s %s %s", object.UID, key.reason, key.why, key.text)
	severity := corev1.EventTypeNormal
	if key.reason == string(Escaped) {
		severity = corev1.EventTypeWarning
	}
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%016x", clip(object.Name, 230), h.Sum64()), Namespace: key.namespace},
		InvolvedObject: object, Reason: key.reason, Type: severity, Message: clip(l.message(key), 1000),
		Source:         corev1.EventSource{Component: "tulle-injector"},
		FirstTimestamp: metav1.NewTime(l.first), LastTimestamp: metav1.NewTime(now), Count: l.times,
		ReportingController: "tulle.dev/injector",
	}
	events := r.client.CoreV1().Events(key.namespace)
	_, err := events.Create(ctx, event, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		var patch []byte
		patch, err = json.Marshal(map[string]any{"count": l.times, "lastTimestamp": event.LastTimestamp, "message": event.Message})
		if err == nil {
			_, err = events.Patch(ctx, event.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		}
	}
	if err != nil {
		return fmt.Errorf("write an event about %s %s/%s: %w", object.Kind, key.namespace, object.Name, err)
	}
	if apierrors.IsNotFound(unfound) {
		return nil // it is on its way out
	}
	return unfound
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "")
	}
	return s
}
