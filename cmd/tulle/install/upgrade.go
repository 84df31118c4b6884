package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
)

// UpgradeCommand returns "tulle upgrade".
func UpgradeCommand() *cobra.Command {
	var (
		v       installation
		flags   kube.Flags
		dryRun  bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Bring what is installed to this version, and wait until it runs",
		Long: `Bring what is installed to this version, and wait until it runs.

The objects of "tulle install" with the same values are applied by the API server, as field manager "tulle"; what
others own of them, such as the CA in the webhooks, stays. The controller and the host proxies are replaced first, then
the webhooks change, and what this version has no more is deleted. An installation that Helm, Argo CD or Flux looks
after is left to them.

Values are not remembered: give those of the installation again. --dry-run shows what would change, field by field.`,
		Example: `  tulle upgrade --values values.yaml --dry-run
  tulle upgrade --values values.yaml`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := v.render(cmd.InOrStdin())
			if err != nil {
				return err
			}
			objects, err := decode(text)
			if err != nil {
				return fault.Failed(err, "")
			}
			r, err := connect(flags)
			if err != nil {
				return err
			}
			u := &upgrade{reach: r, namespace: v.namespace, dryRun: dryRun, timeout: timeout, out: cmd.OutOrStdout(), talk: cmd.ErrOrStderr()}
			return u.run(cmd.Context(), objects)
		},
	}
	v.add(cmd.Flags())
	flags.Add(cmd.Flags())
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for new pods")
	return cmd
}

type upgrade struct {
	*reach
	namespace string
	dryRun    bool
	timeout   time.Duration
	out, talk io.Writer
	unchanged int // objects that are as they are to be
}

func (u *upgrade) run(ctx context.Context, objects []unstructured.Unstructured) error {
	live, err := u.installed(ctx, u.namespace)
	if err != nil {
		return err
	}
	if err := u.check(live, objects); err != nil {
		return err
	}
	// Webhooks change when the pods that answer them run.
	webhook := func(o unstructured.Unstructured) bool { return o.GetKind() == "MutatingWebhookConfiguration" }
	for i := range objects {
		if !webhook(objects[i]) {
			if err := u.one(ctx, &objects[i]); err != nil {
				return err
			}
		}
	}
	if !u.dryRun {
		if err := u.wait(ctx, objects); err != nil {
			return err
		}
	}
	for i := range objects {
		if webhook(objects[i]) {
			if err := u.one(ctx, &objects[i]); err != nil {
				return err
			}
		}
	}
	if err := u.prune(ctx, live, objects); err != nil {
		return err
	}
	if u.dryRun {
		fmt.Fprintf(u.talk, "Nothing was changed. %s would not change in an upgrade.\n", count(u.unchanged, "object"))
	}
	return nil
}

// check refuses what would do harm.
func (u *upgrade) check(live, objects []unstructured.Unstructured) error {
	i, j := settings(live, u.namespace), settings(objects, u.namespace)
	if i < 0 || j < 0 {
		return fault.Failed(fmt.Errorf("no Tulle is installed in the namespace %s", u.namespace),
			"tulle install | kubectl apply -f - installs it; -n names another namespace")
	}
	if who, hint := keeper(live, "upgrade"); who != "" {
		return fault.Failed(fmt.Errorf("%s looks after this installation", who), hint)
	}
	was, now := live[i].GetAnnotations()[annotationLayout], objects[j].GetAnnotations()[annotationLayout]
	installed, own := live[i].GetLabels()[labelVersion], objects[j].GetLabels()[labelVersion]
	if a, err := version.ParseSemantic(installed); err == nil {
		if b, err := version.ParseSemantic(own); err == nil && b.LessThan(a) {
			return fault.Failed(fmt.Errorf("version %s is installed, and this program is %s: it does not know how to go back", installed, own),
				"use tulle "+installed+" or newer")
		}
	}
	if was != now {
		return fault.Failed(fmt.Errorf("what is installed, version %s, is arranged in a way that this program, version %s, does not know (layout %q, not %q)", installed, own, was, now),
			"use a newer tulle; if there is none, tulle uninstall keeps the dtabs, and tulle install | kubectl apply -f - installs anew")
	}
	return nil
}

// settings finds the ConfigMap of the controller, which every installation has; -1 if it is not there.
func settings(objects []unstructured.Unstructured, namespace string) int {
	return slices.IndexFunc(objects, func(o unstructured.Unstructured) bool {
		return o.GetKind() == "ConfigMap" && o.GetName() == controller && o.GetNamespace() == namespace
	})
}

// one applies one object, and says what became of it.
func (u *upgrade) one(ctx context.Context, o *unstructured.Unstructured) error {
	a, err := u.apply(ctx, o, u.dryRun)
	if err != nil {
		return u.refused("apply "+where(o), err)
	}
	for _, t := range a.taken {
		verb := "is"
		if u.dryRun {
			verb = "would be"
		}
		fmt.Fprintf(u.talk, "warning: %s: %s %s set back to what the chart says\n", name(o), t, verb)
	}
	if a.verdict == unchanged {
		u.unchanged++
	}
	if !u.dryRun {
		u.say(o, a.verdict)
	} else if a.verdict != unchanged {
		u.say(o, a.verdict)
		for _, c := range a.changes {
			fmt.Fprintf(u.out, "    %s\n", indent(c.String()))
		}
	}
	return nil
}

func (u *upgrade) say(o *unstructured.Unstructured, verdict string) {
	if u.dryRun {
		verdict += " (dry run)"
	}
	fmt.Fprintf(u.out, "%s %s\n", name(o), verdict)
}

func (u *upgrade) wait(ctx context.Context, objects []unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	for i := range objects {
		if err := u.rollOut(ctx, &objects[i], func(s string) { fmt.Fprintln(u.talk, s) }); err != nil {
			if errors.Is(err, context.Canceled) {
				return fault.Failed(fmt.Errorf("interrupted while %s was rolled out", name(&objects[i])), "tulle upgrade goes on where it stopped")
			}
			return fault.Failed(err, "the pods from before still serve, and the webhooks are as they were; correct it and run tulle upgrade again, or wait longer with --timeout")
		}
	}
	return nil
}

// prune deletes what the installation had and this version has not. The mesh's namespace and the definition of dtabs
// stay, because what is in them would go with them.
func (u *upgrade) prune(ctx context.Context, live, objects []unstructured.Unstructured) error {
	kept := map[identity]bool{}
	for i := range objects {
		kept[identify(&objects[i])] = true
	}
	for i := range live {
		o := &live[i]
		if o.GetKind() == "CustomResourceDefinition" || o.GetDeletionTimestamp() != nil || kept[identify(o)] || o.GetKind() == "Namespace" && o.GetName() == u.namespace {
			continue
		}
		if !u.dryRun {
			if err := u.remove(ctx, o); err != nil {
				return err
			}
		}
		u.say(o, deleted)
	}
	return nil
}

// remove deletes an object, with what belongs to it. One that is gone is no error.
func (r *reach) remove(ctx context.Context, o *unstructured.Unstructured) error {
	of, err := r.of(o.GroupVersionKind(), o.GetNamespace())
	if err == nil {
		background, uid := metav1.DeletePropagationBackground, o.GetUID()
		err = of.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &uid}})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return r.refused("delete "+where(o), err)
	}
	return nil
}
