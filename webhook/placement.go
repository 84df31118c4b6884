package webhook

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// affinityView reads what a pod requires of its node, beside its node selector.
type affinityView struct {
	NodeAffinity *struct {
		Required *struct {
			Terms []struct {
				Expressions []expressionView `json:"matchExpressions"`
			} `json:"nodeSelectorTerms"`
		} `json:"requiredDuringSchedulingIgnoredDuringExecution"`
	} `json:"nodeAffinity"`
}

type expressionView struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values"`
}

// Keys of the labels by which nodes tell what they are. Old clusters, and the manifests written for them, have the
// second of each pair.
var (
	labelsOS   = []string{corev1.LabelOSStable, "beta.kubernetes.io/os"}
	labelsArch = []string{corev1.LabelArchStable, "beta.kubernetes.io/arch"}
)

// mayRunOn reports whether the pod can be placed on a node whose labels keys have this value, as far as those labels
// decide about it. The terms of an affinity are alternatives, the expressions of one term all hold at once.
func (p podView) mayRunOn(keys []string, value string) bool {
	for _, key := range keys {
		if v, ok := p.Spec.NodeSelector[key]; ok && v != value {
			return false
		}
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.Required == nil || len(a.NodeAffinity.Required.Terms) == 0 {
		return true
	}
	for _, term := range a.NodeAffinity.Required.Terms {
		if !slices.ContainsFunc(term.Expressions, func(e expressionView) bool { return slices.Contains(keys, e.Key) && !e.allows(value) }) {
			return true
		}
	}
	return false
}

// allows reports whether a label with this value passes the expression. Operators for numbers say nothing about labels
// like these, and pass.
func (e expressionView) allows(value string) bool {
	switch e.Operator {
	case "In":
		return slices.Contains(e.Values, value)
	case "NotIn":
		return !slices.Contains(e.Values, value)
	case "DoesNotExist":
		return false
	}
	return true
}

// windows reports whether the pod asks for Windows, where no proxy of ours runs.
func (p podView) windows() bool {
	return p.Spec.OS != nil && p.Spec.OS.Name == "windows" || !p.mayRunOn(labelsOS, "linux")
}

// judgeArchitecture finds whether there is an image for the nodes that the pod may run on: none at all is a reason not
// to inject, and to say so; none for some of them is a warning.
func judgeArchitecture(pod podView, architectures []string) (*Result, []string) {
	if !slices.ContainsFunc(architectures, func(arch string) bool { return pod.mayRunOn(labelsArch, arch) }) {
		return &Result{Reason: Architecture, Warnings: []string{fmt.Sprintf(
			"the pod asks for a processor that the sidecar has no image for, and is not meshed; there are images for %s; annotate it with %s: %s if there is a host proxy on such nodes",
			strings.Join(architectures, ", "), AnnotationMode, ModeHost)}}, nil
	}
	var without []string
	for _, arch := range pod.namedArchitectures() {
		if !slices.Contains(architectures, arch) && pod.mayRunOn(labelsArch, arch) {
			without = append(without, arch)
		}
	}
	if len(without) == 0 {
		return nil, nil
	}
	return nil, []string{fmt.Sprintf("the pod may be placed on a node with a processor that the sidecar has no image for, %s, and would not start there; take it out of the pod's node affinity",
		strings.Join(without, ", "))}
}

// namedArchitectures returns those that the pod's affinity lists, sorted.
func (p podView) namedArchitectures() []string {
	var names []string
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.Required != nil {
		for _, term := range a.NodeAffinity.Required.Terms {
			for _, e := range term.Expressions {
				if e.Operator == "In" && slices.Contains(labelsArch, e.Key) {
					names = append(names, e.Values...)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
