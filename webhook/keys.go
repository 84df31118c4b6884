package webhook

// Keys of labels and annotations. The first two are labels, of a namespace and of a pod; the others are
// annotations of a pod, but LabelMode and AnnotationMode share one key.
const (
	// LabelInject on a namespace opts it in: "enabled" (no pod starts unmeshed) or "best-effort" (pods start
	// unmeshed while the injector is away); "disabled" is as if it were not there. On a pod, "false" keeps that
	// pod out.
	LabelInject = "tulle.dev/inject"
	// LabelMode on a namespace chooses the mode of its pods; on a pod it is written by the injector.
	LabelMode = "tulle.dev/mode"
	// AnnotationMode on a pod chooses its mode, whatever its namespace says.
	AnnotationMode = "tulle.dev/mode"
	// AnnotationStatus is written by the injector: what it added, as JSON (see Status).
	AnnotationStatus = "tulle.dev/status"
	// AnnotationOutgoingPort is the port the app sends its requests to: the sidecar's, or the host proxy's.
	AnnotationOutgoingPort = "tulle.dev/outgoing-port"
	// AnnotationIncomingPort is the port on which mTLS arrives for the pod.
	AnnotationIncomingPort = "tulle.dev/incoming-port"
	// AnnotationAdminPort is the port of the sidecar's metrics and page.
	AnnotationAdminPort = "tulle.dev/admin-port"
	// AnnotationSkipContainers names containers that get no environment, separated by commas.
	AnnotationSkipContainers = "tulle.dev/skip-containers"
	// AnnotationOnConflict says what becomes of a container with a proxy of its own: leave, chain or override.
	AnnotationOnConflict = "tulle.dev/on-conflict"
	// AnnotationCapture says how a sidecar gets the app's requests: env, or redirect.
	AnnotationCapture = "tulle.dev/capture"
	// AnnotationSkipPorts are the ports that a redirect leaves alone: numbers, ranges and names of ports.
	AnnotationSkipPorts = "tulle.dev/skip-ports"
	// AnnotationOpaquePorts are the ports whose traffic a redirect passes on unread.
	AnnotationOpaquePorts = "tulle.dev/opaque-ports"
	// The sidecar's resources, as Kubernetes quantities.
	AnnotationCPURequest    = "tulle.dev/proxy-cpu-request"
	AnnotationCPULimit      = "tulle.dev/proxy-cpu-limit"
	AnnotationMemoryRequest = "tulle.dev/proxy-memory-request"
	AnnotationMemoryLimit   = "tulle.dev/proxy-memory-limit"
)

// keyPrefix is that of every key of ours.
const keyPrefix = "tulle.dev/"

// Values of the label tulle.dev/inject on a namespace.
const (
	NamespaceEnabled    = "enabled"
	NamespaceBestEffort = "best-effort"
	NamespaceDisabled   = "disabled"
)

// Values of the annotation tulle.dev/on-conflict.
const (
	ConflictLeave    = "leave"
	ConflictChain    = "chain"
	ConflictOverride = "override"
)

// Values of the annotation tulle.dev/capture.
const (
	CaptureEnv      = "env"
	CaptureRedirect = "redirect"
)

// Annotations returns the annotations that people may write on a pod.
func Annotations() []string {
	return []string{
		AnnotationMode, AnnotationOutgoingPort, AnnotationIncomingPort, AnnotationAdminPort,
		AnnotationSkipContainers, AnnotationOnConflict,
		AnnotationCapture, AnnotationSkipPorts, AnnotationOpaquePorts,
		AnnotationCPURequest, AnnotationCPULimit, AnnotationMemoryRequest, AnnotationMemoryLimit,
	}
}

// Names of what sidecar mode adds to a pod.
const (
	// ProxyContainer is the name of the sidecar's container. The namer knows a meshed pod by it.
	ProxyContainer = "tulle-proxy"
	// RedirectContainer is the name of the init container that redirects the app's connections.
	RedirectContainer = "tulle-redirect"
)
