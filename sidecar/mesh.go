package sidecar

import (
	"context"
	"crypto/tls"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/certs"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	namer "github.com/tulle-mesh/tulle/naming/namer/client"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// mesh is what a proxy has because there is a controller: an identity, names of
// Kubernetes, and a router for requests of other proxies.
type mesh struct {
	identity *certs.Source
	namer    *namer.Client
	node     *node // host mode
	incoming *router.Incoming
	// namespace returns the namespace of the caller at an IP.
	namespace func(context.Context, string) (string, error)
}

// controllerTLS returns how the controller is trusted. It reads the CA file.
func (c *Config) controllerTLS() (*tls.Config, error) {
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, nil
}

// newNamer makes the client of the controller's namer.
func (p *Proxy) newNamer(mode string) (*namer.Client, error) {
	controller, err := p.cfg.controllerTLS()
	if err != nil {
		return nil, err
	}
	return namer.New(namer.Config{
		URL: p.cfg.Controller, TLS: controller, Token: certs.FileToken(p.cfg.TokenFile), Dial: p.cfg.dial(), Logger: p.log, InUse: p.inUse,
		Hello: api.Hello{Proxy: p.cfg.PodName, Node: p.cfg.Node, Mode: mode, DtabNamespace: p.cfg.DtabNamespace, ConfigMaps: p.configMaps()},
	})
}

// newMesh makes what the mesh gives, once there are a namer and a policy. It asks
// for the addresses of the machine.
func (p *Proxy) newMesh() (*mesh, error) {
	cfg := p.cfg
	id, err := cfg.identity()
	if err != nil {
		return nil, err
	}
	controller, err := cfg.controllerTLS()
	if err != nil {
		return nil, err
	}
	m := &mesh{namer: p.namer}
	m.identity, err = certs.New(certs.Config{
		URL: cfg.Controller, TLS: controller, Token: certs.FileToken(cfg.TokenFile), ID: id, Dial: cfg.dial(), Logger: p.log,
	})
	if err != nil {
		return nil, err
	}
	m.namespace = func(context.Context, string) (string, error) { return cfg.Namespace, nil }
	ours := own(cfg.PodIP)
	if cfg.Mode == api.ModeHost {
		m.node = newNode(m.namer.Pods(), cfg.PodIP, cfg.DefaultNamespace)
		m.namespace, ours = m.node.namespace, m.node.ours
	}
	m.incoming = router.NewIncoming(router.IncomingConfig{
		TLS: m.identity.ServerTLS(), Identified: m.identity.Ready(), Pools: p.pools, Metrics: p.counts, Policy: p.policy.Value(),
		Ours: ours, Grace: p.grace, Leaving: p.leaving, Logger: p.log,
	})
	p.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tulle_identity_expiry_seconds", Help: "Unix time at which the proxy's certificate expires; 0 before the first.",
	}, func() float64 {
		if t := m.identity.NotAfter(); !t.IsZero() {
			return float64(t.Unix())
		}
		return 0
	}))
	return m, nil
}

// waiting returns what the mesh has not given yet.
func (m *mesh) waiting() []string {
	var missing []string
	if m.identity.NotAfter().IsZero() {
		missing = append(missing, "a certificate from the controller")
	}
	select {
	case <-m.namer.Synced():
	default:
		missing = append(missing, "the dtab from the controller")
	}
	return missing
}

// ready waits until nothing is missing, nor the list of the node's pods.
func (m *mesh) ready(ctx context.Context) error {
	for _, there := range []<-chan struct{}{m.identity.Ready(), m.namer.Synced()} {
		select {
		case <-there:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if m.node == nil {
		return nil
	}
	_, err := m.namer.Pods().Wait(ctx, func(pods []api.Pod) bool { return pods != nil })
	return err
}

func (m *mesh) support() []run.Component {
	components := []run.Component{
		{Name: "identity", Run: m.identity.Run},
	}
	if m.node != nil {
		components = append(components, run.Component{Name: "pods of the node", Run: m.node.run})
	}
	return components
}
