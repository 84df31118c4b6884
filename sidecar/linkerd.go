package sidecar

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/certs"
	"github.com/tulle-mesh/tulle/internal/cli"
	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/l5d"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/linkerd"
	"github.com/tulle-mesh/tulle/sidecar/namerd"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// modeConfigured is what a proxy that runs a configuration of Linkerd 1.x tells the
// namer that it is: nobody's sidecar, and with no certificate to show.
const modeConfigured = ModeStandalone

// makeFile makes the routers of a configuration of Linkerd 1.x.
func (p *Proxy) makeFile(checked bool) error {
	file, content, err := cli.ReadFile(p.cfg.Config)
	if err != nil {
		return err
	}
	if p.file, err = linkerd.Parse(file, content); err != nil {
		return err
	}
	p.said = l5d.Said(l5d.Root(&document.Reader{}, content))
	if absent := p.file.Absent(); len(absent) > 0 && !checked {
		return join(absent)
	}
	if p.file.ShutdownGrace > 0 {
		p.grace = p.file.ShutdownGrace
	}
	switch needs := p.needsController(); {
	case p.cfg.controlled():
		if p.namer, err = p.newNamer(modeConfigured); err != nil {
			return err
		}
	case needs != "" && !checked:
		return errors.New(needs)
	}
	if p.names, err = p.newNames(p.file.Namers); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	p.names.direct = true
	for i := range p.file.Routers {
		if err := p.makeRoute(&p.file.Routers[i]); err != nil {
			return fmt.Errorf("%s: router %s: %w", file, p.file.Routers[i].Label, err)
		}
	}
	if len(p.routes) == 0 && !checked {
		return errors.Join(fmt.Errorf("%s: there is no router that can be served", file), join(p.missing()))
	}
	return nil
}

// makeRoute makes what can be served of one router, if there is anything.
func (p *Proxy) makeRoute(said *linkerd.Router) error {
	if !servable(said) {
		return nil
	}
	r := &route{label: said.Label, prefix: said.Prefix, rules: watch.New(&said.Dtab), names: p.names}
	bound := bind.Config{Timeout: said.BindingTimeout, Paths: said.Cache.Paths, IdleTTL: said.Cache.IdleTTL}
	var err error
	switch in := said.Interpreter; in.Kind {
	case linkerd.File:
		r.file = newRules(in.File, p.log)
		r.stored, r.storedIn = r.file.dtab, in.File
	case linkerd.ConfigMap:
		of := configMap(in)
		r.configMap, r.storedIn = &of, of.String()
		if r.stored = new(watch.Value[*naming.Dtab]); p.namer != nil { // which it is not if the proxy is only checked
			r.stored = p.namer.Rules(of)
		}
	case linkerd.Namerd:
		r.namerdAt, r.namerdOf = in.Address, in.Namespace
		if r.namerd, err = p.newNamerd(in); err != nil {
			return err
		}
		// What names mean is namerd's business: the file's namers do not count here.
		meant, err := registry.New(registry.Config{Remote: true, Source: theirs{p, r.namerd}, Getenv: p.getenv, Logger: p.log})
		if err != nil {
			return err
		}
		r.names, bound.Remote = newNames(meant), r.namerd
		r.names.direct = true
	}
	if r.transform, err = r.names.current.Load().Transformation(said.Transformers); err != nil {
		return err
	}
	open := []string{}
	for _, s := range said.Servers {
		if len(s.Missing) > 0 {
			continue
		}
		l := &listener{address: s.Address, policy: watch.New(s.Policy)}
		if s.Local {
			l.local = p.cfg.local(nil)
		}
		r.servers = append(r.servers, l)
		if !s.Local && !s.Open && !s.Policy.Server.ClearContext && !onLoopback(s.Address) {
			open = append(open, s.Address)
		}
	}
	if len(open) > 0 {
		p.open = append(p.open, fmt.Sprintf("router %s: whoever reaches %s may route their requests by l5d-dtab anywhere that names lead, as in Linkerd 1.x; "+
			"overrides: local leaves that to callers on this machine, clearContext: true to nobody, and overrides: everyone says that it is meant",
			r.label, strings.Join(open, ", ")))
	}
	r.policy = r.servers[0].policy // of clients and services all servers of a router say the same
	p.routes = append(p.routes, p.newRoute(r, bound, client.Config{Limit: said.Cache.Clients, IdleTTL: said.Cache.IdleTTL}))
	identifiers := make([]router.Identifier, len(said.Identifiers))
	for i, id := range said.Identifiers {
		identifiers[i] = router.Identifier(id)
	}
	// No Local: unless a server says otherwise everybody's rules count, as is warned of.
	r.open(p, router.OutgoingConfig{Identifiers: identifiers})
	return nil
}

// configMap is where a router's rules are.
func configMap(in linkerd.Interpreter) api.ConfigMap {
	return api.ConfigMap{Namespace: in.Namespace, Name: in.Name, Key: in.Key}
}

// configMaps are those by whose rules the proxy routes, each once.
func (p *Proxy) configMaps() []api.ConfigMap {
	if p.file == nil {
		return nil
	}
	var all []api.ConfigMap
	for _, r := range p.file.Routers {
		if of := configMap(r.Interpreter); r.Interpreter.Kind == linkerd.ConfigMap && servable(&r) && !slices.Contains(all, of) {
			all = append(all, of)
		}
	}
	return all
}

// newNamerd makes the client of the namerd that binds a router's names. With TLS and
// no other token it is shown the proxy's own, if there is one.
func (p *Proxy) newNamerd(in linkerd.Interpreter) (*namerd.Client, error) {
	c := namerd.Config{
		Address: in.Address, Namespace: in.Namespace, Retry: namerd.Retry{Base: in.RetryMin, Max: in.RetryMax}, Logger: p.log,
	}
	for _, r := range p.routes {
		if r.namerd != nil && r.namerdAt == in.Address {
			c.Beside = r.namerd
		}
	}
	if in.TLS.CommonName != "" {
		c.TLS = &namerd.TLS{Name: in.TLS.CommonName, Roots: func() (*x509.CertPool, error) { return authorities(in.TLS.Trust) }}
		if _, err := c.TLS.Roots(); err != nil && (p.unset == nil || !errors.As(err, new(*fs.PathError))) {
			return nil, fmt.Errorf("interpreter.tls: %w", err)
		}
	}
	switch own := certs.FileToken(p.cfg.TokenFile); {
	case in.TokenFile != "":
		c.Token = certs.FileToken(in.TokenFile)
	case c.TLS != nil:
		c.Token = func() (string, error) {
			token, err := own()
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return token, err
		}
	}
	return namerd.New(c)
}

// authorities reads files of certificates, one a line, nil if there are none.
func authorities(files string) (*x509.CertPool, error) {
	if files == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	for file := range strings.SplitSeq(files, "\n") {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read certificates: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read certificates: %s holds none in PEM", file)
		}
	}
	return pool, nil
}

// servable reports whether anything of the router can be served.
func servable(r *linkerd.Router) bool {
	return len(r.Missing) == 0 && slices.ContainsFunc(r.Servers, func(s linkerd.Server) bool { return len(s.Missing) == 0 })
}

// missing returns what the file asks for and is not served.
func (p *Proxy) missing() []document.Warning {
	var all []document.Warning
	for _, r := range p.file.Routers {
		all = append(all, r.Missing...)
		for _, s := range r.Servers {
			all = append(all, s.Missing...)
		}
	}
	return all
}

func join(warnings []document.Warning) error {
	var errs []error
	for _, w := range warnings {
		errs = append(errs, errors.New(w.String()))
	}
	return errors.Join(errs...)
}

// needsController returns why the file needs a controller, empty if it does not.
func (p *Proxy) needsController() string {
	const hint = "which only Tulle's controller tells a proxy of: set --controller, --controller-ca-file and --token-file"
	for _, r := range p.file.Routers {
		if !servable(&r) || r.Interpreter.Kind == linkerd.Namerd {
			continue // what names mean is namerd's business
		}
		if r.Interpreter.Kind == linkerd.ConfigMap {
			return fmt.Sprintf("%s: the interpreter %s is about a ConfigMap of Kubernetes, %s", p.file.File, r.Interpreter.Kind, hint)
		}
		for _, n := range p.file.Namers {
			switch n.Kind {
			case registry.Kubernetes, registry.KubernetesHere, registry.KubernetesExternal:
				return fmt.Sprintf("%s: the namer %s is about Services of Kubernetes, %s", p.file.File, n.Kind, hint)
			}
		}
		for _, t := range r.Transformers {
			if t.Kind == registry.DaemonSet {
				return fmt.Sprintf("%s: the transformer %s is about a Service of Kubernetes, %s", p.file.File, t.Kind, hint)
			}
		}
	}
	return ""
}

// onLoopback reports whether only this machine reaches an address.
func onLoopback(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return err == nil && a.Addr().IsLoopback()
}

// Report is what -validate says of a configuration of Linkerd 1.x.
type Report struct {
	Lines  []string // file:line: text, of each thing that has no effect or is missing
	Served int      // how many routers can be served, of
	Total  int
	Absent int // how many files cannot be read that must be where the proxy runs; each has a line
}

// Check reads the configuration that cfg names and reports on it. It opens no
// port and needs no controller, nor the files that the configuration names. The error joins what is wrong, one line each.
func Check(cfg Config) (*Report, error) {
	p, err := newProxy(cfg, slog.New(slog.DiscardHandler), true)
	if err != nil {
		return nil, err
	}
	r := &Report{Served: len(p.routes), Total: len(p.file.Routers)}
	for _, w := range p.file.Warnings {
		r.Lines = append(r.Lines, fmt.Sprintf("%s:%d: warning: %s", w.File, w.Line, w.Text))
	}
	for _, w := range p.missing() {
		r.Lines = append(r.Lines, fmt.Sprintf("%s:%d: missing: %s", w.File, w.Line, w.Text))
	}
	for _, w := range p.file.Absent() {
		r.Absent++
		r.Lines = append(r.Lines, fmt.Sprintf("%s:%d: absent: %s; it must be there where the proxy runs", w.File, w.Line, w.Text))
	}
	for _, text := range p.open {
		r.Lines = append(r.Lines, fmt.Sprintf("%s: warning: %s", p.file.File, text))
	}
	for _, key := range slices.Sorted(maps.Keys(p.unset)) {
		r.Lines = append(r.Lines, fmt.Sprintf("warning: %s is not set here; where the proxy runs it must be, if names depend on it", key))
	}
	if needs := p.needsController(); needs != "" && !cfg.controlled() {
		r.Lines = append(r.Lines, "warning: "+needs)
	}
	return r, nil
}

// tell logs what the file says without effect, and what of it is not served.
func (p *Proxy) tell() {
	if p.file == nil {
		return
	}
	for _, text := range p.open {
		p.log.Warn(text)
	}
	for _, w := range p.file.Warnings {
		p.log.Warn(w.Text, "file", w.File, "line", w.Line)
	}
	for _, w := range p.missing() {
		p.log.Error(w.Text, "file", w.File, "line", w.Line)
	}
}

// admin is the address of the administration port.
func (p *Proxy) admin() string {
	if p.file != nil {
		return p.file.Admin
	}
	return p.cfg.Admin
}
