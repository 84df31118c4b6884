package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/deadline"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/tunnel"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// sniffFor is how long the first bytes inside a tunnel are waited for. In some
// protocols the server speaks first; then it takes that much longer.
const sniffFor = 500 * time.Millisecond

// upgrade returns the protocol that the request may switch to, or nil. HTTP/2 is
// not one: whoever speaks it past the proxy's parser could send requests that
// nobody has looked at.
func (x *exchange) upgrade() []byte {
	u := x.req.Upgrade
	if len(u) == 0 || x.req.Body != wire.NoBody {
		return nil
	}
	for _, forbidden := range [...]string{"h2c", "h2", "http/", "tls/"} {
		if wire.HasPrefixFold(u, forbidden) || bytes.Contains(u, []byte(",")) {
			return nil
		}
	}
	return u
}

// tunnel passes the 101 in x.res on and carries what follows until either side
// ends. It returns the status under which the request is counted.
func (x *exchange) tunnel(p *pool.Pool, c *pool.Conn) int {
	a := x.early()
	a.connection, a.upgrade = "Upgrade", true
	if t := x.sending.t; t != nil { // else it is delivered, and the proxy before this one says it
		a.class = x.class(t.classifier).Value()
	}
	writeResponse(x.s.w, &x.res, a)
	x.carry(p, c)
	return 101
}

// carry joins the client's connection and c until either side ends.
func (x *exchange) carry(p *pool.Pool, c *pool.Conn) {
	s := x.s
	x.tunnelled = true
	p.Hijack(c)
	s.upstream.Store(c)
	if s.w.Flush() != nil {
		_ = c.Conn.Close()
		s.upstream.Store(nil)
		return
	}
	there, back := unread(s.r), unread(c.R)
	if t, ok := s.conn.(transport); ok {
		t.SetPatience(0, 0)
		t.OnHangup(nil)
	}
	idle := s.server.policy.Get().Server.TunnelIdleTime
	stats, err := tunnel.Copy(s.server.work, s.conn, c.Conn, there, back, tunnel.Config{Idle: idle})
	s.upstream.Store(nil)
	if err != nil {
		s.server.log.Debug("tunnel cut", "router", s.server.name, "source", s.source, "sent", stats.AToB, "received", stats.BToA, "error", err)
	}
}

// unread returns a copy of what was read and not consumed.
func unread(r interface {
	Buffered() int
	Hold(int) ([]byte, error)
}) []byte {
	p, _ := r.Hold(r.Buffered())
	return bytes.Clone(p)
}

// connect serves CONNECT. If HTTP/1 comes through the tunnel it is no tunnel: its
// requests are answered like any other. Everything else is carried as it is.
func (o *Outgoing) connect(ctx context.Context, x *exchange, r *routing) (int, *Problem) {
	x.closing = false
	if problem := o.unasked(ctx, x, r); problem != nil {
		return 0, problem
	}
	x.deadline, r.due = deadline.Deadline{}, 0 // a tunnel may outlive it
	w := x.s.w
	w.StatusLine(200, []byte("Connection established"))
	w.FieldString("Via", via)
	w.EndHead()
	if w.Flush() != nil {
		x.closing = true
		return statusGone, nil
	}
	if x.s.sniff() == tunnel.HTTP1 {
		if x.s.chain != nil {
			x.s.chain.inside = r.upstream
		}
		return 200, nil
	}
	// From here on there is no way to tell the client what is wrong.
	x.closing = true
	picker, problem := o.picker(ctx, x, r)
	if problem != nil || r.fenced(picker) != nil {
		r.failed = true
		return 502, nil
	}
	var tried []*client.Endpoint
	for now := clock.Now(); len(tried) < maxConnects; now = clock.Now() {
		e, probe, _ := r.client.Pick(picker, now, tried)
		if e == nil {
			break
		}
		tried = append(tried, e)
		e.Begin(now)
		conn, err := o.reach(ctx, x, r, e)
		r.client.Judge(e, probe, clock.Now(), client.Verdict{Failed: err != nil, Latency: -1})
		if err != nil {
			e.Leave()
			r.client.Refused(e, clock.Now())
			x.s.server.log.Debug("tunnel not made", "service", r.name.Service, "endpoint", e.Value.Endpoint.Address, "error", err)
			continue
		}
		r.client.Reached(e)
		defer e.Leave()
		x.carry(e.Value.Pool, conn)
		return 200, nil
	}
	r.failed = true
	return 502, nil
}

// unasked refuses a tunnel to what a request would not be sent to either: a cloud's
// metadata, what is not allowed, or what has no addresses.
func (o *Outgoing) unasked(ctx context.Context, x *exchange, r *routing) *Problem {
	picker, problem := o.picker(ctx, x, r)
	switch {
	case problem != nil:
		return problem
	case picker.Len() == 0:
		return o.deserted(r)
	}
	return r.fenced(picker)
}

// sniff waits for what the client says first and tells what it is.
func (s *session) sniff() tunnel.Kind {
	r := s.r
	_ = s.conn.SetReadDeadline(time.Now().Add(sniffFor))
	defer func() { _ = s.conn.SetReadDeadline(time.Time{}) }()
	for {
		p, err := r.Hold(r.Buffered())
		kind, _ := tunnel.Sniff(p)
		if err != nil {
			return tunnel.Unknown
		}
		if kind != tunnel.NeedMore {
			return kind
		}
		if _, err := r.Hold(len(p) + 1); err != nil {
			return tunnel.Unknown
		}
	}
}

// reach makes a connection that leads to an endpoint, through the proxy in front
// of it if there is one.
func (o *Outgoing) reach(ctx context.Context, x *exchange, r *routing, e *client.Endpoint) (*pool.Conn, error) {
	timeout := r.client.Policy().ConnectTimeout
	dialing, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	hop := e.Value
	conn, err := hop.Pool.Open(dialing)
	for err == nil && conn.Reused { // somebody has spoken on it
		hop.Pool.Close(conn)
		conn, err = hop.Pool.Open(dialing)
	}
	if err != nil {
		return nil, err
	}
	a := added{service: r.service.name, client: r.client.ID, residual: r.residual, endpoint: hop.Endpoint.Address}
	if len(r.override) > 0 {
		a.ctxDtab = r.override.String()
	}
	if hop.Endpoint.Hop != naming.HopNone {
		if err := x.dig(hop.Pool, conn, &a, timeout); err != nil {
			return nil, err
		}
	}
	if r.via != nil {
		a.endpoint, a.via = "", r.via
		if err := x.dig(hop.Pool, conn, &a, timeout); err != nil {
			return nil, err
		}
	}
	return conn, nil
}

// dig asks the proxy at the other end of c for the tunnel. After an error c is closed.
func (x *exchange) dig(p *pool.Pool, c *pool.Conn, a *added, timeout time.Duration) error {
	if err := x.send(p, c, a, clock.Now()+int64(timeout)); err != nil {
		return err
	}
	if x.res.Status/100 == 2 {
		return nil
	}
	x.s.upstream.Store(nil)
	p.Close(c)
	switch {
	case a.via != nil:
		return fmt.Errorf("the proxy %s that the caller chained did not make the tunnel: %d", a.via.authority, x.res.Status)
	case refused(&x.res):
		return refusal(&x.res)
	}
	return errors.New("the proxy of the endpoint did not make the tunnel")
}
