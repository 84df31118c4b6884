package webhook

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	kjson "sigs.k8s.io/json"
)

// podView is what the injector reads of a pod, and no more: the pod itself stays JSON.
type podView struct {
	Metadata *metaView `json:"metadata"`
	Spec     specView  `json:"spec"`
}

type metaView struct {
	Name         string            `json:"name"`
	GenerateName string            `json:"generateName"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	Owners       []ownerView       `json:"ownerReferences"`
}

type ownerView struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

type specView struct {
	InitContainers []containerView   `json:"initContainers"`
	Ephemeral      []containerView   `json:"ephemeralContainers"`
	Containers     []containerView   `json:"containers"`
	Volumes        []nameView        `json:"volumes"`
	HostNetwork    bool              `json:"hostNetwork"`
	DNSPolicy      string            `json:"dnsPolicy"`
	HostUsers      *bool             `json:"hostUsers"`
	NodeSelector   map[string]string `json:"nodeSelector"`
	OS             *nameView         `json:"os"`
	Affinity       *affinityView     `json:"affinity"`

	RestartPolicy    string         `json:"restartPolicy"`
	GraceSeconds     *int64         `json:"terminationGracePeriodSeconds"`
	SecurityContext  *userView      `json:"securityContext"`
	ImagePullSecrets []nameView     `json:"imagePullSecrets"`
	Resources        *resourcesView `json:"resources"`
}

// userView reads who a pod or a container runs as.
type userView struct {
	RunAsUser *int64 `json:"runAsUser"`
}

type nameView struct {
	Name string `json:"name"`
}

type containerView struct {
	Name           string     `json:"name"`
	RestartPolicy  string     `json:"restartPolicy"`
	Env            []envView  `json:"env"`
	EnvFrom        []fromView `json:"envFrom"`
	Ports          []portView `json:"ports"`
	LivenessProbe  *probeView `json:"livenessProbe"`
	ReadinessProbe *probeView `json:"readinessProbe"`
	StartupProbe   *probeView `json:"startupProbe"`

	Lifecycle       *lifecycleView `json:"lifecycle"`
	SecurityContext *userView      `json:"securityContext"`
	Resources       *resourcesView `json:"resources"`
}

// lifecycleView reads the hooks, which aim at ports as probes do.
type lifecycleView struct {
	PostStart *probeView `json:"postStart"`
	PreStop   *probeView `json:"preStop"`
}

type portView struct {
	Name          string `json:"name"`
	ContainerPort int    `json:"containerPort"`
	HostPort      int    `json:"hostPort"`
	Protocol      string `json:"protocol"`
}

// probeView reads the ports of a probe. They are numbers or names; only numbers are of interest, because a
// name stands for a port that the container lists anyway.
type probeView struct {
	HTTPGet   *probeTarget `json:"httpGet"`
	TCPSocket *probeTarget `json:"tcpSocket"`
	GRPC      *probeTarget `json:"grpc"`
}

type probeTarget struct {
	Port json.RawMessage `json:"port"`
}

type envView struct {
	Name      string          `json:"name"`
	Value     string          `json:"value"`
	ValueFrom json.RawMessage `json:"valueFrom"`
}

// fromView reads where a container takes variables from by the dozen.
type fromView struct {
	ConfigMap nameView `json:"configMapRef"`
	Secret    nameView `json:"secretRef"`
}

func (f fromView) source() string { return cmp.Or(f.ConfigMap.Name, f.Secret.Name) }

// literal reports whether the entry's value is text, not taken from somewhere.
func (e envView) literal() bool { return len(e.ValueFrom) == 0 || string(e.ValueFrom) == "null" }

// maxContainers is more than a pod can have: with what each container has at least, and what each is given, it would be
// too large to be stored. Before that is found out, a review of 4 MiB could make a patch of a hundred.
const maxContainers = 1000

// parsePod reads raw, with field names in exact case as Kubernetes has them.
func parsePod(raw []byte) (podView, error) {
	var pod podView
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &pod); err != nil {
		return podView{}, fmt.Errorf("read the pod: %w", err)
	}
	return pod, pod.check()
}

// check says what keeps a pod that was read from being one.
func (pod podView) check() error {
	if len(pod.Spec.Containers) == 0 {
		return errors.New("read the pod: spec.containers is empty, expected at least one container")
	}
	if n := len(pod.Spec.InitContainers) + len(pod.Spec.Containers) + len(pod.Spec.Ephemeral); n > maxContainers {
		return fmt.Errorf("read the pod: there are %d containers, more than %d", n, maxContainers)
	}
	for _, list := range pod.lists() {
		for i, c := range list.containers {
			if c.Name == "" {
				return fmt.Errorf("read the pod: spec.%s[%d] has no name", list.field, i)
			}
		}
	}
	return nil
}

// containerList is one of the pod's lists of containers.
type containerList struct {
	field      string // of spec
	containers []containerView
}

// lists returns the init containers and the containers.
func (p podView) lists() [2]containerList {
	return [2]containerList{{"initContainers", p.Spec.InitContainers}, {"containers", p.Spec.Containers}}
}

func (p podView) hasContainer(name string) bool {
	named := func(c containerView) bool { return c.Name == name }
	return slices.ContainsFunc(p.Spec.InitContainers, named) || slices.ContainsFunc(p.Spec.Containers, named)
}

func (p podView) label(key string) (string, bool) {
	if p.Metadata == nil {
		return "", false
	}
	v, ok := p.Metadata.Labels[key]
	return v, ok
}

func (p podView) annotation(key string) (string, bool) {
	if p.Metadata == nil {
		return "", false
	}
	v, ok := p.Metadata.Annotations[key]
	return v, ok
}

// ours reports whether the container has the name of one that sidecar mode adds.
func (c containerView) ours() bool { return c.Name == ProxyContainer || c.Name == RedirectContainer }

// hasInit reports whether the pod has init containers of its own.
func (p podView) hasInit() bool {
	return slices.ContainsFunc(p.Spec.InitContainers, func(c containerView) bool { return !c.ours() })
}

// usedPorts returns the TCP ports that the container is known to use, from its list, its probes and its hooks.
func (c containerView) usedPorts() []int {
	var ports []int
	for _, p := range c.Ports {
		if p.Protocol == "" || p.Protocol == "TCP" {
			ports = append(ports, p.ContainerPort)
		}
	}
	probes := []*probeView{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe}
	if c.Lifecycle != nil {
		probes = append(probes, c.Lifecycle.PostStart, c.Lifecycle.PreStop)
	}
	for _, probe := range probes {
		if probe == nil {
			continue
		}
		for _, target := range []*probeTarget{probe.HTTPGet, probe.TCPSocket, probe.GRPC} {
			var port int
			if target != nil && json.Unmarshal(target.Port, &port) == nil {
				ports = append(ports, port)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
