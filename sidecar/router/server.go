package router

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

const (
	// idleFor is how long a client may keep a connection without a request:
	// longer than clients keep theirs, so that they close first.
	idleFor = 2 * time.Minute
	// headFor is how long a client may take to send a head it has begun.
	headFor = 10 * time.Second
	// lingerFor is how long a client may go on sending a body whose answer is
	// complete before its connection is cut.
	lingerFor = 2 * time.Second
)

// server accepts connections and drives one session on each.
type server struct {
	name        string // of the router, in metrics and logs
	log         *slog.Logger
	connections prometheus.Gauge
	// begin prepares a session, the TLS handshake for example. An error closes
	// the connection.
	begin func(context.Context, *session) error
	// exchange answers the request that was read into s.req.
	exchange func(context.Context, *session)
	// refuse answers a request that could not be read.
	refuse func(*session, *Problem)
	// leaving, if not nil, reports whether connections are to end after their
	// next answer, while idle ones may still bring a request.
	leaving func() bool

	draining atomic.Bool

	mu       sync.Mutex
	sessions map[*session]struct{}
}

// serve accepts until ctx ends. Then it lets the requests under way finish,
// for at most grace, and closes what is left.
func (srv *server) serve(ctx context.Context, ln net.Listener, grace time.Duration) error {
	srv.sessions = map[*session]struct{}{}
	// Sessions outlive ctx by the grace.
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var wg sync.WaitGroup
	unblock := context.AfterFunc(ctx, func() {
		_ = ln.Close()
		srv.drain()
	})
	defer unblock()
	var failure error
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			if errors.Is(err, net.ErrClosed) {
				failure = err
				break
			}
			srv.log.Warn("accept failed", "router", srv.name, "error", err)
			if !pause(ctx, 50*time.Millisecond) { // out of file descriptors, most likely
				break
			}
			continue
		}
		s := &session{server: srv, conn: nc}
		if !srv.add(s) {
			_ = nc.Close()
			continue
		}
		wg.Go(func() {
			defer srv.remove(s)
			s.run(work)
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		cut()
		srv.closeAll()
		<-done
	}
	return failure
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (srv *server) add(s *session) bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.draining.Load() {
		return false
	}
	srv.sessions[s] = struct{}{}
	srv.connections.Inc()
	return true
}

func (srv *server) remove(s *session) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	delete(srv.sessions, s)
	srv.connections.Dec()
}

// drain makes idle sessions end now and busy ones after their request.
func (srv *server) drain() {
	srv.draining.Store(true)
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for s := range srv.sessions {
		if s.state.CompareAndSwap(stateIdle, stateClosing) {
			_ = s.conn.SetReadDeadline(past)
		}
	}
}

func (srv *server) closeAll() {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for s := range srv.sessions {
		_ = s.conn.Close()
		if up := s.upstream.Load(); up != nil {
			_ = up.Close()
		}
	}
}

// past is a deadline that has already passed.
var past = time.Unix(1, 0)

// The states of a session, so that a drain never cuts a request that has begun.
const (
	stateIdle uint32 = iota
	stateBusy
	stateClosing
)

// session is one client connection. Its goroutine owns all but state and
// upstream.
type session struct {
	server *server
	conn   net.Conn
	r      *http1.Reader
	w      *http1.Writer

	req wire.Request
	res wire.Response

	source  string // the peer's IP
	started time.Time
	head    bool   // the request's method is HEAD
	held    []byte // the request's body, if it is small enough to be sent again
	closing bool   // the connection ends after this answer

	state    atomic.Uint32
	upstream atomic.Pointer[pool.Conn] // in use, for closeAll
}

// run answers requests, in order, until either side wants no more.
func (s *session) run(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			// A fault in one exchange must not end those of all other callers.
			s.server.log.Error("exchange failed", "router", s.server.name, "panic", p, "stack", string(debug.Stack()))
		}
		_ = s.conn.Close()
	}()
	if host, _, err := net.SplitHostPort(s.conn.RemoteAddr().String()); err == nil {
		s.source = host
	}
	if err := s.server.begin(ctx, s); err != nil {
		s.server.log.Debug("connection refused", "router", s.server.name, "source", s.source, "error", err)
		return
	}
	s.r = http1.NewReader(s.conn, http1.DefaultLimits)
	s.w = http1.NewWriter(s.conn)
	for s.next() {
		s.started = time.Now()
		s.closing = s.req.Close || s.server.draining.Load() || s.server.leaving != nil && s.server.leaving()
		s.head = string(s.req.Method) == "HEAD"
		if !s.hold() {
			return // the client went away inside its request
		}
		s.server.exchange(ctx, s)
		s.r.Discard(len(s.held))
		if s.w.Flush() != nil || s.closing || !s.state.CompareAndSwap(stateBusy, stateIdle) || s.server.draining.Load() {
			s.linger()
			return
		}
	}
}

// maxHeld is how large a body may be to be held until its request has been
// answered, so that it can be sent to another endpoint.
const maxHeld = 16 << 10

// hold reads a small request body, unless the client waits to be asked for it.
func (s *session) hold() bool {
	s.held = nil
	if s.req.Body != wire.Fixed || s.req.Length > maxHeld || s.req.Header.Has("expect") {
		return true
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(headFor))
	var err error
	s.held, err = s.r.Hold(int(s.req.Length))
	_ = s.conn.SetReadDeadline(time.Time{})
	return err == nil
}

// next reads the next request head. It is false when the connection is over.
func (s *session) next() bool {
	_ = s.conn.SetReadDeadline(time.Now().Add(idleFor))
	if s.state.Load() == stateClosing {
		return false // a drain came before the deadline and would be undone by it
	}
	if s.r.Wait() != nil || !s.state.CompareAndSwap(stateIdle, stateBusy) {
		return false
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(headFor))
	err := s.r.Request(&s.req)
	_ = s.conn.SetReadDeadline(time.Time{})
	if err == nil {
		return true
	}
	var parse *http1.ParseError
	if errors.As(err, &parse) {
		s.closing, s.head = true, false
		s.server.refuse(s, badRequest(parse.Status, parse.What))
		_ = s.w.Flush()
		s.linger()
	}
	return false
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
	var scrap [4 << 10]byte
	for {
		if _, err := s.conn.Read(scrap[:]); err != nil {
			return
		}
	}
}
