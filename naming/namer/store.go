package namer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// What a Store says when it refuses; tested with errors.Is.
var (
	ErrNotFound = errors.New("the dtab namespace does not exist")
	ErrExists   = errors.New("the dtab namespace exists already")
	ErrVersion  = errors.New("the dtab has another version now")
)

// Versioned is a dtab as it is stored. It is immutable.
type Versioned struct {
	Dtab naming.Dtab
	// Version changes with every write and is never used again for the same namespace. It
	// is opaque bytes; empty only if the namespace does not exist.
	Version string
}

// Store keeps dtabs by namespace. Its methods may be called concurrently; errors other than
// those named are faults of the storage.
type Store interface {
	// Names returns the sorted names of all namespaces, live; nil as long as they are not
	// known.
	Names() *watch.Value[[]string]
	// Get returns the dtab, or ErrNotFound.
	Get(ctx context.Context, namespace string) (*Versioned, error)
	// Create stores the dtab of a new namespace, or returns ErrExists.
	Create(ctx context.Context, namespace string, dtab naming.Dtab) error
	// Put stores the dtab whether the namespace exists or not.
	Put(ctx context.Context, namespace string, dtab naming.Dtab) error
	// Update stores the dtab if the present one has this version, else it returns
	// ErrNotFound or ErrVersion.
	Update(ctx context.Context, namespace string, dtab naming.Dtab, version string) error
	// Delete removes the namespace, or returns ErrNotFound.
	Delete(ctx context.Context, namespace string) error
	// Watch returns the dtab, live, until release is called: nil as long as it is not
	// known, and a Versioned without version while the namespace does not exist. It
	// neither blocks nor fails, and release may be called more than once.
	Watch(namespace string) (dtab *watch.Value[*Versioned], release func())
}

// Memory is a Store in memory. What is written is gone with the process: it is for demos,
// for tests, and for meshes whose dtabs are all in the configuration.
type Memory struct {
	names watch.Value[[]string]

	mu      sync.Mutex
	entries map[string]*entry
}

// entry is a namespace that exists, existed or is watched; guarded by Memory.mu. Those that
// existed are kept, so that no version comes back.
type entry struct {
	dtab     watch.Value[*Versioned]
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
		m.entry(namespace).set(dtab)
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
func (e *entry) set(dtab naming.Dtab) {
	e.writes++
	e.dtab.Set(&Versioned{dtab, string(binary.BigEndian.AppendUint64(nil, e.writes))})
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

// write changes one namespace, if allowed says so of its present dtab.
func (m *Memory) write(namespace string, allowed func(*Versioned) error, change func(*entry)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := &Versioned{}
	if e := m.entries[namespace]; e != nil {
		now = e.dtab.Get()
	}
	if err := allowed(now); err != nil {
		return err
	}
	change(m.entry(namespace))
	m.publishNames()
	return nil
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
func (m *Memory) Create(_ context.Context, namespace string, dtab naming.Dtab) error {
	return m.write(namespace, func(v *Versioned) error {
		if v.Version != "" {
			return ErrExists
		}
		return nil
	}, func(e *entry) { e.set(dtab) })
}

// Put implements Store.
func (m *Memory) Put(_ context.Context, namespace string, dtab naming.Dtab) error {
	return m.write(namespace, func(*Versioned) error { return nil }, func(e *entry) { e.set(dtab) })
}

// Update implements Store.
func (m *Memory) Update(_ context.Context, namespace string, dtab naming.Dtab, version string) error {
	return m.write(namespace, func(v *Versioned) error {
		switch v.Version {
		case "":
			return ErrNotFound
		case version:
			return nil
		}
		return ErrVersion
	}, func(e *entry) { e.set(dtab) })
}

// Delete implements Store.
func (m *Memory) Delete(_ context.Context, namespace string) error {
	return m.write(namespace, func(v *Versioned) error {
		if v.Version == "" {
			return ErrNotFound
		}
		return nil
	}, func(e *entry) { e.dtab.Set(&Versioned{}) })
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
