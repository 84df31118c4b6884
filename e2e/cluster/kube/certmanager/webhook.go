package main

import (
	"context"
	"fmt"
	"time"

	"github.com/cert-manager/cert-manager/internal/apis/config/shared"
	config "github.com/cert-manager/cert-manager/internal/apis/config/webhook"
	"github.com/cert-manager/cert-manager/internal/webhook"
	"github.com/cert-manager/cert-manager/pkg/logs"
	ctrl "sigs.k8s.io/controller-runtime"
)

// webhookService is the Service that the webhook configurations name.
const webhookService = "cert-manager-webhook"

// runWebhook serves cert-manager's admission webhook on 10250, and health on 6080, until ctx ends.
// It is what stamps the requester's identity on a CertificateRequest and guards its approval.
func runWebhook(ctx context.Context) error {
	log := logs.FromContext(ctx)
	ctrl.SetLogger(log)
	server, err := webhook.NewCertManagerWebhookServer(log, config.WebhookConfiguration{
		SecurePort:           10250,
		HealthzPort:          6080,
		MetricsListenAddress: "0",
		TLSConfig: shared.TLSConfig{Dynamic: shared.DynamicServingConfig{
			SecretNamespace: namespace,
			SecretName:      webhookService + "-ca",
			LeafDuration:    7 * 24 * time.Hour,
			DNSNames: []string{
				webhookService,
				webhookService + "." + namespace,
				webhookService + "." + namespace + ".svc",
			},
		}},
	})
	if err != nil {
		return fmt.Errorf("build the webhook server: %w", err)
	}
	return server.Run(ctx)
}
