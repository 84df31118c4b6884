package inject

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
	"github.com/tulle-mesh/tulle/webhook"
)

// States of a pod that runs, as against one that is created now.
const (
	stateCurrent = "current" // it would be the same
	stateStale   = "stale"   // it would be injected with something else
	stateEscaped = "escaped" // it would be injected, but is not
	stateExtra   = "extra"   // it is injected, but would not be
	stateDenied  = "denied"  // the injector would refuse it
	stateUnknown = "unknown" // that cannot be told
)

// Pod is a pod that runs.
type Pod struct {
	Name  string       `json:"name"`
	State string       `json:"state"`
	Mode  webhook.Mode `json:"mode,omitempty"` // that it is in
	// Hash is of what it was injected with, Wanted of what it would be injected with.
	Hash   string `json:"hash,omitempty"`
	Wanted string `json:"wanted,omitempty"`
	Said   string `json:"said"`
}

// pods compares the pods of an object with what they would be now.
func (e *explainer) pods(ctx context.Context, x *Explanation, o *liveObject, ns webhook.Namespace, config webhook.Config) error {
	found, err := e.podsOf(ctx, o)
	if err != nil {
		return fault.Failed(fmt.Errorf("read the pods of %s: %w", o.title(), err), kube.Hint)
	}
	restart := false
	unasked := x.unasked() && !x.refused()
	for i := range found {
		p := &found[i]
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		p.APIVersion, p.Kind = "v1", "Pod"
		text, err := json.Marshal(p)
		if err != nil {
			return fault.Failed(err, "")
		}
		if o.GetKind() == "Pod" {
			text = o.json // with what this version does not know
		}
		pod, err := e.compare(p.Name, text, ns, config, unasked)
		if err != nil {
			return err
		}
		x.Pods = append(x.Pods, pod)
		restart = restart || pod.State == stateStale || pod.State == stateEscaped || pod.State == stateExtra
	}
	if restart {
		x.Hints = append(x.Hints, e.restart(ctx, o))
	}
	return nil
}

// podsOf lists the pods that an object has made: those that its selector chooses.
func (e *explainer) podsOf(ctx context.Context, o *liveObject) ([]corev1.Pod, error) {
	pods := e.by.client.CoreV1().Pods(o.GetNamespace())
	selector := ""
	switch o.GetKind() {
	case "Pod":
		var p corev1.Pod
		err := json.Unmarshal(o.json, &p)
		return []corev1.Pod{p}, err
	case "CronJob":
		jobs, err := e.by.client.BatchV1().Jobs(o.GetNamespace()).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		var names []string
		for _, j := range jobs.Items {
			if owner := metav1.GetControllerOf(&j); owner != nil && owner.UID == o.GetUID() {
				names = append(names, j.Name)
			}
		}
		if len(names) == 0 {
			return nil, nil
		}
		selector = "job-name in (" + strings.Join(names, ",") + ")"
	default:
		s, ok, _ := unstructured.NestedMap(o.Object, "spec", "selector")
		if !ok {
			return nil, nil
		}
		var full metav1.LabelSelector
		text, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		if json.Unmarshal(text, &full) != nil || len(full.MatchLabels)+len(full.MatchExpressions) == 0 {
			plain := map[string]string{} // as replication controllers have it
			if json.Unmarshal(text, &plain) != nil || len(plain) == 0 {
				return nil, nil
			}
			full.MatchLabels = plain
		}
		parsed, err := metav1.LabelSelectorAsSelector(&full)
		if err != nil {
			return nil, err
		}
		selector = parsed.String()
	}
	if _, err := labels.Parse(selector); err != nil {
		return nil, err
	}
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// compare says what a pod is as against what it would be now. Unasked says that the API server refuses no such pod, since
// it asks nobody about them.
func (e *explainer) compare(name string, text []byte, ns webhook.Namespace, config webhook.Config, unasked bool) (Pod, error) {
	out := Pod{Name: name}
	var is webhook.Status
	_, annotations := metadataOf(text)
	injected := json.Unmarshal([]byte(annotations[webhook.AnnotationStatus]), &is) == nil && is.Hash != ""
	if injected {
		out.Mode, out.Hash = is.Mode, is.Hash
	}
	res, err := webhook.Inject(text, ns, config)
	if err != nil {
		return out, e.by.excuse(err)
	}
	wanted := res.Mode != "" && res.Hash != "" && !res.Reason.Denies()
	if wanted {
		out.Wanted = res.Hash
	}
	switch {
	case res.Reason.Denies() && unasked:
		where := "not in the mesh"
		if injected {
			where = fmt.Sprintf("in the mesh, in mode %s", out.Mode)
		}
		out.State, out.Said = stateDenied, fmt.Sprintf("it is %s; the injector would refuse it now, but the API server does not ask the injector (%s): %s", where, res.Reason, res.Message)
	case res.Reason.Denies():
		out.State, out.Said = stateDenied, "it would not be created now: "+res.Message
	case !injected && !wanted:
		out.State, out.Said = stateCurrent, "it is not in the mesh, and would not be now"
	case !injected:
		out.State, out.Said = stateEscaped, fmt.Sprintf("it is not in the mesh, but would be now, in mode %s: it started before the namespace joined, or while the injector was away", res.Mode)
	case !wanted:
		out.State, out.Said = stateExtra, fmt.Sprintf("it is in the mesh, in mode %s, but would not be now", is.Mode)
	case res.Mode == webhook.ModeSidecar && e.by.config.ControllerCA == "":
		out.State, out.Wanted, out.Said = stateUnknown, "", fmt.Sprintf("whether it would be the same is not known, because the CA cannot be read: %v", e.by.caFault)
	case res.Reason == webhook.AlreadyInjected && len(res.Warnings) > 0:
		out.State, out.Said = stateStale, "it was injected by another version of Tulle"
	case is.Mode != res.Mode:
		out.State, out.Said = stateStale, fmt.Sprintf("it is in mode %s, but would be in mode %s now", is.Mode, res.Mode)
	case is.Hash != res.Hash:
		out.State, out.Said = stateStale, fmt.Sprintf("it is in mode %s as it would be now, but was injected with other settings: its hash is %s, and now %s", is.Mode, is.Hash, res.Hash)
	default:
		out.State, out.Said = stateCurrent, fmt.Sprintf("it is as it would be now, in mode %s", is.Mode)
	}
	return out, nil
}

// restart says how to make the pods of an object anew.
func (e *explainer) restart(ctx context.Context, o *liveObject) string {
	kind, name := o.GetKind(), o.GetName()
	owner := metav1.GetControllerOf(o)
	if kind == "Pod" && owner != nil {
		kind, name = owner.Kind, owner.Name
		owner = nil
		if kind == "ReplicaSet" {
			if rs, err := e.by.client.AppsV1().ReplicaSets(o.GetNamespace()).Get(ctx, name, metav1.GetOptions{}); err == nil {
				owner = metav1.GetControllerOf(rs)
			}
		}
	}
	if kind == "ReplicaSet" && owner != nil {
		kind, name = owner.Kind, owner.Name
	}
	switch kind {
	case "Deployment", "StatefulSet", "DaemonSet":
		return fmt.Sprintf("to make the pods anew: kubectl rollout restart %s/%s -n %s", strings.ToLower(kind), name, o.GetNamespace())
	case "Job", "CronJob":
		return "pods of jobs stay as they are; the next ones are made anew"
	case "Pod":
		return fmt.Sprintf("nothing makes pod %s anew: delete it and create it again", name)
	}
	return fmt.Sprintf("delete the pods, so that %s/%s makes them anew", strings.ToLower(kind), name)
}
