package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/kubernetes/access"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/naming/rewrite"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

// Config is the settings of the controller.
type Config struct {
	WebhookAddress string `setting:"webhook-address" help:"address of the admission webhook"`
	NamerAddress   string `setting:"namer-address" help:"address of namerd's HTTP API"`
	MeshAddress    string `setting:"mesh-address" help:"address of the API for proxies"`
	AdminAddress   string `setting:"admin-address" help:"address of /admin/ping, /admin/ready and /metrics"`
	PagesAddress   string `setting:"pages-address" help:"address of namerd's pages, which show all rules and names to whoever reaches it; empty for none"`

	WebhookCertificate string `setting:"webhook-certificate" help:"certificate of the webhook: self (made here, by a CA in Secret tulle-webhook-ca) or file (tls-cert-file)"`
	ProbeNamespace     string `setting:"probe-namespace" help:"namespace in which to try once a minute that a pod is injected; empty for not at all"`

	TLSCertFile string `setting:"tls-cert-file" help:"certificate of the API for proxies, and of the webhook if that has none of its own"`
	TLSKeyFile  string `setting:"tls-key-file" help:"key of that certificate"`
	CAFile      string `setting:"ca-file" help:"roots of the mesh"`

	Namespace           string        `setting:"namespace" help:"namespace that Tulle runs in"`
	HostServiceAccount  string        `setting:"host-service-account" help:"service account of the host proxies, in that namespace"`
	TrustDomain         string        `setting:"trust-domain" help:"trust domain of the mesh's identities"`
	IssuerName          string        `setting:"issuer-name" help:"cert-manager issuer of the mesh's certificates"`
	IssuerKind          string        `setting:"issuer-kind" help:"its kind: Issuer or ClusterIssuer"`
	IssuerGroup         string        `setting:"issuer-group" help:"its API group"`
	CertificateDuration time.Duration `setting:"certificate-duration" help:"how long certificates of proxies are good for"`

	DtabStore   string            `setting:"dtab-store" help:"where dtabs are kept: kubernetes (objects dtabs.l5d.io), file or memory"`
	DtabDir     string            `setting:"dtab-dir" help:"directory of the store file, one NAME.dtab for each dtab namespace"`
	Dtabs       map[string]string `setting:"dtabs" help:"dtabs to begin with, by dtab namespace: made at start where there is none of that name"`
	Namers      string            `setting:"namers" help:"YAML list of the namers of all proxies that have none of their own; see docs/namer.md"`
	ConfigMaps  string            `setting:"config-maps" help:"ConfigMaps that proxies may be told the rules of, <namespace>/<name>, with commas between"`
	NamerAccess string            `setting:"namer-access" help:"who may use namerd's HTTP API from other machines: rbac (tokens of users who may use the objects dtabs.l5d.io) or open (everybody)"`

	Policy string `setting:"policy" help:"YAML file of the policy of all proxies that have none of their own, followed live; see docs/policy.md"`

	Inject settings.Inject `setting:"inject"`

	LogLevel   string `setting:"log-level" help:"debug, info, warn or error"`
	Kubeconfig string `setting:"kubeconfig" help:"kubeconfig file for use outside a cluster"`
}

// defaultDtab sends a name to the Service of that name as its caller sees it.
const defaultDtab = `/srv  => /caller ;
/host => /srv ;
/svc  => /host ;
`

// Where dtabs are kept.
const (
	storeKubernetes = "kubernetes"
	storeFile       = "file"
	storeMemory     = "memory"
)

// Certificates of the webhook.
const (
	certificateSelf = "self"
	certificateFile = "file"
)

// minDuration is the shortest life of a certificate that leaves time to try a renewal more than once.
const minDuration = 5 * time.Minute

// DefaultConfig returns the defaults, which fit the Helm chart's objects.
func DefaultConfig() Config {
	const mounted = "/etc/tulle/tls/"
	return Config{
		WebhookAddress: ":8443", NamerAddress: ":4180", MeshAddress: ":4181", AdminAddress: ":9990", PagesAddress: "127.0.0.1:9991",
		WebhookCertificate: certificateSelf,
		TLSCertFile:        mounted + "tls.crt", TLSKeyFile: mounted + "tls.key", CAFile: mounted + "ca.crt",
		Namespace: "tulle", HostServiceAccount: "tulle-host", TrustDomain: "cluster.local",
		IssuerName: "tulle-mesh", IssuerKind: "Issuer", IssuerGroup: "cert-manager.io", CertificateDuration: 24 * time.Hour,
		DtabStore: storeKubernetes, Dtabs: map[string]string{"default": defaultDtab}, NamerAccess: access.RBAC,
		Inject:   settings.Default().Inject,
		LogLevel: "info",
	}
}

// Validate implements setting.Validator.
func (c *Config) Validate() error {
	var errs []error
	wrong := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %w", key, fmt.Errorf(format, args...)))
	}
	for _, a := range []struct{ key, address string }{
		{"webhook-address", c.WebhookAddress}, {"namer-address", c.NamerAddress},
		{"mesh-address", c.MeshAddress}, {"admin-address", c.AdminAddress}, {"pages-address", c.PagesAddress},
	} {
		if a.key == "pages-address" && a.address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(a.address); err != nil {
			wrong(a.key, "%q is not host:port or :port", a.address)
		}
	}
	for _, r := range []struct{ key, value string }{
		{"tls-cert-file", c.TLSCertFile}, {"tls-key-file", c.TLSKeyFile}, {"ca-file", c.CAFile},
		{"namespace", c.Namespace}, {"host-service-account", c.HostServiceAccount}, {"issuer-name", c.IssuerName},
	} {
		if r.value == "" {
			wrong(r.key, "it must not be empty")
		}
	}
	if _, err := spiffeid.TrustDomainFromString(c.TrustDomain); err != nil {
		wrong("trust-domain", "%q is not a trust domain: %w", c.TrustDomain, err)
	}
	if c.CertificateDuration < minDuration {
		wrong("certificate-duration", "it is %s, it must be %s at least", c.CertificateDuration, minDuration)
	}
	for _, w := range []struct{ key, value, allowed string }{
		{"dtab-store", c.DtabStore, strings.Join([]string{storeKubernetes, storeFile, storeMemory}, ", ")},
		{"webhook-certificate", c.WebhookCertificate, strings.Join([]string{certificateSelf, certificateFile}, ", ")},
		{"namer-access", c.NamerAccess, strings.Join([]string{access.RBAC, access.Open}, ", ")},
	} {
		if !slices.Contains(strings.Split(w.allowed, ", "), w.value) {
			wrong(w.key, "it is %q, allowed: %s", w.value, w.allowed)
		}
	}
	if file := c.DtabStore == storeFile; file != (c.DtabDir != "") {
		wrong("dtab-dir", "it goes with dtab-store: file, and only with that")
	}
	for _, namespace := range slices.Sorted(maps.Keys(c.Dtabs)) {
		if !rewrite.IsLabel(namespace) {
			wrong("dtabs", "%q cannot be the name of a dtab namespace: it must be lower-case letters, digits and inner hyphens, 63 characters at most", namespace)
		}
		if _, err := naming.ParseDtab(c.Dtabs[namespace]); err != nil {
			wrong("dtabs."+namespace, "%w", err)
		}
	}
	if _, err := c.configMaps(); err != nil {
		wrong("config-maps", "%w", err)
	}
	if _, _, err := registry.Parse("namers", []byte(c.Namers)); err != nil {
		errs = append(errs, err)
	}
	injector := c.injector()
	if err := injector.Validate(); err != nil {
		errs = append(errs, err)
	}
	if _, err := c.level(); err != nil {
		wrong("log-level", "%w", err)
	}
	return errors.Join(errs...)
}

// injector returns the injector's part.
func (c *Config) injector() settings.Settings {
	return settings.Settings{Namespace: c.Namespace, TrustDomain: c.TrustDomain, Inject: c.Inject}
}

func (c *Config) level() (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return 0, fmt.Errorf("it is %q, allowed: debug, info, warn, error", c.LogLevel)
	}
	return level, nil
}
