package webhook

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// annotationDefaultContainer names the container that kubectl means when none is named.
const annotationDefaultContainer = "kubectl.kubernetes.io/default-container"

// proxyProgram is where the image has the proxy. Hooks are not run by the image's entrypoint, and /proc/1/exe is
// another program in pods whose containers share their processes.
const proxyProgram = "/tulle-proxy"

const (
	// defaultGrace is Kubernetes' own default for terminationGracePeriodSeconds.
	defaultGrace = 30
	// awaitTimeout is how long the app waits for the proxy. A hook that fails has the proxy started anew, and the app
	// is started without it: its requests are refused until there is a proxy.
	awaitTimeout = "60s"
)

// native reports whether the pod's sidecar is a native one. Pods that are to end must have that: an ordinary container
// would run on when the others are done, and the pod with it.
func (p podView) native(c Config) bool {
	if c.NativeSidecar == nil || *c.NativeSidecar {
		return true
	}
	if p.Spec.RestartPolicy != "" && p.Spec.RestartPolicy != string(corev1.RestartPolicyAlways) {
		return true
	}
	return p.Metadata != nil && slices.ContainsFunc(p.Metadata.Owners, func(o ownerView) bool {
		group, _, _ := strings.Cut(o.APIVersion, "/")
		return o.Kind == "Job" && group == "batch"
	})
}

// classic turns the native sidecar c into an ordinary container, which keeps the order of a native one by hooks. It must
// be the first of the pod: the kubelet starts the next container when the hook of the one before has returned, so the
// app starts when the proxy is ready. At the end all containers are told at once; the proxy's hook then waits for the
// app's ports to close, and only after it the proxy is told.
func classic(c corev1.Container, pod podView, p ports) corev1.Container {
	c.RestartPolicy = nil
	c.Lifecycle = &corev1.Lifecycle{PostStart: hook("await", "--admin-port="+strconv.Itoa(p.Admin), "--timeout="+awaitTimeout)}
	if timeout := lingerSeconds(pod); timeout > 0 {
		args := []string{"linger"}
		if ports := pod.appPorts(); len(ports) > 0 {
			args = append(args, "--ports="+strings.Join(ports, ","))
		}
		c.Lifecycle.PreStop = hook(append(args, "--timeout="+strconv.FormatInt(timeout, 10)+"s")...)
	}
	return c
}

func hook(args ...string) *corev1.LifecycleHandler {
	return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: append([]string{proxyProgram}, args...)}}
}

// lingerSeconds is how long the proxy outlives the app at most. The pod's grace counts for the hook and for what comes
// after it, so a sixth of it, from one second to five, is kept for the proxy's own requests under way. A grace that is
// too short to be shared leaves none, and no hook.
func lingerSeconds(pod podView) int64 {
	grace := int64(defaultGrace)
	if pod.Spec.GraceSeconds != nil {
		grace = *pod.Spec.GraceSeconds
	}
	return max(0, grace-min(5, max(1, grace/6)))
}

// appPorts returns the ports that the app is known to listen on, in order.
func (p podView) appPorts() []string {
	var ports []int
	for _, c := range p.Spec.Containers {
		if !c.ours() {
			ports = append(ports, c.usedPorts()...)
		}
	}
	slices.Sort(ports)
	var text []string
	for _, port := range slices.Compact(ports) {
		text = append(text, strconv.Itoa(port))
	}
	return text
}

// defaultContainer is the annotation that makes the app, not the proxy in front of it, what "kubectl logs" and "kubectl
// exec" mean; none if the pod says it already.
func (p podView) defaultContainer() map[string]string {
	if _, ok := p.annotation(annotationDefaultContainer); ok {
		return nil
	}
	for _, c := range p.Spec.Containers {
		if !c.ours() {
			return map[string]string{annotationDefaultContainer: c.Name}
		}
	}
	return nil
}
