package router

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/metadata"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/classify"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/deadline"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/retry"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// maxConnects bounds how many endpoints are tried that cannot be connected to.
// That is not charged to a budget: nothing was sent.
const maxConnects = 26

// sending is the way of one request through the endpoints of its client.
type sending struct {
	o *Outgoing
	x *exchange
	r *routing
	t *terms

	added
	picker   *client.Picker
	tried    []*client.Endpoint
	at       *client.Endpoint // in whose load the present attempt counts
	probe    bool             // the attempt is one of at, and has no verdict yet
	space    [4]*client.Endpoint
	connects int
	requeues int
	wait     time.Duration // before the next retry
	paused   time.Duration // before the last one, at least 1
	seen     bool          // an application may have seen an attempt
	status   int           // of the answer that was relayed
	last     *Problem      // what to answer if nothing else can be done
}

// fate is what becomes of a request after an attempt.
type fate uint8

const (
	answered fate = iota // relayed, or there is nobody to relay it to
	requeue              // it reached no application
	again                // it failed, and may be sent again after a pause
	final                // it failed, and last says how
)

// send offers the request to endpoints until one answers it.
func (o *Outgoing) send(ctx context.Context, x *exchange, r *routing) (int, *Problem) {
	now := x.started
	svc := r.service
	svc.used.Store(now)
	t := svc.terms.Load()
	n := svc.active.Add(1)
	defer svc.active.Add(-1)
	if t.MaxConcurrentRequests > 0 && n > int64(t.MaxConcurrentRequests) {
		return 0, &Problem{Status: 503, Code: codeBusyService, Retryable: true, busy: true,
			Message: "the service " + svc.name + " has as many requests from this proxy as it may",
			Hint:    "send less, add instances, or raise maxConcurrentRequests of the service in the proxy's policy"}
	}
	svc.budget.Deposit(now)
	s := &x.sending
	s.o, s.x, s.r, s.t, s.tried = o, x, r, t, s.space[:0]
	s.added.via = r.via
	s.service, s.added.client, s.residual, s.upgrade = svc.name, r.client.ID, r.residual, x.upgrade()
	if len(r.override) > 0 {
		s.ctxDtab = r.override.String()
	}
	var problem *Problem
	if s.picker, problem = o.picker(ctx, x, r); problem != nil {
		return 0, problem
	}
	if s.picker.Len() == 0 {
		return 0, o.deserted(r)
	}
	if problem := r.fenced(s.picker); problem != nil {
		return 0, problem
	}
	return s.run(ctx, now)
}

// picker returns the endpoints of the client. If they are not known yet it waits for
// them: for what is left of the time in which a name is to be bound, or of the
// request's.
func (o *Outgoing) picker(ctx context.Context, x *exchange, r *routing) (*client.Picker, *Problem) {
	if p := r.client.Current(x.started); p != nil {
		return p, nil
	}
	at, timeout := clock.Now(), o.cfg.Binder.Config().Timeout
	if r.unbound > 0 {
		timeout -= time.Duration(at - r.unbound)
	}
	if r.due > 0 {
		timeout = min(timeout, time.Duration(r.due-at))
	}
	waiting, stop := x.s.patience(ctx, max(timeout, 1))
	defer stop()
	p, err := r.client.Picker(waiting)
	if errors.Is(err, client.ErrClosed) { // it was idle until a moment ago
		r.binding = o.remember(r, naming.Bound{ID: r.id, Residual: r.rest})
		p, err = r.client.Picker(waiting)
	}
	switch {
	case p != nil:
		return p, nil
	case x.s.gone.Load() && errors.Is(err, context.Canceled):
		return nil, hungUp
	}
	if r.due > 0 && clock.Now() >= r.due {
		return nil, x.overdue(r)
	}
	hint := o.cfg.Advice.Late
	if host, _, ok := hostOf(r.id); ok {
		hint = "check that DNS answers for " + host + ": the proxy looks the host up itself"
	}
	return nil, o.unbound("connecting to "+r.client.ID+" for name: "+r.name.Service, hint)
}

// deserted is the answer for a client that has no endpoints.
func (o *Outgoing) deserted(r *routing) *Problem {
	cause := r.client.Cause()
	switch {
	case cause == "":
		return o.noRoute(r)
	case metadata.Refused(cause):
		return forbidden(r.client.ID + ": " + cause)
	}
	return &Problem{Status: 502, Code: codeBindError, Message: r.client.ID + ": " + cause,
		Hint: "name another destination, or send this request past the proxy by no_proxy"}
}

// limit reads the deadline that came with the request and tightens it by the
// service's own. What another service's was is forgotten.
func (x *exchange) limit(t *policy.Service, r *routing) *Problem {
	x.deadline, r.due, r.ours = deadline.Deadline{}, 0, false
	carries := x.req.Header.HasKind(wire.KindCtxDeadline)
	timeout := t.TotalTimeout
	if most := x.s.server.policy.Get().Server.Timeout; most > 0 && (timeout == 0 || most < timeout) {
		timeout = most
	}
	if !carries && timeout == 0 {
		return nil
	}
	wall := x.s.server.wall(x.started)
	if carries {
		for i := range x.req.Header.Fields {
			if f := &x.req.Header.Fields[i]; f.Kind == wire.KindCtxDeadline {
				x.deadline.Merge(f.Value)
			}
		}
		if t.EnforceDeadlines && x.deadline.Known {
			if x.deadline.Expired(wall) {
				return &Problem{Status: 503, Code: codeExpired, Message: "the request's deadline has passed",
					Hint: "give the callers further up more time, or look at what takes so long on the way here"}
			}
			r.due = x.started + int64(x.deadline.Left(wall))
		}
	}
	if timeout > 0 {
		x.deadline.Tighten(wall, timeout)
		if due := x.started + int64(timeout); r.due == 0 || due < r.due {
			r.due, r.ours = due, true
		}
	}
	return nil
}

// run makes attempts until the request's fate is decided.
func (s *sending) run(ctx context.Context, now int64) (int, *Problem) {
	for {
		if ctx.Err() != nil { // the proxy has stopped, and cut its clients off
			s.x.closing = true
			return statusGone, nil
		}
		e, probe, busy := s.r.client.Pick(s.picker, now, s.tried)
		if e == nil && (s.paused > 0 || s.requeues > 0) {
			s.tried = s.tried[:0] // all have had their turn
			e, probe, busy = s.r.client.Pick(s.picker, now, nil)
		}
		switch {
		case e != nil:
		case busy:
			return 0, s.problem(s.busy())
		default:
			return 0, s.problem(s.last)
		}
		s.tried = append(s.tried, e)
		s.probe = probe
		switch s.attempt(ctx, e, now) {
		case answered:
			return s.status, nil
		case final:
			return 0, s.problem(s.last)
		case again:
			s.r.service.metrics.Retries.Inc()
			s.paused = max(s.wait, 1)
			if s.wait > 0 && (!pause(ctx, s.wait) || s.x.s.gone.Load()) {
				s.x.closing = true
				return statusGone, nil
			}
		case requeue:
		}
		now = clock.Now()
		if s.r.due > 0 && now >= s.r.due {
			return 0, s.late(true)
		}
		if next := s.r.client.Current(now); next != nil && next != s.picker {
			s.picker = next // endpoints may have left meanwhile
			if problem := s.r.fenced(next); problem != nil {
				return 0, s.problem(problem)
			}
		}
	}
}

// problem returns p, which must not claim that no application saw the request if
// one may have seen an earlier attempt.
func (s *sending) problem(p *Problem) *Problem {
	if s.seen && p.Retryable {
		known := *p
		known.Retryable = false
		return &known
	}
	return p
}

// attempt offers the request to one endpoint, directly or through the proxy in
// front of it.
func (s *sending) attempt(ctx context.Context, e *client.Endpoint, now int64) fate {
	hop, c, x := e.Value, s.r.client, s.x
	p := c.Policy()
	due, cut := s.r.due, false // cut: by the attempt's own limit
	if p.AttemptTimeout > 0 {
		if d := now + int64(p.AttemptTimeout); due == 0 || d < due {
			due, cut = d, true
		}
	}
	if s.endpoint = ""; hop.Endpoint.Hop != naming.HopNone {
		s.endpoint = hop.Endpoint.Address
	}
	e.Begin(now)
	s.at = e
	defer func() {
		if s.at != nil { // a panic, which session.run recovers from
			s.finish(now, client.Verdict{Unknown: true, Latency: -1})
		}
	}()
	for {
		conn := hop.Pool.Get()
		if conn == nil {
			var err error
			if conn, err = s.connect(ctx, hop, due, p.ConnectTimeout); err != nil {
				return s.unreached(e, err, now, !cut)
			}
		}
		before := x.deadline
		if cut && p.AttemptTimeout > 0 {
			x.deadline.Tighten(x.s.server.wall(now), p.AttemptTimeout)
		}
		err := x.send(hop.Pool, conn, &s.added, due)
		x.deadline = before
		if err != nil && conn.Reused && silent(err) && idempotent(x.method) && x.replayable() {
			continue // the peer had closed this idle connection; another may do
		}
		at := clock.Now()
		if err != nil {
			return s.failed(e, now, at, err, cut)
		}
		return s.judge(e, now, at, conn)
	}
}

// finish ends the attempt for its endpoint.
func (s *sending) finish(now int64, v client.Verdict) {
	s.at.Learn(now, v.Latency)
	s.observe(now, v)
	s.leave()
}

// observe is the part of finish that counts failures.
func (s *sending) observe(now int64, v client.Verdict) {
	probe := s.probe
	s.probe = false
	s.r.client.Observe(s.at, probe, now, v)
}

// leave is the part of finish that says that nothing more comes.
func (s *sending) leave() {
	e := s.at
	s.at = nil
	e.Leave()
}

func (s *sending) connect(ctx context.Context, hop *client.Hop, due int64, timeout time.Duration) (*pool.Conn, error) {
	if due > 0 {
		timeout = min(timeout, max(time.Duration(due-clock.Now()), 0))
	}
	dialing, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := hop.Pool.Open(dialing)
	switch m := s.r.client.Metrics; {
	case err == nil && conn.Reused: // it was waited for
	case err == nil:
		m.Connected.Inc()
	case !errors.Is(err, pool.ErrBusy):
		m.Failed.Inc()
	}
	return conn, err
}

// unreached decides after a connection could not be made. whole says that the
// time for it was the request's, not the attempt's.
func (s *sending) unreached(e *client.Endpoint, err error, began int64, whole bool) fate {
	now := clock.Now()
	busy := errors.Is(err, pool.ErrBusy)
	late := s.r.due > 0 && now >= s.r.due && whole
	blamed := !busy && (!late || s.blame(began, now))
	s.finish(now, client.Verdict{Failed: blamed, Unknown: !blamed, Latency: -1})
	if blamed {
		s.r.client.Refused(e, now)
	}
	switch {
	case late:
		s.last = s.late(true)
		return final
	case busy:
		s.last = s.busy()
	default:
		s.last = s.unreachable(e, err)
	}
	if s.connects++; s.connects >= maxConnects {
		return final
	}
	return requeue
}

// blame reports whether an endpoint is to be blamed that has not answered when the
// time for the request was over: not if it was the caller who had little.
func (s *sending) blame(began, now int64) bool {
	return s.r.ours && 2*(now-began) >= s.r.due-s.x.started
}

func (s *sending) busy() *Problem {
	return &Problem{Status: 503, Code: codeBusyEndpoints, Retryable: true, busy: true,
		Message: "every endpoint of " + s.r.client.ID + " has as many requests or connections from this proxy as it may",
		Hint:    "send less, add instances, or raise maxConcurrentRequests or hostConnectionPool of the client in the proxy's policy"}
}

func (s *sending) unreachable(e *client.Endpoint, err error) *Problem {
	if errors.Is(err, metadata.ErrRefused) {
		return forbidden(err.Error())
	}
	return unreachable(s.service, s.r.client.ID, addresses(s.picker), e.Value.Endpoint.Address, err)
}

// failed decides after a request that got no answer.
func (s *sending) failed(e *client.Endpoint, began, now int64, err error, cut bool) fate {
	var fault *clientFault
	if errors.As(err, &fault) {
		s.finish(now, client.Verdict{Unknown: true, Latency: -1})
		if s.status, s.last = fault.answer(); s.last != nil {
			return final
		}
		return answered
	}
	v := client.Verdict{Failed: true, Latency: -1}
	if errors.Is(err, errLate) {
		v.Latency = now - began
		v.Unknown = !cut && !s.blame(began, now)
		s.last = s.late(!cut)
	} else {
		s.last = &Problem{Status: 502, Code: codeBadAnswer, Message: err.Error(),
			Hint: "the endpoint " + e.Value.Endpoint.Address + " broke off; look at its log"}
	}
	s.finish(now, v)
	s.r.failed, s.seen = true, true
	class := s.t.classifier.Failed(s.x.method)
	if silent(err) && safe(s.x.method) && class == classify.Failure && s.x.replayable() {
		// Whoever asks only to look loses nothing by asking twice.
		return s.requeue(now)
	}
	return s.retry(class, now)
}

// late is the answer when the time is over: the whole request's, or only the
// attempt's.
func (s *sending) late(whole bool) *Problem {
	if whole {
		return s.x.overdue(s.r)
	}
	return &Problem{Status: 503, Code: codeAttemptLate,
		Message: fmt.Sprintf("exceeded %d.milliseconds to %s while waiting for a response for an individual request, excluding retries. Remote Info: Not Available",
			s.r.client.Policy().AttemptTimeout.Milliseconds(), s.service),
		Hint: "look at what takes the service so long, or raise requestAttemptTimeoutMs of the client"}
}

// overdue is the answer when the time for the whole request is over.
func (x *exchange) overdue(r *routing) *Problem {
	limit := time.Duration(r.due - x.started).Milliseconds()
	return &Problem{Status: 503, Code: codeTotalLate,
		Message: fmt.Sprintf("exceeded %d.milliseconds to %s while waiting for a response for the request, including retries (if applicable). Remote Info: Not Available", limit, r.name.Service),
		Hint:    "look at what takes the service so long, or raise totalTimeoutMs of the service or the time that callers give"}
}

// judge decides about the answer whose head is in x.res.
func (s *sending) judge(e *client.Endpoint, began, now int64, conn *pool.Conn) fate {
	x, c, hop := s.x, s.r.client, e.Value
	res := &x.res
	if res.Status == 101 {
		e.Learn(now, now-began)
		s.observe(now, client.Verdict{})
		s.status = x.tunnel(hop.Pool, conn)
		s.leave()
		return answered
	}
	direct := hop.Endpoint.Hop == naming.HopNone
	if res.Status >= 500 {
		if !direct && refused(res) {
			s.last = s.unreachable(e, refusal(res))
			return s.turnedAway(e, now, conn, requeue)
		}
		if nack := classify.Nacked(res.Status, &res.Header); nack != classify.NoNack {
			s.last = &Problem{Status: 502, Code: codeNack, Retryable: nack == classify.Requeue,
				Message: "the endpoint " + hop.Endpoint.Address + " did not process the request",
				Hint:    "it has too much to do: send less, or add instances"}
			if nack == classify.DoNotSend {
				return s.turnedAway(e, now, conn, final)
			}
			return s.turnedAway(e, now, conn, requeue)
		}
	}
	class := x.class(s.t.classifier)
	s.r.failed = class.Failed()
	v := client.Verdict{Failed: s.r.failed, Latency: now - began}
	if v.Failed {
		v.Latency = -1
	} else {
		c.Requeues.Deposit(now)
	}
	e.Learn(now, v.Latency)
	// Whether the answer is good shows at its end; but an endpoint on probation
	// is not to wait for that of a long one.
	early := v.Failed || s.probe
	if early {
		s.observe(now, v)
	}
	c.Reached(e)
	f := s.pass(e, class, now, conn)
	if x.broken {
		s.r.failed = true
		v.Failed = true
	}
	if !early || x.broken {
		s.observe(max(x.ended, now), v)
	}
	s.leave()
	return f
}

// pass passes the answer on to the client, unless another attempt is better.
func (s *sending) pass(e *client.Endpoint, class classify.Class, now int64, conn *pool.Conn) fate {
	x, hop, res := s.x, e.Value, &s.x.res
	if class == classify.Retryable && s.retry(class, now) == again {
		s.seen = true
		x.abandon(hop.Pool, conn)
		return again
	}
	a := answerHead{class: class.Value(), foreign: hop.Endpoint.Hop == naming.HopNone, clear: s.o.cfg.Policy.Get().Server.ClearContext}
	if a.clear && res.Header.HasKind(wire.KindErr) {
		// What a proxy further on says of the mesh is not for this client.
		a.framing, s.status = wire.Fixed, res.Status
		res = detach(res)
		x.abandon(hop.Pool, conn)
		if x.closing = x.closing || !x.up.sent(); x.closing {
			a.connection = "close"
		}
		writeResponse(x.s.w, res, a)
		return answered
	}
	if x.diagnosis.report {
		s.status = x.explain(hop.Pool, conn, a, s.o.report(x, s.r, s.picker, hop.Endpoint.Address))
		return answered
	}
	s.status = x.relay(hop.Pool, conn, a)
	return answered
}

// turnedAway decides after an answer which says that no application saw the
// request.
func (s *sending) turnedAway(e *client.Endpoint, now int64, conn *pool.Conn, f fate) fate {
	s.x.abandon(e.Value.Pool, conn)
	s.finish(now, client.Verdict{Failed: true, Latency: -1})
	s.r.client.Refused(e, now)
	s.r.failed = true
	if f == requeue {
		return s.requeue(now)
	}
	return f
}

// requeue sends the request again at once, if the client's budget allows.
func (s *sending) requeue(now int64) fate {
	b := s.r.client.Requeues
	if !s.x.keeps() || s.x.s.gone.Load() || s.requeues >= retry.MaxRequeues(b.Balance(now)) ||
		!b.TryWithdraw(now) || !s.x.replayable() {
		return final
	}
	s.requeues++
	s.r.client.Metrics.Requeues.Inc()
	return requeue
}

// retry sends the request again after a pause, if the classifier and the
// service's budget allow.
func (s *sending) retry(class classify.Class, now int64) fate {
	if class != classify.Retryable || !s.x.keeps() || s.x.s.gone.Load() {
		return final
	}
	s.wait = s.t.backoff.Next(s.paused, rand.Int64N)
	switch {
	case s.r.due > 0 && now+int64(s.wait) >= s.r.due: // it would come too late
		return final
	case !s.r.service.budget.TryWithdraw(now):
		s.r.service.metrics.Exhausted.Inc()
		return final
	case !s.x.replayable(): // which ends the upload, so it is asked last
		return final
	}
	return again
}

// refused tells a proxy's own answer that the request can be sent again from an
// application's answer.
func refused(res *wire.Response) bool {
	return string(res.Header.Value(wire.KindRetryable)) == "true" &&
		wire.HasPrefixFold(res.Header.Value(wire.KindCode), "T4")
}

// refusal is an incoming proxy's word that the request did not reach the
// application behind it.
func refusal(res *wire.Response) error {
	message := string(res.Header.Value(wire.KindErr))
	if plain, err := url.QueryUnescape(message); err == nil {
		message = plain
	}
	return errors.New("the proxy of the endpoint says: " + message)
}

// safe reports whether the method is defined as safe (RFC 9110, section 9.2.1).
func safe(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// idempotent reports whether the method may be repeated by a proxy (RFC 9110,
// section 9.2.2).
func idempotent(method []byte) bool {
	return safe(method) || string(method) == "PUT" || string(method) == "DELETE"
}
