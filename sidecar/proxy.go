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
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tulle-mesh/tulle/internal/metadata"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/dns"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	namer "github.com/tulle-mesh/tulle/naming/namer/client"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/admin"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/capture"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/handover"
	"github.com/tulle-mesh/tulle/sidecar/linkerd"
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
	cfg     Config
	log     *slog.Logger
	metrics *prometheus.Registry
	counts  *telemetry.Metrics
	made    time.Time
	grace   time.Duration // for requests under way when the proxy stops

	// What all routers share.
	pools  *pool.Set
	dns    *dns.Namer
	hosts  *dns.Namer    // of files of addresses, which are the word of whoever runs the proxy
	namer  *namer.Client // nil without a controller
	names  *names
	taken  atomic.Pointer[api.Namers] // that the mesh sent, and names follow; nil for none
	routes []*route

	mesh *mesh           // nil in standalone mode
	file *linkerd.Config // nil without one
	said map[string]any  // the same, word by word
	open []string        // warnings of its servers where everybody's rules count
	// unset are variables of the environment that the file needs and that are not set
	// here; nil unless the proxy is only checked.
	unset map[string]bool
	// policy is that of the file if there is one, and otherwise the mesh's; nil
	// where each server has its own.
	policy     *policy.Live
	policyFile *policy.File // nil without a file

	poller    *socket.Poller // since Run
	listeners *handover.Set  // since Run
	linger    time.Duration
}

// New puts a proxy together. It reads the policy, the CA file or the configuration
// of Linkerd 1.x, and asks for the addresses of the machine; it opens nothing, so
// that a proxy that is only made shows whether what it was told is right.
func New(cfg Config, log *slog.Logger) (*Proxy, error) {
	return newProxy(cfg, log, false)
}

// newProxy is New; one that is only to be checked may lack a controller.
func newProxy(cfg Config, log *slog.Logger, checked bool) (*Proxy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Proxy{cfg: cfg, log: log, metrics: prometheus.NewRegistry(), made: time.Now(), grace: grace, linger: linger}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if checked {
		p.unset = map[string]bool{}
	}
	p.counts = telemetry.New(p.metrics)
	p.pools = pool.NewSet(p.dialer())
	p.dns = dns.New(dns.Config{Allow: p.egress()})
	p.hosts = dns.New(dns.Config{})
	var err error
	switch {
	case cfg.Config != "":
		err = p.makeFile(checked)
	case cfg.Mode == ModeStandalone:
		err = p.makeStandalone()
	default:
		err = p.makeMesh()
	}
	if err != nil {
		return nil, err
	}
	p.count()
	return p, nil
}

// loadPolicy makes the policy that all routers have, which is the default one
// until another is taken.
func (p *Proxy) loadPolicy() error {
	p.policy = policy.NewLive(p.log)
	if p.cfg.Policy != "" {
		p.policyFile = policy.NewFile(p.cfg.Policy, p.log)
		if err := p.policyFile.Load(); err != nil {
			return err
		}
		p.policy = p.policyFile.Live
	}
	p.countReloads()
	return nil
}

// makeStandalone makes the router of a proxy without a controller.
func (p *Proxy) makeStandalone() error {
	if err := p.loadPolicy(); err != nil {
		return err
	}
	dtab, err := naming.ParseDtab(p.cfg.Dtab)
	if err != nil {
		return err
	}
	namers := registry.Default()
	if p.cfg.FsRoot != "" {
		if info, err := os.Stat(p.cfg.FsRoot); err != nil {
			return fmt.Errorf("fs-root: %w", err)
		} else if !info.IsDir() {
			return fmt.Errorf("fs-root %s is no directory", p.cfg.FsRoot)
		}
		for i := range namers {
			if namers[i].Kind == registry.Files {
				namers[i].RootDir = p.cfg.FsRoot
			}
		}
	}
	if p.names, err = p.newNames(namers); err != nil {
		return err
	}
	p.routes = []*route{p.newRoute(&route{
		label: outgoing, rules: watch.New(&dtab), names: p.names, policy: p.policy.Value(),
		servers: p.outgoing(),
	}, bind.Config{}, client.Config{})}
	p.routes[0].open(p, router.OutgoingConfig{Local: p.cfg.local(nil), Capture: p.capture()})
	return nil
}

// makeMesh makes the routers of a proxy that has a controller.
func (p *Proxy) makeMesh() error {
	if err := p.loadPolicy(); err != nil {
		return err
	}
	var err error
	if p.namer, err = p.newNamer(p.cfg.Mode); err != nil {
		return err
	}
	if p.mesh, err = p.newMesh(); err != nil {
		return err
	}
	if p.policyFile == nil {
		p.takePolicy(p.namer.Policy())
	}
	if p.names, err = p.newNames(registry.Default()); err != nil {
		return err
	}
	meaning := watch.New[bind.Names](p.names)
	p.takeNamers(p.namer.Namers(), meaning)
	p.routes = []*route{p.newRoute(&route{
		label: outgoing, rules: p.namer.Dtab(), kept: true, names: p.names, policy: p.policy.Value(),
		servers: p.outgoing(),
	}, bind.Config{Names: meaning}, client.Config{})}
	p.routes[0].open(p, router.OutgoingConfig{
		Namespace: p.mesh.namespace, Identified: p.mesh.identity.Ready(), Local: p.cfg.local(p.mesh.node), Capture: p.capture(),
	})
	return nil
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

// takeNamers follows the namers of the mesh in the same way. The old ones count
// until all that is followed follows the new ones.
func (p *Proxy) takeNamers(sent *watch.Value[*api.Namers], meaning *watch.Value[bind.Names]) {
	sent.Notify(func() {
		latest := sent.Get()
		source := "namers of the mesh, version " + latest.Version
		namers, warnings, err := registry.Parse(source, []byte(latest.Text))
		var next *registry.Registry
		if err == nil {
			next, err = p.newRegistry(namers)
		}
		if err != nil {
			p.log.Error("namers not taken, the old ones stay", "error", err)
			return
		}
		for _, w := range warnings {
			p.log.Warn(w.Text, "file", w.File, "line", w.Line)
		}
		p.names.replace(next)
		p.taken.Store(latest)
		meaning.Set(p.names) // so that all names are bound anew
		p.log.Info("namers changed", "source", source)
	})
}

// countReloads exports how often the policy was replaced.
func (p *Proxy) countReloads() {
	help := "How often a policy was taken (ok), the first one included, or refused (failed)."
	for result, count := range map[string]func() float64{
		"ok":     func() float64 { taken, _ := p.policy.Loads(); return float64(taken) },
		"failed": func() float64 { _, refused := p.policy.Loads(); return float64(refused) },
	} {
		p.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tulle_policy_reloads_total", Help: help, ConstLabels: prometheus.Labels{"result": result},
		}, count))
	}
}

// Reload reads the policy again at once, not only when its file was seen to
// change, and opens the access log anew. It does not wait for the outcome, which
// is logged.
func (p *Proxy) Reload() {
	for _, r := range p.routes {
		for _, l := range r.servers {
			l.access.Reopen()
		}
	}
	if p.policyFile == nil {
		p.log.Info("nothing to reload: there is no policy file")
		return
	}
	p.policyFile.Reload()
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
	pages := &http.Server{Handler: p.closing(admin.Handler(p.pages())), ReadHeaderTimeout: 5 * time.Second}
	servers := p.servers()
	servers = append(servers, server{"admin", p.admin(), false, func(ln net.Listener) run.Component {
		return run.Component{Name: "admin", Run: run.HTTP(pages, ln, time.Second)}
	}})
	if p.mesh != nil {
		servers = append(servers, server{"incoming", p.cfg.Incoming, true, func(ln net.Listener) run.Component {
			return run.Component{Name: "incoming router", Run: func(ctx context.Context) error { return p.mesh.incoming.Serve(ctx, ln) }}
		}})
	}

	var err error
	if p.poller, err = socket.Open(); err != nil {
		return err
	}
	if p.cfg.redirected() {
		p.poller.OnDial(capture.Mark)
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
	p.tell()
	attrs := []any{"mode", p.mode()}
	if p.policy != nil {
		attrs = append(attrs, "policy", p.policy.Value().Get().Source)
	}
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
		{Name: "connections", Run: p.pools.Run},
	}
	for _, n := range p.meanings() {
		components = append(components, run.Component{Name: "namers", Run: n.run})
	}
	for _, r := range p.routes {
		components = append(components, r.support()...)
	}
	if p.policyFile != nil {
		components = append(components, run.Component{Name: "policy", Run: p.policyFile.Run})
	}
	if p.namer != nil {
		components = append(components, run.Component{Name: "namer client", Run: p.namer.Run})
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
			if p.mesh != nil { // however an address got here: as an endpoint, too
				if a, err := netip.ParseAddrPort(t.Address); err == nil && metadata.Address(a.Addr()) {
					return nil, metadata.Refuse(a.Addr())
				}
			}
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
