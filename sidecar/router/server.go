package router

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/sidecar/accesslog"
	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
	"github.com/tulle-mesh/tulle/sidecar/tracing"
)

const (
	// lingerFor is how long a client may go on sending a body whose answer is
	// complete before its connection is cut.
	lingerFor = 2 * time.Second
	// freshFor is how long a connection on which something has just happened is
	// left to its client when the server stops: a request may be on its way.
	freshFor = time.Second
	// maxSweep is how late a connection may be found to be idle for too long; one
	// with shorter limits is found sooner.
	maxSweep = time.Second
	minSweep = 10 * time.Millisecond
)

// server accepts connections and drives one session on each.
type server struct {
	name    string // of the router, in metrics and logs
	log     *slog.Logger
	metrics *telemetry.Metrics
	policy  *watch.Value[*policy.Policy]
	grace   time.Duration // for requests under way when the server stops
	inner   bool          // only proxies of the mesh ask it
	// begin prepares a session, by the TLS handshake for example; nil if there is
	// nothing to do. An error closes the connection.
	begin func(context.Context, *session) error
	// captured, if not nil, serves connections that were redirected here.
	captured *captured
	// exchange answers the request that was read into x.req.
	exchange func(context.Context, *exchange)
	// leaving, if not nil, reports whether connections are to end after their
	// next answer, while idle ones may still bring a request.
	leaving func() bool
	access  *accesslog.Log // if the policy names a file; nil for none
	sampler tracing.Sampler

	connections, active prometheus.Gauge

	soon     atomic.Int64    // about when the next sweep is, in the time of package clock
	wallAt   atomic.Int64    // the wall clock at moment 0 of package clock
	work     context.Context // outlives that of serve by the grace
	draining atomic.Bool
	ending   atomic.Bool  // and fresh connections are no longer spared
	requests atomic.Int64 // being answered
	running  sync.WaitGroup

	mu       sync.Mutex
	sessions map[*session]struct{}
}

func newServer(name string, m *telemetry.Metrics, log *slog.Logger) server {
	return server{name: name, log: log, metrics: m, sampler: tracing.NewSampler(rand.Uint64()), connections: m.Connections(name), active: m.Active(name), sessions: map[*session]struct{}{}}
}

// serve accepts until ctx ends. Then it lets the requests under way finish,
// for at most the grace, and closes what is left.
func (srv *server) serve(ctx context.Context, ln net.Listener) error {
	srv.readWall()
	srv.soon.Store(clock.Now())
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	srv.work = work
	var sweeper sync.WaitGroup
	sweeper.Go(func() { srv.sweep(work) })
	defer sweeper.Wait()
	defer cut()
	unblock := context.AfterFunc(ctx, func() {
		_ = ln.Close()
		srv.drain(clock.Now() - int64(freshFor))
	})
	defer unblock()
	failure := srv.accept(ctx, ln)
	done := make(chan struct{})
	go func() { srv.running.Wait(); close(done) }()
	fresh, timer := time.NewTimer(min(freshFor, srv.grace)), time.NewTimer(srv.grace)
	defer fresh.Stop()
	defer timer.Stop()
	for {
		select {
		case <-done:
			return failure
		case <-fresh.C:
			srv.ending.Store(true)
			srv.drain(clock.Now())
		case <-timer.C:
			cut()
			srv.closeAll()
			<-done
			return failure
		}
	}
}

func (srv *server) accept(ctx context.Context, ln net.Listener) error {
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			srv.take(nc)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			srv.log.Warn("accept failed", "router", srv.name, "error", err)
			if !pause(ctx, 50*time.Millisecond) { // out of file descriptors, most likely
				return nil
			}
		}
	}
}

// take begins a session on a connection. If that can be, it is parked until the
// first request comes.
func (srv *server) take(nc net.Conn) {
	p := srv.policy.Get()
	now := clock.Now()
	s := &session{server: srv, conn: nc, source: sourceOf(nc), born: now}
	s.since.Store(now)
	s.state.Store(stateIdle)
	if !srv.add(s, p.Server.MaxConnections) {
		srv.turnAway(nc)
		return
	}
	s.task = s.run
	s.r, s.w = http1.NewReader(nc, http1.DefaultLimits), http1.NewWriter(nc)
	if t, ok := nc.(transport); ok {
		s.transport = t
		if srv.begin == nil {
			s.parker = t
		}
		t.OnHangup(s.left)
	}
	s.adopt(p)
	if srv.captured != nil {
		if to, ok := srv.captured.Original(nc); ok {
			s.original = &to
			go srv.captured.intercept(s)
			return
		}
	}
	if s.parker == nil || !s.parker.Park(s.task) {
		go s.run()
	}
}

// What answers a connection too many. It is written without a look at the request,
// for that is what there is no room for.
const (
	overloaded = "HTTP/1.1 503 Service Unavailable\r\n"
	// overloadedWhy is not for clients that are to know nothing of the mesh.
	overloadedWhy = headerErr + ": this+proxy+has+as+many+connections+as+it+may\r\n" +
		headerCode + ": " + codeConnections + "\r\n" + headerRetryable + ": true\r\n"
	overloadedEnd = "Via: " + via + "\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)

func (srv *server) turnAway(nc net.Conn) {
	if srv.captured != nil {
		if _, ok := srv.captured.Original(nc); ok { // who may not speak HTTP at all
			reset(nc)
			return
		}
	}
	if !srv.draining.Load() && srv.begin == nil {
		srv.metrics.Error(srv.name, codeConnections)
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
		answer := overloaded + overloadedWhy + overloadedEnd
		if srv.hides() {
			answer = overloaded + overloadedEnd
		}
		_, _ = nc.Write([]byte(answer))
		if half, ok := nc.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
	_ = nc.Close()
}

// hides reports whether clients are to learn nothing of the mesh: at an edge, which a
// server for other proxies is not, whatever the policy of the mesh says.
func (srv *server) hides() bool { return !srv.inner && srv.policy.Get().Server.ClearContext }

func limits(p *policy.Server) http1.Limits {
	l := http1.DefaultLimits
	l.Line, l.Head, l.Fields = p.MaxInitialLineBytes, p.MaxHeaderBytes, p.MaxHeaderFields
	return l
}

func sourceOf(nc net.Conn) string {
	host, _, err := net.SplitHostPort(nc.RemoteAddr().String())
	if err != nil {
		return ""
	}
	return host
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

func (srv *server) add(s *session, limit int) bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.draining.Load() || limit > 0 && len(srv.sessions) >= limit {
		return false
	}
	srv.sessions[s] = struct{}{}
	srv.running.Add(1)
	srv.connections.Inc()
	return true
}

func (srv *server) remove(s *session) {
	srv.mu.Lock()
	delete(srv.sessions, s)
	srv.mu.Unlock()
	srv.connections.Dec()
	srv.running.Done()
}

// drain makes sessions that have been idle since then end now, and all others
// after their next request.
func (srv *server) drain(since int64) {
	srv.draining.Store(true)
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for s := range srv.sessions {
		if s.since.Load() <= since && s.state.CompareAndSwap(stateIdle, stateClosing) {
			_ = s.conn.SetReadDeadline(past)
		}
	}
}

// sweep ends connections that are idle for too long, and heads that take too
// long to arrive, until ctx ends.
func (srv *server) sweep(ctx context.Context) {
	for {
		p := &srv.policy.Get().Server
		every := min(maxSweep, positive(p.HeadTimeout)/4, positive(p.Session.IdleTime)/4)
		every = max(every, minSweep)
		srv.soon.Store(clock.Now() + int64(every))
		if !pause(ctx, every) {
			return
		}
		srv.readWall()
		srv.sweepOnce(p, clock.Now())
	}
}

// readWall notes how the wall clock goes, which somebody may set.
func (srv *server) readWall() { srv.wallAt.Store(time.Now().UnixNano() - clock.Now()) }

// wall returns the wall clock's nanoseconds at a moment of package clock, as
// precisely as anybody can expect of two machines' clocks.
func (srv *server) wall(now int64) int64 { return srv.wallAt.Load() + now }

func positive(d time.Duration) time.Duration {
	if d <= 0 {
		return time.Hour
	}
	return d
}

func (srv *server) sweepOnce(p *policy.Server, now int64) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for s := range srv.sessions {
		state := s.state.Load()
		waits := time.Duration(now - s.since.Load())
		var next uint32
		switch {
		case state == stateIdle && (p.Session.IdleTime > 0 && waits >= p.Session.IdleTime || s.old(now)):
			next = stateClosing
		case state == stateHead && p.HeadTimeout > 0 && waits >= p.HeadTimeout:
			next = stateLate
		default:
			continue
		}
		if s.state.CompareAndSwap(state, next) {
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
			_ = up.Conn.Close()
		}
	}
}

// past is a deadline that has already passed.
var past = time.Unix(1, 0)
