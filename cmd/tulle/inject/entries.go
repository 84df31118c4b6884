package inject

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/hostpolicy"
)

// configName is that of the MutatingWebhookConfiguration by which API servers find the injector.
const configName = "tulle-injector"

// Entry is one entry of the webhook configuration, as it concerns one pod.
type Entry struct {
	Name  string `json:"name"`
	Calls bool   `json:"calls"`
	// Why it does not call, or what happens if the injector does not answer.
	Why string `json:"why"`
	// FailurePolicy is Fail or Ignore.
	FailurePolicy string `json:"failurePolicy"`
	// Problems are why a call cannot work.
	Problems []string `json:"problems,omitempty"`
}

// entries finds out whether the API server would call the injector for a pod of that namespace.
func (e *explainer) entries(ctx context.Context, x *Explanation, ns webhook.Namespace, annotations map[string]string, res webhook.Result) error {
	nsLabels := labels.Set(maps.Clone(ns.Labels))
	if nsLabels == nil {
		nsLabels = labels.Set{}
	}
	nsLabels[corev1.LabelMetadataName] = ns.Name // as the API server sees to
	policy, byPolicy := e.policy(ctx, x, nsLabels, annotations, res)
	config, err := e.by.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, configName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && policy {
		x.Called = &byPolicy
		if !byPolicy {
			e.refusal(ctx, x, ns)
		}
		return nil
	}
	if apierrors.IsNotFound(err) {
		x.Called = new(false)
		x.Hints = append(x.Hints, fmt.Sprintf("there is no MutatingWebhookConfiguration %s in the cluster, so the API server never asks the injector; install Tulle again", configName))
		return nil
	}
	if err != nil {
		x.Hints = append(x.Hints, fmt.Sprintf("whether the API server asks the injector is not known: %v", err))
		return nil
	}
	called := byPolicy
	for _, w := range config.Webhooks {
		if !aboutNewPods(w.Rules) {
			continue
		}
		entry := Entry{Name: w.Name, FailurePolicy: string(admission.Fail)}
		if w.FailurePolicy != nil {
			entry.FailurePolicy = string(*w.FailurePolicy)
		}
		entry.Why = mismatch(w.NamespaceSelector, nsLabels, "namespace "+ns.Name)
		if entry.Why == "" {
			entry.Why = mismatch(w.ObjectSelector, labels.Set(x.labels), "the pod")
		}
		for _, c := range w.MatchConditions {
			if entry.Why == "" && byPolicy && c.Name == hostpolicy.Condition {
				entry.Why = "the policy has done it: condition " + c.Name
			}
			if _, mirror := annotations[corev1.MirrorPodAnnotationKey]; entry.Why == "" && mirror && strings.Contains(c.Expression, corev1.MirrorPodAnnotationKey) {
				entry.Why = "the pod is the kubelet's picture of a static pod: condition " + c.Name
			}
		}
		if entry.Why == "" {
			entry.Calls, called = true, true
			entry.Why = "if the injector does not answer, the pod is not created"
			if entry.FailurePolicy == string(admission.Ignore) {
				entry.Why = "if the injector does not answer, the pod starts without it"
			}
			entry.Problems = e.way(ctx, w.ClientConfig)
		}
		x.Entries = append(x.Entries, entry)
	}
	x.Called = &called
	return nil
}

// policy finds out whether the API server has a policy of host mode, and whether that does the pod. It is the first of the
// entries then, for it comes before them. Who may not read policies hears of none.
func (e *explainer) policy(ctx context.Context, x *Explanation, nsLabels labels.Set, annotations map[string]string, res webhook.Result) (exists, does bool) {
	policy, err := e.by.client.AdmissionregistrationV1().MutatingAdmissionPolicies().Get(ctx, hostpolicy.Name, metav1.GetOptions{})
	if err != nil {
		return false, false
	}
	entry := Entry{Name: policy.Name, FailurePolicy: string(admission.Ignore)}
	if _, err := e.by.client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Get(ctx, hostpolicy.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		entry.Why = "it has no binding, so the API server does nothing by it; install Tulle again"
	}
	if m := policy.Spec.MatchConstraints; entry.Why == "" && m != nil {
		entry.Why = mismatch(m.NamespaceSelector, nsLabels, "namespace "+nsLabels[corev1.LabelMetadataName])
		if entry.Why == "" {
			entry.Why = mismatch(m.ObjectSelector, labels.Set(x.labels), "the pod")
		}
	}
	if entry.Why == "" {
		if why := hostpolicy.Leaves(annotations, e.by.config, res); why != "" {
			entry.Why = "the API server's policy leaves the pod alone: " + why
		}
	}
	if entry.Why == "" {
		entry.Calls, entry.Why = true, "the API server does host mode itself, whether or not the injector answers"
	}
	x.Entries = append(x.Entries, entry)
	return true, entry.Calls
}

// refusal finds out whether the API server refuses a pod that its policy leaves alone, as there is no injector for it.
func (e *explainer) refusal(ctx context.Context, x *Explanation, ns webhook.Namespace) {
	_, err := e.by.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Get(ctx, hostpolicy.Refusals, metav1.GetOptions{})
	joins := x.Mode != "" && ns.Labels[webhook.LabelInject] == webhook.NamespaceEnabled
	if err != nil || !joins && !x.Reason.Denies() {
		return
	}
	x.Entries = append(x.Entries, Entry{Name: hostpolicy.Refusals, Calls: true, FailurePolicy: string(admission.Fail),
		Why: "the API server refuses the pod, because there is no injector to do what the policy of host mode cannot"})
}

func aboutNewPods(rules []admission.RuleWithOperations) bool {
	has := func(list []string, want string) bool {
		return slices.Contains(list, want) || slices.Contains(list, "*") || want == "pods" && slices.Contains(list, "*/*")
	}
	return slices.ContainsFunc(rules, func(r admission.RuleWithOperations) bool {
		created := slices.Contains(r.Operations, admission.Create) || slices.Contains(r.Operations, admission.OperationAll)
		return created && has(r.APIGroups, "") && has(r.APIVersions, "v1") && has(r.Resources, "pods")
	})
}

// mismatch says why a selector does not choose what has these labels; empty if it does.
func mismatch(s *metav1.LabelSelector, have labels.Set, who string) string {
	if s == nil {
		return ""
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return "its selector cannot be read: " + err.Error()
	}
	requirements, _ := selector.Requirements()
	for _, r := range requirements {
		if r.Matches(have) {
			continue
		}
		if v, ok := have[r.Key()]; ok {
			return fmt.Sprintf("%s has %s=%s, but it wants %s", who, r.Key(), v, r.String())
		}
		return fmt.Sprintf("%s has no label %s, but it wants %s", who, r.Key(), r.String())
	}
	if !selector.Matches(have) {
		return who + " is not one that its selector chooses"
	}
	return ""
}

// way says what is wrong with the way from the API server to the injector.
func (e *explainer) way(ctx context.Context, c admission.WebhookClientConfig) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if len(c.CABundle) == 0 {
		bad("its caBundle is empty, so the API server trusts no certificate of the injector: is the controller, or cert-manager's cainjector, running?")
	}
	if c.Service == nil {
		return problems
	}
	name, namespace, port := c.Service.Name, c.Service.Namespace, int32(443)
	if c.Service.Port != nil {
		port = *c.Service.Port
	}
	if namespace != e.by.config.MeshNamespace {
		bad("it leads to namespace %s, but Tulle runs in %s", namespace, e.by.config.MeshNamespace)
	}
	service, err := e.by.client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		bad("it leads to Service %s in namespace %s, which does not exist", name, namespace)
		return problems
	case err != nil:
		return problems // who may not look cannot tell
	}
	if !slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port }) {
		bad("Service %s in namespace %s has no port %d", name, namespace, port)
	}
	slices_, err := e.by.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discovery.LabelServiceName + "=" + name})
	if err != nil {
		return problems
	}
	ready := 0
	for _, s := range slices_.Items {
		for _, endpoint := range s.Endpoints {
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				ready++
			}
		}
	}
	if ready == 0 {
		bad("no pod behind Service %s in namespace %s is ready: kubectl get pods -n %s shows why", name, namespace, namespace)
	}
	return problems
}
