// Package telemetry counts what the proxy does, for Prometheus.
//
// It holds no global state. Routers keep the handles they count through, which
// is a few atomic adds; looking one up takes a lock. The labels are a
// closed list, and the number of services and clients that get series of their
// own is capped: a caller who invents names cannot fill the memory.
//
//	m := telemetry.New(prometheus.NewRegistry())
//	h := m.Route("outgoing", "/svc/world", "/#/io.l5d.k8s/default/http/world")
//	h.Observe(true, 3*time.Millisecond)
package telemetry

import (
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// maxRoutes is how many pairs of service and client have their own series;
// later ones share the service and client "other".
const maxRoutes = 2000

// Metrics owns the proxy's series. It is safe for concurrent use.
type Metrics struct {
	requests    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	errors      *prometheus.CounterVec
	connections *prometheus.GaugeVec
	retries     prometheus.Counter

	mu     sync.Mutex
	routes map[[3]string]*Route
}

// New registers the proxy's series with reg.
func New(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_requests_total",
			Help: "Requests answered, by router (outgoing, incoming), service, client and result (success, failure: a 5xx).",
		}, []string{"router", "service", "client", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tulle_request_duration_seconds",
			Help:    "Time from the end of a request's head to the end of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"router", "service", "client"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_errors_total",
			Help: "Answers that the proxy made itself, by router and code.",
		}, []string{"router", "code"}),
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tulle_connections",
			Help: "Open connections from clients, by router.",
		}, []string{"router"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tulle_retries_total",
			Help: "Attempts after the first, made because an endpoint could not be reached.",
		}),
		routes: map[[3]string]*Route{},
	}
	reg.MustRegister(m.requests, m.duration, m.errors, m.connections, m.retries)
	return m
}

// Route counts the requests of one service that went to one client.
type Route struct {
	success, failure prometheus.Counter
	duration         prometheus.Observer
}

// Observe counts one answered request.
func (r *Route) Observe(success bool, d time.Duration) {
	if success {
		r.success.Inc()
	} else {
		r.failure.Inc()
	}
	r.duration.Observe(d.Seconds())
}

// Route returns the handle of a router, service and client.
func (m *Metrics) Route(router, service, client string) *Route {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [3]string{router, label(service), label(client)}
	if r := m.routes[key]; r != nil {
		return r
	}
	if len(m.routes) >= maxRoutes {
		key[1], key[2] = "other", "other"
		if r := m.routes[key]; r != nil {
			return r
		}
	}
	r := &Route{
		success:  m.requests.WithLabelValues(key[0], key[1], key[2], "success"),
		failure:  m.requests.WithLabelValues(key[0], key[1], key[2], "failure"),
		duration: m.duration.WithLabelValues(key[0], key[1], key[2]),
	}
	m.routes[key] = r
	return r
}

// maxLabel bounds the length of a label's value in bytes: more than any name
// that Kubernetes can have.
const maxLabel = 512

// label returns a value that Prometheus takes. Peers and clients write some of
// these, so they may be anything.
func label(value string) string {
	if len(value) > maxLabel || !utf8.ValidString(value) {
		return "other"
	}
	return value
}

// Error counts an answer that the proxy made itself. code is one of the closed
// list of the router's codes.
func (m *Metrics) Error(router, code string) { m.errors.WithLabelValues(router, code).Inc() }

// Connections returns the gauge of a router's open client connections.
func (m *Metrics) Connections(router string) prometheus.Gauge {
	return m.connections.WithLabelValues(router)
}

// Retry counts one more attempt.
func (m *Metrics) Retry() { m.retries.Inc() }
