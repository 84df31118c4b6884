// Package settings is the injector's part of the controller's settings: what controller.yaml says about it, and what
// that means as a webhook.Config.
//
// The controller reads its whole file by package internal/setting, with the structs from here in it. Others, such as
// "tulle inject", read the injector's part of the same file, which is key controller.yaml of ConfigMap tulle-controller
// in the mesh's namespace, with [Parse]; so all of them inject alike. What a file leaves to the cluster, by "auto", is
// decided by [Facts] of its nodes. The package does no I/O and watches nothing.
//
// Invariant: the same text and the same facts are the same webhook.Config, whoever reads them.
//
//	s, err := settings.Parse("controller.yaml", []byte(configMap.Data["controller.yaml"]))
//	config := s.Resolve(settings.Survey(nodes)).Config(roots)
package settings

import (
	"cmp"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/setting"
	"github.com/tulle-mesh/tulle/webhook"
)

// Auto leaves a setting to what the nodes of the cluster are like.
const Auto = "auto"

// HostService is the name of the Service of the host proxies, in the mesh's namespace. It leads each pod to the proxy
// of its own node.
const HostService = "tulle-host"

// Settings is what the injector reads of the controller's settings. It is a value; nothing here changes it.
type Settings struct {
	Namespace   string `setting:"namespace" help:"namespace that Tulle runs in"`
	TrustDomain string `setting:"trust-domain" help:"trust domain of the mesh's identities"`
	Inject      Inject `setting:"inject"`
}

// Inject is the section inject of the controller's settings. Lists are names with commas between them.
type Inject struct {
	DefaultMode        string `setting:"default-mode" help:"mode of namespaces that choose none: host or sidecar"`
	ExcludedNamespaces string `setting:"excluded-namespaces" help:"namespaces that are never injected, beside Tulle's own, cert-manager and Kubernetes' own: names, with commas between them"`

	HostAddress   string `setting:"host-address" help:"where pods in host mode find their proxy: auto, hostIP, hostIPv6, nodeName, service, or an address in which $(TULLE_HOST_IP) and $(NODE_NAME) may be used"`
	NativeSidecar string `setting:"native-sidecar" help:"whether kubelets know sidecars, init containers that go on running: auto, true or false"`

	ProxyImage         string `setting:"proxy-image" help:"image of the sidecar"`
	ProxyPullPolicy    string `setting:"proxy-pull-policy" help:"its pull policy: Always, IfNotPresent or Never"`
	ImagePullSecrets   string `setting:"image-pull-secrets" help:"Secrets of the pod's namespace to pull the sidecar's image with: names, with commas between them"`
	Architectures      string `setting:"architectures" help:"CPU architectures that the sidecar's image has: names, with commas between them"`
	ControllerURL      string `setting:"controller-url" help:"URL of the API for proxies; by default that of the Service tulle-controller"`
	DtabNamespace      string `setting:"dtab-namespace" help:"dtab namespace that sidecars follow"`
	ProxyCPURequest    string `setting:"proxy-cpu-request" help:"CPU request of the sidecar"`
	ProxyCPULimit      string `setting:"proxy-cpu-limit" help:"CPU limit of the sidecar, empty for none"`
	ProxyMemoryRequest string `setting:"proxy-memory-request" help:"memory request of the sidecar"`
	ProxyMemoryLimit   string `setting:"proxy-memory-limit" help:"memory limit of the sidecar, empty for none"`

	Escaped          string `setting:"escaped" help:"what becomes of pods that escaped the injector: report, evict or restart (their workload)"`
	Stale            string `setting:"stale" help:"what becomes of pods that would be injected differently now: report or restart (their workload)"`
	RepairsPerMinute int    `setting:"repairs-per-minute" help:"how many pods are evicted, or workloads restarted, in a minute at most"`
}

// Default returns the defaults, which fit the Helm chart's objects.
func Default() Settings {
	return Settings{
		Namespace: "tulle", TrustDomain: "cluster.local",
		Inject: Inject{
			DefaultMode: string(webhook.ModeHost), HostAddress: Auto, NativeSidecar: Auto,
			ProxyImage: "tulle.dev/tulle-proxy:dev", ProxyPullPolicy: "IfNotPresent", Architectures: "amd64,arm64",
			DtabNamespace: "default", ProxyCPURequest: "10m", ProxyMemoryRequest: "32Mi",
			Escaped: "report", Stale: "report", RepairsPerMinute: 6,
		},
	}
}

// Parse reads the injector's part of a settings file of the controller over the defaults; name is the file's, for
// errors. What is not the injector's is passed over. The error joins everything that is wrong, with line and key.
func Parse(name string, text []byte) (Settings, error) {
	s := Default()
	if err := setting.Decode(&s, name, text); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// Validate implements setting.Validator. The roots of the mesh are no setting and not missed.
func (s *Settings) Validate() error {
	var errs []error
	wrong := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("inject.%s: %w", key, fmt.Errorf(format, args...)))
	}
	if v := s.Inject.NativeSidecar; !slices.Contains([]string{Auto, "true", "false"}, v) {
		wrong("native-sidecar", "it is %q, allowed: auto, true, false", v)
	}
	for _, a := range []struct{ key, value, allowed string }{
		{"escaped", s.Inject.Escaped, "report, evict, restart"}, {"stale", s.Inject.Stale, "report, restart"},
	} {
		if !slices.Contains(strings.Split(a.allowed, ", "), a.value) {
			wrong(a.key, "it is %q, allowed: %s", a.value, a.allowed)
		}
	}
	if n := s.Inject.RepairsPerMinute; n < 1 || n > 60 {
		wrong("repairs-per-minute", "it is %d, allowed: 1 to 60", n)
	}
	if s.Inject.HostAddress == "" {
		wrong("host-address", "it must not be empty; allowed: auto, hostIP, hostIPv6, nodeName, service, or an address")
	}
	for _, l := range []struct{ key, list string }{
		{"excluded-namespaces", s.Inject.ExcludedNamespaces}, {"image-pull-secrets", s.Inject.ImagePullSecrets}, {"architectures", s.Inject.Architectures},
	} {
		for _, n := range names(l.list) {
			if !name.MatchString(n) {
				wrong(l.key, "%q is not a name in lower-case letters, digits, inner hyphens and dots; write names with commas between them", n)
			}
		}
	}
	// The roots are not known before their file is read; an empty certificate stands in for them.
	if err := s.Config(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"}))).Validate(); err != nil {
		errs = append(errs, fmt.Errorf("inject: %w", err))
	}
	return errors.Join(errs...)
}

// Config returns the injector's configuration with the roots of the mesh, in PEM. What the settings leave to the
// cluster is as on nodes with IPv4 addresses and kubelets that know sidecars; see Resolve.
func (s Settings) Config(ca string) webhook.Config {
	s = s.Resolve(Facts{})
	native := s.Inject.NativeSidecar == "true"
	return webhook.Config{
		DefaultMode:        webhook.Mode(s.Inject.DefaultMode),
		MeshNamespace:      s.Namespace,
		ExcludedNamespaces: names(s.Inject.ExcludedNamespaces),
		HostAddress:        s.Inject.HostAddress,
		HostService:        HostService + "." + s.Namespace + ".svc",
		NativeSidecar:      &native,
		ProxyImage:         s.Inject.ProxyImage,
		PullPolicy:         s.Inject.ProxyPullPolicy,
		ImagePullSecrets:   names(s.Inject.ImagePullSecrets),
		Architectures:      names(s.Inject.Architectures),
		ControllerURL:      cmp.Or(s.Inject.ControllerURL, "https://tulle-controller."+s.Namespace+".svc:4181"),
		ControllerCA:       ca,
		TrustDomain:        s.TrustDomain,
		DtabNamespace:      s.Inject.DtabNamespace,
		CPURequest:         s.Inject.ProxyCPURequest,
		CPULimit:           s.Inject.ProxyCPULimit,
		MemoryRequest:      s.Inject.ProxyMemoryRequest,
		MemoryLimit:        s.Inject.ProxyMemoryLimit,
	}
}

// name is what Kubernetes' names look like, of those that are in our lists.
var name = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`)

// names takes a list apart; nil is none.
func names(list string) []string {
	var all []string
	for n := range strings.SplitSeq(list, ",") {
		if n = strings.TrimSpace(n); n != "" {
			all = append(all, n)
		}
	}
	return all
}
