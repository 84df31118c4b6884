package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

const (
	// connectTimeout bounds a TCP connection and its TLS handshake.
	connectTimeout = 3 * time.Second
	// maxAttempts bounds how many endpoints a request is offered to.
	maxAttempts = 5
	// identityTimeout is how long a request waits for a proxy that has just
	// started to get its certificate.
	identityTimeout = 10 * time.Second
	// avoidFor is how long an endpoint that could not be reached is passed over.
	avoidFor = 2 * time.Second
)

// OutgoingConfig is what an Outgoing router works with.
type OutgoingConfig struct {
	Binder  *bind.Binder
	Clients *client.Set
	Metrics *telemetry.Metrics
	// Namespace returns the namespace of the caller at an IP. It may wait a
	// little for news of a caller that is unknown.
	Namespace func(ctx context.Context, source string) (string, error)
	// Identified is closed once the proxy has a certificate to show. Requests
	// wait for it as they wait for names.
	Identified <-chan struct{}
	Grace      time.Duration // for requests under way when the router stops
	// Leaving, if not nil, reports whether another process accepts now:
	// connections end after their next answer. It is asked for each request.
	Leaving func() bool
	Logger  *slog.Logger
}

// Outgoing takes requests from applications and sends each to an endpoint of
// the name it asks for.
type Outgoing struct {
	cfg    OutgoingConfig
	server server
	base   time.Time // now counts from here
	// routes are the handles of (service, client), so that counting needs no
	// label lookup; copied on write.
	routes atomic.Pointer[map[[2]string]*telemetry.Route]
}

// NewOutgoing returns a router that is not yet serving.
func NewOutgoing(cfg OutgoingConfig) *Outgoing {
	o := &Outgoing{cfg: cfg, base: time.Now()}
	o.routes.Store(&map[[2]string]*telemetry.Route{})
	o.server = server{
		name:        "outgoing",
		log:         cfg.Logger,
		connections: cfg.Metrics.Connections("outgoing"),
		begin:       func(context.Context, *session) error { return nil },
		exchange:    o.exchange,
		refuse:      o.refuse,
		leaving:     cfg.Leaving,
	}
	return o
}

// Serve answers requests on ln until ctx ends and the requests under way are
// done. It is called once.
func (o *Outgoing) Serve(ctx context.Context, ln net.Listener) error {
	return o.server.serve(ctx, ln, o.cfg.Grace)
}

// now is monotonic, in nanoseconds.
func (o *Outgoing) now() int64 { return int64(time.Since(o.base)) }

// refuse answers with a problem of the proxy's own.
func (o *Outgoing) refuse(s *session, p *Problem) {
	o.cfg.Metrics.Error("outgoing", p.Code)
	answer(s, p)
}

// answer writes a problem as the answer to the current request.
func answer(s *session, p *Problem) {
	if s.req.Body != wire.NoBody && s.held == nil {
		s.closing = true // its body has not been read
	}
	writeProblem(s.w, p, s.head, s.closing)
}

func (o *Outgoing) exchange(ctx context.Context, s *session) {
	service, id, status, problem := o.route(ctx, s)
	if problem != nil {
		o.refuse(s, problem)
		status = problem.Status
		if problem.Code == codeNoRoute {
			service, id = "", "" // names that lead nowhere get no series: anybody can invent them
		}
	}
	o.count(s, service, id, status)
}

// route answers the request by a backend, or returns a problem.
func (o *Outgoing) route(ctx context.Context, s *session) (service, id string, status int, problem *Problem) {
	if problem := o.ready(ctx); problem != nil {
		return "", "", 0, problem
	}
	namespace, err := o.cfg.Namespace(ctx, s.source)
	if err != nil {
		return "", "", 0, &Problem{Status: 503, Code: codeUnknownCaller, Message: err.Error(), Retryable: true,
			Hint: "a pod is known within seconds of its start while the controller runs; try again, and look at the controller if it goes on"}
	}
	name, override, problem := o.identify(s, namespace)
	if problem != nil {
		return "", "", 0, problem
	}
	r := routing{name: name, namespace: namespace, override: override}
	bound, problem := o.bind(ctx, &r)
	if problem != nil {
		return name.Service, "", 0, problem
	}
	r.id = bound.ID.String()
	status, problem = o.send(ctx, s, &r)
	return name.Service, r.id, status, problem
}

// routing is what has been found out about one request.
type routing struct {
	name      *bind.Name
	namespace string // of the caller
	override  naming.Dtab
	id        string // of the client it is bound to
}

// ready waits until the proxy can prove itself to others.
func (o *Outgoing) ready(ctx context.Context) *Problem {
	select {
	case <-o.cfg.Identified:
		return nil
	default:
	}
	timer := time.NewTimer(identityTimeout)
	defer timer.Stop()
	select {
	case <-o.cfg.Identified:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return &Problem{Status: 503, Code: codeNoIdentity, Message: "this proxy has no certificate yet", Retryable: true,
		Hint: "check that the controller runs and that cert-manager signs its requests: see the log of the proxy and of the controller"}
}

// identify finds out whom the request is for, and under which rules of its own.
func (o *Outgoing) identify(s *session, namespace string) (*bind.Name, naming.Dtab, *Problem) {
	switch {
	case string(s.req.Method) == "CONNECT":
		return nil, nil, &Problem{Status: 501, Code: codeConnect, Message: "this proxy does not serve CONNECT",
			Hint: "use http_proxy for http:// URLs only, and leave https_proxy unset"}
	case len(s.req.Authority) == 0:
		return nil, nil, &Problem{Status: 400, Code: codeNoHost, Message: "Unknown destination: Host header is absent",
			Hint: "name the service in the Host header or in the URL"}
	case countVia(&s.req.Header) >= maxVia:
		return nil, nil, &Problem{Status: 400, Code: codeLoop,
			Message: fmt.Sprintf("Maximum number of calls (%d) has been exceeded. Please check for proxy loops.", maxVia),
			Hint:    "a name leads back to this proxy; look at the dtab"}
	}
	override, problem := overrides(&s.req.Header)
	if problem != nil {
		return nil, nil, problem
	}
	return o.cfg.Binder.Name(namespace, s.req.Authority, override), override, nil
}

// overrides collects the request's own rules: those of its context, then the
// user's, which win.
func overrides(h *wire.Header) (naming.Dtab, *Problem) {
	var all naming.Dtab
	for _, header := range [...]string{headerCtxDtab, headerDtab} {
		for i := range h.Fields {
			if !wire.EqualFold(h.Fields[i].Name, header) {
				continue
			}
			var err error
			if all, err = naming.AppendOverride(all, string(h.Fields[i].Value)); err != nil {
				return nil, badDtab(header, err)
			}
		}
	}
	return all, nil
}

// bind resolves the name to one replica set for this request.
func (o *Outgoing) bind(ctx context.Context, r *routing) (naming.Bound, *Problem) {
	tree, err := r.name.Resolve(ctx)
	switch {
	case errors.Is(err, bind.ErrTimeout):
		return naming.Bound{}, &Problem{Status: 502, Code: codeBindTimeout, Retryable: true,
			Message: "Exceeded 10.seconds binding timeout while resolving name: " + r.name.Service,
			Hint:    "check that the proxy reaches the controller: see /admin/ready and the log of the proxy"}
	case err != nil:
		return naming.Bound{}, &Problem{Status: 502, Code: codeBindError, Message: err.Error(), Retryable: true,
			Hint: "correct the rule of the dtab that leads to this name"}
	}
	if leaf, ok := tree.Pick(rand.Float64()); ok {
		return leaf, nil
	}
	return naming.Bound{}, o.noRoute(r)
}

func (o *Outgoing) noRoute(r *routing) *Problem {
	return noRoute(r.name.Service, r.namespace, rules(o.cfg.Binder.Base()), rules(r.override))
}

func rules(d naming.Dtab) []string {
	var all []string
	for _, e := range d {
		all = append(all, e.Prefix.String()+" => "+e.Dst.String())
	}
	return all
}

// send offers the request to endpoints until one takes it.
func (o *Outgoing) send(ctx context.Context, s *session, r *routing) (int, *Problem) {
	name, id := r.name, r.id
	c := o.cfg.Clients.Get(id)
	waiting, cancel := context.WithTimeoutCause(ctx, connectTimeout, bind.ErrTimeout)
	picker, err := c.Picker(waiting)
	cancel()
	if err != nil || picker.Len() == 0 {
		if cause := c.Cause(); cause != "" {
			return 0, &Problem{Status: 502, Code: codeBindError, Message: id + ": " + cause,
				Hint: "name another destination, or send this request past the proxy by no_proxy"}
		}
		return 0, o.noRoute(r)
	}
	a := added{service: name.Service, client: id}
	if len(r.override) > 0 {
		a.ctxDtab = r.override.String()
	}
	var space [maxAttempts]*client.Endpoint
	tried := space[:0]
	var last error
	for len(tried) < maxAttempts {
		e := picker.Pick(o.now(), tried)
		if e == nil {
			break
		}
		if len(tried) > 0 {
			o.cfg.Metrics.Retry()
		}
		tried = append(tried, e)
		out := o.offer(ctx, s, e, &a)
		if out.err == nil {
			return out.status, nil
		}
		o.cfg.Logger.Debug("endpoint failed", "service", name.Service, "endpoint", e.Value.Endpoint.Address,
			"hop", e.Value.Endpoint.Hop, "error", out.err, "again", out.again)
		last = out.err
		var fault *clientFault
		var refused *refusal
		switch {
		case errors.As(out.err, &fault):
			return fault.answer()
		case out.again:
		case errors.As(out.err, &refused):
			p := unreachable(name.Service, id, addresses(picker), e.Value.Endpoint.Address, last)
			p.Hint = "the request's body was on its way already, so it was not sent elsewhere; " + p.Hint
			return 0, p
		default:
			return 0, &Problem{Status: 502, Code: codeBadAnswer, Message: out.err.Error(),
				Hint: "the endpoint " + e.Value.Endpoint.Address + " broke off; look at its log"}
		}
	}
	return 0, unreachable(name.Service, id, addresses(picker), tried[len(tried)-1].Value.Endpoint.Address, last)
}

func addresses(p *client.Picker) []string {
	all := make([]string, 0, p.Len())
	for _, e := range p.All() {
		all = append(all, e.Value.Endpoint.Address)
	}
	return all
}

// offer sends the request to one endpoint, directly or through the proxy in
// front of it.
func (o *Outgoing) offer(ctx context.Context, s *session, e *client.Endpoint, a *added) outcome {
	began, latency := o.now(), int64(-1)
	e.Begin(began)
	defer func() { e.End(o.now(), latency) }()
	hop := &e.Value
	a.endpoint = ""
	var skip func(*wire.Response) error
	if hop.Endpoint.Hop != naming.HopNone {
		a.endpoint = hop.Endpoint.Address
		skip = proxyRefused
	}
	for {
		dialing, cancel := context.WithTimeout(ctx, connectTimeout)
		conn, err := hop.Pool.Get(dialing)
		cancel()
		if err != nil {
			e.CloseUntil(o.now() + int64(avoidFor))
			return outcome{err: err, again: true}
		}
		reused := conn.Reused
		out := s.attempt(hop.Pool, conn, a, skip)
		refused := errors.As(out.err, new(*refusal))
		switch {
		case out.err == nil:
			e.Open()
			latency = o.now() - began
			return out
		case out.again && reused && !refused:
			continue // the peer had closed this idle connection; another may do
		case out.again || refused:
			// An endpoint that fails fast has little load and would be picked
			// again and again.
			e.CloseUntil(o.now() + int64(avoidFor))
		}
		return out
	}
}

// refusal is an incoming proxy's word that the request did not reach the
// application behind it.
type refusal struct{ message string }

func (r *refusal) Error() string { return "the proxy of the endpoint says: " + r.message }

// proxyRefused tells a proxy's own answer that the request can be sent again
// from an application's answer.
func proxyRefused(res *wire.Response) error {
	if res.Status < 500 || string(res.Header.Get(headerRetryable)) != "true" ||
		!wire.HasPrefixFold(res.Header.Get(headerCode), "T4") {
		return nil
	}
	message := string(res.Header.Get(headerErr))
	if plain, err := url.QueryUnescape(message); err == nil {
		message = plain
	}
	return &refusal{message}
}

func (o *Outgoing) count(s *session, service, id string, status int) {
	key := [2]string{service, id}
	routes := o.routes.Load()
	route := (*routes)[key]
	if route == nil {
		route = o.cfg.Metrics.Route("outgoing", service, id)
		if len(*routes) < maxRoutes {
			next := maps.Clone(*routes)
			next[key] = route
			// Losing a race costs one more lookup later.
			o.routes.CompareAndSwap(routes, &next)
		}
	}
	route.Observe(status < 500, time.Since(s.started))
}

// maxRoutes bounds the handles that are kept.
const maxRoutes = 1000
