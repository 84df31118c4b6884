package drift

import (
	"hash/maphash"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/webhook"
)

// fresh is how old a pod may be for an event about its injection. What is older was told of by whoever saw it made.
const fresh = 5 * time.Minute

// entry is what is kept of one pod.
type entry struct {
	namespace, name string
	uid             types.UID
	created         time.Time
	owner           Owner
	direct          metav1.OwnerReference // its controller
	seen            uint64                // fingerprint of what was judged
	verdict
}

func entryOf(pod *corev1.Pod, v verdict) *entry {
	e := &entry{namespace: pod.Namespace, name: pod.Name, uid: pod.UID, created: pod.CreationTimestamp.Time, verdict: v}
	e.owner, e.direct = ownerOf(pod)
	return e
}

// finding is the pod as others see it.
func (e *entry) finding() Pod {
	return Pod{Namespace: e.namespace, Name: e.name, UID: e.uid, Owner: e.owner, Created: e.created, Kind: e.kind, Reason: e.reason, Message: e.message, Is: e.is, Wants: e.wants}
}

// state is what is known of namespaces and pods. Its methods are safe for concurrent use.
type state struct {
	log    *slog.Logger
	config func() webhook.Config
	// changed is called, without the lock, when all pods must be judged anew.
	changed func()
	// judged is called, with the lock, for each pod that was made lately and is judged for the first time.
	judged func(*entry)

	mu         sync.Mutex
	seed       maphash.Seed
	epoch      uint64    // counts the times that everything is to be judged anew
	since      time.Time // of the last of them
	cfg        webhook.Config
	leading    bool
	namespaces map[string]webhook.Namespace // those that joined
	pods       map[types.NamespacedName]*entry
	complained bool
}

func newState(config func() webhook.Config, log *slog.Logger) *state {
	return &state{log: log, config: config, seed: maphash.MakeSeed(), namespaces: map[string]webhook.Namespace{}, pods: map[types.NamespacedName]*entry{}}
}

// lead begins and ends the time in which metrics are told; it forgets everything.
func (s *state) lead(leading bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leading, s.cfg, s.since = leading, s.config(), time.Now()
	clear(s.namespaces)
	clear(s.pods)
}

// configure looks whether the configuration is another one.
func (s *state) configure() {
	cfg := s.config()
	s.mu.Lock()
	same := reflect.DeepEqual(cfg, s.cfg)
	s.cfg = cfg
	if !same {
		s.renew()
	}
	s.mu.Unlock()
	if !same {
		s.changed()
	}
}

func (s *state) applyNamespace(n *corev1.Namespace) {
	ns := namespaceOf(n)
	s.mu.Lock()
	was, in := s.namespaces[ns.Name]
	switch {
	case n.DeletionTimestamp != nil || !joined(ns, s.cfg):
		s.mu.Unlock()
		s.removeNamespace("", ns.Name)
		return
	case in && sameNamespace(was, ns):
		s.mu.Unlock()
		return
	}
	s.namespaces[ns.Name] = ns
	s.renew()
	s.mu.Unlock()
	s.changed()
}

func (s *state) renew() { s.epoch, s.since = s.epoch+1, time.Now() }

// sameNamespace reports whether the injector treats pods of both alike.
func sameNamespace(a, b webhook.Namespace) bool {
	return maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations)
}

func (s *state) removeNamespace(_, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.namespaces[name]; !ok {
		return
	}
	delete(s.namespaces, name)
	maps.DeleteFunc(s.pods, func(k types.NamespacedName, _ *entry) bool { return k.Namespace == name })
}

func (s *state) knownNamespaces() []types.NamespacedName {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []types.NamespacedName
	for name := range s.namespaces {
		all = append(all, types.NamespacedName{Name: name})
	}
	return all
}

func (s *state) applyPod(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	ns, ok := s.namespaces[pod.Namespace]
	if !ok || ended(pod) {
		delete(s.pods, key)
		return
	}
	was, seen := s.pods[key], s.fingerprint(pod)
	if was != nil && was.uid != pod.UID {
		was = nil
	}
	if was != nil && was.seen == seen {
		return
	}
	v, err := judge(pod, ns, s.cfg)
	if err != nil && !s.complained {
		s.complained = true // it is the configuration, or a bug, and not one pod only
		s.log.Warn("cannot judge a pod, and maybe not others either; what they are counted as stays", "error", err)
	}
	if err != nil && was != nil {
		v = was.verdict
	}
	e := entryOf(pod, v)
	e.seen = seen
	s.pods[key] = e
	if was == nil && err == nil && s.judged != nil {
		s.judged(e)
	}
}

// fingerprint tells apart what may be judged differently. All else of a pod's spec cannot change.
func (s *state) fingerprint(pod *corev1.Pod) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	write := func(parts ...string) {
		for _, p := range parts {
			_, _ = h.WriteString(p)
			_ = h.WriteByte(0)
		}
	}
	write(string(pod.UID))
	maphash.WriteComparable(&h, s.epoch)
	maphash.WriteComparable(&h, pod.Generation)
	for _, m := range []map[string]string{pod.Labels, pod.Annotations} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			write(k, m[k])
		}
		write("")
	}
	return h.Sum64()
}

func (s *state) removePod(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, types.NamespacedName{Namespace: namespace, Name: name})
}

func (s *state) knownPods() []types.NamespacedName {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.pods))
}

// drifted returns the pods that are not as they should be, by namespace and name, and since when nothing has changed in
// what they should be.
func (s *state) drifted() (all []*entry, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.pods {
		if e.kind != "" {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *entry) int { return byName(a.finding(), b.finding()) })
	return all, s.since
}

var (
	escapedPods = prometheus.NewDesc("tulle_injector_escaped_pods", "Pods of a namespace of the mesh that run outside of it and should not. Only the replica that leads tells.", []string{"namespace"}, nil)
	stalePods   = prometheus.NewDesc("tulle_injector_stale_pods", "Pods of a namespace of the mesh whose injection is not the one that they would get now. Only the replica that leads tells.", []string{"namespace"}, nil)
)

// Describe implements prometheus.Collector.
func (s *state) Describe(to chan<- *prometheus.Desc) {
	to <- escapedPods
	to <- stalePods
}

// Collect implements prometheus.Collector. A namespace that joined is told of even if all is well in it.
func (s *state) Collect(to chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leading {
		return
	}
	escaped, stale := map[string]int{}, map[string]int{}
	for _, e := range s.pods {
		switch e.kind {
		case Escaped:
			escaped[e.namespace]++
		case Stale:
			stale[e.namespace]++
		}
	}
	for name := range s.namespaces {
		to <- prometheus.MustNewConstMetric(escapedPods, prometheus.GaugeValue, float64(escaped[name]), name)
		to <- prometheus.MustNewConstMetric(stalePods, prometheus.GaugeValue, float64(stale[name]), name)
	}
}
