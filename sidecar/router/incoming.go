package router

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// IncomingConfig is what an Incoming router works with.
type IncomingConfig struct {
	TLS *tls.Config // requires a certificate of the mesh from the peer
	// Identified is closed once the proxy has a certificate to show. Peers that
	// come before wait for it, as long as a connection may take.
	Identified <-chan struct{}
	Pools      *pool.Set
	Metrics    *telemetry.Metrics
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
}

// NewIncoming returns a router that is not yet serving.
func NewIncoming(cfg IncomingConfig) *Incoming {
	in := &Incoming{cfg: cfg}
	in.server = server{
		name:        "incoming",
		log:         cfg.Logger,
		connections: cfg.Metrics.Connections("incoming"),
		begin:       in.begin,
		exchange:    in.exchange,
		refuse:      in.refuse,
		leaving:     cfg.Leaving,
	}
	return in
}

// Serve answers requests on ln until ctx ends and the requests under way are
// done. It is called once.
func (in *Incoming) Serve(ctx context.Context, ln net.Listener) error {
	return in.server.serve(ctx, ln, in.cfg.Grace)
}

// begin authenticates the peer.
func (in *Incoming) begin(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
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
	return nil
}

func (in *Incoming) refuse(s *session, p *Problem) {
	in.cfg.Metrics.Error("incoming", p.Code)
	answer(s, p)
}

func (in *Incoming) exchange(ctx context.Context, s *session) {
	// The outgoing proxy is of the mesh, so its words make labels.
	service, client := string(s.req.Header.Get(headerService)), string(s.req.Header.Get(headerClient))
	status, problem := in.deliver(ctx, s)
	if problem != nil {
		in.refuse(s, problem)
		status = problem.Status
	}
	in.cfg.Metrics.Route("incoming", service, client).Observe(status < 500, time.Since(s.started))
}

func (in *Incoming) deliver(ctx context.Context, s *session) (int, *Problem) {
	endpoint := string(s.req.Header.Get(headerEndpoint))
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
	p := in.cfg.Pools.Acquire(pool.Target{Address: endpoint})
	defer in.cfg.Pools.Release(p)
	a := added{delivery: true}
	for {
		dialing, cancel := context.WithTimeout(ctx, connectTimeout)
		conn, err := p.Get(dialing)
		cancel()
		if err != nil {
			return 0, &Problem{Status: 502, Code: codeAppDown, Message: err.Error(), Retryable: true,
				Hint: "the application does not accept connections at " + endpoint}
		}
		reused := conn.Reused
		out := s.attempt(p, conn, &a, nil)
		var fault *clientFault
		switch {
		case out.err == nil:
			return out.status, nil
		case errors.As(out.err, &fault):
			return fault.answer()
		case out.again && reused:
			continue // the application had closed this idle connection
		}
		return 0, &Problem{Status: 502, Code: codeAppBadAnswer, Message: out.err.Error(), Retryable: out.again,
			Hint: "the application at " + endpoint + " broke off; look at its log"}
	}
}
