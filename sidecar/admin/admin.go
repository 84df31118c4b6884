// Package admin serves a proxy's administration port: liveness, readiness and
// metrics. It is a slow path and uses net/http.
//
//	h := admin.Handler(admin.Config{Metrics: registry, Ready: func() []string { return nil }})
package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is what the pages show.
type Config struct {
	Metrics prometheus.Gatherer
	// Ready returns what the proxy still waits for; nothing means ready. It is
	// called from many goroutines.
	Ready func() []string
	// Dtab returns the base dtab that the proxy routes by, in canonical form.
	Dtab func() string
	// Policy returns, as what becomes JSON, what holds for a client and a service,
	// or the whole policy if both are empty.
	Policy func(client, service string) any
}

const index = `tulle-proxy

/admin/ping    is the process alive
/admin/ready   does it serve requests
/admin/dtab    the rules it routes by
/admin/policy  how it behaves; ?client=NAME and ?service=NAME for one of them
/metrics       its counters, for Prometheus
`

// Handler returns the pages: /admin/ping, /admin/ready, /admin/dtab,
// /admin/policy, /metrics and an index.
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
		_, _ = fmt.Fprint(w, "ready\n")
	})
	mux.HandleFunc("GET /admin/dtab", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, c.Dtab())
	})
	mux.HandleFunc("GET /admin/policy", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		text, err := json.MarshalIndent(c.Policy(q.Get("client"), q.Get("service")), "", "  ")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(text, '\n'))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{}))
	return mux
}
