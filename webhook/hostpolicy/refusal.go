package hostpolicy

import (
	"fmt"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tulle-mesh/tulle/webhook"
)

// Alone returns what Generate does and, for a mesh without a webhook, the policy with its binding that refuses what the
// webhook would refuse, and in namespaces with tulle.dev/inject=enabled all that host mode's policy leaves to it: no pod
// of those starts outside of the mesh unseen.
func Alone(cfg webhook.Config) ([]runtime.Object, error) {
	a, excluded, err := ask(cfg)
	if err != nil {
		return nil, err
	}
	return append(a.policy(excluded), a.refusals(excluded)...), nil
}

func (a answer) refusals(excluded []string) []runtime.Object {
	fail := admission.Fail
	return []runtime.Object{
		&admission.ValidatingAdmissionPolicy{
			TypeMeta:   metav1.TypeMeta{APIVersion: admission.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicy"},
			ObjectMeta: metav1.ObjectMeta{Name: Refusals},
			Spec: admission.ValidatingAdmissionPolicySpec{
				MatchConstraints: match(excluded, metav1.LabelSelectorOpExists),
				MatchConditions:  conditions(),
				FailurePolicy:    &fail,
				Variables:        a.refusalVariables(),
				Validations:      validations(),
			},
		},
		&admission.ValidatingAdmissionPolicyBinding{
			TypeMeta:   metav1.TypeMeta{APIVersion: admission.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicyBinding"},
			ObjectMeta: metav1.ObjectMeta{Name: Refusals},
			Spec: admission.ValidatingAdmissionPolicyBindingSpec{
				PolicyName:        Refusals,
				ValidationActions: []admission.ValidationAction{admission.Deny},
			},
		},
	}
}

func (a answer) refusalVariables() []admission.Variable {
	// Annotations that the policy does not follow, as the conditions of the policy have it.
	strange := []string{
		`'tulle.dev/on-conflict' in variables.annotations && variables.annotations['tulle.dev/on-conflict'] != 'leave' ? ['tulle.dev/on-conflict'] : []`,
		`'tulle.dev/skip-containers' in variables.annotations && !variables.skip.all(n, ` + isName + `) ? ['tulle.dev/skip-containers'] : []`,
		`'tulle.dev/status' in variables.annotations ? ['tulle.dev/status'] : []`,
	}
	for key, plain := range a.plainAnnotations() {
		strange = append(strange, fmt.Sprintf("%s ? [] : ['%s']", plain, key))
	}
	return []admission.Variable{
		{Name: "annotations", Expression: `object.metadata.?annotations.orValue({})`},
		{Name: "inject", Expression: `namespaceObject.metadata.labels['tulle.dev/inject']`},
		{Name: "mode", Expression: modeOf(a.mode)},
		{Name: "windows", Expression: strings.TrimSpace(windows)},
		{Name: "joins", Expression: `variables.inject in ['enabled', 'best-effort'] && !variables.windows`},
		{Name: "skip", Expression: skip},
		{Name: "done", Expression: a.done()},
		{Name: "strange", Expression: "(" + strings.Join(strange, ") +\n(") + ")"},
	}
}

// validations are in the order of the webhook's rules; the API server reports the first.
func validations() []admission.Validation {
	bad := metav1.StatusReasonInvalid
	return []admission.Validation{
		{
			Expression: `variables.inject in ['enabled', 'best-effort', 'disabled']`,
			MessageExpression: `'the label tulle.dev/inject of namespace ' + namespaceObject.metadata.name + ' is "' + variables.inject +
'", allowed: enabled, best-effort, disabled; hint: correct it, or remove it to keep the namespace out of the mesh'`,
			Reason: &bad,
		},
		{
			Expression: `!(variables.inject in ['enabled', 'best-effort']) || object.metadata.?labels[?'tulle.dev/inject'].orValue('true') == 'true'`,
			MessageExpression: `'the pod\'s label tulle.dev/inject is "' + object.metadata.labels['tulle.dev/inject'] +
'", allowed: true, false; hint: correct the label in the pod template, or remove it to follow the namespace'`,
			Reason: &bad,
		},
		{
			Expression: `!variables.joins || variables.mode in ['host', 'sidecar', 'none']`,
			MessageExpression: `('tulle.dev/mode' in variables.annotations ? 'the pod\'s annotation tulle.dev/mode' : 'the label tulle.dev/mode of namespace ' + namespaceObject.metadata.name) +
' is "' + variables.mode + '", allowed: host, sidecar, none; hint: correct it, or remove it'`,
			Reason: &bad,
		},
		{
			Expression:        `!variables.joins || variables.inject != 'enabled' || variables.mode != 'sidecar'`,
			MessageExpression: `'the mode of the pod is sidecar, but this cluster has no injector for sidecars, only the policy of host mode; hint: annotate the pod with tulle.dev/mode: host'`,
			Reason:            &bad,
		},
		{
			Expression: `!variables.joins || variables.inject != 'enabled' || variables.mode != 'host' || variables.done`,
			MessageExpression: `'the policy of host mode cannot do this pod, and there is no injector: ' + (variables.strange.size() > 0 ?
'it does not follow the pod\'s annotations ' + variables.strange.join(', ') + ' as they are; hint: correct or remove them' :
'a container defines TULLE_HOST_IP or NODE_NAME in its own way, or the pod is too large for a policy; hint: remove the variable') + ', or keep the pod out with the label tulle.dev/inject: "false"'`,
			Reason: &bad,
		},
	}
}
