package namer_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
)

// ill is a store that fails to create as often as it is told, and that knows no names before it is read.
type ill struct {
	namer.Store
	failures int
	names    watch.Value[[]string]
}

func (s *ill) Names() *watch.Value[[]string] { return &s.names }

func (s *ill) Create(ctx context.Context, namespace string, change namer.Change) (string, error) {
	if s.failures--; s.failures >= 0 {
		return "", errors.New("etcd is away")
	}
	return s.Store.Create(ctx, namespace, change)
}

func TestCountedErrors(t *testing.T) {
	store := &ill{Store: memory(t, map[string]string{"web": "/svc => /a"}), failures: 2}
	registry := prometheus.NewRegistry()
	c, err := namer.NewCounted(store, registry)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	dtab, err := naming.ParseDtab("/svc => /b")
	if err != nil {
		t.Fatal(err)
	}
	change := namer.Change{Dtab: dtab}
	for range 3 {
		_, _ = c.Create(ctx, "new", change)
	}
	for _, do := range []func() error{
		func() error { _, err := c.Create(ctx, "web", change); return err },
		func() error { _, err := c.Update(ctx, "web", change, "stale"); return err },
		func() error { _, err := c.Update(ctx, "none", change, "stale"); return err },
		func() error { _, err := c.Get(ctx, "none"); return err },
		func() error { _, err := c.History(ctx, "none"); return err },
		func() error { return c.Delete(ctx, "none", "") },
	} {
		if do() == nil {
			t.Error("no error")
		}
	}
	if _, err := c.Put(ctx, "web", change); err != nil {
		t.Error(err)
	}
	want := `# HELP tulle_namer_dtabs Dtab namespaces that there are; 0, too, while that is not known.
# TYPE tulle_namer_dtabs gauge
tulle_namer_dtabs 0
# HELP tulle_namer_store_errors_total Reads and writes of dtabs that the storage failed at; what it refused, such as a stale version, is none.
# TYPE tulle_namer_store_errors_total counter
tulle_namer_store_errors_total{operation="create"} 2
tulle_namer_store_errors_total{operation="delete"} 0
tulle_namer_store_errors_total{operation="get"} 0
tulle_namer_store_errors_total{operation="history"} 0
tulle_namer_store_errors_total{operation="put"} 0
tulle_namer_store_errors_total{operation="update"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	store.names.Set([]string{"new", "web"})
	if err := testutil.GatherAndCompare(registry, strings.NewReader(strings.Replace(want, "dtabs 0", "dtabs 2", 1))); err != nil {
		t.Error(err)
	}
}
