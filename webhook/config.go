package webhook

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Default ports of the proxy, as in Linkerd 1.x.
const (
	DefaultOutgoingPort = 4140
	DefaultIncomingPort = 4141
	DefaultAdminPort    = 9990
)

// Config is what the injector needs to know beside the pod and its namespace. A zero field has the default
// that its comment names. Config is a value: Inject never changes it, and copies may be used concurrently.
type Config struct {
	// DefaultMode is the mode of pods for which neither pod nor namespace says one. Default: host.
	DefaultMode Mode

	// MeshNamespace is the namespace Tulle itself runs in; it is never injected. Default: tulle.
	MeshNamespace string

	// OutgoingPort, IncomingPort and AdminPort are the ports of the proxy; annotations of a pod override
	// them. Defaults: 4140, 4141, 9990.
	OutgoingPort, IncomingPort, AdminPort int

	// ExcludedNamespaces are never injected, whatever their labels say, beside those of the function
	// ExcludedNamespaces.
	ExcludedNamespaces []string

	// HostAddress is where a pod in host mode finds its proxy: one of
	//
	//	hostIP     the IPv4 address of its node
	//	hostIPv6   the IPv6 address of its node
	//	nodeName   the name of its node, which the cluster's DNS must know
	//	service    HostService
	//
	// or the part of a URL before the port, in which $(TULLE_HOST_IP) and $(NODE_NAME) may be used.
	// Default: hostIP. The word auto means the same here; a controller, which sees the nodes, chooses better.
	HostAddress string
	// HostService is the DNS name of the Service of the host proxies, which leads to the one of the pod's node.
	// Required for HostAddress service.
	HostService string

	// SidecarAddress is where the sidecar listens for the app, and where the app finds it. $(TULLE_POD_IP)
	// may be used. Default: 127.0.0.1.
	SidecarAddress string

	// ListenAddress is the address of the sidecar's incoming and admin ports. $(TULLE_POD_IP) may be used.
	// Default: empty, which means every address of the pod.
	ListenAddress string

	// NativeSidecar is whether every kubelet of the cluster knows native sidecars; nil means yes. Without them
	// the sidecar is an ordinary container, but for pods that are to end: theirs is always native.
	NativeSidecar *bool
	// ImagePullSecrets are added to pods with a sidecar.
	ImagePullSecrets []string
	// Architectures are those that ProxyImage exists for. Default: amd64, arm64.
	Architectures []string

	// ProxyImage is the image of the sidecar. Required for sidecar mode.
	ProxyImage string
	// PullPolicy is its image pull policy: Always, IfNotPresent or Never. Default: IfNotPresent.
	PullPolicy string

	// ControllerURL is the https URL of the controller's mesh API. Required for sidecar mode.
	ControllerURL string
	// ControllerCA is the PEM text of the certificates that the sidecar trusts the controller by.
	// Required for sidecar mode.
	ControllerCA string

	// TrustDomain of the mesh's identities. Default: cluster.local.
	TrustDomain string
	// DtabNamespace is the name of the dtab the sidecar follows. Default: default.
	DtabNamespace string
	// LogLevel of the sidecar: debug, info, warn or error. Default: info.
	LogLevel string

	// CPURequest, MemoryRequest, CPULimit and MemoryLimit are the sidecar's resources, as Kubernetes
	// quantities. Defaults: 10m, 32Mi, and no limits.
	CPURequest, MemoryRequest, CPULimit, MemoryLimit string
}

// ErrConfig marks errors of Inject that are the configuration's fault, not the pod's.
var ErrConfig = errors.New("invalid injector configuration")

// withDefaults returns c with every zero field that has a default filled in.
func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	port := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	if c.DefaultMode == "" {
		c.DefaultMode = ModeHost
	}
	def(&c.MeshNamespace, "tulle")
	port(&c.OutgoingPort, DefaultOutgoingPort)
	port(&c.IncomingPort, DefaultIncomingPort)
	port(&c.AdminPort, DefaultAdminPort)
	if c.Architectures == nil {
		c.Architectures = []string{"amd64", "arm64"}
	}
	def(&c.SidecarAddress, "127.0.0.1")
	def(&c.PullPolicy, "IfNotPresent")
	def(&c.TrustDomain, "cluster.local")
	def(&c.DtabNamespace, "default")
	def(&c.LogLevel, "info")
	def(&c.CPURequest, "10m")
	def(&c.MemoryRequest, "32Mi")
	return c
}

// hostAddress is HostAddress as it stands in a URL.
func (c Config) hostAddress() string {
	switch c.HostAddress {
	case "", "auto", "hostIP":
		return "$(" + envHostIP + ")"
	case "hostIPv6":
		return "[$(" + envHostIP + ")]"
	case "nodeName":
		return "$(" + envNodeName + ")"
	case "service":
		return c.HostService
	}
	return c.HostAddress
}

// Validate reports everything that is wrong with c, for both modes; errors.Is(err, ErrConfig) holds.
// The server needs no call of it: Inject checks what the pod at hand needs, so that a mesh whose CA is not
// there yet can still admit pods in host mode.
func (c Config) Validate() error {
	return errors.Join(c.validateCommon(), c.validateSidecar())
}

func (c Config) validateCommon() error {
	c = c.withDefaults()
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...))
	}
	if !c.DefaultMode.valid() {
		bad("default mode is %q, allowed: %s", c.DefaultMode, listModes())
	}
	for _, p := range []struct {
		name string
		port int
	}{{"outgoing", c.OutgoingPort}, {"incoming", c.IncomingPort}, {"admin", c.AdminPort}} {
		if !usablePort(p.port) {
			bad("%s port is %d, allowed: %d to %d", p.name, p.port, minPort, maxPort)
		}
	}
	address := c.hostAddress()
	if address == "" {
		bad("the host address is service, but the name of the host proxies' Service is not set")
	}
	for _, v := range references(address) {
		if v != envHostIP && v != envNodeName {
			bad("host address %q refers to $(%s), allowed: $(%s), $(%s)", address, v, envHostIP, envNodeName)
		}
	}
	return errors.Join(errs...)
}

func (c Config) validateSidecar() error {
	c = c.withDefaults()
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...))
	}
	for _, a := range []struct{ name, address string }{
		{"sidecar", c.SidecarAddress}, {"listen", c.ListenAddress},
	} {
		for _, v := range references(a.address) {
			if v != envPodIP {
				bad("%s address %q refers to $(%s), allowed: $(%s)", a.name, a.address, v, envPodIP)
			}
		}
	}
	if c.ProxyImage == "" {
		bad("the proxy image is not set, sidecar mode needs it")
	}
	if allowed := []string{"Always", "IfNotPresent", "Never"}; !slices.Contains(allowed, c.PullPolicy) {
		bad("pull policy is %q, allowed: Always, IfNotPresent, Never", c.PullPolicy)
	}
	if u, err := url.Parse(c.ControllerURL); err != nil || u.Scheme != "https" || u.Host == "" {
		bad("controller URL is %q, expected one like https://tulle-controller.tulle.svc:4181", c.ControllerURL)
	}
	if block, _ := pem.Decode([]byte(c.ControllerCA)); block == nil || block.Type != "CERTIFICATE" {
		bad("the controller's CA is not PEM text of a certificate")
	}
	for _, q := range []struct{ name, quantity string }{
		{"CPU request", c.CPURequest}, {"memory request", c.MemoryRequest},
		{"CPU limit", c.CPULimit}, {"memory limit", c.MemoryLimit},
	} {
		if q.quantity == "" {
			continue
		}
		if _, err := resource.ParseQuantity(q.quantity); err != nil {
			bad("%s %q is not a quantity like 10m or 32Mi", q.name, q.quantity)
		}
	}
	for _, r := range []struct{ name, request, limit string }{{"CPU", c.CPURequest, c.CPULimit}, {"memory", c.MemoryRequest, c.MemoryLimit}} {
		if request, limit := parsed(r.request), parsed(r.limit); !limit.IsZero() && request.Cmp(limit) > 0 {
			bad("%s request %s is more than its limit, %s", r.name, r.request, r.limit)
		}
	}
	return errors.Join(errs...)
}

// ExcludedNamespaces returns the namespaces that are never injected, whatever their labels say: a broken
// injector must not keep the cluster from healing, nor itself.
func ExcludedNamespaces(meshNamespace string) []string {
	return []string{"kube-system", "kube-public", "kube-node-lease", "cert-manager", meshNamespace}
}

// The proxy is not root and has no capabilities, so ports below 1024 are not its own.
const (
	minPort = 1024
	maxPort = 65535
)

func usablePort(p int) bool { return p >= minPort && p <= maxPort }

// references returns the names of the variables that s refers to, as the kubelet reads it.
func references(s string) []string {
	var names []string
	for {
		_, rest, ok := strings.Cut(s, "$(")
		if !ok {
			return names
		}
		name, after, ok := strings.Cut(rest, ")")
		if !ok {
			return names
		}
		if i := strings.LastIndex(name, "$("); i >= 0 { // of two openings the kubelet takes the first; nobody means that
			name = name[i+2:]
		}
		names, s = append(names, name), after
	}
}
