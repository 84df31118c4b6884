// Package admin serves a proxy's administration port: liveness, readiness,
// metrics, and what the proxy knows of names. It is a slow path and uses net/http.
//
// It keeps nothing: each page asks a function of its Config. Pages that Linkerd
// 1.x has answer as there, and ours are under /admin.
//
// Invariant: nothing that a page does changes how requests are served.
//
//	h := admin.Handler(admin.Config{Metrics: registry, Ready: func() []string { return nil }, …})
package admin

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tulle-mesh/tulle/naming/delegator"
)

// Config is what the pages show. All functions are called from many goroutines.
type Config struct {
	Metrics prometheus.Gatherer
	// Ready returns what the proxy still waits for; nothing means ready.
	Ready func() []string
	// Note returns what a ready proxy does without at present; empty for nothing.
	Note func() string
	// Dtab returns the base dtab that the router with this label routes by, in
	// canonical form; if there is no such router, that of all.
	Dtab func(router string) string
	// Policy returns, as what becomes JSON, what holds for a client and a service
	// of a router, or the whole policy if both are empty.
	Policy func(router, client, service string) any
	// Delegate returns, as JSON, every step of what a name means. An error is
	// a NoRouter, an Elsewhere, that of ctx, or one for the reader.
	Delegate func(context.Context, Question) ([]byte, error)
	// NamerState returns what is known of names. The caller may change it.
	NamerState func() NamerState
	// Configuration returns, as what becomes JSON, what the proxy was told.
	Configuration func() any
}

const index = `tulle-proxy

/admin/ping        is the process alive
/admin/ready       does it serve requests, and what does it do without
/admin/dtab        the rules it routes by; ?router=LABEL for those of one
/admin/policy      how it behaves; ?router=LABEL, ?client=NAME and ?service=NAME for one of them
/metrics           its counters, for Prometheus
/config.json       what it was told
/delegator         a page to ask that on
/delegator.json    what a name means, step by step; ?path=/svc/NAME, &dtab=RULES, &router=LABEL, &caller=NAMESPACE
/bound-names.json  the names it knows
/namer_state       the same with their endpoints; /namer_state/PREFIX.json for those of one namer
`

// Handler returns the pages that the index names.
func Handler(c Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, index)
	})
	mux.HandleFunc("GET /admin/ping", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, "pong")
	})
	mux.HandleFunc("GET /admin/ready", func(w http.ResponseWriter, _ *http.Request) {
		if waiting := c.Ready(); len(waiting) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintf(w, "not ready: waiting for %s\n", strings.Join(waiting, " and "))
			return
		}
		if note := c.Note(); note != "" {
			_, _ = fmt.Fprintf(w, "ready; %s\n", note)
			return
		}
		_, _ = fmt.Fprint(w, "ready\n")
	})
	mux.HandleFunc("GET /admin/dtab", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintln(w, c.Dtab(r.URL.Query().Get("router")))
	})
	mux.HandleFunc("GET /admin/policy", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		delegator.Show(w, c.Policy(q.Get("router"), q.Get("client"), q.Get("service")))
	})
	mux.HandleFunc("GET /config.json", func(w http.ResponseWriter, _ *http.Request) { delegator.Show(w, c.Configuration()) })
	mux.HandleFunc("GET /delegator", delegator.File)
	mux.HandleFunc("GET /delegator.css", delegator.File)
	mux.HandleFunc("GET /delegator.js", delegator.File)
	mux.Handle("/delegator.json", delegator.Answer(c.Delegate))
	mux.HandleFunc("GET /bound-names.json", boundNames(c))
	mux.HandleFunc("GET /namer_state", namerState(c))
	mux.HandleFunc("GET /namer_state/{prefix...}", namerState(c))
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{}))
	return mux
}
