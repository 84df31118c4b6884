// Package telemetry counts what the proxy does, for Prometheus.
//
// It holds no global state. Whoever counts keeps a handle, bound once for each
// path or client, so that counting is a few atomic adds; binding one takes a
// lock. The labels are a closed list, and the number of services and clients that
// get series of their own is capped: a caller who invents names cannot fill the
// memory. A handle that was asked for as often as it was given back is gone from the
// export; what it counts afterwards is lost.
//
//	m := telemetry.New(prometheus.NewRegistry())
//	h := m.Route("outgoing", "/svc/world", "/#/io.l5d.k8s/default/http/world")
//	h.Observe(true, 3*time.Millisecond)
//	m.ForgetRoute(h)
package telemetry

import (
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// maxSeries is how many routes, services and clients each have their own series;
// later ones share the one that is labelled "other".
const maxSeries = 2000

// Metrics owns the proxy's series. It is safe for concurrent use.
type Metrics struct {
	requests    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	errors      *prometheus.CounterVec
	connections *prometheus.GaugeVec
	active      *prometheus.GaugeVec
	retries     *prometheus.CounterVec
	exhausted   *prometheus.CounterVec
	requeues    *prometheus.CounterVec
	connects    *prometheus.CounterVec
	accrual     *prometheus.CounterVec
	overrides   *prometheus.CounterVec
	captured    *prometheus.CounterVec

	mu       sync.Mutex
	routes   map[[3]string]*Route
	services map[string]*Service
	clients  map[string]*Client
	problems map[[2]string]prometheus.Counter
}

// New registers the proxy's series with reg.
func New(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		requests: counter("tulle_requests_total",
			"Requests answered, by router (outgoing, incoming), service, client and result (success, failure: as the response classifier has it).",
			"router", "service", "client", "result"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tulle_request_duration_seconds",
			Help:    "Time from the end of a request's head to the end of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"router", "service", "client"}),
		errors:      counter("tulle_errors_total", "Answers that the proxy made itself, by router and code.", "router", "code"),
		connections: gauge("tulle_connections", "Open connections from clients, by router.", "router"),
		active:      gauge("tulle_requests_active", "Requests being answered, by router.", "router"),
		retries:     counter("tulle_retries_total", "Attempts after a failure that the response classifier allowed to be sent again.", "service"),
		exhausted:   counter("tulle_retry_budget_exhausted_total", "Failures that would have been sent again, had the budget not been empty.", "service"),
		requeues:    counter("tulle_requeues_total", "Attempts after one that reached no application.", "client"),
		connects:    counter("tulle_connects_total", "Connections made to endpoints, by result (success, failure).", "client", "result"),
		accrual:     counter("tulle_endpoint_transitions_total", "What failure accrual did to endpoints (ejected, probed, revived).", "client", "transition"),
		overrides:   counter("tulle_overrides_dropped_total", "Requests that brought rules of their own (l5d-dtab, l5d-ctx-dtab) and were routed without, because not everybody may.", "router"),
		captured:    counter("tulle_captured_connections_total", "Connections that were redirected to the proxy, by router and by what was found in them (http, whose requests are routed; tls, http2, proxy, other, opaque, which are carried where they were going; refused).", "router", "found"),
		routes:      map[[3]string]*Route{},
		services:    map[string]*Service{},
		clients:     map[string]*Client{},
		problems:    map[[2]string]prometheus.Counter{},
	}
	reg.MustRegister(m.requests, m.duration, m.errors, m.connections, m.active, m.retries, m.exhausted, m.requeues, m.connects, m.accrual, m.overrides, m.captured)
	return m
}

// Route counts the requests of one service that went to one client.
type Route struct {
	success, failure prometheus.Counter
	duration         prometheus.Observer

	key   [3]string
	users int // guarded by Metrics.mu
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
	if m.routes[key] == nil && len(m.routes) >= maxSeries {
		key[1], key[2] = other, other
	}
	if r := m.routes[key]; r != nil {
		r.users++
		return r
	}
	r := &Route{
		key: key, users: 1,
		success:  m.requests.WithLabelValues(key[0], key[1], key[2], "success"),
		failure:  m.requests.WithLabelValues(key[0], key[1], key[2], "failure"),
		duration: m.duration.WithLabelValues(key[0], key[1], key[2]),
	}
	m.routes[key] = r
	return r
}

// ForgetRoute gives a handle back.
func (m *Metrics) ForgetRoute(r *Route) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.users--; r.users > 0 || r.key[1] == other {
		return
	}
	delete(m.routes, r.key)
	m.requests.DeleteLabelValues(r.key[0], r.key[1], r.key[2], "success")
	m.requests.DeleteLabelValues(r.key[0], r.key[1], r.key[2], "failure")
	m.duration.DeleteLabelValues(r.key[:]...)
}

// Service counts what is sent again for one service.
type Service struct {
	Retries   prometheus.Counter
	Exhausted prometheus.Counter // the retry budget was empty

	name  string
	users int // guarded by Metrics.mu
}

// Service returns the handle of a service.
func (m *Metrics) Service(name string) *Service {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = label(name)
	if m.services[name] == nil && len(m.services) >= maxSeries {
		name = other
	}
	s := m.services[name]
	if s == nil {
		s = &Service{Retries: m.retries.WithLabelValues(name), Exhausted: m.exhausted.WithLabelValues(name), name: name}
		m.services[name] = s
	}
	s.users++
	return s
}

// ForgetService gives a handle back.
func (m *Metrics) ForgetService(s *Service) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.users--; s.users > 0 || s.name == other {
		return
	}
	delete(m.services, s.name)
	m.retries.DeleteLabelValues(s.name)
	m.exhausted.DeleteLabelValues(s.name)
}

// Client counts what happens between the proxy and the endpoints of one bound
// name.
type Client struct {
	Requeues          prometheus.Counter
	Connected, Failed prometheus.Counter // connections
	Ejected, Probed   prometheus.Counter // endpoints
	Revived           prometheus.Counter

	id    string
	users int // guarded by Metrics.mu
}

// Client returns the handle of a bound name.
func (m *Metrics) Client(id string) *Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	id = label(id)
	if m.clients[id] == nil && len(m.clients) >= maxSeries {
		id = other
	}
	c := m.clients[id]
	if c == nil {
		c = &Client{
			Requeues:  m.requeues.WithLabelValues(id),
			Connected: m.connects.WithLabelValues(id, "success"),
			Failed:    m.connects.WithLabelValues(id, "failure"),
			Ejected:   m.accrual.WithLabelValues(id, "ejected"),
			Probed:    m.accrual.WithLabelValues(id, "probed"),
			Revived:   m.accrual.WithLabelValues(id, "revived"),
			id:        id,
		}
		m.clients[id] = c
	}
	c.users++
	return c
}

// ForgetClient gives a handle back.
func (m *Metrics) ForgetClient(c *Client) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.users--; c.users > 0 || c.id == other {
		return
	}
	delete(m.clients, c.id)
	of := prometheus.Labels{"client": c.id}
	for _, series := range []*prometheus.CounterVec{m.requeues, m.connects, m.accrual} {
		series.DeletePartialMatch(of)
	}
}

// other labels what has no series of its own.
const other = "other"

// maxLabel bounds the length of a label's value in bytes: more than any name
// that Kubernetes can have.
const maxLabel = 512

// label returns a value that Prometheus takes. Peers and clients write some of
// these, so they may be anything.
func label(value string) string {
	if len(value) > maxLabel || !utf8.ValidString(value) {
		return other
	}
	return value
}

// Error counts an answer that the proxy made itself. code is one of the closed
// list of the router's codes.
func (m *Metrics) Error(router, code string) {
	m.mu.Lock()
	c := m.problems[[2]string{router, code}]
	if c == nil {
		c = m.errors.WithLabelValues(router, code)
		m.problems[[2]string{router, code}] = c
	}
	m.mu.Unlock()
	c.Inc()
}

// OverridesDropped returns the count of a router's requests whose own rules were not
// listened to.
func (m *Metrics) OverridesDropped(router string) prometheus.Counter {
	return m.overrides.WithLabelValues(router)
}

// Captured returns the counter of a router's redirected connections in which
// something was found.
func (m *Metrics) Captured(router, found string) prometheus.Counter {
	return m.captured.WithLabelValues(router, found)
}

// Connections returns the gauge of a router's open client connections.
func (m *Metrics) Connections(router string) prometheus.Gauge {
	return m.connections.WithLabelValues(router)
}

// Active returns the gauge of a router's requests that are being answered.
func (m *Metrics) Active(router string) prometheus.Gauge {
	return m.active.WithLabelValues(router)
}
