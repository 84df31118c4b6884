package drift

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Owner is the workload of a pod, in the pod's namespace. Its zero value is none.
type Owner struct {
	Kind string `json:"kind,omitempty"`
	Name string `json:"name,omitempty"`
}

// String is as kubectl takes it; empty for none.
func (o Owner) String() string {
	if o.Kind == "" {
		return ""
	}
	return strings.ToLower(o.Kind) + "/" + o.Name
}

// ownerOf finds a pod's workload without asking: the replica set of a deployment has its name from the deployment and
// from the label that the deployment gives its pods.
func ownerOf(pod *corev1.Pod) (owner Owner, direct metav1.OwnerReference) {
	ref := metav1.GetControllerOf(pod)
	if ref == nil {
		return Owner{}, metav1.OwnerReference{}
	}
	if hash := pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; ref.Kind == "ReplicaSet" && hash != "" {
		if name, ok := strings.CutSuffix(ref.Name, "-"+hash); ok && name != "" {
			return Owner{"Deployment", name}, *ref
		}
	}
	return Owner{ref.Kind, ref.Name}, *ref
}

// involved finds the object that events about a pod go to: its workload, with the UID by which "kubectl describe" looks
// for them. What it cannot find it leaves at the pod's own controller.
func involved(ctx context.Context, client kubernetes.Interface, namespace, pod string, uid types.UID, direct metav1.OwnerReference) (corev1.ObjectReference, error) {
	if direct.Kind == "" {
		return corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: pod, UID: uid}, nil
	}
	var above *metav1.OwnerReference
	var err error
	switch direct.Kind {
	case "ReplicaSet":
		var o *appsv1.ReplicaSet
		if o, err = client.AppsV1().ReplicaSets(namespace).Get(ctx, direct.Name, metav1.GetOptions{}); err == nil && o.UID == direct.UID {
			above = metav1.GetControllerOf(o)
		}
	case "Job":
		o, e := client.BatchV1().Jobs(namespace).Get(ctx, direct.Name, metav1.GetOptions{})
		if err = e; err == nil && o.UID == direct.UID {
			above = metav1.GetControllerOf(o)
		}
	}
	if err != nil {
		err = fmt.Errorf("find the owner of %s %s/%s: %w", direct.Kind, namespace, direct.Name, err)
	}
	if above == nil {
		above = &direct
	}
	return corev1.ObjectReference{APIVersion: above.APIVersion, Kind: above.Kind, Namespace: namespace, Name: above.Name, UID: above.UID}, err
}
