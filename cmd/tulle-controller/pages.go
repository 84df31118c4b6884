package main

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/setting"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/kubernetes"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/admin"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// followed is the index, with a ledger of what proxies follow.
type followed struct {
	*kubernetes.Index
	ledger *registry.Ledger
}

// Replicas implements namer.Source.
func (f followed) Replicas(id naming.Path) (*watch.Value[naming.Replicas], func()) {
	return f.ledger.Follow(id.String(), func(string) (*watch.Value[naming.Replicas], func()) { return f.Index.Replicas(id) })
}

// pages returns namerd's pages. They are for whoever may forward a port to the controller.
func (c *controller) pages(names namer.Registry, ledger *registry.Ledger, seen *namer.Seen, metrics prometheus.Gatherer, level *slog.LevelVar) http.Handler {
	said := setting.Values(c.cfg) // none of it is secret: keys are named by their files
	return admin.Handler(admin.Config{
		Store: c.store, Registry: names, Followed: ledger.Followed, BoundNames: c.index.Names, Names: seen.Names,
		Configuration: func() any { return said }, Metrics: metrics, Ready: c.waiting, Level: level, Logger: c.log,
	})
}
