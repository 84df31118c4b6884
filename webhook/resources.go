package webhook

import (
	"encoding/json"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// resourcesView reads the resources of a pod or a container, as they were written.
type resourcesView struct {
	Requests map[corev1.ResourceName]json.RawMessage `json:"requests"`
	Limits   map[corev1.ResourceName]json.RawMessage `json:"limits"`
}

// quantity returns one of the amounts in m; what is no amount counts as none, as does zero.
func quantity(m map[corev1.ResourceName]json.RawMessage, name corev1.ResourceName) (resource.Quantity, bool) {
	text := string(m[name])
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	q, err := resource.ParseQuantity(text)
	return q, err == nil && q.Sign() > 0
}

// computeResources are those that make up a pod's quality of service.
func computeResources() []corev1.ResourceName {
	return []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}
}

// none reports whether r asks for nothing that counts for the quality of service.
func (r *resourcesView) none() bool {
	if r == nil {
		return true
	}
	for _, name := range computeResources() {
		for _, list := range []map[corev1.ResourceName]json.RawMessage{r.Requests, r.Limits} {
			if _, ok := quantity(list, name); ok {
				return false
			}
		}
	}
	return true
}

// exact reports whether r limits both CPU and memory and requests neither more nor less. A request that is not
// written is the limit.
func (r *resourcesView) exact() bool {
	if r == nil {
		return false
	}
	for _, name := range computeResources() {
		limit, ok := quantity(r.Limits, name)
		if !ok {
			return false
		}
		if _, written := r.Requests[name]; !written {
			continue
		}
		if request, _ := quantity(r.Requests, name); request.Cmp(limit) != 0 {
			return false
		}
	}
	return true
}

// budget reports whether the pod as a whole has resources; its containers then share those, and the class follows from
// them alone.
func (p podView) budget() bool { return !p.Spec.Resources.none() }

// class returns the quality of service of the pod without what is ours, by the rules of Kubernetes ("Pod Quality of
// Service Classes" in its documentation).
//
// One of them is narrowed. Kubernetes compares the sums over all containers; this compares each container for itself,
// which is what the documentation says, and comes to the same unless one container requests more than its limit, which
// the API server refuses.
func (p podView) class() corev1.PodQOSClass {
	if p.budget() {
		if p.Spec.Resources.exact() {
			return corev1.PodQOSGuaranteed
		}
		return corev1.PodQOSBurstable
	}
	none, exact := true, true
	for _, list := range [][]containerView{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			if c.ours() {
				continue
			}
			none = none && c.Resources.none()
			exact = exact && c.Resources.exact()
		}
	}
	switch {
	case none:
		return corev1.PodQOSBestEffort
	case exact:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// amount is one of the sidecar's resources that an annotation may set.
type amount struct {
	key  string
	name corev1.ResourceName
	// least is what is taken for a slip: memory of 256 or 256m is bytes, or less, where 256Mi was meant.
	least string
	limit bool
}

func amounts() []amount {
	return []amount{
		{AnnotationCPURequest, corev1.ResourceCPU, "1m", false},
		{AnnotationCPULimit, corev1.ResourceCPU, "10m", true},
		{AnnotationMemoryRequest, corev1.ResourceMemory, "1Mi", false},
		{AnnotationMemoryLimit, corev1.ResourceMemory, "16Mi", true},
	}
}

// askedResources reads the annotations about the sidecar's resources.
func askedResources(pod podView) (corev1.ResourceRequirements, *Result) {
	asked := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	for _, a := range amounts() {
		text, ok := pod.annotation(a.key)
		if !ok {
			continue
		}
		q, err := resource.ParseQuantity(text)
		if err != nil || q.Cmp(resource.MustParse(a.least)) < 0 {
			return asked, denial(InvalidAnnotation, fmt.Sprintf("the pod's annotation %s is %q, allowed: a quantity from %s on", a.key, text, a.least),
				fmt.Sprintf("write one like %s, or remove it for the default", map[corev1.ResourceName]string{
					corev1.ResourceCPU: "100m", corev1.ResourceMemory: "128Mi"}[a.name]))
		}
		if a.limit {
			asked.Limits[a.name] = q
		} else {
			asked.Requests[a.name] = q
		}
	}
	for _, pair := range [][2]amount{{amounts()[0], amounts()[1]}, {amounts()[2], amounts()[3]}} {
		request, ok := asked.Requests[pair[0].name]
		limit, limited := asked.Limits[pair[1].name]
		if ok && limited && request.Cmp(limit) > 0 {
			return asked, denial(InvalidAnnotation, fmt.Sprintf("the pod's annotation %s is %s, which is more than %s, %s",
				pair[0].key, request.String(), pair[1].key, limit.String()), "lower the request, or raise the limit")
		}
	}
	return asked, nil
}

// checkResources says what is wrong with the annotations about the sidecar's resources. It is asked in both modes.
func checkResources(pod podView, _ Config) *Result {
	_, denied := askedResources(pod)
	return denied
}

// Limits of a sidecar that must have some, for the pod to stay Guaranteed, where neither the pod nor the configuration
// says any. A proxy that is throttled makes every request of the app wait, so it is a fifth of a core, several times
// what an idle one takes.
const (
	guaranteedCPU    = "200m"
	guaranteedMemory = "128Mi"
)

// sidecarResources finds the resources of the sidecar, such that the pod's quality of service stays what it is:
//
//   - what the pod's annotations ask for, it gets;
//   - in a BestEffort pod, and in one whose containers share the resources of the pod as a whole, nothing else: there
//     the sum of what its containers request must not exceed what the pod does;
//   - in a Guaranteed pod, requests and limits are the same;
//   - else requests and limits are the configuration's. If one of a pair is asked for and does not fit the other, the
//     other gives way.
func sidecarResources(c Config, pod podView) (corev1.ResourceRequirements, []string) {
	res, _ := askedResources(pod) // checkResources has seen to what is wrong with it
	var warnings []string
	class := pod.class()
	for _, r := range []struct {
		name                      corev1.ResourceName
		request, limit, ofLimited string
	}{
		{corev1.ResourceCPU, c.CPURequest, c.CPULimit, guaranteedCPU},
		{corev1.ResourceMemory, c.MemoryRequest, c.MemoryLimit, guaranteedMemory},
	} {
		request, requested := res.Requests[r.name]
		limit, limited := res.Limits[r.name]
		config, configLimit := parsed(r.request), parsed(r.limit)
		switch {
		case class == corev1.PodQOSBestEffort, pod.budget():
			if limited && !requested { // as the API server would
				res.Requests[r.name] = limit
			}
		case class == corev1.PodQOSGuaranteed:
			switch {
			case requested && limited:
				if request.Cmp(limit) != 0 {
					warnings = append(warnings, fmt.Sprintf(
						"the pod's quality of service is Guaranteed, and becomes Burstable: its annotations ask for a sidecar with another request of %s, %s, than limit, %s", r.name, request.String(), limit.String()))
				}
			case requested:
				res.Limits[r.name] = request
			case limited:
				res.Requests[r.name] = limit
			default:
				both := configLimit
				if both.IsZero() {
					both = parsed(r.ofLimited)
				}
				if both.Cmp(config) < 0 {
					both = config
				}
				res.Requests[r.name], res.Limits[r.name] = both, both
			}
		default:
			if !requested {
				request = config
			}
			if !limited {
				limit = configLimit
			}
			if !limit.IsZero() && request.Cmp(limit) > 0 {
				if requested {
					limit = request
				} else {
					request = limit
				}
			}
			if !request.IsZero() {
				res.Requests[r.name] = request
			}
			if !limit.IsZero() {
				res.Limits[r.name] = limit
			}
		}
	}
	return res, warnings
}

// parsed returns a quantity that was validated before; zero for an empty one.
func parsed(text string) resource.Quantity {
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return resource.Quantity{}
	}
	return q
}
