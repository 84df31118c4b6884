package sidecar

import (
	"context"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/accesslog"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/namerd"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// outgoing is the label of the only router for applications that a proxy has if
// no file says otherwise.
const outgoing = "outgoing"

// route is one router: what its names mean, whom it calls, and where it takes
// requests.
type route struct {
	label  string
	prefix naming.Path                // of service names
	rules  *watch.Value[*naming.Dtab] // of the router itself, or of the mesh
	kept   bool                       // rules are of the mesh: whoever asks about a name asks beside them
	// stored are rules of an interpreter, which come before the router's, nil inside until they are
	// known; nil without one. storedIn is where they are.
	stored    *watch.Value[*naming.Dtab]
	storedIn  string
	file      *rules         // that keeps stored up to date; nil if they are in no file
	configMap *api.ConfigMap // that they are in; nil for none
	namerd    *namerd.Client // which says what names mean; nil if the rules here do
	namerdAt  string         // its address
	namerdOf  string         // the namespace whose rules it follows
	names     *names
	// transform changes what names are bound to; nil if nothing does.
	transform *registry.Transformation
	// policy has what holds for clients and services; servers have their own.
	policy  *watch.Value[*policy.Policy]
	servers []*listener

	binder  *bind.Binder
	clients *client.Set
}

// listener is one address of a route.
type listener struct {
	address string
	policy  *watch.Value[*policy.Policy]
	local   func(source string) bool // whose rules count; nil for what the router says
	access  *accesslog.Log
	router  *router.Outgoing
}

// newRoute completes r with what binds its names and calls its endpoints. c and
// clients have what is special to them.
func (p *Proxy) newRoute(r *route, c bind.Config, clients client.Config) *route {
	if r.prefix == nil {
		r.prefix = naming.Path{"svc"}
	}
	c.Dtab, c.Prefix = r.rules, r.prefix
	if r.transform != nil {
		c.Transform = r.transform
	}
	if c.Names == nil {
		c.Names = watch.New[bind.Names](r.names)
	}
	c.Stored = r.stored
	if p.namer != nil && r.kept {
		c.Added = p.namer.Used
	}
	r.binder = bind.New(c)
	clients.Source, clients.Pools, clients.Policy, clients.Metrics = r.names, p.pools, r.policy, p.counts
	r.clients = client.NewSet(clients)
	return r
}

// open makes the routers of the addresses. c has what is special to them.
func (r *route) open(p *Proxy, c router.OutgoingConfig) {
	c.Binder, c.Clients, c.Metrics = r.binder, r.clients, p.counts
	c.Label, c.Grace, c.Leaving, c.Logger = r.label, p.grace, p.leaving, p.log
	c.Advice = p.advice(r)
	if c.Namespace == nil {
		namespace := p.cfg.DefaultNamespace
		if p.file != nil { // Linkerd 1.x has no rule for /caller
			namespace = ""
		}
		c.Namespace = func(context.Context, string) (string, error) { return namespace, nil }
	}
	if c.Identified == nil {
		identified := make(chan struct{})
		close(identified) // there is nobody to prove anything to
		c.Identified = identified
	}
	for _, l := range r.servers {
		l.access = accesslog.New(accesslog.Config{
			Path: func() string { return l.policy.Get().Server.HTTPAccessLog }, Logger: p.log,
		})
		l.policy.Notify(l.access.Reopen) // for as long as both live
		c := c
		c.Policy, c.AccessLog = l.policy, l.access
		if l.local != nil {
			c.Local = func(source string) bool { return l.local(source) }
		}
		l.router = router.NewOutgoing(c)
	}
}

// advice returns what answers about names advise: a namerd's rules and endpoints are
// not to be looked for here, and rules of a proxy's own say by themselves whether they
// are about Services.
func (p *Proxy) advice(r *route) router.Advice {
	switch {
	case p.mesh != nil:
		return router.Advice{}
	case r.namerd != nil:
		return router.Advice{
			NoRoute: "the namerd at " + r.namerdAt + " says what names mean: check that its namespace " + r.namerdOf +
				" has a rule for this one, and that what that leads to is there and has endpoints",
			Late: "check that the namerd at " + r.namerdAt + " answers, and knows the namespace " + r.namerdOf + ": see /admin/ready and the log of the proxy",
		}
	}
	a := router.Advice{NoRoute: "check that a rule above is for this name, and that what it leads to is there and has endpoints"}
	if r.stored != nil {
		a.NoRoute = "check that a rule above, which those of " + r.storedIn + " are among, is for this name, and that what it leads to is there and has endpoints"
	}
	if r.configMap != nil {
		a.Late = "check that the controller answers, and may read the ConfigMap with the rules: " + r.storedIn + "; see /admin/ready and the log of the proxy"
	}
	if p.namer == nil {
		a.Late = "check what the name leads to by the proxy's rules, and that DNS answers: see /delegator.json of the administration port"
	}
	return a
}

func (r *route) support() []run.Component {
	components := []run.Component{
		{Name: "names of " + r.label, Run: r.binder.Run},
		{Name: "clients of " + r.label, Run: r.clients.Run},
	}
	if r.namerd != nil {
		components = append(components, run.Component{Name: "namerd of " + r.label, Run: r.namerd.Run})
	}
	if r.file != nil {
		components = append(components, run.Component{Name: "rules of " + r.label, Run: r.file.run})
	}
	for _, l := range r.servers {
		components = append(components, run.Component{Name: "access log of " + l.address, Run: l.access.Run})
	}
	return components
}

// servers returns what takes requests of applications.
func (p *Proxy) servers() []server {
	var all []server
	for _, r := range p.routes {
		for _, l := range r.servers {
			all = append(all, server{r.label, l.address, true, func(ln net.Listener) run.Component {
				return run.Component{Name: r.label + " router", Run: func(ctx context.Context) error { return l.router.Serve(ctx, ln) }}
			}})
		}
	}
	return all
}

// newNames returns what names mean by these namers.
func (p *Proxy) newNames(namers []registry.Namer) (*names, error) {
	r, err := p.newRegistry(namers)
	if err != nil {
		return nil, err
	}
	return newNames(r), nil
}

func (p *Proxy) newRegistry(namers []registry.Namer) (*registry.Registry, error) {
	return registry.New(registry.Config{Namers: namers, Source: leaves{p}, Inet: p.hosts.Replicas, Getenv: p.getenv, Logger: p.log})
}

// getenv looks up a variable of the environment; where it is not set, those that
// say what the settings say too are that. A proxy that is only checked may be on
// another machine: it notes what is not set, and takes something for it.
func (p *Proxy) getenv(key string) string {
	if value := os.Getenv(key); value != "" {
		return value
	}
	said := map[string]string{"POD_IP": p.cfg.PodIP, "NODE_NAME": p.cfg.Node, "POD_NAMESPACE": p.cfg.Namespace}[key]
	if stand := map[string]string{"POD_IP": "192.0.2.1", "NODE_NAME": "node", "POD_NAMESPACE": "default"}[key]; said == "" && p.unset != nil {
		p.unset[key] = true
		return stand
	}
	return said
}

// leaves are what the names of a registry come down to: DNS, and Kubernetes as the
// controller tells of it.
type leaves struct{ p *Proxy }

func (l leaves) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	switch {
	case strings.HasPrefix(id, "/$/inet/"):
		return l.p.dns.Replicas(id)
	case strings.HasPrefix(id, "/#/io.l5d.k8s") && l.p.namer != nil:
		return l.p.namer.Replicas(id)
	}
	return watch.New(naming.Replicas{State: naming.StateNeg}), func() {}
}

// theirs are the leaves of what a namerd binds. Hosts are looked up here: a request
// may name any, and where the proxy goes for it is the proxy's to say.
type theirs struct {
	p      *Proxy
	namerd *namerd.Client
}

func (t theirs) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	if strings.HasPrefix(id, "/$/") {
		return t.p.dns.Replicas(id)
	}
	return t.namerd.Replicas(id)
}

// inUse returns what callers use at present of the rules of the mesh, for the namer. Rules of
// a file or a ConfigMap are none of its business.
func (p *Proxy) inUse() []api.Name {
	var all []api.Name
	for _, r := range p.routes {
		if !r.kept {
			continue
		}
		for _, u := range r.binder.InUse() {
			all = append(all, api.Name{Namespace: u.Namespace, Path: u.Path})
		}
	}
	return all
}

// meanings returns what names mean to all routers: one for the process, and one for
// each router that asks a namerd.
func (p *Proxy) meanings() []*names {
	all := []*names{p.names}
	for _, r := range p.routes {
		if !slices.Contains(all, r.names) {
			all = append(all, r.names)
		}
	}
	return all
}

func (p *Proxy) countNames() (followed, known int) {
	for _, n := range p.meanings() {
		f, k := n.count()
		followed, known = followed+f, known+k
	}
	return followed, known
}

// count exports how it stands with names, with whoever tells of them, and with
// the access logs.
func (p *Proxy) count() {
	gauge := func(name, help string, f func() float64) {
		p.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tulle_" + name, Help: help}, f))
	}
	p.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "tulle_access_log_dropped_total", Help: "Lines of the access log that the disk did not take, or not in time.",
	}, func() float64 {
		var dropped uint64
		for _, r := range p.routes {
			for _, l := range r.servers {
				dropped += uint64(l.access.Dropped())
			}
		}
		return float64(dropped)
	}))
	gauge("names_followed", "Replica sets that are followed.", func() float64 { followed, _ := p.countNames(); return float64(followed) })
	gauge("names_known", "Replica sets of which something is known, if only that there is no such thing.", func() float64 { _, known := p.countNames(); return float64(known) })
	for _, r := range p.routes {
		if r.namerd == nil {
			continue
		}
		router := prometheus.Labels{"router": r.label}
		p.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tulle_namerd_connected", Help: "1 while the namerd of the router answers it; a refusal is no answer.", ConstLabels: router,
		}, func() float64 { return number(r.namerd.State().Connected) }), prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tulle_namerd_refusals_total", Help: "How often the namerd of the router refused to answer because of who asked, with 401 or 403.", ConstLabels: router,
		}, func() float64 { return float64(r.namerd.Refusals()) }))
	}
	if p.namer == nil {
		return
	}
	gauge("namer_connected", "1 while the stream from the namer is up.", func() float64 { return number(p.namer.Connected()) })
	gauge("namer_silent_seconds", "Seconds since the namer was last heard, heartbeats included; since the start before its first word.", func() float64 {
		return p.silence().Seconds()
	})
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
