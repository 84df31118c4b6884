package install

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// every is how often a rollout is looked at.
const every = time.Second

// rollOut waits until the pods of an object run as it says, and calls talk with how far they are, each time that is new.
// Objects without pods are done at once. The error names what keeps a pod from starting, if there is any such.
func (r *reach) rollOut(ctx context.Context, o *unstructured.Unstructured, talk func(string)) error {
	var look func(context.Context) (done bool, state string, selector *metav1.LabelSelector, err error)
	switch o.GetKind() {
	case "Deployment":
		look = func(ctx context.Context) (bool, string, *metav1.LabelSelector, error) {
			d, err := r.kube.AppsV1().Deployments(o.GetNamespace()).Get(ctx, o.GetName(), metav1.GetOptions{})
			if err != nil {
				return false, "", nil, err
			}
			done, state := deploymentState(d)
			return done, state, d.Spec.Selector, nil
		}
	case "DaemonSet":
		look = func(ctx context.Context) (bool, string, *metav1.LabelSelector, error) {
			d, err := r.kube.AppsV1().DaemonSets(o.GetNamespace()).Get(ctx, o.GetName(), metav1.GetOptions{})
			if err != nil {
				return false, "", nil, err
			}
			done, state := daemonSetState(d)
			return done, state, d.Spec.Selector, nil
		}
	default:
		return nil
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var last string
	for {
		done, state, selector, err := look(ctx)
		switch {
		case err == nil && done:
			return nil
		case err == nil && state != last:
			last = state
			talk(name(o) + ": " + state)
		case err != nil && ctx.Err() == nil && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)):
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return ctx.Err()
			}
			why := r.stuck(context.WithoutCancel(ctx), o.GetNamespace(), selector)
			if why == "" {
				why = last
			}
			return fmt.Errorf("%s is not rolled out in time: %s", name(o), why)
		}
	}
}

// deploymentState is what kubectl rollout status goes by.
func deploymentState(d *appsv1.Deployment) (done bool, state string) {
	want, s := int32(1), d.Status
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	switch {
	case s.ObservedGeneration < d.Generation:
		return false, "waiting for Kubernetes to see the change"
	case s.UpdatedReplicas < want:
		return false, fmt.Sprintf("%d of %d new pods made", s.UpdatedReplicas, want)
	case s.Replicas > s.UpdatedReplicas:
		return false, fmt.Sprintf("%d old pods to end", s.Replicas-s.UpdatedReplicas)
	case s.AvailableReplicas < want:
		return false, fmt.Sprintf("%d of %d pods ready", s.AvailableReplicas, want)
	}
	return true, ""
}

func daemonSetState(d *appsv1.DaemonSet) (done bool, state string) {
	want, s := d.Status.DesiredNumberScheduled, d.Status
	switch {
	case s.ObservedGeneration < d.Generation:
		return false, "waiting for Kubernetes to see the change"
	case s.UpdatedNumberScheduled < want:
		return false, fmt.Sprintf("%d of %d new pods made", s.UpdatedNumberScheduled, want)
	case s.NumberAvailable < want:
		return false, fmt.Sprintf("%d of %d pods ready", s.NumberAvailable, want)
	}
	return true, ""
}

// stuck says what keeps the first pod that is not ready from it; empty if nobody can tell.
func (r *reach) stuck(ctx context.Context, namespace string, selector *metav1.LabelSelector) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	pods, err := r.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)})
	if err != nil {
		return ""
	}
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" {
				return fmt.Sprintf("pod %s waits: %s %s", p.Name, w.Reason, w.Message)
			}
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				return fmt.Sprintf("pod %s has no node: %s", p.Name, c.Message)
			}
		}
		for _, c := range p.Status.ContainerStatuses {
			if !c.Ready && c.LastTerminationState.Terminated != nil {
				return fmt.Sprintf("pod %s ended with exit code %d; kubectl logs -n %s %s -p shows why", p.Name, c.LastTerminationState.Terminated.ExitCode, namespace, p.Name)
			}
		}
	}
	return ""
}
