// Package sidecar is the proxy: one program, run in a pod (sidecar mode), on a
// node (host mode), or without a mesh around it (standalone mode).
//
// This package puts the parts together and owns their life; the parts know
// nothing of each other. wire holds the message types, http1 the codec, bind
// the names, client and balance and pool the endpoints, router the order of
// things, telemetry and admin what can be seen. No part imports Kubernetes.
//
// Invariant: once a proxy has its certificate and its first dtab, losing the
// controller takes nothing from it: it goes on with what it knows.
//
//	p, err := sidecar.New(config, log)
//	err = p.Run(ctx)
package sidecar

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/dns"
	"github.com/tulle-mesh/tulle/naming/file"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	namer "github.com/tulle-mesh/tulle/naming/namer/client"
	"github.com/tulle-mesh/tulle/naming/rewrite"
	"github.com/tulle-mesh/tulle/sidecar/accesslog"
	"github.com/tulle-mesh/tulle/sidecar/admin"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/handover"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/router"
	"github.com/tulle-mesh/tulle/sidecar/socket"
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
	mesh     *mesh       // nil in standalone mode
	files    *file.Namer // nil without a directory of files
	// policy is that of the file if there is one, and otherwise the mesh's.
	policy     *policy.Live
	policyFile *policy.File // nil without a file

	names    *bind.Binder
	clients  *client.Set
	pools    *pool.Set
	outgoing *router.Outgoing
	access   *accesslog.Log

	poller    *socket.Poller // since Run
	listeners *handover.Set  // since Run
	linger    time.Duration
}

// New puts a proxy together. It reads the policy and the CA file and asks for the
// addresses of the machine; it opens nothing, so that a proxy that is only made
// shows whether what it was told is right.
func New(cfg Config, log *slog.Logger) (*Proxy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Proxy{cfg: cfg, log: log, registry: prometheus.NewRegistry(), linger: linger}
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := telemetry.New(p.registry)
	p.policy = policy.NewLive(log)
	if cfg.Policy != "" {
		p.policyFile = policy.NewFile(cfg.Policy, log)
		if err := p.policyFile.Load(); err != nil {
			return nil, err
		}
		p.policy = p.policyFile.Live
	}
	p.countReloads()
	p.logRequests()
	p.pools = pool.NewSet(p.dialer())
	s := &source{dns: dns.New(dns.Config{Lookup: net.DefaultResolver.LookupNetIP, Allow: cfg.egress()})}
	outgoing := router.OutgoingConfig{Metrics: metrics, Policy: p.policy.Value(), Grace: grace, Leaving: p.leaving, AccessLog: p.access, Logger: log}
	var dtab *watch.Value[*naming.Dtab]
	if cfg.Mode == ModeStandalone {
		rules, err := naming.ParseDtab(cfg.Dtab)
		if err != nil {
			return nil, err
		}
		dtab = watch.New(&rules)
		if cfg.FsRoot != "" {
			if info, err := os.Stat(cfg.FsRoot); err != nil {
				return nil, fmt.Errorf("fs-root: %w", err)
			} else if !info.IsDir() {
				return nil, fmt.Errorf("fs-root %s is no directory", cfg.FsRoot)
			}
			// Addresses in files are the word of whoever runs the proxy.
			hosts := dns.New(dns.Config{Lookup: net.DefaultResolver.LookupNetIP})
			p.files = file.New(file.Config{Root: cfg.FsRoot, Inet: hosts.Replicas, Logger: log})
			s.files = p.files
		}
		outgoing.Namespace = func(context.Context, string) (string, error) { return cfg.DefaultNamespace, nil }
		identified := make(chan struct{})
		close(identified) // there is nobody to prove anything to
		outgoing.Identified = identified
	} else {
		m, err := newMesh(cfg, p.pools, metrics, p.policy.Value(), p.registry, p.leaving, log)
		if err != nil {
			return nil, err
		}
		p.mesh, s.namer, dtab = m, m.namer, m.namer.Dtab()
		if p.policyFile == nil {
			p.takePolicy(m.namer.Policy())
		}
		outgoing.Namespace, outgoing.Identified = m.namespace, m.identity.Ready()
	}
	p.names = bind.New(bind.Config{Dtab: dtab, Names: watch.New[bind.Names](s)})
	p.clients = client.NewSet(client.Config{Source: s, Pools: p.pools, Policy: p.policy.Value(), Metrics: metrics})
	outgoing.Binder, outgoing.Clients = p.names, p.clients
	p.outgoing = router.NewOutgoing(outgoing)
	return p, nil
}

// takePolicy follows the policy of the mesh for as long as the proxy lives. It is
// taken within the hook: then it is in force before the dtab that comes after it,
// and so before the first request. One that this proxy does not understand, for it
// has words of a later version, is refused once, however often it is sent.
func (p *Proxy) takePolicy(sent *watch.Value[*api.Policy]) {
	sent.Notify(func() {
		latest := sent.Get()
		p.policy.Take("policy of the mesh, version "+latest.Version, []byte(latest.Text))
	})
}

// countReloads exports how often the policy was replaced.
func (p *Proxy) countReloads() {
	help := "How often a policy was taken (ok), the first one included, or refused (failed)."
	for result, count := range map[string]func() float64{
		"ok":     func() float64 { taken, _ := p.policy.Loads(); return float64(taken) },
		"failed": func() float64 { _, refused := p.policy.Loads(); return float64(refused) },
	} {
		p.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tulle_policy_reloads_total", Help: help, ConstLabels: prometheus.Labels{"result": result},
		}, count))
	}
}

// logRequests makes the access log, which follows the policy.
func (p *Proxy) logRequests() {
	p.access = accesslog.New(accesslog.Config{
		Path: func() string { return p.policy.Value().Get().Server.HTTPAccessLog }, Logger: p.log,
	})
	p.policy.Value().Notify(p.access.Reopen) // for as long as both live
	p.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "tulle_access_log_dropped_total", Help: "Lines of the access log that the disk did not take, or not in time.",
	}, func() float64 { return float64(p.access.Dropped()) }))
}

// Reload reads the policy again at once, not only when its file was seen to
// change, and opens the access log anew. It does not wait for the outcome, which
// is logged.
func (p *Proxy) Reload() {
	p.access.Reopen()
	if p.policyFile == nil {
		p.log.Info("nothing to reload: there is no policy file")
		return
	}
	p.policyFile.Reload()
}

// showPolicy prints what holds for one client and one service, or if neither is
// named the whole policy; and where that comes from.
func (p *Proxy) showPolicy(client, service string) any {
	all := p.policy.Value().Get()
	holds := map[string]any{"source": all.Source}
	if client != "" {
		holds["client"] = all.Client(client)
	}
	if service != "" {
		holds["service"] = all.Service(service)
	}
	if client == "" && service == "" {
		holds["policy"] = all
	}
	return holds
}

// waiting returns what the proxy cannot serve without and has not got yet.
func (p *Proxy) waiting() []string {
	if p.mesh == nil {
		return nil
	}
	return p.mesh.waiting()
}

// server is a part of a proxy that has an address of its own.
type server struct {
	key, address string
	requests     bool // of the mesh, which the poller waits for
	serve        func(net.Listener) run.Component
}

// Run serves until ctx ends, and then until the requests under way are done.
// With Config.Handover it takes the listeners over from the proxy that has them,
// and hands them on to the next one; it goes on until ctx ends all the same,
// except in standalone mode, where nobody starts again what ends. An address
// that cannot be listened on is an error.
func (p *Proxy) Run(ctx context.Context) error {
	pages := &http.Server{
		Handler: p.closing(admin.Handler(admin.Config{
			Metrics: p.registry, Ready: p.waiting, Dtab: func() string { return p.names.Base().String() },
			Policy: p.showPolicy,
		})),
		ReadHeaderTimeout: 5 * time.Second,
	}
	servers := []server{
		{"outgoing", p.cfg.Outgoing, true, func(ln net.Listener) run.Component {
			return run.Component{Name: "outgoing router", Run: func(ctx context.Context) error { return p.outgoing.Serve(ctx, ln) }}
		}},
		{"admin", p.cfg.Admin, false, func(ln net.Listener) run.Component {
			return run.Component{Name: "admin", Run: run.HTTP(pages, ln, time.Second)}
		}},
	}
	if p.mesh != nil {
		servers = append(servers, server{"incoming", p.cfg.Incoming, true, func(ln net.Listener) run.Component {
			return run.Component{Name: "incoming router", Run: func(ctx context.Context) error { return p.mesh.incoming.Serve(ctx, ln) }}
		}})
	}

	var err error
	if p.poller, err = socket.Open(); err != nil {
		return err
	}
	// What the routers stand on runs from before they listen until they are done.
	support, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	listening, giveUp := context.WithCancel(ctx)
	defer giveUp()
	var wg sync.WaitGroup
	failed := make(chan error, 1)
	wg.Go(func() {
		failed <- run.Group(support, run.Config{}, p.support()...)
		giveUp()
	})
	if p.listeners, err = p.listen(listening, servers); err == nil {
		err = p.serve(ctx, servers, failed)
	} else if ctx.Err() != nil {
		err = nil // told to stop before there was anything to serve
	} else if listening.Err() != nil {
		err = <-failed
	}
	stop()
	wg.Wait()
	return err
}

// listen opens what the servers listen on, or takes it over.
func (p *Proxy) listen(ctx context.Context, servers []server) (*handover.Set, error) {
	addresses := make([]string, len(servers))
	for i, s := range servers {
		addresses[i] = s.address
	}
	return handover.Listen(ctx, p.handover(), addresses...)
}

// serve runs the servers until ctx ends, or until failed says that they have
// lost what they stand on.
func (p *Proxy) serve(ctx context.Context, servers []server, failed <-chan error) error {
	components := []run.Component{
		{Name: "listeners", Run: p.listeners.Run},
		{Name: "support", Run: func(ctx context.Context) error {
			select {
			case err := <-failed:
				return err
			case <-ctx.Done():
				return nil
			}
		}},
	}
	attrs := []any{"mode", p.cfg.Mode, "policy", p.policy.Value().Get().Source}
	if p.mesh != nil {
		attrs = append(attrs, "identity", p.mesh.identity.ID())
	}
	for i, s := range servers {
		if s.requests {
			if err := p.listeners.Wrap(i, p.poller.Listener); err != nil {
				return err
			}
		}
	}
	for i, ln := range p.listeners.Listeners() {
		components = append(components, servers[i].serve(ln))
		attrs = append(attrs, servers[i].key, ln.Addr())
	}
	p.log.Info("serving", attrs...)
	lingering, done := p.listeners.Linger(ctx)
	defer done()
	err := run.Group(lingering, run.Config{Logger: p.log}, components...)
	if errors.Is(err, handover.ErrReplaced) {
		return nil
	}
	return err
}

func (p *Proxy) support() []run.Component {
	components := []run.Component{
		{Name: "poller", Run: p.poller.Run},
		{Name: "names", Run: p.names.Run},
		{Name: "clients", Run: p.clients.Run},
		{Name: "connections", Run: p.pools.Run},
		{Name: "access log", Run: p.access.Run},
	}
	if p.policyFile != nil {
		components = append(components, run.Component{Name: "policy", Run: p.policyFile.Run})
	}
	if p.files != nil {
		components = append(components, run.Component{Name: "files of addresses", Run: p.files.Run})
	}
	if p.mesh != nil {
		components = append(components, p.mesh.support()...)
	}
	return components
}

// dialer returns how connections are made: plain TCP to an application, mTLS to
// a proxy, which must prove the identity that the namer named.
func (p *Proxy) dialer() pool.Dial {
	var configs sync.Map // SPIFFE ID to *tls.Config, which are made once
	return func(ctx context.Context, t pool.Target) (net.Conn, error) {
		if t.Identity == "" {
			return p.poller.Dial(ctx, t.Address)
		}
		cached, ok := configs.Load(t.Identity)
		if !ok {
			id, err := spiffeid.FromString(t.Identity)
			if err != nil {
				return nil, fmt.Errorf("the namer names the peer %q: %w", t.Identity, err)
			}
			cached, _ = configs.LoadOrStore(t.Identity, p.mesh.identity.ClientTLS(id))
		}
		raw, err := p.poller.Dial(ctx, t.Address)
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

// source asks whoever knows a name: DNS, the files, or the namer. A nil one
// knows nothing.
type source struct {
	dns   *dns.Namer
	files *file.Namer
	namer *namer.Client
}

// Resolver implements bind.Names.
func (s *source) Resolver(state func(id naming.Path) naming.Replicas) naming.Resolver {
	return rewrite.Resolver(state)
}

func (s *source) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	switch {
	case strings.HasPrefix(id, "/$/inet/"):
		return s.dns.Replicas(id)
	case strings.HasPrefix(id, "/#/io.l5d.fs/") && s.files != nil:
		return s.files.Replicas(id)
	case strings.HasPrefix(id, "/#/io.l5d.k8s/") && s.namer != nil:
		return s.namer.Replicas(id)
	}
	return watch.New(naming.Replicas{State: naming.StateNeg}), func() {}
}
