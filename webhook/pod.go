package webhook

import (
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
}

type specView struct {
	InitContainers []containerView   `json:"initContainers"`
	Containers     []containerView   `json:"containers"`
	Volumes        []nameView        `json:"volumes"`
	HostNetwork    bool              `json:"hostNetwork"`
	NodeSelector   map[string]string `json:"nodeSelector"`
	OS             *nameView         `json:"os"`
}

type nameView struct {
	Name string `json:"name"`
}

type containerView struct {
	Name           string     `json:"name"`
	RestartPolicy  string     `json:"restartPolicy"`
	Env            []envView  `json:"env"`
	Ports          []portView `json:"ports"`
	LivenessProbe  *probeView `json:"livenessProbe"`
	ReadinessProbe *probeView `json:"readinessProbe"`
	StartupProbe   *probeView `json:"startupProbe"`
}

type portView struct {
	ContainerPort int    `json:"containerPort"`
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

// literal reports whether the entry's value is text, not taken from somewhere.
func (e envView) literal() bool { return len(e.ValueFrom) == 0 || string(e.ValueFrom) == "null" }

// parsePod reads raw, with field names in exact case as Kubernetes has them.
func parsePod(raw []byte) (podView, error) {
	var pod podView
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &pod); err != nil {
		return podView{}, fmt.Errorf("read the pod: %w", err)
	}
	if len(pod.Spec.Containers) == 0 {
		return podView{}, errors.New("read the pod: spec.containers is empty, expected at least one container")
	}
	for _, list := range []struct {
		field      string
		containers []containerView
	}{{"initContainers", pod.Spec.InitContainers}, {"containers", pod.Spec.Containers}} {
		for i, c := range list.containers {
			if c.Name == "" {
				return podView{}, fmt.Errorf("read the pod: spec.%s[%d] has no name", list.field, i)
			}
		}
	}
	return pod, nil
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

// hasSidecar reports whether the pod has our native sidecar.
func (p podView) hasSidecar() bool {
	for _, c := range p.Spec.InitContainers {
		if c.Name == ProxyContainer && c.RestartPolicy == "Always" {
			return true
		}
	}
	return false
}

func (p podView) windows() bool {
	return p.Spec.OS != nil && p.Spec.OS.Name == "windows" || p.Spec.NodeSelector["kubernetes.io/os"] == "windows"
}

// usedPorts returns the TCP ports that the container is known to use, from its list and from its probes.
func (c containerView) usedPorts() []int {
	var ports []int
	for _, p := range c.Ports {
		if p.Protocol == "" || p.Protocol == "TCP" {
			ports = append(ports, p.ContainerPort)
		}
	}
	for _, probe := range []*probeView{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
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
