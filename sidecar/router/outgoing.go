package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/accesslog"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// identityTimeout is how long a request waits for a proxy that has just started
// to get its certificate.
const identityTimeout = 10 * time.Second

// OutgoingConfig is what an Outgoing router works with.
type OutgoingConfig struct {
	// Label names the router in metrics, logs and reports; empty is "outgoing".
	Label   string
	Binder  *bind.Binder
	Clients *client.Set
	Metrics *telemetry.Metrics
	Policy  *watch.Value[*policy.Policy] // never nil inside
	// Advice is what answers about names advise, where a mesh's is of no use.
	Advice Advice
	// Namespace returns the namespace of the caller at an IP. It may wait a
	// little for news of a caller that is unknown.
	Namespace func(ctx context.Context, source string) (string, error)
	// Identifiers find out what requests are for: the first that can tell counts.
	// None is the same as IdentifyHeaderToken of the Host.
	Identifiers []Identifier
	// Local reports whether the rules count that a request from an IP brings along,
	// in l5d-dtab and l5d-ctx-dtab; nil: always. It is asked only if there are any,
	// and must be quick.
	Local func(source string) bool
	// Identified is closed once the proxy has a certificate to show. Requests
	// wait for it as they wait for names.
	Identified <-chan struct{}
	Grace      time.Duration // for requests under way when the router stops
	// Leaving, if not nil, reports whether another process accepts now:
	// connections end after their next answer. It is asked for each request.
	Leaving func() bool
	// Capture, if not nil, says that connections may have been redirected here. Names
	// are by the Host then: there are no other Identifiers.
	Capture   *Capture
	AccessLog *accesslog.Log // of requests, if the policy names a file; nil for none
	Logger    *slog.Logger
}

// Advice are hints of one line, each empty for that of a mesh, whose names are Services
// that the controller tells of.
type Advice struct {
	NoRoute string // the name leads to nothing
	Late    string // nobody has said in time what it is
}

// Outgoing takes requests from applications and sends each to an endpoint of
// the name it asks for.
type Outgoing struct {
	cfg         OutgoingConfig
	server      server
	services    services
	identifiers []identifier       // nil for the Host
	nowhere     *telemetry.Route   // counts what was not routed
	dropped     prometheus.Counter // requests whose own rules did not count
}

// NewOutgoing returns a router that is not yet serving.
func NewOutgoing(cfg OutgoingConfig) *Outgoing {
	label := cmp.Or(cfg.Label, "outgoing")
	limits := cfg.Binder.Config()
	o := &Outgoing{
		cfg: cfg, server: newServer(label, cfg.Metrics, cfg.Logger), identifiers: newIdentifiers(cfg.Identifiers),
		services: services{
			router: label, policy: cfg.Policy, metrics: cfg.Metrics, limit: limits.Paths, idleTTL: limits.IdleTTL, all: map[[2]string]*service{},
		},
		nowhere: cfg.Metrics.Route(label, "", ""), dropped: cfg.Metrics.OverridesDropped(label),
	}
	o.server.policy, o.server.grace, o.server.leaving = cfg.Policy, cfg.Grace, cfg.Leaving
	o.server.exchange, o.server.access = o.exchange, cfg.AccessLog
	if cfg.Capture != nil {
		o.server.captured = newCaptured(o)
	}
	return o
}

// Serve answers requests on ln until ctx ends and the requests under way are
// done. It is called once.
func (o *Outgoing) Serve(ctx context.Context, ln net.Listener) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { o.services.run(background) })
	defer wg.Wait()
	defer stop()
	return o.server.serve(ctx, ln)
}

func (o *Outgoing) exchange(ctx context.Context, x *exchange) {
	if o.cfg.Policy.Get().Server.ClearContext {
		x.req.Header.Drop(wire.Kind.L5d)
	}
	r := &x.routing
	var problem *Problem
	x.status, problem = o.route(ctx, x, r)
	route := o.nowhere
	if problem != nil {
		x.refuse(problem)
		r.failed = problem.Status != statusGone
	}
	// Names that lead nowhere get no series: anybody can invent them.
	if r.binding != nil && r.client.Known() && (problem == nil || problem.Code != codeNoRoute && problem.Code != codeBindTimeout) {
		route = r.route
	}
	route.Observe(!r.failed, took(x))
}

// took returns how long the request took until now, which is its end.
func took(x *exchange) time.Duration {
	if x.ended == 0 {
		x.ended = clock.Now()
	}
	return time.Duration(x.ended - x.started)
}

// routing is what has been found out about one request.
type routing struct {
	name      *bind.Name
	namespace string // of the caller
	override  naming.Dtab
	upstream  *upstream // through which the request is to leave the mesh; nil for none
	via       *upstream // the same once it does
	straight  bool      // the request goes where its connection was going
	*binding
	due    int64 // when the answer must be there, in the time of package clock; 0: never
	ours   bool  // due is by this proxy's policy, not by the caller's deadline
	failed bool  // as the response classifier has it
	// unbound is since when the request has waited for its name; 0: it has not.
	unbound int64
	// fence is what the addresses of the name must be allowed by; nil: nothing.
	fence *policy.Egress
}

// binding is what a name leads to at present, remembered with the name.
type binding struct {
	id, rest naming.Path
	residual string // rest as it is printed; empty if there is none
	service  *service
	client   *client.Client
	route    *telemetry.Route
}

// bindings are those of one name: one, or one for each leaf of a union.
type bindings []*binding

// maxBindings bounds what a name remembers.
const maxBindings = 16

// route answers the request by a backend, or returns a problem.
func (o *Outgoing) route(ctx context.Context, x *exchange, r *routing) (status int, problem *Problem) {
	if problem := o.ready(ctx); problem != nil {
		return 0, problem
	}
	var err error
	if r.namespace, err = o.cfg.Namespace(ctx, x.s.source); err != nil {
		return 0, &Problem{Status: 503, Code: codeUnknownCaller, Message: err.Error(), Retryable: true,
			Hint: "a pod is known within seconds of its start while the controller runs; try again, and look at the controller if it goes on"}
	}
	if problem := o.admit(x, r); problem != nil {
		return 0, problem
	}
	if problem := o.identify(x, r); problem != nil {
		return 0, problem
	}
	if problem := x.diagnose(); problem != nil {
		return 0, problem
	}
	if x.diagnosis.endsHere() && !x.diagnosis.report {
		return x.reply(""), nil
	}
	if problem := o.bind(ctx, x, r); problem != nil {
		return 0, problem
	}
	if problem := x.limit(&r.service.terms.Load().Service, r); problem != nil {
		return 0, problem
	}
	if x.diagnosis.endsHere() {
		if problem := o.found(ctx, x, r); problem != nil {
			return 0, problem
		}
		return o.end(ctx, x, r)
	}
	if string(x.req.Method) == "CONNECT" {
		return o.connect(ctx, x, r)
	}
	return o.send(ctx, x, r)
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

// admit looks whether the request has not come too far, and what rules of its own
// count.
func (o *Outgoing) admit(x *exchange, r *routing) *Problem {
	if limit := o.cfg.Policy.Get().Server.MaxCallDepth; countVia(&x.req.Header) > limit {
		return &Problem{Status: 400, Code: codeLoop,
			Message: fmt.Sprintf("Maximum number of calls (%d) has been exceeded. Please check for proxy loops.", limit),
			Hint:    "a name leads back to this proxy; look at the dtab"}
	}
	h := &x.req.Header
	if h.HasKind(wire.KindProxyAuthorization) || x.s.chain != nil {
		if problem := o.chain(x, r); problem != nil {
			return problem
		}
	}
	if !h.HasKind(wire.KindDtab) && !h.HasKind(wire.KindCtxDtab) {
		return nil
	}
	if o.cfg.Local != nil && !o.cfg.Local(x.s.source) {
		// Who may write rules may go wherever this proxy may.
		h.Drop(func(k wire.Kind) bool { return k == wire.KindDtab || k == wire.KindCtxDtab })
		o.dropped.Inc()
		return nil
	}
	var problem *Problem
	r.override, problem = overrides(h)
	return problem
}

// overrides collects the request's own rules: those of its context, then the
// user's, which win.
func overrides(h *wire.Header) (naming.Dtab, *Problem) {
	var all naming.Dtab
	for _, kind := range [...]wire.Kind{wire.KindCtxDtab, wire.KindDtab} {
		for i := range h.Fields {
			if h.Fields[i].Kind != kind {
				continue
			}
			var err error
			if all, err = naming.AppendOverride(all, string(h.Fields[i].Value)); err != nil {
				header := headerDtab
				if kind == wire.KindCtxDtab {
					header = headerCtxDtab
				}
				return nil, badDtab(header, err)
			}
		}
	}
	return all, nil
}

// resolve returns what the name means. It waits for that as long as names are waited for,
// if the request has the time.
func (o *Outgoing) resolve(ctx context.Context, x *exchange, r *routing) (naming.BoundTree, *Problem) {
	if !r.name.Known() {
		r.unbound = clock.Now()
		says := o.cfg.Policy.Get().Service(r.name.Service)
		if problem := x.limit(&says, r); problem != nil {
			return naming.BoundTree{}, problem
		}
		timeout := time.Duration(0)
		if r.due > 0 {
			timeout = max(time.Duration(r.due-r.unbound), 1)
		}
		waiting, stop := x.s.patience(ctx, timeout)
		defer stop()
		ctx = waiting
	}
	tree, err := r.name.Resolve(ctx)
	switch {
	case err == nil:
		return tree, nil
	case x.s.gone.Load() && errors.Is(err, context.Canceled):
		return tree, hungUp
	case r.due > 0 && errors.Is(err, context.DeadlineExceeded):
		return tree, x.overdue(r)
	case errors.Is(err, bind.ErrTimeout):
		return tree, o.unbound("resolving name: "+r.name.Service, o.cfg.Advice.Late)
	case errors.Is(err, bind.ErrFull):
		return tree, &Problem{Status: 503, Code: codeBindError, Message: err.Error(), Retryable: true,
			Hint: "try again soon: too many requests, such as those with rules of their own in l5d-dtab, wait for names that are not known yet"}
	}
	return tree, &Problem{Status: 502, Code: codeBindError, Message: err.Error(), Retryable: true,
		Hint: "correct the rule of the dtab that leads to this name"}
}

// bind resolves the name to one replica set for this request.
func (o *Outgoing) bind(ctx context.Context, x *exchange, r *routing) *Problem {
	tree, problem := o.resolve(ctx, x, r)
	if problem != nil {
		return problem
	}
	leaf, ok := tree.Leaf, true
	if tree.Kind != naming.BoundLeaf {
		leaf, ok = tree.Pick(rand.Float64())
	}
	egress := o.cfg.Policy.Get().Egress
	r.fence = nil
	if r.upstream != nil && r.via == nil && (!ok || outside(leaf.ID)) {
		if egress != nil && !x.onwardAllowed(egress, leaf.ID) {
			return notAllowed(string(x.authority()))
		}
		if problem := o.onward(x, r); problem != nil {
			return problem
		}
		return o.bind(ctx, x, r)
	}
	if x.s.original != nil && !r.straight && (!ok || x.itself(leaf.ID)) {
		if host, port := x.destination(); egress != nil && !egress.Host(host, port) && !egress.Address(*x.s.original) {
			return notAllowed(string(x.authority()))
		}
		return o.straight(ctx, x, r)
	}
	if !ok {
		return o.noRoute(r)
	}
	if egress != nil && !r.straight {
		if problem := r.enclose(egress, leaf.ID); problem != nil {
			return problem
		}
	}
	r.binding = o.remember(r, leaf)
	if r.client.Policy().TLS.Enabled {
		return &Problem{Status: 502, Code: codeWantsTLS, Retryable: true,
			Message: "the policy wants TLS towards " + r.client.ID + ", which this version does not speak: it sends nothing there in clear text",
			Hint:    "take tls off the client's policy if clear text will do, or reach the service past this proxy"}
	}
	return nil
}

// unbound is the answer if it took too long to do something that a name needs. hint is
// what to do, if that is not the mesh's.
func (o *Outgoing) unbound(doing, hint string) *Problem {
	return &Problem{Status: 502, Code: codeBindTimeout, Retryable: true,
		Message: "Exceeded " + spell(o.cfg.Binder.Config().Timeout) + " binding timeout while " + doing,
		Hint:    cmp.Or(hint, "check that the proxy reaches the controller: see /admin/ready and the log of the proxy")}
}

// remember returns the binding of a leaf of the name, from memory if it can.
func (o *Outgoing) remember(r *routing, leaf naming.Bound) *binding {
	known, _ := r.name.Memo.Load().(bindings)
	for _, b := range known {
		// An evaluation makes its paths anew, so one address is one meaning.
		if same(b.id, leaf.ID) && same(b.rest, leaf.Residual) && !b.client.Closed() && !b.service.evicted.Load() {
			return b
		}
	}
	id := leaf.ID.String()
	b := &binding{id: leaf.ID, rest: leaf.Residual, client: o.cfg.Clients.Get(id, len(r.override) > 0 || r.straight)}
	if len(leaf.Residual) > 0 {
		b.residual = leaf.Residual.String()
	}
	b.service, b.route = o.services.get(r.namespace, r.name.Service, b.client)
	if len(known) >= maxBindings {
		known = nil
	}
	// Losing a race costs one more look later.
	r.name.Memo.Store(append(known[:len(known):len(known)], b))
	return b
}

// same reports whether two paths are the same memory.
func same(p, q naming.Path) bool { return len(p) == len(q) && (len(p) == 0 || &p[0] == &q[0]) }

func (o *Outgoing) noRoute(r *routing) *Problem {
	b := o.cfg.Binder
	return noRoute(r.name.Service, r.namespace, o.cfg.Advice.NoRoute, rules(b.Stored()), rules(b.Base()), rules(r.override))
}

// spell writes a time limit as Linkerd 1.x does.
func spell(d time.Duration) string {
	if d%time.Second == 0 {
		return strconv.FormatInt(int64(d/time.Second), 10) + ".seconds"
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + ".milliseconds"
}

func rules(d naming.Dtab) []string {
	var all []string
	for _, e := range d {
		all = append(all, e.Prefix.String()+" => "+e.Dst.String())
	}
	return all
}
