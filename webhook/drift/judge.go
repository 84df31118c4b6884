package drift

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/webhook"
)

// Kind is in which way a pod is not as it should be.
type Kind string

const (
	// Escaped is a pod that should be in the mesh and carries no injection.
	Escaped Kind = "Escaped"
	// Stale is a pod that carries another injection than it would get now.
	Stale Kind = "Stale"
)

// Pod is one that is not as the injector would have it.
type Pod struct {
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
	UID       types.UID      `json:"uid"`
	Owner     Owner          `json:"owner,omitzero"` // its workload, zero if it has no controller
	Created   time.Time      `json:"created"`
	Kind      Kind           `json:"kind"`
	Reason    webhook.Reason `json:"reason"`          // what the injector would answer now
	Message   string         `json:"message"`         // one sentence, without the pod's name
	Is        string         `json:"is,omitempty"`    // the hash of its injection, empty if it has none
	Wants     string         `json:"wants,omitempty"` // the hash that it would have, empty if none
}

// Repairable reports whether the pod would be as it should be if it were made again: it has a controller that would
// make it, and would not be refused.
func (p Pod) Repairable() bool { return p.Owner.Kind != "" && !p.Reason.Denies() }

// verdict is what became of the question what the injector would do with a pod.
type verdict struct {
	kind     Kind           // empty if the pod is as it should be
	reason   webhook.Reason // of the injector now
	mode     webhook.Mode   // that it runs in; empty if it is not in the mesh
	left     bool           // it is in the mesh, but all its containers have proxies of their own
	is       string
	wants    string
	message  string
	observed bool // false if the injector could not say
}

// ended reports whether a pod does not count any more.
func ended(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// judge asks the injector about a pod that runs. The injector sees past an injection that the pod carries.
func judge(pod *corev1.Pod, ns webhook.Namespace, cfg webhook.Config) (verdict, error) {
	raw, err := json.Marshal(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, GenerateName: pod.GenerateName, Labels: pod.Labels, Annotations: pod.Annotations, OwnerReferences: pod.OwnerReferences,
		},
		Spec: pod.Spec,
	})
	if err != nil {
		return verdict{}, fmt.Errorf("write pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	res, err := webhook.Inject(raw, ns, cfg)
	if err != nil {
		return verdict{}, fmt.Errorf("judge pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	v := verdict{reason: res.Reason, wants: res.Hash, observed: true}
	var status webhook.Status
	carries := json.Unmarshal([]byte(pod.Annotations[webhook.AnnotationStatus]), &status) == nil && status.Hash != "" &&
		(status.Mode != webhook.ModeSidecar || hasProxy(pod))
	if carries {
		v.is, v.mode, v.left = status.Hash, status.Mode, len(status.Containers) == 0 && len(status.Left) > 0
	}
	switch {
	case res.Reason.Denies() && carries:
		v.kind, v.message = Stale, "it would be refused if it were made again: "+res.Message
	case res.Reason.Denies():
		v.kind, v.message = Escaped, "it runs outside of the mesh, and would be refused if it were made again: "+res.Message
	case !carries && res.Mode != "":
		v.kind, v.message = Escaped, fmt.Sprintf("it runs outside of the mesh, and would be in it, in mode %s, if it were made again", res.Mode)
	case !carries:
	case res.Reason == webhook.ModeIsNone || res.Reason == webhook.HostNetwork || res.Reason == webhook.Architecture:
		v.kind, v.message = Stale, fmt.Sprintf("it is in the mesh, and would not be (%s) if it were made again", res.Reason)
	case res.Mode == "": // it has opted out since, and says so itself
	case res.Mode != status.Mode:
		v.kind, v.message = Stale, fmt.Sprintf("its mode is %s, and would be %s if it were made again", status.Mode, res.Mode)
	case res.Hash != status.Hash:
		v.kind, v.message = Stale, fmt.Sprintf("its injection, %s, would be another one, %s, if it were made again", status.Hash, res.Hash)
	case res.Reason == webhook.AlreadyInjected && res.Patch == nil:
		if _, err := webhook.Uninject(raw); err != nil { // only another version's injection is kept unread
			v.kind, v.wants, v.message = Stale, "", "its injection is of another version of Tulle"
		}
	}
	return v, nil
}

// hasProxy reports whether a pod has the sidecar that its status speaks of.
func hasProxy(pod *corev1.Pod) bool {
	named := func(c corev1.Container) bool { return c.Name == webhook.ProxyContainer }
	return slices.ContainsFunc(pod.Spec.InitContainers, named) || slices.ContainsFunc(pod.Spec.Containers, named)
}

// joined reports whether pods of a namespace are to be in the mesh.
func joined(ns webhook.Namespace, cfg webhook.Config) bool {
	v := ns.Labels[webhook.LabelInject]
	return (v == webhook.NamespaceEnabled || v == webhook.NamespaceBestEffort) &&
		!slices.Contains(webhook.ExcludedNamespaces(cmp.Or(cfg.MeshNamespace, "tulle")), ns.Name) && !slices.Contains(cfg.ExcludedNamespaces, ns.Name)
}

// namespaceOf returns what the injector reads of a namespace.
func namespaceOf(n *corev1.Namespace) webhook.Namespace {
	ns := webhook.Namespace{Name: n.Name, Labels: n.Labels}
	for _, key := range webhook.NamespaceAnnotations() {
		if v, ok := n.Annotations[key]; ok {
			if ns.Annotations == nil {
				ns.Annotations = map[string]string{}
			}
			ns.Annotations[key] = v
		}
	}
	return ns
}

// page is how many pods are read at a time.
const page = 500

// List returns the pods that are not as the injector with this configuration would have them, of all namespaces that
// joined, ordered by namespace and name. The caller must be allowed to list namespaces and pods.
func List(ctx context.Context, client kubernetes.Interface, cfg webhook.Config) ([]Pod, error) {
	namespaces, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{
		LabelSelector: webhook.LabelInject + " in (" + webhook.NamespaceEnabled + "," + webhook.NamespaceBestEffort + ")",
	})
	if err != nil {
		return nil, fmt.Errorf("list the namespaces of the mesh: %w", err)
	}
	var found []Pod
	for i := range namespaces.Items {
		ns := namespaceOf(&namespaces.Items[i])
		if !joined(ns, cfg) {
			continue
		}
		for o := (metav1.ListOptions{Limit: page}); ; {
			pods, err := client.CoreV1().Pods(ns.Name).List(ctx, o)
			if err != nil {
				return nil, fmt.Errorf("list the pods of namespace %s: %w", ns.Name, err)
			}
			for i := range pods.Items {
				pod := &pods.Items[i]
				if ended(pod) {
					continue
				}
				v, err := judge(pod, ns, cfg)
				if err != nil {
					return nil, err
				}
				if v.kind != "" {
					found = append(found, entryOf(pod, v).finding())
				}
			}
			if o.Continue = pods.Continue; o.Continue == "" {
				break
			}
		}
	}
	slices.SortFunc(found, byName)
	return found, nil
}

func byName(a, b Pod) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}
