package router

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/sidecar/forwarded"
	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
)

// The states of a session, so that neither a drain nor a sweep cuts a request
// that has begun. They are bits for the sweep's sake.
const (
	stateIdle    uint32 = 1 << iota
	stateHead           // a head has begun to arrive
	stateBusy           // a request is being answered
	stateLate           // the head has taken too long
	stateClosing        // no further request is taken
)

// transport is a connection that can wait without a goroutine, tells when its
// peer leaves, and cuts a peer that takes or sends nothing: one of package
// socket. Others do without.
type transport interface {
	Park(task func()) bool
	OnHangup(f func())
	SetPatience(read, write time.Duration)
}

// session is one client connection. Whichever goroutine runs it owns all but the
// atomics; between two requests there need not be one.
type session struct {
	server    *server
	conn      net.Conn
	parker    transport // conn, if requests can be waited for without a goroutine
	transport transport // conn, or what is below its TLS, if that can
	r         *http1.Reader
	w         *http1.Writer
	task      func()

	source string // the peer's IP
	// original is where the connection was going, if it was redirected here; else nil.
	original *netip.AddrPort
	born     int64
	ends     atomic.Int64   // when it is too old for another request; 0: never
	policy   *policy.Policy // that holds for it
	begun    bool           // begin has been done
	origin   *forwarded.Hop // see hop
	chain    *chain         // nil as long as no request wants one

	state    atomic.Uint32
	since    atomic.Int64              // when the state began
	upstream atomic.Pointer[pool.Conn] // in use and not given back, for closeAll and after a panic
	gone     atomic.Bool               // the client has closed its side
	awaited  atomic.Pointer[pool.Conn] // whose answer is waited for, for left
	due      atomic.Int64              // until when, without regard to left; 0: for ever
	relayed  atomic.Pointer[pool.Conn] // whose answer is being passed on, likewise
	leaving  sync.Mutex                // held by left
	bored    func()                    // to be called by left; guarded by leaving
}

// spare are exchanges that no session uses at the moment. They hold memory only.
var spare = sync.Pool{New: func() any { return new(exchange) }}

// run answers requests, in order, until either side wants no more or there is
// nothing to do but to wait.
func (s *session) run() {
	parked := false
	defer func() {
		p := recover()
		if p != nil {
			// A fault in one exchange must not end those of all other callers.
			s.server.log.Error("exchange failed", "router", s.server.name, "panic", p, "stack", string(debug.Stack()))
			if c := s.upstream.Swap(nil); c != nil {
				c.Drop()
			}
		}
		if !parked {
			_ = s.conn.Close()
			if p == nil { // else an upload may still be reading
				s.r.Idle()
			}
			s.server.remove(s)
		}
	}()
	if !s.begun && s.server.begin != nil {
		if err := s.server.begin(s.server.work, s); err != nil {
			s.server.log.Debug("connection refused", "router", s.server.name, "source", s.source, "error", err)
			return
		}
	}
	s.begun = true
	for {
		if s.r.Buffered() == 0 {
			if s.parker != nil {
				s.r.Idle()
				if parked = s.parker.Park(s.task); parked {
					return // s may already be run by another goroutine
				}
			} else if s.r.Wait() != nil {
				return
			}
		}
		s.since.Store(s.server.soon.Load()) // before the state, which the sweep reads first
		if !s.state.CompareAndSwap(stateIdle, stateHead) {
			return
		}
		x := spare.Get().(*exchange)
		more := s.serve(x)
		x.release()
		if !more {
			return
		}
	}
}

// adopt makes a policy hold for the session.
func (s *session) adopt(p *policy.Policy) {
	s.policy = p
	s.r.SetLimits(limits(&p.Server))
	ends := int64(0)
	if life := p.Server.Session.LifeTime; life > 0 {
		ends = s.born + int64(life)
	}
	s.ends.Store(ends)
	switch {
	case s.parker != nil:
		s.parker.SetPatience(p.Server.HeadTimeout, p.Server.WriteTimeout)
	case s.transport != nil: // below TLS, where a wait for a head looks like any other
		s.transport.SetPatience(0, p.Server.WriteTimeout)
	}
}

// old reports whether the connection is too old for another request.
func (s *session) old(now int64) bool {
	ends := s.ends.Load()
	return ends > 0 && now >= ends
}

// serve reads a request and answers it. It is false when the connection is over.
func (s *session) serve(x *exchange) bool {
	x.s = s
	if p := s.server.policy.Get(); p != s.policy {
		s.adopt(p)
	}
	if err := s.r.Request(&x.req); err != nil {
		return s.unreadable(x, err)
	}
	if !s.state.CompareAndSwap(stateHead, stateBusy) {
		return s.unreadable(x, os.ErrDeadlineExceeded) // the sweep was quicker by a hair
	}
	srv := s.server
	x.started = clock.Now()
	x.closing = x.req.Close || srv.draining.Load() || s.old(x.started) || srv.leaving != nil && srv.leaving()
	x.head = string(x.req.Method) == "HEAD"
	x.note(srv.access, &srv.policy.Get().Server)
	srv.answer(x)
	x.logged(srv.access)
	if x.tunnelled {
		return false
	}
	s.r.Discard(len(x.held))
	if s.w.Flush() != nil {
		return false
	}
	if x.ended == 0 {
		x.ended = clock.Now()
	}
	s.since.Store(x.ended)
	if x.closing || !s.state.CompareAndSwap(stateBusy, stateIdle) || srv.ending.Load() {
		s.linger()
		return false
	}
	return true
}

// answer answers the request in x.req, unless there are too many.
func (srv *server) answer(x *exchange) {
	srv.active.Inc()
	n := srv.requests.Add(1)
	defer func() {
		srv.requests.Add(-1)
		srv.active.Dec()
	}()
	if limit := srv.policy.Get().Server.MaxConcurrentRequests; limit > 0 && n > int64(limit) {
		x.refuse(busyProxy)
	} else if problem := x.hold(); problem != nil {
		x.refuse(problem)
	} else {
		srv.exchange(srv.work, x)
	}
}

// unreadable answers a request that broke the rules or took too long.
func (s *session) unreadable(x *exchange, err error) bool {
	x.closing, x.head = true, false
	var parse *http1.ParseError
	switch {
	case errors.As(err, &parse):
		x.refuse(badRequest(parse))
	case errors.Is(err, os.ErrDeadlineExceeded) && !s.gone.Load() && s.state.Load() != stateClosing:
		x.refuse(slowHead)
	default:
		return false
	}
	if s.w.Flush() == nil {
		s.linger()
	}
	return false
}

// goneAfter is how long an answer is waited for whose client has closed its
// side. One that only says that it has no more to ask gets it, if it is quick.
const goneAfter = time.Second

// left is called when the client closes its side: whoever waits for an answer on
// its behalf need not wait for long.
func (s *session) left() {
	s.leaving.Lock()
	defer s.leaving.Unlock()
	s.gone.Store(true)
	if c := s.awaited.Load(); c != nil {
		latest := clock.Now() + int64(goneAfter)
		if due := s.due.Load(); due == 0 || due > latest {
			c.Expire(latest)
		}
		_ = c.SetWriteDeadline(time.Now().Add(goneAfter))
	}
	if s.bored != nil {
		s.bored()
	}
	if c := s.relayed.Load(); c != nil {
		c.Hurry(goneAfter)
	}
}

// patience returns a context for what the client has to wait for before its request can
// be sent. It ends with ctx, after timeout (0: never), and soon after the client has closed
// its side. It is for one wait at a time, and stop is to be called after it.
func (s *session) patience(ctx context.Context, timeout time.Duration) (waiting context.Context, stop func()) {
	var cancel context.CancelFunc
	if timeout > 0 {
		waiting, cancel = context.WithTimeout(ctx, timeout)
	} else {
		waiting, cancel = context.WithCancel(ctx)
	}
	var end *time.Timer
	s.leaving.Lock()
	defer s.leaving.Unlock()
	s.bored = func() { end = time.AfterFunc(goneAfter, cancel) }
	if s.gone.Load() {
		s.bored()
	}
	return waiting, func() {
		s.leaving.Lock()
		defer s.leaving.Unlock()
		if s.bored = nil; end != nil {
			end.Stop()
		}
		cancel()
	}
}

// interrupt wakes whoever waits for the answer on c, for good. An answer that has
// begun is let come.
func (s *session) interrupt(c *pool.Conn) {
	s.leaving.Lock() // or left might give it more time
	defer s.leaving.Unlock()
	if s.awaited.CompareAndSwap(c, nil) {
		_ = c.SetReadDeadline(past)
	}
}

// await makes c the connection whose answer is waited for, until due.
// The writes get the deadline only if there is much to write: what a small request
// needs fits into the buffers of a connection that was idle.
func (s *session) await(c *pool.Conn, due int64, much bool) {
	s.upstream.Store(c)
	if s.server.work.Err() != nil {
		_ = c.Conn.Close() // closeAll has been here
	}
	s.due.Store(due)
	s.awaited.Store(c)
	if s.gone.Load() {
		if latest := clock.Now() + int64(goneAfter); due == 0 || due > latest {
			due = latest
		}
	}
	if due > 0 {
		c.Expire(due)
		if much {
			_ = c.SetWriteDeadline(time.Now().Add(time.Duration(due - clock.Now())))
		}
	}
}

// awaitNone ends that, and takes the deadline off.
func (s *session) awaitNone(c *pool.Conn, due int64, much bool) {
	s.awaited.Store(nil)
	gone := s.gone.Load()
	if gone { // left may just be setting the deadline
		s.leaving.Lock()
		defer s.leaving.Unlock()
	}
	if due > 0 || gone {
		c.Expire(0)
		if much || gone {
			_ = c.SetWriteDeadline(time.Time{})
		}
	}
}

// linger gives the client time to read the answer before the connection is
// closed: closing with unread input would reset it and might lose the answer
// (RFC 9112, section 9.6).
func (s *session) linger() {
	half, ok := s.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(lingerFor))
	var scrap [1 << 10]byte
	for {
		if _, err := s.conn.Read(scrap[:]); err != nil {
			return
		}
	}
}
