package sidecar

import (
	"context"
	"crypto/tls"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/certs"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	namer "github.com/tulle-mesh/tulle/naming/namer/client"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/router"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
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

// newMesh reads the CA file and asks for the addresses of the machine.
func newMesh(cfg Config, pools *pool.Set, metrics *telemetry.Metrics, behaviour *watch.Value[*policy.Policy], registry prometheus.Registerer, leaving func() bool, log *slog.Logger) (*mesh, error) {
	roots, err := cfg.roots()
	if err != nil {
		return nil, err
	}
	id, err := cfg.identity()
	if err != nil {
		return nil, err
	}
	m := &mesh{}
	controller := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	m.identity, err = certs.New(certs.Config{
		URL: cfg.Controller, TLS: controller, Token: certs.FileToken(cfg.TokenFile), ID: id, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	m.namer, err = namer.New(namer.Config{
		URL: cfg.Controller, TLS: controller, Token: certs.FileToken(cfg.TokenFile), Logger: log,
		Hello: api.Hello{Proxy: cfg.PodName, Node: cfg.Node, Mode: cfg.Mode, DtabNamespace: cfg.DtabNamespace},
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
		TLS: m.identity.ServerTLS(), Identified: m.identity.Ready(), Pools: pools, Metrics: metrics, Policy: behaviour, Ours: ours, Grace: grace, Leaving: leaving, Logger: log,
	})
	prometheus.WrapRegistererWithPrefix("tulle_", registry).MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "namer_connected",
			Help: "1 while the stream from the namer is up."}, func() float64 {
			if m.namer.Connected() {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "identity_expiry_seconds",
			Help: "Unix time at which the proxy's certificate expires; 0 before the first."}, func() float64 {
			if t := m.identity.NotAfter(); !t.IsZero() {
				return float64(t.Unix())
			}
			return 0
		}),
	)
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
		{Name: "namer client", Run: m.namer.Run},
	}
	if m.node != nil {
		components = append(components, run.Component{Name: "pods of the node", Run: m.node.run})
	}
	return components
}
