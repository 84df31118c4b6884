package webhook

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	tokenVolume   = "tulle-token"
	tokenDir      = "/var/run/secrets/tulle.dev"
	apiTokenDir   = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenAudience = "tulle.dev"
	tokenSeconds  = 3600 // the kubelet renews at 80 % of it
	proxyUser     = 65532
)

// ports of one pod's proxy, in the order of their annotations.
type ports struct {
	Outgoing int `json:"outgoing"`
	Incoming int `json:"incoming"`
	Admin    int `json:"admin"`
}

// sidecarPlan lists what sidecar mode adds to pod, which is seen without what an earlier injection added. The
// Result is a denial, or another decision not to inject. The plan must follow from the arguments alone.
func sidecarPlan(pod podView, _ Namespace, cfg Config, p ports) (plan, []string, *Result, error) {
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
	return plan{
		Init:    []corev1.Container{sidecarContainer(cfg, p)},
		Volumes: []corev1.Volume{sidecarVolume()},
		Env:     new(sidecarEnvironment(cfg, p.Outgoing)),
	}, nil, nil, nil
}

// sidecarContainer is the native sidecar. It comes from a valid Config with defaults filled in.
//
// As a native sidecar it starts before every other container, ends after them, and does not keep a Job from
// ending. Its readiness counts for that of the pod, so no request is sent to a pod whose proxy cannot serve.
func sidecarContainer(c Config, p ports) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	return corev1.Container{
		Name:            ProxyContainer,
		Image:           c.ProxyImage,
		ImagePullPolicy: corev1.PullPolicy(c.PullPolicy),
		RestartPolicy:   &always,
		Env:             sidecarSettings(c, p),
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
		Resources:      sidecarResources(c),
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			ReadOnlyRootFilesystem:   new(true),
			RunAsNonRoot:             new(true),
			RunAsUser:                new(int64(proxyUser)),
			RunAsGroup:               new(int64(proxyUser)),
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
func sidecarSettings(c Config, p ports) []corev1.EnvVar {
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
	}
	text := func(name, value string) corev1.EnvVar { return corev1.EnvVar{Name: name, Value: value} }
	address := func(host string, port int) string { return host + ":" + strconv.Itoa(port) }
	env := []corev1.EnvVar{
		text("TULLE_MODE", string(ModeSidecar)),
		field("TULLE_NODE", "spec.nodeName"),
		field("TULLE_NAMESPACE", "metadata.namespace"),
		field("TULLE_SERVICE_ACCOUNT", "spec.serviceAccountName"),
		field("TULLE_POD_NAME", "metadata.name"),
		field(envPodIP, "status.podIP"),
		text("TULLE_TRUST_DOMAIN", c.TrustDomain),
		text("TULLE_OUTGOING", address(c.SidecarAddress, p.Outgoing)),
		text("TULLE_INCOMING", address(c.ListenAddress, p.Incoming)),
		text("TULLE_ADMIN", address(c.ListenAddress, p.Admin)),
		text("TULLE_CONTROLLER", c.ControllerURL),
		text("TULLE_CONTROLLER_CA", c.ControllerCA),
		text("TULLE_TOKEN_FILE", tokenDir+"/token"),
		text("TULLE_DTAB_NAMESPACE", c.DtabNamespace),
		text("TULLE_LOG_LEVEL", c.LogLevel),
	}
	if limit, err := resource.ParseQuantity(c.MemoryLimit); err == nil && limit.Value() > 0 {
		// The runtime's goal is 90 % of what the kernel allows, so that it collects before it is killed.
		env = append(env, text("GOMEMLIMIT", fmt.Sprint(limit.Value()/10*9)))
	}
	return env
}

func sidecarResources(c Config) corev1.ResourceRequirements {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		if q, err := resource.ParseQuantity(cpu); err == nil {
			l[corev1.ResourceCPU] = q
		}
		if q, err := resource.ParseQuantity(memory); err == nil {
			l[corev1.ResourceMemory] = q
		}
		return l
	}
	return corev1.ResourceRequirements{
		Requests: list(c.CPURequest, c.MemoryRequest),
		Limits:   list(c.CPULimit, c.MemoryLimit),
	}
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

// collisions looks for names and ports of the pod that are ours in sidecar mode.
func collisions(pod podView, p ports) *Result {
	ours := pod.hasSidecar() && pod.injected()
	other := fmt.Sprintf("rename it, or annotate the pod with %s: %s, or keep it out with the label %s: \"false\"", AnnotationMode, ModeHost, LabelInject)
	var first *Result
	note := func(r *Result) {
		if first == nil {
			first = r
			return
		}
		first.Message += "; " + r.Message
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == ProxyContainer {
			if !ours {
				note(denial(NameTaken, fmt.Sprintf("the pod has a container named %q, which is the name of the sidecar", c.Name), other))
			}
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
				if used == o.port {
					note(denial(PortTaken, fmt.Sprintf("container %q uses port %d, which is the sidecar's %s port", c.Name, used, o.name),
						fmt.Sprintf("move the sidecar's with the annotation %s", o.key)))
				}
			}
		}
	}
	if !ours && slices.Contains(pod.Spec.Volumes, nameView{tokenVolume}) {
		note(denial(NameTaken, fmt.Sprintf("the pod has a volume named %q, which is the name of the sidecar's", tokenVolume), other))
	}
	return first
}
