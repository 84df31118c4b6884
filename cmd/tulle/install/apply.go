package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/csaupgrade"
)

// manager owns, for server-side apply, the fields that an upgrade sets.
const manager = "tulle"

// What can become of an object.
const (
	created    = "created"
	configured = "configured"
	unchanged  = "unchanged"
	deleted    = "deleted"
)

// applied is what became of one object.
type applied struct {
	verdict string
	changes []change
	// taken are fields that somebody else had set otherwise, such as ".spec.replicas of kubectl-edit".
	taken []string
}

// apply brings one object to what it is to be. What was applied before by kubectl is taken over, so that a field that is
// not in the chart any more goes.
func (r *reach) apply(ctx context.Context, o *unstructured.Unstructured, dryRun bool) (applied, error) {
	of, err := r.of(o.GroupVersionKind(), o.GetNamespace())
	if err != nil {
		return applied{}, err
	}
	live, err := of.Get(ctx, o.GetName(), metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return applied{}, err
	}
	options := metav1.PatchOptions{FieldManager: manager, FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
		if !missing {
			options.FieldManager = applier(live)
		}
	}
	text, err := json.Marshal(o)
	if err != nil {
		return applied{}, err
	}
	if !missing && !dryRun {
		if err := takeOver(live, func(patch []byte) error {
			_, err := of.Patch(ctx, o.GetName(), types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: manager})
			return err
		}); err != nil {
			return applied{}, err
		}
	}
	result, err := of.Patch(ctx, o.GetName(), types.ApplyPatchType, text, options)
	var a applied
	if apierrors.IsConflict(err) {
		a.taken = conflicts(err)
		force := true
		options.Force = &force
		result, err = of.Patch(ctx, o.GetName(), types.ApplyPatchType, text, options)
	}
	switch {
	case missing && dryRun && apierrors.IsNotFound(err): // its namespace is to be created, too
		a.verdict = created
		return a, nil
	case err != nil:
		return applied{}, err
	case missing:
		a.verdict = created
		return a, nil
	}
	a.changes = compare(bare(live), bare(result))
	if dryRun {
		a.changes = append(a.changes, leaving(live, o)...)
	}
	a.verdict = unchanged
	if len(a.changes) > 0 {
		a.verdict = configured
	}
	return a, nil
}

// byKubectl are the names under which kubectl owns what it applied.
func byKubectl() sets.Set[string] { return sets.New("kubectl", "kubectl-client-side-apply") }

// takeOver makes ours what kubectl has applied to an object, either way, and nothing else. Without that, a field that
// the chart does not have any more would stay, as kubectl's.
func takeOver(live *unstructured.Unstructured, patch func([]byte) error) error {
	after := live.DeepCopy()
	entries := after.GetManagedFields()
	for i, e := range entries {
		// csaupgrade moves what was written by updates; so does kubectl apply --server-side, but for this word.
		if e.Manager == "kubectl" && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" {
			entries[i].Operation = metav1.ManagedFieldsOperationUpdate
		}
	}
	after.SetManagedFields(entries)
	if err := csaupgrade.UpgradeManagedFields(after, byKubectl(), manager); err != nil {
		return fmt.Errorf("take over what kubectl has applied: %w", err)
	}
	if reflect.DeepEqual(live.GetManagedFields(), after.GetManagedFields()) {
		return nil
	}
	ops := []map[string]any{
		{"op": "replace", "path": "/metadata/managedFields", "value": after.GetManagedFields()},
		{"op": "replace", "path": "/metadata/resourceVersion", "value": live.GetResourceVersion()},
	}
	if _, ok := live.GetAnnotations()[lastApplied]; ok {
		ops = append(ops, map[string]any{"op": "remove", "path": "/metadata/annotations/" + strings.ReplaceAll(lastApplied, "/", "~1")})
	}
	text, err := json.Marshal(ops)
	if err != nil {
		return err
	}
	if err := patch(text); err != nil {
		return fmt.Errorf("take over what kubectl has applied: %w", err)
	}
	return nil
}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// applier is who applied an object from the server's side, for a dry run, which cannot take over before: ours, or kubectl.
func applier(live *unstructured.Unstructured) string {
	by := manager
	for _, e := range live.GetManagedFields() {
		if e.Operation == metav1.ManagedFieldsOperationApply && e.Manager == manager {
			return manager
		}
		if e.Operation == metav1.ManagedFieldsOperationApply && e.Manager == "kubectl" {
			by = e.Manager
		}
	}
	return by
}

// leaving lists what kubectl apply has written and what is not to be any more; a dry run keeps it.
func leaving(live, now *unstructured.Unstructured) []change {
	var was map[string]any
	if json.Unmarshal([]byte(live.GetAnnotations()[lastApplied]), &was) != nil {
		return nil
	}
	var gone []change
	for _, c := range compare(bare(&unstructured.Unstructured{Object: was}), bare(now)) {
		if c.now == nil {
			gone = append(gone, c)
		}
	}
	return gone
}

// conflicts lists the fields that others own, but for those that kubectl applied.
func conflicts(err error) []string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	var all []string
	for _, c := range status.Status().Details.Causes {
		who := c.Message
		if _, rest, ok := strings.Cut(who, `"`); ok {
			who, _, _ = strings.Cut(rest, `"`)
		}
		if c.Type == metav1.CauseTypeFieldManagerConflict && !byKubectl().Has(who) {
			all = append(all, c.Field+" of "+who)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// bare returns what an object says, without what the API server keeps about it.
func bare(o *unstructured.Unstructured) map[string]any {
	o = o.DeepCopy()
	for _, key := range []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"} {
		unstructured.RemoveNestedField(o.Object, "metadata", key)
	}
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", lastApplied)
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "deprecated.daemonset.template.generation")
	if len(o.GetAnnotations()) == 0 {
		unstructured.RemoveNestedField(o.Object, "metadata", "annotations")
	}
	delete(o.Object, "status")
	return o.Object
}
