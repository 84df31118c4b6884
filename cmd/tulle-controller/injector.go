package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/certs"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/naming/kubernetes/store"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/serving"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

const (
	// webhookSecret is where the CA of the webhook's own certificate is kept; the chart gives the right to it by name.
	webhookSecret = "tulle-webhook-ca"
	// reviewBudget bounds what an answer may wait for, which is nothing but a namespace that is asked for, so new are it or its label. It
	// is less than the API server waits, so that the writer of a pod hears why.
	reviewBudget = 2 * time.Second
)

// webhookConfigurations are those of the chart, whose entries must trust the webhook's certificate.
func webhookConfigurations() []string { return []string{"tulle-injector", "tulle-dtabs"} }

// injector is the webhook, and what keeps it to the cluster and reachable.
type injector struct {
	server      *webhook.Server
	settings    settings.Settings
	files       *certs.Files
	nodes       *nodes               // nil if the settings leave nothing to them
	certificate *serving.Certificate // nil if it is that of the files
	probe       *serving.Probe       // nil without a namespace for it
	components  []run.Component
}

func newInjector(cfg Config, clients clients, files *certs.Files, namespaces *namespaces, metrics prometheus.Registerer, log *slog.Logger) (*injector, error) {
	i := &injector{settings: cfg.injector(), files: files}
	if s := i.settings.Inject; s.HostAddress == settings.Auto || s.NativeSidecar == settings.Auto {
		i.nodes = newNodes(log)
		i.components = append(i.components, run.Component{Name: "nodes", Run: func(ctx context.Context) error { return i.nodes.Run(ctx, clients.core) }})
	}
	var err error
	i.server, err = webhook.NewServer(webhook.ServerConfig{
		Config: i.config, Namespace: namespaces.Find, DTab: store.Check, Registerer: metrics, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	if cfg.WebhookCertificate == certificateSelf {
		service := "tulle-controller." + cfg.Namespace
		i.certificate, err = serving.New(serving.Config{
			REST: clients.rest, Client: clients.core, Namespace: cfg.Namespace, Secret: webhookSecret,
			DNSNames: []string{"tulle-controller", service, service + ".svc", service + ".svc.cluster.local"}, Configurations: webhookConfigurations(),
			Registerer: metrics, Logger: log,
		})
		if err == nil {
			i.components = append(i.components, run.Component{Name: "webhook's certificate", Run: i.certificate.Run})
		}
	} else {
		err = serving.RegisterExpiry(metrics, files.NotAfter)
	}
	if err != nil {
		return nil, fmt.Errorf("prepare the webhook's certificate: %w", err)
	}
	if cfg.ProbeNamespace != "" {
		if i.probe, err = serving.NewProbe(serving.ProbeConfig{Client: clients.core, Namespace: cfg.ProbeNamespace, Registerer: metrics, Logger: log}); err != nil {
			return nil, fmt.Errorf("prepare the webhook's probe: %w", err)
		}
		i.components = append(i.components, run.Component{Name: "webhook's probe", Run: i.probe.Run})
	}
	repairs, err := newRepairs(cfg, clients, i, metrics, log)
	if err != nil {
		return nil, fmt.Errorf("prepare the search for pods that escaped: %w", err)
	}
	i.components = append(i.components, repairs...)
	return i, nil
}

// config is the configuration of the next pod.
func (i *injector) config() webhook.Config {
	s := i.settings
	if i.nodes != nil {
		s = s.Resolve(i.nodes.Facts())
	}
	return s.Config(string(i.files.CA()))
}

// ServeHTTP implements http.Handler.
func (i *injector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), reviewBudget)
	defer cancel()
	i.server.ServeHTTP(w, r.WithContext(ctx))
}

// GetCertificate is for tls.Config.
func (i *injector) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if i.certificate != nil {
		return i.certificate.GetCertificate(hello)
	}
	return i.files.GetCertificate(hello)
}

// notReady says why no API server should be sent here, or nothing.
func (i *injector) notReady() string {
	if i.nodes != nil && !isClosed(i.nodes.synced) {
		return "nodes are not read yet"
	}
	if i.certificate != nil {
		return i.certificate.NotReady()
	}
	return ""
}

// remark says what whoever looks at a replica that is ready should know all the same, or nothing.
func (i *injector) remark() string {
	if i.probe == nil {
		return ""
	}
	o, ok := i.probe.Last()
	if !ok || o.Cause == "" {
		return ""
	}
	text := fmt.Sprintf("the injector's probe failed %s ago (%s): %s", time.Since(o.At).Round(time.Second), o.Cause, o.Message)
	if hint := o.Cause.Hint(); hint != "" {
		text += "\nhint: " + hint
	}
	return text
}
