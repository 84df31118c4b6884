package webhook

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	tokenVolume   = "tulle-token"
	tokenDir      = "/var/run/secrets/tulle.dev"
	apiTokenDir   = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenAudience = "tulle.dev"
	tokenSeconds  = 3600 // the kubelet renews at 80 % of it
)

// ports of one pod's proxy, in the order of their annotations.
type ports struct {
	Outgoing int `json:"outgoing"`
	Incoming int `json:"incoming"`
	Admin    int `json:"admin"`
}

// sidecarPlan lists what sidecar mode adds to pod. What an earlier injection added counts for nothing: the plan is the
// same before and after. The Result is a denial, or another decision not to inject; the strings are warnings.
//
// The order of what starts, with a native sidecar: the sidecar, the redirect, the pod's init containers, which have the
// mesh already, the app. With a classic one: the pod's init containers, which still have the network to themselves, the
// redirect, the sidecar, the app.
func sidecarPlan(pod podView, ns Namespace, cfg Config, p ports) (plan, []string, *Result, error) {
	if err := cfg.validateSidecar(); err != nil {
		return plan{}, nil, nil, err
	}
	if pod.Spec.HostNetwork {
		return plan{}, nil, &Result{Reason: HostNetwork, Warnings: []string{fmt.Sprintf(
			"the pod uses the host's network and cannot have a sidecar; annotate it with %s: %s to mesh it", AnnotationMode, ModeHost)}}, nil
	}
	if denied := collisions(pod, p); denied != nil {
		return plan{}, nil, denied, nil
	}
	decided, warnings := judgeArchitecture(pod, cfg.Architectures)
	if decided != nil {
		return plan{}, nil, decided, nil
	}
	warnings = append(warnings, hostPorts(pod, cfg)...)
	how := captureOf(pod)
	user, more := proxyUserOf(pod, ns, how.kind)
	warnings = append(warnings, more...)
	if how.kind == CaptureRedirect {
		if denied := judgeRedirect(pod, ns, user); denied != nil {
			return plan{}, nil, denied, nil
		}
	}
	resources, more := sidecarResources(cfg, pod)
	warnings = append(warnings, more...)

	proxy := sidecarContainer(cfg, p, user, how, resources)
	out := plan{Volumes: []corev1.Volume{sidecarVolume()}, PullSecrets: cfg.ImagePullSecrets}
	native := pod.native(cfg)
	if native {
		out.Init = []corev1.Container{proxy}
	} else {
		out.Containers = []corev1.Container{classic(proxy, pod, p)}
		out.Annotations = pod.defaultContainer()
	}
	switch {
	case how.kind != CaptureRedirect:
		out.Env = new(sidecarEnvironment(cfg, p.Outgoing))
		out.NoInit = !native
		if !native && pod.hasInit() {
			warnings = append(warnings, "the pod's init containers run before its sidecar and are not meshed: with the nodes' kubelets the sidecar cannot start earlier")
		}
	case native:
		out.Init = append(out.Init, redirectContainer(cfg, p, user, how, resources))
	default:
		out.InitLast = []corev1.Container{redirectContainer(cfg, p, user, how, resources)}
	}
	return out, warnings, nil, nil
}

// sidecarContainer is the native sidecar. It comes from a valid Config with defaults filled in.
//
// As a native sidecar it starts before every other container, ends after them, and does not keep a Job from
// ending. Its readiness counts for that of the pod, so no request is sent to a pod whose proxy cannot serve.
//
// Nothing in it is taken from the pod's own containers: what those may do, the proxy need not.
func sidecarContainer(c Config, p ports, user int64, how capture, resources corev1.ResourceRequirements) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	return corev1.Container{
		Name:            ProxyContainer,
		Image:           c.ProxyImage,
		ImagePullPolicy: corev1.PullPolicy(c.PullPolicy),
		RestartPolicy:   &always,
		Env:             sidecarSettings(c, p, how, resources),
		Ports: []corev1.ContainerPort{
			{Name: "tulle-incoming", ContainerPort: int32(p.Incoming), Protocol: corev1.ProtocolTCP},
			{Name: "tulle-admin", ContainerPort: int32(p.Admin), Protocol: corev1.ProtocolTCP},
		},
		// The containers after the sidecar wait for this probe. A proxy that has no controller to tell it
		// anything is not ready, but killing it would help nobody, and in a pod that restarts nothing the
		// kubelet may then wait for ever: hence an hour.
		StartupProbe:   probe("/admin/ready", p.Admin, 1, 3600),
		ReadinessProbe: probe("/admin/ready", p.Admin, 5, 3),
		LivenessProbe:  probe("/admin/ping", p.Admin, 10, 3),
		Resources:      resources,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			ReadOnlyRootFilesystem:   new(true),
			RunAsNonRoot:             new(true),
			RunAsUser:                new(user),
			RunAsGroup:               new(user),
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		VolumeMounts: []corev1.VolumeMount{
			{Name: tokenVolume, MountPath: tokenDir, ReadOnly: true},
			// The API server mounts the pod's Kubernetes token into every container that has nothing at this
			// path. Proxies never talk to the API, so theirs has the mesh's token there, which the API refuses.
			{Name: tokenVolume, MountPath: apiTokenDir, ReadOnly: true},
		},
	}
}

// sidecarSettings are the proxy's settings. The pod's IP comes before the addresses, which may refer to it.
func sidecarSettings(c Config, p ports, how capture, resources corev1.ResourceRequirements) []corev1.EnvVar {
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
	}
	text := func(name, value string) corev1.EnvVar { return corev1.EnvVar{Name: name, Value: value} }
	address := func(host string, port int) string { return host + ":" + strconv.Itoa(port) }
	outgoing := c.SidecarAddress
	if how.kind == CaptureRedirect {
		outgoing = "127.0.0.1" // where the kernel leads a connection that is redirected as it leaves
	}
	env := []corev1.EnvVar{
		text("TULLE_MODE", string(ModeSidecar)),
		field("TULLE_NODE", "spec.nodeName"),
		field("TULLE_NAMESPACE", "metadata.namespace"),
		field("TULLE_SERVICE_ACCOUNT", "spec.serviceAccountName"),
		field("TULLE_POD_NAME", "metadata.name"),
		field(envPodIP, "status.podIP"),
		text("TULLE_TRUST_DOMAIN", c.TrustDomain),
		text("TULLE_OUTGOING", address(outgoing, p.Outgoing)),
		text("TULLE_INCOMING", address(c.ListenAddress, p.Incoming)),
		text("TULLE_ADMIN", address(c.ListenAddress, p.Admin)),
		text("TULLE_CONTROLLER", c.ControllerURL),
		text("TULLE_CONTROLLER_CA", c.ControllerCA),
		text("TULLE_TOKEN_FILE", tokenDir+"/token"),
		text("TULLE_DTAB_NAMESPACE", c.DtabNamespace),
		text("TULLE_LOG_LEVEL", c.LogLevel),
	}
	if how.kind == CaptureRedirect {
		env = append(env, text("TULLE_CAPTURE", how.kind))
		if len(how.opaque) > 0 {
			env = append(env, text("TULLE_OPAQUE_PORTS", how.opaque.String()))
		}
	}
	if limit, ok := resources.Limits[corev1.ResourceMemory]; ok {
		// The runtime's goal is 90 % of what the kernel allows, so that it collects before it is killed.
		env = append(env, text("GOMEMLIMIT", fmt.Sprint(limit.Value()/10*9)))
	}
	return env
}

func probe(path string, port int, period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: path, Port: intstr.FromInt32(int32(port)), Scheme: corev1.URISchemeHTTP}},
		PeriodSeconds:    period,
		TimeoutSeconds:   1,
		SuccessThreshold: 1,
		FailureThreshold: failures,
	}
}

// sidecarVolume holds the token that the proxy shows to the controller. Its audience is the mesh's own, so it
// is worth nothing at the Kubernetes API, and it is there whether or not the pod mounts a token of its own.
//
// Mode 0644 lets the proxy's user read the file; no other container mounts it. In a pod with fsGroup, or
// with one user for all containers, the kubelet narrows the mode and gives the file to that group or user,
// which the proxy has as well.
func sidecarVolume() corev1.Volume {
	return corev1.Volume{Name: tokenVolume, VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{
			DefaultMode: new(int32(0o644)),
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: tokenAudience, ExpirationSeconds: new(int64(tokenSeconds)), Path: "token"}}},
		},
	}}
}

// collisions looks for names and ports of the pod, without an earlier injection, that are ours in sidecar mode. For each
// port it proposes another.
func collisions(pod podView, p ports) *Result {
	other := fmt.Sprintf("rename it, or annotate the pod with %s: %s, or keep it out with the label %s: \"false\"", AnnotationMode, ModeHost, LabelInject)
	var first *Result
	note := func(r *Result) {
		if first == nil {
			first = r
			return
		}
		first.Message += "; " + r.Message
	}
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	inUse := []int{p.Outgoing, p.Incoming, p.Admin}
	for _, c := range containers {
		if !c.ours() {
			inUse = append(inUse, c.usedPorts()...)
		} else {
			note(denial(NameTaken, fmt.Sprintf("the pod has a container named %q, which is the name of one of the sidecar's", c.Name), other))
		}
	}
	proposals := map[string]int{} // by annotation: several containers may use one port
	for _, c := range containers {
		if c.ours() {
			continue
		}
		for _, used := range c.usedPorts() {
			for _, o := range []struct {
				key, name string
				port      int
			}{
				{AnnotationOutgoingPort, "outgoing", p.Outgoing},
				{AnnotationIncomingPort, "incoming", p.Incoming},
				{AnnotationAdminPort, "admin", p.Admin},
			} {
				if used != o.port {
					continue
				}
				if proposals[o.key] == 0 {
					proposals[o.key] = freePort(o.port, inUse)
					inUse = append(inUse, proposals[o.key])
				}
				note(denial(PortTaken, fmt.Sprintf("container %q uses port %d, which is the sidecar's %s port", c.Name, used, o.name),
					fmt.Sprintf("move the sidecar's with the annotation %s: \"%d\"", o.key, proposals[o.key])))
			}
		}
	}
	if slices.Contains(pod.Spec.Volumes, nameView{tokenVolume}) {
		note(denial(NameTaken, fmt.Sprintf("the pod has a volume named %q, which is the name of the sidecar's", tokenVolume), other))
	}
	return first
}

// hostPorts warns of ports of the node that the host proxy has. They are no ports in the pod, and none of the sidecar's;
// but the node then leads to the pod what others send to its proxy, which is on the node's own network.
func hostPorts(pod podView, cfg Config) []string {
	var warnings []string
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, port := range c.Ports {
			if !c.ours() && (port.HostPort == cfg.OutgoingPort || port.HostPort == cfg.IncomingPort) {
				warnings = append(warnings, fmt.Sprintf("container %q takes port %d of its node, which is the host proxy's: where there is one, the pod gets what other pods send to it", c.Name, port.HostPort))
			}
		}
	}
	return warnings
}

// freePort returns a port near to port that is not in use. A pod that uses hundreds of them in a row gets the last
// one tried: its author knows better than we which are free.
func freePort(port int, inUse []int) int {
	for range 500 {
		if port++; port > maxPort {
			port = minPort
		}
		if !slices.Contains(inUse, port) {
			break
		}
	}
	return port
}
