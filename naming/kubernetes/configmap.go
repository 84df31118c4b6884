package kubernetes

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/internal/feed"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// ConfigMaps are the rules of ConfigMaps, for proxies that route by them: of those ConfigMaps alone that
// NewConfigMaps was told. A key whose value does not parse, or is binary data, has the rules that did last, for as long as the
// ConfigMaps are watched. It is safe for concurrent use.
type ConfigMaps struct {
	log *slog.Logger
	all map[types.NamespacedName]*configMap // not modified
}

// configMap is one that may be read.
type configMap struct {
	types.NamespacedName
	log *slog.Logger

	mu       sync.Mutex
	read     bool                // whether it is known if there is one
	exists   bool                // whether there is
	failed   string              // why it cannot be read, empty if it can
	reason   metav1.StatusReason // of that: attempts of one kind are told once
	data     map[string]keyValue // its keys
	parsed   map[string]dtab     // by key
	followed map[string]*followedKey
}

// keyValue is what a key has.
type keyValue struct {
	text   string
	binary bool // of binaryData, whatever it is
}

// dtab is what is made of the value of a key.
type dtab struct {
	good  *string // as the last value that parsed is printed; nil if none did
	wrong string  // why the value is not that, empty if it is
}

type followedKey struct {
	rules watch.Value[*api.Rules]
	users int // guarded by configMap.mu
}

// ParseConfigMap reads the name of a ConfigMap, namespace/name.
func ParseConfigMap(s string) (types.NamespacedName, error) {
	namespace, name, _ := strings.Cut(s, "/")
	if validation.IsDNS1123Label(namespace) != nil || validation.IsDNS1123Subdomain(name) != nil {
		return types.NamespacedName{}, fmt.Errorf("%q names no ConfigMap: it must be <namespace>/<name>, such as shop/rules", s)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}

// NewConfigMaps returns the rules of these ConfigMaps, of which nothing is known until Run.
func NewConfigMaps(all []types.NamespacedName, log *slog.Logger) *ConfigMaps {
	c := &ConfigMaps{log: log, all: map[types.NamespacedName]*configMap{}}
	for _, name := range all {
		c.all[name] = &configMap{NamespacedName: name, log: log, parsed: map[string]dtab{}, followed: map[string]*followedKey{}}
	}
	return c
}

// Run follows the ConfigMaps until ctx ends, and then returns nil with every goroutine gone. It needs get, list
// and watch of each, and tells proxies of one whose reading is forbidden. It is called once.
func (c *ConfigMaps) Run(ctx context.Context, client kubernetes.Interface) error {
	var group sync.WaitGroup
	for _, m := range c.all {
		group.Go(func() { m.feed(client).Run(ctx) })
	}
	<-ctx.Done()
	group.Wait()
	return nil
}

// Rules returns what a key of a ConfigMap says, live, until release is called, which may be more than once: nil as
// long as nothing is known. It neither blocks nor fails. All who follow one key share the value.
func (c *ConfigMaps) Rules(of api.ConfigMap) (rules *watch.Value[*api.Rules], release func()) {
	m := c.all[types.NamespacedName{Namespace: of.Namespace, Name: of.Name}]
	if m == nil {
		refused := &api.Rules{ConfigMap: of, Cause: fmt.Sprintf(
			"the controller may not read ConfigMap %s/%s; to let it, add %[1]s/%[2]s to the chart's value namer.configMaps", of.Namespace, of.Name)}
		c.log.Warn("a proxy asks for rules that are not to be read", "configMap", of.String(), "error", refused.Cause)
		return watch.New(refused), func() {}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.followed[of.Key]
	if f == nil {
		f = &followedKey{}
		m.followed[of.Key] = f
		m.publish(of.Key)
	}
	f.users++
	return &f.rules, sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if f.users--; f.users == 0 {
			delete(m.followed, of.Key)
		}
	})
}

func (m *configMap) feed(client kubernetes.Interface) feed.Feed {
	of := client.CoreV1().ConfigMaps(m.Namespace)
	return feed.Feed{
		Kind: "ConfigMap " + m.String(), Example: &corev1.ConfigMap{}, Client: client, Logger: m.log,
		Selector: fields.OneTermEqualSelector(metav1.ObjectNameField, m.Name).String(),
		List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := of.List(ctx, o)
			m.tried(ctx, err)
			return list, err
		},
		Watch: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			w, err := of.Watch(ctx, o)
			if o.SendInitialEvents == nil || !apierrors.IsInvalid(err) { // before Kubernetes 1.32; a list follows
				m.tried(ctx, err)
			}
			return w, err
		},
		Trim: func(object any) (any, error) {
			if o, ok := object.(*corev1.ConfigMap); ok {
				return &corev1.ConfigMap{ObjectMeta: trimMeta(o.ObjectMeta), Data: o.Data, BinaryData: keysOf(o.BinaryData)}, nil
			}
			return object, nil
		},
		Apply: func(o runtime.Object) {
			if o := o.(*corev1.ConfigMap); o.Name == m.Name {
				m.apply(true, o.Data, o.BinaryData)
			}
		},
		Remove: func(_, name string) {
			if name == m.Name {
				m.apply(false, nil, nil)
			}
		},
		Known: func() []types.NamespacedName {
			m.mu.Lock()
			defer m.mu.Unlock()
			if !m.exists {
				return nil
			}
			return []types.NamespacedName{m.NamespacedName}
		},
		Read: m.markRead,
	}
}

// tried takes in whether the ConfigMap can be read. An API server that is only away is nothing that proxies need to
// know of once they have rules.
func (m *configMap) tried(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		m.failed, m.reason = "", ""
	case m.failed != "" && apierrors.ReasonForError(err) == m.reason:
		return
	case apierrors.IsForbidden(err):
		m.failed = fmt.Sprintf("the controller may not read ConfigMap %s: %v; give its service account get, list and watch of it, as the chart does for its value namer.configMaps", m, err)
	case !m.read:
		m.failed = fmt.Sprintf("the controller cannot read ConfigMap %s: %v; it tries again", m, err)
	default:
		return
	}
	m.reason = apierrors.ReasonForError(err)
	m.publishAll()
}

// keysOf leaves the values out.
func keysOf(binary map[string][]byte) map[string][]byte {
	keys := maps.Clone(binary)
	for key := range keys {
		keys[key] = nil
	}
	return keys
}

// apply takes in the ConfigMap as it is now.
func (m *configMap) apply(exists bool, text map[string]string, binary map[string][]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exists = exists
	data := make(map[string]keyValue, len(text)+len(binary))
	for key := range binary {
		data[key] = keyValue{binary: true}
	}
	for key, t := range text {
		data[key] = keyValue{text: t}
	}
	for key, v := range data {
		old, known := m.data[key]
		if known && old == v {
			continue
		}
		next := dtab{good: m.parsed[key].good}
		if next.good == nil && m.read && !known {
			next.good = new(string) // there was no such key, which is to have no rules
		}
		if v.binary {
			next.wrong = "is binary data; put the rules into data, as text"
		} else if d, err := naming.ParseDtab(v.text); err != nil {
			next.wrong = "does not parse: " + naming.Brief(err) // and no more of it, which proxies are not to read
		} else {
			exact := d.Exact()
			next.good = &exact
		}
		m.parsed[key] = next
	}
	for key := range m.data {
		if _, ok := data[key]; !ok {
			delete(m.parsed, key)
		}
	}
	m.data = data
	m.publishAll()
}

func (m *configMap) markRead() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.read = true
	m.publishAll()
}

func (m *configMap) publishAll() {
	for key := range m.followed {
		m.publish(key)
	}
}

// publish sets what is known of a key that is followed, if that has changed. It is called with mu held.
func (m *configMap) publish(key string) {
	next := m.rules(key)
	f := m.followed[key]
	old := f.rules.Get()
	if next == nil || next.Equal(old) {
		return
	}
	f.rules.Set(next)
	switch {
	case next.Cause != "" && (old == nil || old.Cause != next.Cause):
		m.log.Warn("rules are not taken", "configMap", next.ConfigMap.String(), "error", next.Cause)
	case next.Cause == "":
		m.log.Info("serve rules", "configMap", next.ConfigMap.String(), "exists", m.exists)
	}
}

// rules returns what is known of a key, nil for nothing.
func (m *configMap) rules(key string) *api.Rules {
	r := &api.Rules{ConfigMap: api.ConfigMap{Namespace: m.Namespace, Name: m.Name, Key: key}}
	if m.read {
		r.Text = new(string)
		if d, ok := m.parsed[key]; ok {
			if r.Text = d.good; d.wrong != "" {
				r.Cause = r.ConfigMap.String() + " " + d.wrong
			}
		}
	}
	if m.failed != "" {
		r.Cause = m.failed
	}
	if r.Text == nil && r.Cause == "" {
		return nil
	}
	return r
}
