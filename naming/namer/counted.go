package namer

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type counted struct {
	Store
	errors *prometheus.CounterVec
}

// NewCounted returns a Store that does what store does, and counts what that fails at, in contrast to what it refuses.
// Its metrics, tulle_namer_store_errors_total and tulle_namer_dtabs, are those of a process: r takes them once.
func NewCounted(store Store, r prometheus.Registerer) (Store, error) {
	c := &counted{store, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tulle_namer_store_errors_total",
		Help: "Reads and writes of dtabs that the storage failed at; what it refused, such as a stale version, is none.",
	}, []string{"operation"})}
	for _, operation := range []string{"get", "create", "put", "update", "delete", "history"} {
		c.errors.WithLabelValues(operation) // So that a rate works from the first event.
	}
	return c, errors.Join(r.Register(c.errors), r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tulle_namer_dtabs",
		Help: "Dtab namespaces that there are; 0, too, while that is not known.",
	}, func() float64 { return float64(len(store.Names().Get())) })))
}

func (c *counted) count(operation string, err error) {
	for _, refused := range []error{nil, ErrNotFound, ErrExists, ErrVersion, ErrConflict, context.Canceled} {
		if errors.Is(err, refused) {
			return
		}
	}
	c.errors.WithLabelValues(operation).Inc()
}

// Get implements Store.
func (c *counted) Get(ctx context.Context, namespace string) (*Versioned, error) {
	v, err := c.Store.Get(ctx, namespace)
	c.count("get", err)
	return v, err
}

// Create implements Store.
func (c *counted) Create(ctx context.Context, namespace string, change Change) (string, error) {
	version, err := c.Store.Create(ctx, namespace, change)
	c.count("create", err)
	return version, err
}

// Put implements Store.
func (c *counted) Put(ctx context.Context, namespace string, change Change) (string, error) {
	version, err := c.Store.Put(ctx, namespace, change)
	c.count("put", err)
	return version, err
}

// Update implements Store.
func (c *counted) Update(ctx context.Context, namespace string, change Change, version string) (string, error) {
	next, err := c.Store.Update(ctx, namespace, change, version)
	c.count("update", err)
	return next, err
}

// Delete implements Store.
func (c *counted) Delete(ctx context.Context, namespace, by string) error {
	err := c.Store.Delete(ctx, namespace, by)
	c.count("delete", err)
	return err
}

// History implements Store.
func (c *counted) History(ctx context.Context, namespace string) ([]Revision, error) {
	past, err := c.Store.History(ctx, namespace)
	c.count("history", err)
	return past, err
}
