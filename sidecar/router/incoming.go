package router

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

const (
	// handshakeFor bounds what comes before a peer's first request.
	handshakeFor = 3 * time.Second
	// connectFor bounds a connection to an application beside this proxy.
	connectFor = 3 * time.Second
)

// IncomingConfig is what an Incoming router works with.
type IncomingConfig struct {
	TLS *tls.Config // requires a certificate of the mesh from the peer
	// Identified is closed once the proxy has a certificate to show. Peers that
	// come before wait for it, as long as a connection may take.
	Identified <-chan struct{}
	Pools      *pool.Set
	Metrics    *telemetry.Metrics
	Policy     *watch.Value[*policy.Policy] // never nil inside
	// Ours reports whether an endpoint's IP belongs to a pod that this proxy
	// stands for. It may wait a little for news of a pod that is unknown.
	Ours  func(ctx context.Context, ip string) bool
	Grace time.Duration // for requests under way when the router stops
	// Leaving, if not nil, reports whether another process accepts now:
	// connections end after their next answer. It is asked for each request.
	Leaving func() bool
	Logger  *slog.Logger
}

// Incoming takes requests from other proxies and delivers each to the endpoint
// that the other one chose.
type Incoming struct {
	cfg    IncomingConfig
	server server
	// routes are the handles of (service, client); copied on write.
	routes atomic.Pointer[map[[2]string]*telemetry.Route]
}

// NewIncoming returns a router that is not yet serving.
func NewIncoming(cfg IncomingConfig) *Incoming {
	in := &Incoming{cfg: cfg, server: newServer("incoming", cfg.Metrics, cfg.Logger)}
	in.server.policy, in.server.grace, in.server.leaving = cfg.Policy, cfg.Grace, cfg.Leaving
	in.server.begin, in.server.exchange, in.server.inner = in.begin, in.exchange, true
	in.routes.Store(&map[[2]string]*telemetry.Route{})
	return in
}

// Serve answers requests on ln until ctx ends and the requests under way are
// done. It is called once.
func (in *Incoming) Serve(ctx context.Context, ln net.Listener) error {
	return in.server.serve(ctx, ln)
}

// begin authenticates the peer.
func (in *Incoming) begin(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeFor)
	defer cancel()
	select {
	case <-in.cfg.Identified:
	case <-ctx.Done():
		return errors.New("there is no certificate yet to show to the peer")
	}
	conn := tls.Server(s.conn, in.cfg.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	in.server.mu.Lock()
	s.conn = conn // under the lock: a drain may be looking at it
	in.server.mu.Unlock()
	s.r, s.w = http1.NewReader(conn, limits(&in.cfg.Policy.Get().Server)), http1.NewWriter(conn)
	return nil
}

func (in *Incoming) exchange(ctx context.Context, x *exchange) {
	// The outgoing proxy is of the mesh, so its words make labels.
	route := in.route(x.req.Header.Value(wire.KindDstService), x.req.Header.Value(wire.KindDstClient))
	status, problem := in.deliver(ctx, x)
	if problem != nil {
		x.refuse(problem)
		status = problem.Status
	}
	x.status = status
	route.Observe(status < 500, took(x))
}

// maxRoutes bounds the handles that are kept.
const maxRoutes = 1000

func (in *Incoming) route(service, client []byte) *telemetry.Route {
	routes := in.routes.Load()
	if r := (*routes)[[2]string{string(service), string(client)}]; r != nil {
		return r
	}
	r := in.cfg.Metrics.Route("incoming", string(service), string(client))
	if len(*routes) < maxRoutes {
		next := maps.Clone(*routes)
		next[[2]string{string(service), string(client)}] = r
		// Losing a race costs one more lookup later.
		in.routes.CompareAndSwap(routes, &next)
	}
	return r
}

func (in *Incoming) deliver(ctx context.Context, x *exchange) (int, *Problem) {
	endpoint := string(x.req.Header.Value(wire.KindEndpoint))
	ip, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return 0, &Problem{Status: 400, Code: codeNoEndpoint, Message: "the request names no endpoint in " + headerEndpoint,
			Hint: "this port is for Tulle's proxies; applications use the outgoing port"}
	}
	if !in.cfg.Ours(ctx, ip) {
		return 0, &Problem{Status: 503, Code: codeNotOurs, Retryable: true,
			Message: "the endpoint " + endpoint + " is not behind this proxy",
			Hint:    "the pod is gone, or the caller's view is older than this proxy's; it should pass within a second"}
	}
	if problem := x.diagnose(); problem != nil {
		return 0, problem
	}
	if x.diagnosis.endsHere() {
		text := ""
		if x.diagnosis.report {
			text = in.report(x, endpoint, "").String()
		}
		return x.reply(text), nil
	}
	p := in.cfg.Pools.Acquire(pool.Target{Address: endpoint})
	defer in.cfg.Pools.Release(p)
	a := added{delivery: true, upgrade: x.upgrade()}
	for {
		tunnels := string(x.method) == "CONNECT"
		var conn *pool.Conn
		if !tunnels { // which need a connection that nobody has spoken on
			conn = p.Get()
		}
		if conn == nil {
			dialing, cancel := context.WithTimeout(ctx, connectFor)
			conn, err = p.Open(dialing)
			cancel()
			if err != nil {
				return 0, &Problem{Status: 502, Code: codeAppDown, Message: err.Error(), Retryable: true,
					Hint: "the application does not accept connections at " + endpoint}
			}
		}
		if tunnels {
			x.s.w.StatusLine(200, []byte("Connection established"))
			x.s.w.EndHead()
			x.carry(p, conn)
			return 200, nil
		}
		err := x.send(p, conn, &a, 0)
		if err == nil {
			if x.res.Status == 101 {
				return x.tunnel(p, conn), nil
			}
			if x.diagnosis.report {
				return x.explain(p, conn, answerHead{foreign: true}, in.report(x, endpoint, endpoint)), nil
			}
			return x.relay(p, conn, answerHead{foreign: true}), nil
		}
		var fault *clientFault
		if errors.As(err, &fault) {
			return fault.answer()
		}
		if conn.Reused && silent(err) && idempotent(x.method) && x.replayable() {
			continue // the application had closed this idle connection
		}
		return 0, &Problem{Status: 502, Code: codeAppBadAnswer, Message: err.Error(),
			Retryable: silent(err) && safe(x.method), // asking again does no harm
			Hint:      "the application at " + endpoint + " broke off; look at its log"}
	}
}
