package namer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// What a Store says when it refuses; tested with errors.Is.
var (
	ErrNotFound  = errors.New("the dtab namespace does not exist")
	ErrExists    = errors.New("the dtab namespace exists already")
	ErrVersion   = errors.New("the dtab has another version now")
	ErrForbidden = errors.New("the storage forbids it")                  // it will not do this, for anyone or for us
	ErrConflict  = errors.New("others kept writing the dtab: try again") // nothing is written
)

// MaxHistory is how many revisions of a dtab a Store keeps, the present one included.
const MaxHistory = 10

// Versioned is a dtab as it is stored. It is immutable.
type Versioned struct {
	Dtab naming.Dtab
	// Version changes with every write of other rules, and is never used again for the same
	// namespace. It is opaque bytes; empty only if the namespace does not exist.
	Version string
}

// has reports whether there are just these rules already.
func (v *Versioned) has(d naming.Dtab) bool { return v.Version != "" && v.Dtab.Exact() == d.Exact() }

// Change is what somebody writes.
type Change struct {
	Dtab naming.Dtab
	By   string // who, for the history; may be empty
}

// Revision is a dtab that was written once. It is immutable.
type Revision struct {
	Versioned
	Time time.Time
	By   string // who wrote it; empty if that is not known
}

// Store keeps dtabs by namespace. Its methods may be called concurrently; errors other than
// those named, ErrForbidden and ErrConflict are faults of the storage. A write returns the
// version that it made. One of the very rules that are there already makes none in objects and in
// files, leaves no trace in the history and returns the version that there is; Memory makes one.
type Store interface {
	// Names returns the sorted names of all namespaces, live; nil as long as they are not
	// known.
	Names() *watch.Value[[]string]
	// Get returns the dtab, or ErrNotFound.
	Get(ctx context.Context, namespace string) (*Versioned, error)
	// Create stores the dtab of a new namespace, or returns ErrExists.
	Create(ctx context.Context, namespace string, change Change) (version string, err error)
	// Put stores the dtab whether the namespace exists or not.
	Put(ctx context.Context, namespace string, change Change) (version string, err error)
	// Update stores the dtab if the present one has this version, else it returns
	// ErrNotFound or ErrVersion.
	Update(ctx context.Context, namespace string, change Change, version string) (next string, err error)
	// Delete removes the namespace, or returns ErrNotFound.
	Delete(ctx context.Context, namespace, by string) error
	// History returns what was written, the newest first, which is the present dtab, and
	// at most MaxHistory of it; or ErrNotFound.
	History(ctx context.Context, namespace string) ([]Revision, error)
	// Watch returns the dtab, live, until release is called: nil as long as it is not
	// known, and a Versioned without version while the namespace does not exist. It
	// neither blocks nor fails, and release may be called more than once.
	Watch(namespace string) (dtab *watch.Value[*Versioned], release func())
}

// Memory is a Store in memory. What is written is gone with the process: it is for demos,
// for tests, and for meshes whose dtabs are all in the configuration. As with namerd's, the version
// is the number of writes, whatever they write.
type Memory struct {
	names watch.Value[[]string]

	mu      sync.Mutex
	entries map[string]*entry
}

// entry is a namespace that exists, existed or is watched; guarded by Memory.mu. Those that
// existed are kept, so that no version comes back.
type entry struct {
	dtab     watch.Value[*Versioned]
	history  []Revision // newest first
	writes   uint64
	watchers int
}

func (e *entry) exists() bool { return e.dtab.Get().Version != "" }

// NewMemory returns a Memory that holds the dtabs of seed, by namespace and as text. The
// error lists every text that does not parse and every namespace with an invalid name.
func NewMemory(seed map[string]string) (*Memory, error) {
	m := &Memory{entries: map[string]*entry{}}
	var errs []error
	for _, namespace := range slices.Sorted(maps.Keys(seed)) {
		dtab, err := naming.ParseDtab(seed[namespace])
		if err == nil && !rewrite.IsLabel(namespace) {
			err = errNamespace
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read dtab of namespace %q: %w", namespace, err))
			continue
		}
		m.entry(namespace).set(Change{Dtab: dtab})
	}
	m.publishNames()
	return m, errors.Join(errs...)
}

// entry returns the entry of a namespace, making one if there is none.
func (m *Memory) entry(namespace string) *entry {
	e := m.entries[namespace]
	if e == nil {
		e = &entry{}
		e.dtab.Set(&Versioned{})
		m.entries[namespace] = e
	}
	return e
}

// set stores a dtab under the next version: the number of writes, in eight bytes.
func (e *entry) set(c Change) (version string) {
	e.writes++
	v := &Versioned{c.Dtab, versionBytes(e.writes)}
	e.history = append([]Revision{{*v, time.Now(), c.By}}, e.history[:min(len(e.history), MaxHistory-1)]...)
	e.dtab.Set(v)
	return v.Version
}

func (m *Memory) publishNames() {
	names := []string{}
	for name, e := range m.entries {
		if e.exists() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, m.names.Get()) || m.names.Get() == nil {
		m.names.Set(names)
	}
}

// write stores a dtab, if allowed says so of the version of the present one.
func (m *Memory) write(namespace string, c Change, allowed func(version string) error) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := &Versioned{}
	if e := m.entries[namespace]; e != nil {
		now = e.dtab.Get()
	}
	if err := allowed(now.Version); err != nil {
		return "", err
	}
	version := m.entry(namespace).set(c)
	m.publishNames()
	return version, nil
}

// Names implements Store.
func (m *Memory) Names() *watch.Value[[]string] { return &m.names }

// Get implements Store.
func (m *Memory) Get(_ context.Context, namespace string) (*Versioned, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[namespace]; e != nil && e.exists() {
		return e.dtab.Get(), nil
	}
	return nil, ErrNotFound
}

// Create implements Store.
func (m *Memory) Create(_ context.Context, namespace string, c Change) (string, error) {
	return m.write(namespace, c, mayCreate)
}

// Put implements Store.
func (m *Memory) Put(_ context.Context, namespace string, c Change) (string, error) {
	return m.write(namespace, c, func(string) error { return nil })
}

// Update implements Store.
func (m *Memory) Update(_ context.Context, namespace string, c Change, version string) (string, error) {
	return m.write(namespace, c, mayUpdate(version))
}

func mayCreate(now string) error {
	if now != "" {
		return ErrExists
	}
	return nil
}

func mayUpdate(version string) func(now string) error {
	return func(now string) error {
		switch now {
		case "":
			return ErrNotFound
		case version:
			return nil
		}
		return ErrVersion
	}
}

// Delete implements Store.
func (m *Memory) Delete(_ context.Context, namespace, _ string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[namespace]
	if e == nil || !e.exists() {
		return ErrNotFound
	}
	e.history = nil
	e.dtab.Set(&Versioned{})
	m.publishNames()
	return nil
}

// History implements Store.
func (m *Memory) History(_ context.Context, namespace string) ([]Revision, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[namespace]; e != nil && e.exists() {
		return e.history, nil
	}
	return nil, ErrNotFound
}

// Watch implements Store.
func (m *Memory) Watch(namespace string) (*watch.Value[*Versioned], func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry(namespace)
	e.watchers++
	var once sync.Once
	return &e.dtab, func() {
		once.Do(func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if e.watchers--; e.watchers == 0 && e.writes == 0 {
				delete(m.entries, namespace) // it only ever was asked for
			}
		})
	}
}

// errNamespace is said of a namespace whose name could not be that of a Kubernetes object.
var errNamespace = errors.New("invalid name: want lower-case letters, digits and '-', at most 63, beginning and ending with a letter or digit")
