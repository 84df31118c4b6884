package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/dns"
	"github.com/tulle-mesh/tulle/naming/kubernetes"
	"github.com/tulle-mesh/tulle/naming/kubernetes/access"
	"github.com/tulle-mesh/tulle/naming/kubernetes/store"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/admin"
	"github.com/tulle-mesh/tulle/naming/namer/namerd"
	"github.com/tulle-mesh/tulle/naming/registry"
)

const (
	// drain is how long to go on serving in a pod that is told to end: by then callers have heard of it.
	drain = 5 * time.Second

	headerTimeout = 5 * time.Second
	idleTimeout   = 2 * time.Minute
)

// process is the parts, wired and not yet running.
type process struct {
	file       *file
	log        *slog.Logger
	store      namer.Store
	index      *kubernetes.Index // nil if no name leads to a Service
	components []run.Component
	servers    []run.Server
	drain      time.Duration
	draining   atomic.Bool
	// listening, if not nil, is told each server's address. It is for tests.
	listening func(name, address string)
}

// newProcess puts the parts together. It does no I/O but for files of certificates. reached is nil if nothing in the file
// needs Kubernetes.
func newProcess(f *file, reached *clients, getenv func(string) string, level *slog.LevelVar, log *slog.Logger) (*process, error) {
	p := &process{file: f, log: log}
	if os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		p.drain = drain
	}
	bare, err := p.newStore(reached)
	if err != nil {
		return nil, err
	}
	services := func(naming.Path) (*watch.Value[naming.Replicas], func()) {
		return watch.New(naming.Replicas{State: naming.StateNeg}), func() {}
	}
	var boundNames func() []string
	if usesServices(f.Config) {
		if p.index, err = kubernetes.NewIndex(kubernetes.Config{Logger: log}); err != nil {
			return nil, err
		}
		services, boundNames = p.index.Replicas, p.boundNames
		p.components = append(p.components, run.Component{Name: "endpoints", Run: func(ctx context.Context) error { return p.index.Run(ctx, reached.core) }})
	}
	ledger := &registry.Ledger{}
	names, err := newNames(f.Config, registry.Leaves{Kubernetes: services, Hosts: dns.New(dns.Config{})}, ledger, getenv, log)
	if err != nil {
		return nil, err
	}
	p.components = append(p.components, run.Component{Name: "names", Run: names.Run})

	metrics := prometheus.NewRegistry()
	asks := access.Config{Namespace: f.Storage.Namespace, Registerer: metrics, Logger: log}
	if asks.Namespace == "" {
		asks.Namespace = "default" // as namerd's objects are, which there may be none of
	}
	if reached != nil {
		asks.Client = reached.access
	}
	rules, ruled := access.New(asks)
	kept, counted := namer.NewCounted(bare, metrics)
	if err := errors.Join(ruled, counted, metrics.Register(collectors.NewGoCollector()),
		metrics.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	p.store = kept

	seen := &namer.Seen{}
	for _, s := range f.Servers {
		server := p.serve("HTTP API", s.Address)
		if server.TLS, err = f.tls(s, log); err != nil {
			return nil, err
		}
		server.HTTP.Handler = run.Streams(server.HTTP, namer.NewAPI(namer.APIConfig{
			Store: kept, Registry: names, Seen: seen, BoundNames: boundNames, Authorize: rules.Authorizer(mode(s)), Logger: log,
		}))
	}
	p.serve("admin", f.Admin).HTTP.Handler = admin.Handler(admin.Config{
		Store: kept, Registry: names, Followed: ledger.Followed, BoundNames: boundNames, Names: seen.Names,
		Configuration: func() any { return f.Said() }, Metrics: metrics, Ready: p.waiting, Level: level, Logger: log,
	})
	return p, nil
}

// newStore returns the store that the file names, and has what keeps it up to date run.
func (p *process) newStore(reached *clients) (namer.Store, error) {
	switch s := p.file.Storage; s.Kind {
	case namerd.Kubernetes:
		objects, err := store.New(store.Config{Client: reached.dynamic, Namespace: s.Namespace, Logger: p.log})
		if err != nil {
			return nil, err
		}
		p.components = append(p.components, run.Component{Name: "dtabs", Run: objects.Run})
		return objects, nil
	case namerd.Files:
		files := namer.NewFiles(namer.FilesConfig{Dir: s.Dir, Logger: p.log})
		p.components = append(p.components, run.Component{Name: "dtabs", Run: files.Run})
		return files, nil
	default:
		first := map[string]string{}
		for name, dtab := range s.Namespaces {
			first[name] = dtab.Exact()
		}
		return namer.NewMemory(first)
	}
}

// boundNames returns the names of all ports of Services that exist, as namerd lists them: without those of namers that ask
// for a label too, or have transformers.
func (p *process) boundNames() []string {
	var all []string
	for _, n := range p.file.Namers {
		if n.Kind != registry.Kubernetes || n.LabelSelector != "" || len(n.Transformers) > 0 {
			continue
		}
		for _, id := range p.index.Names() {
			all = append(all, "/#"+n.Prefix.String()+strings.TrimPrefix(id, "/#/"+registry.Kubernetes))
		}
	}
	return all
}

// newNames returns what names mean by the file's namers.
func newNames(c *namerd.Config, source registry.Source, ledger *registry.Ledger, getenv func(string) string, log *slog.Logger) (*registry.Registry, error) {
	names, err := registry.New(registry.Config{Namers: c.Namers, Distinct: true, Source: source, Ledger: ledger, Getenv: getenv, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.File, err)
	}
	return names, nil
}

// serve adds a server in the clear with the timeouts that fit any handler; streams rule out the others.
func (p *process) serve(name, address string) *run.Server {
	p.servers = append(p.servers, run.Server{Name: name, Address: address, HTTP: &http.Server{
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug), // Callers' failures: probes, scanners.
	}})
	return &p.servers[len(p.servers)-1]
}

// waiting returns what there is no answer without, and whether it is stopping.
func (p *process) waiting() []string {
	var all []string
	for _, reason := range []struct {
		holds bool
		text  string
	}{
		{p.draining.Load(), "the namer is stopping"},
		{p.index != nil && !p.read(), "services, endpoints and pods are not read yet"},
		{p.store.Names().Get() == nil, "dtabs are not read yet"},
	} {
		if reason.holds {
			all = append(all, reason.text)
		}
	}
	return all
}

// read reports whether the cluster has been read.
func (p *process) read() bool {
	select {
	case <-p.index.Synced():
		return true
	default:
		return false
	}
}

// Run opens every port and serves until ctx is done and the drain is over.
func (p *process) Run(ctx context.Context) error {
	at := map[string][]string{}
	servers, err := run.Listen(p.servers, p.file.Grace, func(name, address string) {
		at[name] = append(at[name], address)
		if p.listening != nil {
			p.listening(name, address)
		}
	})
	if err != nil {
		return err
	}
	p.log.Info("serving", "api", strings.Join(at["HTTP API"], " "), "admin", strings.Join(at["admin"], " "), "storage", p.file.Storage.Kind)
	return run.Group(ctx, run.Config{Drain: p.drain, Draining: func() { p.draining.Store(true) }, Logger: p.log}, append(p.components, servers...)...)
}
