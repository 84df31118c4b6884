// Package sidecar is the proxy: one program, run in a pod (sidecar mode) or on
// a node (host mode).
//
// This package puts the parts together and owns their life; the parts know
// nothing of each other. wire holds the message types, http1 the codec, bind
// the names, client and balance and pool the endpoints, router the order of
// things, telemetry and admin what can be seen. No part imports Kubernetes.
//
// Invariant: once a proxy has its certificate and its first dtab, losing the
// controller takes nothing from it: it goes on with what it knows.
//
//	p, err := sidecar.New(config, sidecar.Deps{Logger: log})
//	err = p.Run(ctx)
package sidecar

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tulle-mesh/tulle/certs"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/dns"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	namer "github.com/tulle-mesh/tulle/naming/namer/client"
	"github.com/tulle-mesh/tulle/sidecar/admin"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/router"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// grace is how long requests under way may take once the proxy is told to
// stop: well within the thirty seconds that Kubernetes gives a pod.
const grace = 20 * time.Second

// Proxy is one proxy. New makes it, Run runs it, once.
type Proxy struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry

	identity *certs.Source
	namer    *namer.Client
	names    *bind.Binder
	clients  *client.Set
	pools    *pool.Set
	node     *node // host mode
	outgoing *router.Outgoing
	incoming *router.Incoming
}

// New puts a proxy together. It reads the CA file and asks for the addresses of
// the machine, and does no other I/O.
func New(cfg Config, log *slog.Logger) (*Proxy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	roots, err := cfg.roots()
	if err != nil {
		return nil, err
	}
	id, err := cfg.identity()
	if err != nil {
		return nil, err
	}
	controller := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	p := &Proxy{cfg: cfg, log: log, registry: prometheus.NewRegistry()}
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := telemetry.New(p.registry)
	p.identity, err = certs.New(certs.Config{
		URL: cfg.Controller, TLS: controller, Token: certs.FileToken(cfg.TokenFile), ID: id, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	p.namer, err = namer.New(namer.Config{
		URL: cfg.Controller, TLS: controller, Token: certs.FileToken(cfg.TokenFile), Logger: log,
		Hello: api.Hello{Proxy: cfg.PodName, Node: cfg.Node, Mode: cfg.Mode, DtabNamespace: cfg.DtabNamespace},
	})
	if err != nil {
		return nil, err
	}
	p.pools = pool.NewSet(p.dialer())
	source := &source{namer: p.namer, dns: dns.New(dns.Config{Lookup: net.DefaultResolver.LookupNetIP, Allow: cfg.egress()})}
	p.names = bind.New(bind.Config{Dtab: p.namer.Dtab(), Source: source})
	p.clients = client.NewSet(source, p.pools)

	namespace := func(context.Context, string) (string, error) { return cfg.Namespace, nil }
	ours := own(cfg.PodIP)
	if cfg.Mode == api.ModeHost {
		p.node = newNode(p.namer.Pods(), cfg.PodIP, cfg.DefaultNamespace)
		namespace, ours = p.node.namespace, p.node.ours
	}
	p.outgoing = router.NewOutgoing(router.OutgoingConfig{
		Binder: p.names, Clients: p.clients, Metrics: metrics, Namespace: namespace,
		Identified: p.identity.Ready(), Grace: grace, Logger: log,
	})
	p.incoming = router.NewIncoming(router.IncomingConfig{
		TLS: p.identity.ServerTLS(), Identified: p.identity.Ready(), Pools: p.pools, Metrics: metrics, Ours: ours, Grace: grace, Logger: log,
	})
	prometheus.WrapRegistererWithPrefix("tulle_", p.registry).MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "namer_connected",
			Help: "1 while the stream from the namer is up."}, func() float64 {
			if p.namer.Connected() {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "identity_expiry_seconds",
			Help: "Unix time at which the proxy's certificate expires; 0 before the first."}, func() float64 {
			if t := p.identity.NotAfter(); !t.IsZero() {
				return float64(t.Unix())
			}
			return 0
		}),
	)
	return p, nil
}

// waiting returns what the proxy cannot serve without and has not got yet.
func (p *Proxy) waiting() []string {
	var missing []string
	if p.identity.NotAfter().IsZero() {
		missing = append(missing, "a certificate from the controller")
	}
	select {
	case <-p.namer.Synced():
	default:
		missing = append(missing, "the dtab from the controller")
	}
	return missing
}

// Run serves until ctx ends, and then until the requests under way are done.
// An address that cannot be listened on is an error at once.
func (p *Proxy) Run(ctx context.Context) error {
	listeners := [3]net.Listener{}
	for i, a := range []struct{ key, address string }{{"outgoing", p.cfg.Outgoing}, {"incoming", p.cfg.Incoming}, {"admin", p.cfg.Admin}} {
		ln, err := net.Listen("tcp", a.address)
		if err != nil {
			for _, ln := range listeners[:i] {
				_ = ln.Close()
			}
			return fmt.Errorf("listen for %s on %s: %w", a.key, a.address, err)
		}
		listeners[i] = ln
	}
	p.log.Info("serving", "mode", p.cfg.Mode, "outgoing", listeners[0].Addr(), "incoming", listeners[1].Addr(),
		"admin", listeners[2].Addr(), "identity", p.identity.ID())

	// What the routers stand on runs until they are done.
	support, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	failed := make(chan error, 1)
	wg.Go(func() { failed <- run.Group(support, run.Config{}, p.support()...) })
	pages := &http.Server{
		Handler: admin.Handler(admin.Config{
			Metrics: p.registry, Ready: p.waiting, Dtab: func() string { return p.names.Base().String() },
		}),
		ReadHeaderTimeout: 5 * time.Second,
	}
	err := run.Group(ctx, run.Config{Logger: p.log},
		run.Component{Name: "outgoing router", Run: func(ctx context.Context) error { return p.outgoing.Serve(ctx, listeners[0]) }},
		run.Component{Name: "incoming router", Run: func(ctx context.Context) error { return p.incoming.Serve(ctx, listeners[1]) }},
		run.Component{Name: "admin", Run: run.HTTP(pages, listeners[2], time.Second)},
		run.Component{Name: "support", Run: func(ctx context.Context) error {
			select {
			case err := <-failed:
				return err
			case <-ctx.Done():
				return nil
			}
		}},
	)
	stop()
	wg.Wait()
	return err
}

func (p *Proxy) support() []run.Component {
	components := []run.Component{
		{Name: "identity", Run: p.identity.Run},
		{Name: "namer client", Run: p.namer.Run},
		{Name: "names", Run: p.names.Run},
		{Name: "clients", Run: p.clients.Run},
		{Name: "connections", Run: p.pools.Run},
	}
	if p.node != nil {
		components = append(components, run.Component{Name: "pods of the node", Run: p.node.run})
	}
	return components
}

// dialer returns how connections are made: plain TCP to an application, mTLS to
// a proxy, which must prove the identity that the namer named.
func (p *Proxy) dialer() pool.Dial {
	d := &net.Dialer{KeepAlive: 15 * time.Second}
	var configs sync.Map // SPIFFE ID to *tls.Config, which are made once
	return func(ctx context.Context, t pool.Target) (net.Conn, error) {
		if t.Identity == "" {
			return d.DialContext(ctx, "tcp", t.Address)
		}
		cached, ok := configs.Load(t.Identity)
		if !ok {
			id, err := spiffeid.FromString(t.Identity)
			if err != nil {
				return nil, fmt.Errorf("the namer names the peer %q: %w", t.Identity, err)
			}
			cached, _ = configs.LoadOrStore(t.Identity, p.identity.ClientTLS(id))
		}
		raw, err := d.DialContext(ctx, "tcp", t.Address)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(raw, cached.(*tls.Config))
		if err := conn.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, fmt.Errorf("mTLS with %s as %s: %w", t.Address, t.Identity, err)
		}
		return conn, nil
	}
}

// source asks the namer or DNS, depending on the name.
type source struct {
	namer *namer.Client
	dns   *dns.Namer
}

func (s *source) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	if strings.HasPrefix(id, "/$/inet/") {
		return s.dns.Replicas(id)
	}
	return s.namer.Replicas(id)
}
