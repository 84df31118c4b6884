// Package hostpolicy says host mode in the API server's own words: as a MutatingAdmissionPolicy, for clusters of
// Kubernetes 1.36 and later, which gives pods what package webhook would, without a call of anybody.
//
// A policy is a patch in CEL, which is no place for everything: it has no hash, no base64 and no JSON. So the policy
// does the pods that it can do exactly as the webhook does, byte for byte, and leaves the others untouched; those come
// to the webhook behind it or, where there is none, are refused by the ValidatingAdmissionPolicy that [Alone] adds.
// docs/design/mutating-policy.md lists them.
//
// Package hostpolicy applies nothing and knows no cluster. What host mode gives to a pod it learns by asking
// [webhook.Inject] about one, so it has no second opinion about the proxy's address, the hosts that bypass it, or
// the hash. Its objects are deterministic.
//
// Invariant, held by tests on a real API server: a pod that the policy has changed is a pod for which the webhook has
// nothing left to do.
//
//	objects, err := hostpolicy.Generate(cfg)
package hostpolicy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tulle-mesh/tulle/webhook"
)

// Names of the policy and its binding, and of what Alone adds to them.
const (
	Name     = "tulle-host-mode"
	Refusals = "tulle-host-mode-refusals"
)

// Condition is the name of the condition in the webhook's configuration that keeps from it what the policy has done.
const Condition = "not-done-by-the-policy"

// Generate returns the policy of host mode and its binding, as cfg has it. The error, of which
// errors.Is(err, webhook.ErrConfig) holds, says why cfg cannot serve a pod in host mode.
//
// The policy fails open: a pod that it cannot do, be it because of what the pod asks for or because it is too large for
// CEL, is left to who comes behind, the webhook or what Alone adds. Those fail closed.
func Generate(cfg webhook.Config) ([]runtime.Object, error) {
	a, excluded, err := ask(cfg)
	if err != nil {
		return nil, err
	}
	return a.policy(excluded), nil
}

func (a answer) policy(excluded []string) []runtime.Object {
	ignore := admission.Ignore
	return []runtime.Object{
		&admission.MutatingAdmissionPolicy{
			TypeMeta:   metav1.TypeMeta{APIVersion: admission.SchemeGroupVersion.String(), Kind: "MutatingAdmissionPolicy"},
			ObjectMeta: metav1.ObjectMeta{Name: Name},
			Spec: admission.MutatingAdmissionPolicySpec{
				MatchConstraints: match(excluded, metav1.LabelSelectorOpIn, webhook.NamespaceEnabled, webhook.NamespaceBestEffort),
				MatchConditions:  conditions(),
				FailurePolicy:    &ignore,
				// Should another one add a container later, it gets its environment in a second pass.
				ReinvocationPolicy: admission.IfNeededReinvocationPolicy,
				Variables:          a.variables(),
				Mutations: []admission.Mutation{{
					PatchType: admission.PatchTypeJSONPatch,
					JSONPatch: &admission.JSONPatch{Expression: strings.TrimSpace(mutation)},
				}},
			},
		},
		&admission.MutatingAdmissionPolicyBinding{
			TypeMeta:   metav1.TypeMeta{APIVersion: admission.SchemeGroupVersion.String(), Kind: "MutatingAdmissionPolicyBinding"},
			ObjectMeta: metav1.ObjectMeta{Name: Name},
			Spec:       admission.MutatingAdmissionPolicyBindingSpec{PolicyName: Name},
		},
	}
}

// Done returns an expression of CEL that is true of pods which need no webhook any more, because the policy of cfg has
// done them, or would complete them should anybody change them.
func Done(cfg webhook.Config) (string, error) {
	a, _, err := ask(cfg)
	if err != nil {
		return "", err
	}
	return a.done(), nil
}

func (a answer) done() string {
	return "object.metadata.?annotations[?'tulle.dev/status'].orValue('').matches(" + a.grammar(a.hash) + ")"
}

// Leaves says why the policy of cfg does not do a pod with these annotations, about which webhook.Inject has answered
// res. It is empty if the policy does it. What the policy leaves because of its size cannot be told.
func Leaves(annotations map[string]string, cfg webhook.Config, res webhook.Result) string {
	switch {
	case res.Reason.Denies():
		return "it is refused"
	case res.Mode != webhook.ModeHost:
		return "its mode is not host"
	case bytes.Contains(res.Patch, []byte(`\"was\":`)):
		return "a container's own proxy is replaced"
	}
	for i, key := range portKeys() {
		if v, ok := annotations[key]; ok && v != ports(cfg)[i] {
			return "its annotation " + key + " says another port"
		}
	}
	for _, key := range asides() {
		if _, ok := annotations[key]; ok {
			return "its annotation " + key + " is for sidecars"
		}
	}
	return ""
}

func ports(cfg webhook.Config) []string {
	var all []string
	for _, p := range []struct{ port, def int }{
		{cfg.OutgoingPort, webhook.DefaultOutgoingPort}, {cfg.IncomingPort, webhook.DefaultIncomingPort}, {cfg.AdminPort, webhook.DefaultAdminPort},
	} {
		all = append(all, strconv.Itoa(cmp.Or(p.port, p.def)))
	}
	return all
}

func portKeys() []string {
	return []string{webhook.AnnotationOutgoingPort, webhook.AnnotationIncomingPort, webhook.AnnotationAdminPort}
}

// ask learns from the injector what host mode gives to a pod.
func ask(cfg webhook.Config) (answer, []string, error) {
	// The defaults are not exported.
	mesh := cmp.Or(cfg.MeshNamespace, "tulle")
	a := answer{mode: literal(string(cmp.Or(cfg.DefaultMode, webhook.ModeHost))), ports: ports(cfg)}
	excluded := append(webhook.ExcludedNamespaces(mesh), cfg.ExcludedNamespaces...)

	const probe = `{"metadata":{"annotations":{"tulle.dev/mode":"host"}},"spec":{"containers":[{"name":"app"}]}}`
	cfg.ExcludedNamespaces = nil // "probe" may be one
	res, err := webhook.Inject([]byte(probe), webhook.Namespace{Name: mesh + "-other", Labels: map[string]string{webhook.LabelInject: webhook.NamespaceEnabled}}, cfg)
	if err != nil {
		return answer{}, nil, fmt.Errorf("find what host mode gives to a pod: %w", err)
	}
	var patch []struct {
		Path  string
		Value json.RawMessage
	}
	if err := json.Unmarshal(res.Patch, &patch); err != nil {
		return answer{}, nil, fmt.Errorf("find what host mode gives to a pod: %w", err)
	}
	a.hash = literal(res.Hash)
	for _, op := range patch {
		if op.Path != "/spec/containers/0/env" {
			continue
		}
		var env []corev1.EnvVar
		if err := json.Unmarshal(op.Value, &env); err != nil {
			return answer{}, nil, fmt.Errorf("find what host mode gives to a pod: %w", err)
		}
		for _, e := range env {
			a.env = append(a.env, e.Name)
			switch e.Name {
			case "http_proxy":
				a.proxy = literal(e.Value)
			case "no_proxy":
				a.bypass = strings.Split(e.Value, ",")
			}
		}
	}
	return a, excluded, nil
}

// match selects pods as the webhook's selectors do.
func match(excluded []string, operator metav1.LabelSelectorOperator, inject ...string) *admission.MatchResources {
	namespaced, equivalent := admission.NamespacedScope, admission.Equivalent
	return &admission.MatchResources{
		NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: webhook.LabelInject, Operator: operator, Values: inject},
			{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpNotIn, Values: excluded},
		}},
		ObjectSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: webhook.LabelInject, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"false"}},
		}},
		ResourceRules: []admission.NamedRuleWithOperations{{RuleWithOperations: admission.RuleWithOperations{
			Operations: []admission.OperationType{admission.Create},
			Rule:       admission.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: &namespaced},
		}}},
		MatchPolicy: &equivalent,
	}
}

func conditions() []admission.MatchCondition {
	return []admission.MatchCondition{
		{Name: "not-a-mirror", Expression: "!('" + corev1.MirrorPodAnnotationKey + "' in object.metadata.?annotations.orValue({}))"},
	}
}
