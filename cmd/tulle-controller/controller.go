package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tulle-mesh/tulle/certs"
	"github.com/tulle-mesh/tulle/certs/issuer"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/dns"
	"github.com/tulle-mesh/tulle/naming/kubernetes"
	"github.com/tulle-mesh/tulle/naming/kubernetes/access"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/policy"
)

const (
	// audience is what tokens for the controller are projected for.
	audience = access.Audience
	// drain is how long to go on serving after SIGTERM: by then the API server and the proxies have
	// heard that this replica is going.
	drain = 5 * time.Second
	// grace is how long requests under way may take after that; an admission review has 10 s at most.
	grace = 10 * time.Second

	headerTimeout = 5 * time.Second
	idleTimeout   = 2 * time.Minute
	// reviewTimeout bounds a whole request to the webhook, whose caller waits no longer.
	reviewTimeout = 10 * time.Second
)

// controller is the parts, wired and not yet running.
type controller struct {
	cfg        Config
	log        *slog.Logger
	files      *certs.Files
	index      *kubernetes.Index
	policy     *policy.File // nil without a file
	clients    clients
	namespaces *namespaces
	injector   *injector
	store      namer.Store
	seeds      *seeds
	proxies    prometheus.Gauge // streams that are open
	components []run.Component  // beside those that every controller has
	drain      time.Duration
	draining   atomic.Bool
	servers    []run.Server
	// listening, if not nil, is told each server's address. It is for tests.
	listening func(name, address string)
}

// certificate gets the certificate of a port, as tls.Config asks for it.
type certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// newController puts the parts together. It does no I/O. level is that of log, which people may set.
func newController(cfg Config, clients clients, log *slog.Logger, level *slog.LevelVar) (*controller, error) {
	c := &controller{
		cfg: cfg, log: log, clients: clients, drain: drain,
		files:      certs.NewFiles(cfg.TLSCertFile, cfg.TLSKeyFile, cfg.CAFile, log),
		namespaces: newNamespaces(clients.metadata),
		proxies: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tulle_namer_proxies", Help: "Proxies that are connected to this replica.",
		}),
	}
	trustDomain, err := spiffeid.TrustDomainFromString(cfg.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("parse trust domain: %w", err)
	}
	hostIdentity, err := certs.Identity(trustDomain, cfg.Namespace, cfg.HostServiceAccount)
	if err != nil {
		return nil, err
	}
	c.index, err = kubernetes.NewIndex(kubernetes.Config{TrustDomain: cfg.TrustDomain, HostProxyIdentity: hostIdentity.String(), Logger: log})
	if err != nil {
		return nil, fmt.Errorf("make the index of endpoints: %w", err)
	}
	bare, keep, err := newStore(cfg, clients, log)
	if err != nil {
		return nil, fmt.Errorf("make the store of dtabs: %w", err)
	}
	if keep != nil {
		c.components = append(c.components, run.Component{Name: "dtabs", Run: keep})
	}
	behaviour := watch.New([]byte{}) // without a file all proxies have the defaults
	if cfg.Policy != "" {
		c.policy = policy.NewFile(cfg.Policy, log)
		behaviour = c.policy.Text()
	}
	metrics := prometheus.NewRegistry()
	if err := c.register(metrics); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	kept, err := namer.NewCounted(bare, metrics)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	c.store, c.seeds = kept, newSeeds(kept, cfg.Dtabs, log)
	rules, err := access.New(access.Config{Client: clients.access, Namespace: cfg.Namespace, Registerer: metrics, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	namers, warnings, err := registry.Parse("namers", []byte(cfg.Namers))
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		log.Warn("a word of the namers has no effect", "warning", w)
	}
	ledger := &registry.Ledger{}
	names, err := registry.New(registry.Config{
		Namers: namers, Distinct: true, Ledger: ledger, Logger: log,
		Source: registry.Leaves{Kubernetes: c.index.Replicas, Hosts: dns.New(dns.Config{})},
	})
	if err != nil {
		return nil, err
	}
	c.components = append(c.components, run.Component{Name: "first dtabs", Run: c.seeds.Run}, run.Component{Name: "names", Run: names.Run})
	authenticator := issuer.NewTokenReview(clients.core, audience)
	identity, err := issuer.New(issuer.Config{
		TrustDomain:   trustDomain,
		Authenticator: authenticator,
		Signer: issuer.NewCertManager(issuer.CertManagerConfig{
			Client:    clients.certmanager,
			Namespace: cfg.Namespace,
			Issuer:    cmmeta.IssuerReference{Name: cfg.IssuerName, Kind: cfg.IssuerKind, Group: cfg.IssuerGroup},
			Logger:    log,
		}),
		Roots:      c.files.CA,
		Duration:   cfg.CertificateDuration,
		Registerer: metrics,
		Logger:     log,
	})
	if err != nil {
		return nil, err
	}
	if c.injector, err = newInjector(cfg, clients, c.files, c.namespaces, metrics, log); err != nil {
		return nil, err
	}
	c.components = append(c.components, c.injector.components...)

	review := c.serve("webhook", cfg.WebhookAddress, c.injector.GetCertificate)
	review.ReadTimeout, review.WriteTimeout = reviewTimeout, reviewTimeout
	review.Handler = c.injector

	dtabs := c.serve("namer API", cfg.NamerAddress, nil)
	seen := &namer.Seen{}
	edit := namer.NewAPI(namer.APIConfig{Store: kept, Registry: names, Seen: seen, BoundNames: c.index.Names, Authorize: rules.Authorizer(cfg.NamerAccess), Logger: log})
	dtabs.Handler = run.Streams(dtabs, edit)

	configMaps, follow, err := newConfigMaps(cfg, clients, log)
	if err != nil {
		return nil, err
	}
	c.components = append(c.components, follow)
	mesh, routes := c.serve("mesh API", cfg.MeshAddress, c.files.GetCertificate), http.NewServeMux()
	routes.Handle("POST "+certs.Path, identity)
	// The same API as at its own port, for those who send tokens through a network that others can read.
	routes.Handle("/api/1/", run.Streams(mesh, edit))
	stream := namer.NewStream(namer.StreamConfig{
		Store: kept, Source: followed{c.index, ledger}, Policy: behaviour, Namers: watch.New([]byte(cfg.Namers)), Rules: configMaps.Rules, Seen: seen, Logger: log,
		Admit: func(r *http.Request) (namer.Guest, error) { return c.admit(authenticator, r) },
	})
	routes.Handle("POST "+api.WatchPath, run.Streams(mesh, promhttp.InstrumentHandlerInFlight(c.proxies, stream)))
	mesh.Handler = routes

	admin, pages := c.serve("admin", cfg.AdminAddress, nil), http.NewServeMux()
	pages.HandleFunc("GET /admin/ping", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "pong") })
	pages.HandleFunc("GET /admin/ready", c.ready)
	pages.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	admin.Handler = pages
	if cfg.PagesAddress != "" {
		c.serve("pages", cfg.PagesAddress, nil).Handler = c.pages(names, ledger, seen, metrics, level)
	}
	return c, nil
}

// serve adds a server with the timeouts that fit any handler; streams rule out the others.
func (c *controller) serve(name, address string, own certificate) *http.Server {
	s := &http.Server{
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(c.log.Handler(), slog.LevelDebug), // Callers' failures: probes, scanners.
	}
	c.servers = append(c.servers, run.Server{Name: name, Address: address, HTTP: s})
	if own != nil {
		c.servers[len(c.servers)-1].TLS = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: own}
	}
	return s
}

func (c *controller) register(r prometheus.Registerer) error {
	loads := func() (taken, refused uint64) { return 0, 0 }
	if c.policy != nil {
		loads = c.policy.Loads
	}
	reloads := func(result string, count func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tulle_controller_policy_reloads_total", ConstLabels: prometheus.Labels{"result": result},
			Help: "How often a policy was taken (ok) from its file, the first one included, or refused (failed).",
		}, count)
	}
	return errors.Join(
		r.Register(reloads("ok", func() float64 { taken, _ := loads(); return float64(taken) })),
		r.Register(c.proxies),
		r.Register(reloads("failed", func() float64 { _, refused := loads(); return float64(refused) })),
		r.Register(collectors.NewGoCollector()),
		r.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})),
		r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tulle_controller_certificate_expiry_timestamp_seconds",
			Help: "When the serving certificate runs out, in seconds since 1970; 0 while there is none.",
		}, func() float64 {
			if t := c.files.NotAfter(); !t.IsZero() {
				return float64(t.Unix())
			}
			return 0
		})),
	)
}

// notAdmitted is a proxy that asks for what is not its own.
type notAdmitted struct{ reason string }

func (e *notAdmitted) Error() string { return e.reason }

// StatusCode is the HTTP status to answer with.
func (e *notAdmitted) StatusCode() int { return http.StatusForbidden }

// admit lets any pod of the cluster follow names, and the host proxies the pods of their own node.
func (c *controller) admit(a issuer.Authenticator, r *http.Request) (namer.Guest, error) {
	caller, err := issuer.Authenticate(a, r)
	if err != nil {
		return namer.Guest{}, err
	}
	name := caller.Namespace + "/" + caller.ServiceAccount
	if caller.Pod != "" {
		name += "/" + caller.Pod
	}
	return namer.Guest{Name: name, May: func(hello api.Hello) error {
		switch {
		case hello.Mode != api.ModeHost:
			return nil
		case caller.Namespace != c.cfg.Namespace || caller.ServiceAccount != c.cfg.HostServiceAccount:
			return &notAdmitted{fmt.Sprintf("service account %s/%s asks for the pods of a node, which only the host proxies' %s/%s may",
				caller.Namespace, caller.ServiceAccount, c.cfg.Namespace, c.cfg.HostServiceAccount)}
		// API servers before Kubernetes 1.30 do not say which node a token belongs to.
		case caller.Node != "" && caller.Node != hello.Node:
			return &notAdmitted{fmt.Sprintf("the host proxy of node %q asks for the pods of node %q", caller.Node, hello.Node)}
		}
		return nil
	}}, nil
}

// waiting returns what is missing of what the servers answer from, the gravest first; more so when stopping.
func (c *controller) waiting() (all []string) {
	for _, reason := range []struct {
		holds bool
		text  string
	}{
		{c.draining.Load(), "the controller is stopping"},
		{!c.files.Loaded(), "the serving certificate is not loaded"},
		{!isClosed(c.index.Synced()), "services, endpoints and pods are not read yet"},
		{!c.namespaces.HasSynced(), "namespaces are not read yet"},
		{c.injector.notReady() != "", c.injector.notReady()},
		{c.store.Names().Get() == nil, "dtabs are not read yet"},
		{!isClosed(c.seeds.tried), "the first dtabs are not made yet"},
	} {
		if reason.holds {
			all = append(all, reason.text)
		}
	}
	return all
}

// ready answers 200 when nothing is missing.
func (c *controller) ready(w http.ResponseWriter, _ *http.Request) {
	if waiting := c.waiting(); len(waiting) > 0 {
		http.Error(w, waiting[0], http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ready")
	if remark := c.injector.remark(); remark != "" {
		_, _ = io.WriteString(w, "\n"+remark+"\n")
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Run opens every port and serves until ctx is done and the drain is over.
func (c *controller) Run(ctx context.Context) error {
	components := append([]run.Component{
		{Name: "certificate files", Run: c.files.Run},
		{Name: "endpoints", Run: func(ctx context.Context) error { return c.index.Run(ctx, c.clients.core) }},
		{Name: "namespaces", Run: c.namespaces.Run},
	}, c.components...)
	if c.policy != nil {
		// One that is wrong does not keep certificates and names from the mesh: it is not sent, and proxies
		// go on with what they have.
		c.policy.Reload()
		components = append(components, run.Component{Name: "policy", Run: c.policy.Run})
	}
	at := map[string]string{}
	servers, err := run.Listen(c.servers, grace, func(name, address string) {
		if at[name] = address; c.listening != nil {
			c.listening(name, address)
		}
	})
	if err != nil {
		return err
	}
	components = append(components, servers...)
	c.log.Info("serving", "webhook", at["webhook"], "namer", at["namer API"], "mesh", at["mesh API"], "admin", at["admin"], "pages", at["pages"])
	return run.Group(ctx, run.Config{Drain: c.drain, Draining: func() { c.draining.Store(true) }, Logger: c.log}, components...)
}
