package webhook

import "fmt"

// Mode says where the proxy runs that serves a pod.
type Mode string

const (
	// ModeSidecar is a proxy in the pod itself.
	ModeSidecar Mode = "sidecar"
	// ModeHost is one proxy per node, shared by the pods of that node.
	ModeHost Mode = "host"
	// ModeNone is what pods say that are not to be meshed; a Result has no mode then.
	ModeNone Mode = "none"
)

// modes lists the modes that a meshed pod can be in.
func modes() []Mode { return []Mode{ModeSidecar, ModeHost} }

// valid reports whether a pod can ask for m.
func (m Mode) valid() bool { return m == ModeHost || m == ModeSidecar || m == ModeNone }

func listModes() string { return fmt.Sprintf("%s, %s, %s", ModeHost, ModeSidecar, ModeNone) }

// Reason says why a pod was treated as it was. The list is closed: metrics, audit annotations and the
// command line all use these values, so a new one is a change for users.
type Reason string

const (
	// InjectedHost: the pod was given the environment of host mode.
	InjectedHost Reason = "injected_host"
	// InjectedSidecar: the pod was given a sidecar.
	InjectedSidecar Reason = "injected_sidecar"
	// AlreadyInjected: the pod carries what an earlier pass added, and nothing is missing.
	AlreadyInjected Reason = "already_injected"
	// AppDefinesProxy: host mode, and every container has a proxy of its own or is skipped. The pod is labelled, so
	// that its incoming traffic is meshed, but no container was changed.
	AppDefinesProxy Reason = "app_defines_proxy"

	// NotEnabled: the namespace does not carry tulle.dev/inject=enabled or best-effort.
	NotEnabled Reason = "not_enabled"
	// NamespaceExcluded: the namespace is one that is never injected, whatever its labels say.
	NamespaceExcluded Reason = "namespace_excluded"
	// OptedOut: the pod carries the label tulle.dev/inject=false.
	OptedOut Reason = "opted_out"
	// ModeIsNone: the pod or its namespace asks for the mode none.
	ModeIsNone Reason = "mode_none"
	// NotMeshed: an ephemeral container of a pod whose containers were given no proxy.
	NotMeshed Reason = "not_meshed"
	// HostNetwork: sidecar mode, and the pod uses the network of its node, where a sidecar's ports would
	// be the node's.
	HostNetwork Reason = "host_network"
	// MirrorPod: the kubelet's picture of a static pod; changing it changes nothing.
	MirrorPod Reason = "mirror_pod"
	// WindowsPod: the pod asks for a Windows node, where no proxy of ours runs.
	WindowsPod Reason = "windows_pod"
	// Architecture: sidecar mode, and the pod asks for a processor that there is no image of the proxy for.
	Architecture Reason = "architecture"
	// NotAPod: the webhook was called for something else than the creation of a pod, or of its ephemeral containers.
	NotAPod Reason = "not_a_pod"

	// InvalidInject: the label tulle.dev/inject of the pod or its namespace has a value that means nothing.
	InvalidInject Reason = "invalid_inject"
	// InvalidMode: the pod or its namespace asks for a mode that does not exist.
	InvalidMode Reason = "invalid_mode"
	// InvalidPort: a port annotation is not a port the proxy can use.
	InvalidPort Reason = "invalid_port"
	// InvalidAnnotation: another annotation under tulle.dev/ has a value that means nothing, or cannot be followed in
	// the pod's mode.
	InvalidAnnotation Reason = "invalid_annotation"
	// CannotChain: a container's own proxy is to be chained behind Tulle's, but is not written as a URL in its env.
	CannotChain Reason = "cannot_chain"
	// UIDTaken: the app runs as the user whose connections a redirect leaves alone.
	UIDTaken Reason = "uid_taken"
	// PodSecurity: the namespace forbids what a redirect needs.
	PodSecurity Reason = "pod_security"
	// NameTaken: a container or volume of the pod has the name of one of ours.
	NameTaken Reason = "name_taken"
	// PortTaken: a container of the pod uses a port of the sidecar.
	PortTaken Reason = "port_taken"
	// EnvTaken: a container defines, in another way, a variable that the proxy's address needs; or it defines twice
	// the proxy that is to be chained or overridden.
	EnvTaken Reason = "env_taken"

	// InvalidPod: the object could not be read as a pod. Only the server answers it; Inject returns an error.
	InvalidPod Reason = "invalid_pod"
	// InternalError: the injector's own configuration, or what it knows of the namespace, is missing or wrong.
	// Only the server has it: it gives no answer about the pod then. Inject returns an error.
	InternalError Reason = "internal_error"
)

// Reasons returns every reason there is.
func Reasons() []Reason {
	return []Reason{
		InjectedHost, InjectedSidecar, AlreadyInjected, AppDefinesProxy,
		NotEnabled, NamespaceExcluded, OptedOut, ModeIsNone, NotMeshed, HostNetwork, MirrorPod, WindowsPod, Architecture, NotAPod,
		InvalidInject, InvalidMode, InvalidPort, InvalidAnnotation, CannotChain, UIDTaken, PodSecurity,
		NameTaken, PortTaken, EnvTaken,
		InvalidPod, InternalError,
	}
}

// Denies reports whether the pod must not be created as it is. Result.Message then says what is wrong
// and what would be right.
func (r Reason) Denies() bool {
	switch r {
	case InvalidInject, InvalidMode, InvalidPort, InvalidAnnotation, CannotChain, UIDTaken, PodSecurity,
		NameTaken, PortTaken, EnvTaken, InvalidPod, InternalError:
		return true
	}
	return false
}

// String returns the value as it appears in metrics and annotations.
func (r Reason) String() string { return string(r) }
