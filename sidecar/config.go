package sidecar

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tulle-mesh/tulle/certs"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/sidecar/handover"
)

// Config is what a proxy is told. The tags are the keys of its settings, see
// package internal/setting; DefaultConfig has the defaults.
type Config struct {
	Config           string `setting:"config" help:"configuration of Linkerd 1.x whose routers to run, in place of modes and their settings; - is standard input; see docs/linkerd.md"`
	Mode             string `setting:"mode" help:"where the proxy runs: sidecar (in a pod, for it), host (on a node, for its pods) or standalone (anywhere, without a controller)"`
	Node             string `setting:"node" help:"name of the node"`
	Namespace        string `setting:"namespace" help:"namespace of the proxy's own pod"`
	ServiceAccount   string `setting:"service-account" help:"service account of the proxy's own pod"`
	PodName          string `setting:"pod-name" help:"name of the proxy's own pod"`
	PodIP            string `setting:"pod-ip" help:"address of the proxy's own pod"`
	TrustDomain      string `setting:"trust-domain" help:"trust domain of the mesh's identities"`
	Outgoing         string `setting:"outgoing" help:"address for requests of applications"`
	Capture          string `setting:"capture" help:"how applications' requests come: env (they are told of the proxy) or redirect (the kernel brings their connections, see tulle-proxy redirect)"`
	OpaquePorts      string `setting:"opaque-ports" help:"with capture redirect: ports, such as 3306,9000-9100, whose connections are carried without a look"`
	Incoming         string `setting:"incoming" help:"address for requests of other proxies, over mTLS"`
	Admin            string `setting:"admin" help:"address of /metrics, /admin/ping and /admin/ready"`
	Controller       string `setting:"controller" help:"https URL of the controller's mesh API"`
	ControllerCA     string `setting:"controller-ca" help:"certificates, in PEM, by which the controller is trusted"`
	ControllerCAFile string `setting:"controller-ca-file" help:"file with the same"`
	TokenFile        string `setting:"token-file" help:"file with the service-account token for the controller"`
	DtabNamespace    string `setting:"dtab-namespace" help:"name of the dtab to route by"`
	DefaultNamespace string `setting:"default-namespace" help:"host mode: namespace in which names of callers that are no pods of this node resolve"`
	Dtab             string `setting:"dtab" help:"standalone mode: the rules to route by"`
	FsRoot           string `setting:"fs-root" help:"standalone mode: directory of files of addresses, named /#/io.l5d.fs/<file>"`
	Policy           string `setting:"policy" help:"YAML file of limits, timeouts, balancing and retries, followed live, in place of the policy of the mesh; see docs/policy.md"`
	Handover         string `setting:"handover" help:"host and standalone mode: abstract Unix socket, such as @tulle/host, at which a new process takes the listeners over from the one that runs"`
	LogLevel         string `setting:"log-level" help:"debug, info, warn or error"`
}

// ModeStandalone is the mode of a proxy without a controller, and so without an
// identity and an incoming router: it routes by its own dtab, to files and DNS.
const ModeStandalone = "standalone"

// DefaultConfig returns the settings of a sidecar that has been told nothing.
func DefaultConfig() Config {
	return Config{
		Mode:             api.ModeSidecar,
		TrustDomain:      "cluster.local",
		Outgoing:         "127.0.0.1:4140",
		Capture:          CaptureEnv,
		Incoming:         ":4141",
		Admin:            ":9990",
		Controller:       "https://tulle-controller.tulle.svc:4181",
		TokenFile:        "/var/run/secrets/tulle.dev/token",
		DtabNamespace:    "default",
		DefaultNamespace: "default",
		LogLevel:         "info",
	}
}

// Validate reports everything that is wrong with c. It reads no files.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	address := func(key, value string) {
		if _, _, err := net.SplitHostPort(value); err != nil {
			bad("%s is %q, which is no address such as 127.0.0.1:4140", key, value)
		}
	}
	switch name := handover.Presence(c.Handover, c.PodName); {
	case c.Handover == "":
	case c.Mode == api.ModeSidecar && c.Config == "":
		bad("handover is set, which mode %s does not read: a pod has one proxy", c.Mode)
	case c.Handover[0] != '@' || len(name) > handover.MaxName:
		bad("handover is %q, which must begin with @ and, with /%s, have %d bytes at most", c.Handover, c.PodName, handover.MaxName)
	}
	c.validateCapture(bad)
	if c.Config != "" {
		c.validateFile(bad)
		return errors.Join(errs...)
	}
	address("outgoing", c.Outgoing)
	address("admin", c.Admin)
	switch c.Mode {
	case ModeStandalone:
		if _, err := naming.ParseDtab(c.Dtab); err != nil {
			bad("dtab: %w", err)
		} else if c.Dtab == "" {
			bad("dtab is not set, and a standalone proxy has no other rules to route by; try /svc => /#/io.l5d.fs")
		}
		return errors.Join(errs...)
	case api.ModeSidecar, api.ModeHost:
	default:
		bad("mode is %q, allowed: %s, %s, %s", c.Mode, api.ModeSidecar, api.ModeHost, ModeStandalone)
	}
	if c.Dtab != "" {
		bad("dtab is set, which only mode %s reads: rules of the mesh are the controller's", ModeStandalone)
	}
	if c.FsRoot != "" {
		bad("fs-root is set, which only mode %s reads", ModeStandalone)
	}
	address("incoming", c.Incoming)
	if c.Node == "" && c.Mode == api.ModeHost {
		bad("node is not set, and a host proxy serves the pods of one node")
	}
	if _, err := netip.ParseAddr(c.PodIP); err != nil {
		bad("pod-ip is %q, which is no IP address", c.PodIP)
	}
	c.validateController(bad)
	if !c.controlled() {
		bad("neither controller-ca nor controller-ca-file is set, so the controller cannot be trusted")
	}
	if _, err := c.identity(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// validateFile reports what cannot be set beside Config.
func (c *Config) validateFile(bad func(format string, args ...any)) {
	if c.Mode == api.ModeHost {
		bad("mode is %s beside config: a proxy that runs a configuration of Linkerd 1.x is %s", c.Mode, ModeStandalone)
	}
	for _, s := range [][2]string{{"dtab", c.Dtab}, {"fs-root", c.FsRoot}, {"policy", c.Policy}} {
		if s[1] != "" {
			bad("%s is set beside config, which says this itself, for each router", s[0])
		}
	}
	if c.controlled() {
		c.validateController(bad)
	}
}

func (c *Config) validateController(bad func(format string, args ...any)) {
	if u, err := url.Parse(c.Controller); err != nil || u.Scheme != "https" || u.Host == "" {
		bad("controller is %q, which is no https URL", c.Controller)
	}
}

// controlled reports whether there is a controller that can be trusted.
func (c *Config) controlled() bool { return c.ControllerCA != "" || c.ControllerCAFile != "" }

// identity returns the SPIFFE ID of the proxy.
func (c *Config) identity() (spiffeid.ID, error) {
	domain, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("trust-domain is %q: %w", c.TrustDomain, err)
	}
	id, err := certs.Identity(domain, c.Namespace, c.ServiceAccount)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("namespace %q and service-account %q make no identity: %w", c.Namespace, c.ServiceAccount, err)
	}
	return id, nil
}

// roots reads the certificates by which the controller is trusted.
func (c *Config) roots() (*x509.CertPool, error) {
	pem, from := []byte(c.ControllerCA), "controller-ca"
	if len(pem) == 0 {
		from = "controller-ca-file " + c.ControllerCAFile
		var err error
		if pem, err = os.ReadFile(c.ControllerCAFile); err != nil {
			return nil, fmt.Errorf("read controller-ca-file: %w", err)
		}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", from)
	}
	return pool, nil
}
