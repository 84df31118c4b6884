package install

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
	"github.com/tulle-mesh/tulle/webhook"
)

// UninstallCommand returns "tulle uninstall".
func UninstallCommand() *cobra.Command {
	var (
		u     = uninstall{}
		flags kube.Flags
	)
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take Tulle out of the cluster, webhooks first",
		Long: `Take Tulle out of the cluster, webhooks first.

The webhooks go before anything else, so that no pod waits for an injector that is gone. The dtabs stay, with their
definition and their namespace, and so does the CA of the mesh, so that a new installation goes on where this one ended;
--all takes these, too, and with the namespace all that is in it, whoever put it there; but a namespace with workloads or
volumes that are not Tulle's is kept.

Pods keep what was injected until they are made anew. Those in host mode send their requests to a proxy that is gone
then: they are listed, with the commands that make them anew. It asks before it begins, unless --yes says not to.`,
		Example: `  tulle uninstall
  tulle uninstall --all --yes`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkNamespace(u.namespace); err != nil {
				return err
			}
			r, err := connect(flags)
			if err != nil {
				return err
			}
			u.reach, u.in, u.out, u.talk = r, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return u.run(cmd.Context())
		},
	}
	cmd.Flags().StringVarP(&u.namespace, "namespace", "n", "tulle", "namespace that Tulle runs in")
	flags.Add(cmd.Flags())
	cmd.Flags().BoolVar(&u.all, "all", false, "take the dtabs, the CA and the namespace, too")
	cmd.Flags().BoolVar(&u.yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&u.dryRun, "dry-run", false, "show what would be deleted, and delete nothing")
	return cmd
}

type uninstall struct {
	*reach
	namespace        string
	all, yes, dryRun bool
	in               io.Reader
	out, talk        io.Writer
}

// Secrets that the controller and cert-manager made for an installation. The CA's is kept with the dtabs: pods that
// still run trust it, and nobody else.
func secrets() []string { return []string{"tulle-webhook-ca", "tulle-controller-tls", "tulle-bundle"} }

const secretCA = "tulle-ca"

func (u *uninstall) run(ctx context.Context) error {
	live, err := u.installed(ctx, u.namespace)
	if err != nil {
		return err
	}
	if who, hint := keeper(live, "uninstall"); who != "" {
		return fault.Failed(fmt.Errorf("%s looks after this installation", who), hint)
	}
	gone, kept := u.plan(live)
	gone, kept, reasons, err := u.spare(ctx, gone, kept)
	if err != nil {
		return err
	}
	for _, r := range reasons {
		fmt.Fprintln(u.talk, r)
	}
	made, err := u.secrets(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(gone, func(o unstructured.Unstructured) bool {
		return o.GetKind() == "CustomResourceDefinition" || o.GetKind() == "Namespace"
	})
	if at < 0 {
		at = len(gone)
	}
	gone = slices.Insert(gone, at, made...)
	if len(gone) == 0 && len(reasons) > 0 {
		return nil
	}
	if len(gone) == 0 {
		fmt.Fprintf(u.talk, "Nothing of Tulle is installed in the namespace %s.\n", u.namespace)
		return nil
	}
	pods, err := u.injected(ctx)
	if err != nil {
		return err
	}
	if !u.dryRun {
		namespace := slices.ContainsFunc(gone, func(o unstructured.Unstructured) bool {
			return o.GetKind() == "Namespace" && o.GetName() == u.namespace
		})
		if err := u.confirm(len(gone), namespace, pods); err != nil {
			return err
		}
	}
	for i := range gone {
		verdict := deleted
		if u.dryRun {
			verdict += " (dry run)"
		} else if err := u.remove(ctx, &gone[i]); err != nil {
			return err
		}
		fmt.Fprintf(u.out, "%s %s\n", name(&gone[i]), verdict)
	}
	for i := range kept {
		fmt.Fprintf(u.out, "%s kept\n", name(&kept[i]))
	}
	return u.after(ctx, pods)
}

// plan says what goes and what is kept.
func (u *uninstall) plan(live []unstructured.Unstructured) (gone, kept []unstructured.Unstructured) {
	for _, o := range live {
		stays := o.GetKind() == "CustomResourceDefinition" || o.GetKind() == "Namespace" && o.GetName() == u.namespace
		if stays && !u.all {
			kept = append(kept, o)
		} else {
			gone = append(gone, o)
		}
	}
	return gone, kept
}

// spare keeps the namespaces that others use, too, and says why.
func (u *uninstall) spare(ctx context.Context, gone, kept []unstructured.Unstructured) (goes, stays []unstructured.Unstructured, reasons []string, err error) {
	for _, o := range gone {
		var others []string
		if o.GetKind() == "Namespace" {
			if others, err = u.others(ctx, o.GetName()); err != nil {
				return nil, nil, nil, err
			}
		}
		if len(others) == 0 {
			goes = append(goes, o)
			continue
		}
		kept = append(kept, o)
		if n := len(others) - maxOthers; n > 0 {
			others = append(others[:maxOthers], fmt.Sprintf("and %d more", n))
		}
		reasons = append(reasons, fmt.Sprintf("The namespace %s is kept, because there is more in it than Tulle: %s. \"kubectl delete namespace %s\" takes it, with all of that.",
			o.GetName(), strings.Join(others, ", "), o.GetName()))
	}
	return goes, kept, reasons, nil
}

// maxOthers bounds how many of somebody else's objects are named.
const maxOthers = 10

// workloads are the kinds of objects for which a namespace is kept. Nobody gets back what runs, or is stored, in one.
func workloads() []schema.GroupVersionKind {
	of := func(group string, kinds ...string) (all []schema.GroupVersionKind) {
		for _, k := range kinds {
			all = append(all, schema.GroupVersionKind{Group: group, Version: "v1", Kind: k})
		}
		return all
	}
	return slices.Concat(of("apps", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"), of("batch", "CronJob", "Job"),
		of("", "ReplicationController", "Pod", "PersistentVolumeClaim"))
}

// others names the workloads and volumes in a namespace that are not Tulle's, but not what one of them has made.
func (u *uninstall) others(ctx context.Context, namespace string) ([]string, error) {
	ours, err := labels.Parse(selector)
	if err != nil {
		return nil, fault.Failed(err, "")
	}
	var found []string
	for _, kind := range workloads() {
		of, err := u.of(kind, namespace)
		if meta.IsNoMatchError(err) {
			continue
		}
		var list *unstructured.UnstructuredList
		if err == nil {
			list, err = of.List(ctx, metav1.ListOptions{})
		}
		if err != nil {
			return nil, u.refused("look for what else is in the namespace "+namespace, err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			by := metav1.GetControllerOf(o)
			made := by != nil && slices.ContainsFunc(workloads(), func(k schema.GroupVersionKind) bool {
				return k.Kind == by.Kind && k.GroupVersion().String() == by.APIVersion
			})
			if !made && o.GetDeletionTimestamp() == nil && !ours.Matches(labels.Set(o.GetLabels())) {
				found = append(found, name(o))
			}
		}
	}
	return found, nil
}

// secrets finds what was made for the installation and has no labels of its own.
func (u *uninstall) secrets(ctx context.Context) ([]unstructured.Unstructured, error) {
	names := secrets()
	if u.all {
		names = append(names, secretCA)
	}
	of, err := u.of(schema.GroupVersionKind{Version: "v1", Kind: "Secret"}, u.namespace)
	if err != nil {
		return nil, u.refused("look for Secrets", err)
	}
	var found []unstructured.Unstructured
	for _, n := range names {
		s, err := of.Get(ctx, n, metav1.GetOptions{})
		if err == nil {
			found = append(found, *s)
		} else if !apierrors.IsNotFound(err) {
			return nil, u.refused("look for Secret "+n, err)
		}
	}
	return found, nil
}

// owners are the pods in the mesh, by what makes them anew: the command, and how many of which mode there are.
type owners map[string]map[webhook.Mode]int

// injected counts the pods that carry an injection and have not ended.
func (u *uninstall) injected(ctx context.Context) (owners, error) {
	all := owners{}
	options := metav1.ListOptions{LabelSelector: webhook.LabelMode, Limit: 500}
	for {
		list, err := u.kube.CoreV1().Pods("").List(ctx, options)
		if err != nil {
			return nil, u.refused("look for pods in the mesh", err)
		}
		for _, p := range list.Items {
			if p.Annotations[webhook.AnnotationStatus] == "" || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
				continue
			}
			c := renew(&p)
			if all[c] == nil {
				all[c] = map[webhook.Mode]int{}
			}
			all[c][webhook.Mode(p.Labels[webhook.LabelMode])]++
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// renew is the command that makes a pod anew.
func renew(p *corev1.Pod) string {
	if o := metav1.GetControllerOf(p); o != nil {
		kind, n := strings.ToLower(o.Kind), o.Name
		if hash := p.Labels["pod-template-hash"]; o.Kind == "ReplicaSet" && hash != "" {
			kind, n = "deployment", strings.TrimSuffix(n, "-"+hash)
		}
		switch kind {
		case "deployment", "daemonset", "statefulset":
			return fmt.Sprintf("kubectl rollout restart -n %s %s/%s", p.Namespace, kind, n)
		}
	} else { // nobody else makes it again
		return fmt.Sprintf("kubectl get pod -n %s %s -o yaml | tulle uninject -f - | kubectl replace --force -f -", p.Namespace, p.Name)
	}
	return fmt.Sprintf("kubectl delete pod -n %s %s", p.Namespace, p.Name)
}

func (o owners) count() (pods, host int) {
	for _, modes := range o {
		for mode, n := range modes {
			pods += n
			if mode == webhook.ModeHost {
				host += n
			}
		}
	}
	return pods, host
}

// confirm asks whether to go on. Namespace says that the one of the mesh goes.
func (u *uninstall) confirm(objects int, namespace bool, pods owners) error {
	if u.yes {
		return nil
	}
	if f, ok := u.in.(*os.File); ok && !term.IsTerminal(int(f.Fd())) {
		return fault.Misused(errors.New("nobody can be asked whether to uninstall Tulle, because this is no terminal"), "add --yes, or see with --dry-run what would be deleted")
	}
	fmt.Fprintf(u.talk, "This deletes %s of Tulle from the cluster at %s.\n", count(objects, "object"), u.host)
	if u.all {
		fmt.Fprintln(u.talk, "All dtabs go, too.")
	}
	if namespace { // it has the chart's labels even if it was there before
		fmt.Fprintf(u.talk, "So does the namespace %s, with all that is in it, whoever put it there.\n", u.namespace)
	}
	if n, host := pods.count(); n > 0 {
		fmt.Fprintf(u.talk, "%s in the mesh. Those in host mode, %d, cannot send requests by HTTP any more until they are made anew.\n", are(n, "pod"), host)
	}
	fmt.Fprint(u.talk, "Go on? [y/N] ")
	line, err := bufio.NewReader(u.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fault.Failed(fmt.Errorf("read the answer: %w", err), "add --yes")
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return fault.Failed(errors.New("nothing was deleted"), "answer y to go on, or add --yes")
	}
	return nil
}

// after says what is left to do.
func (u *uninstall) after(ctx context.Context, pods owners) error {
	namespaces, err := u.kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: webhook.LabelInject})
	if err != nil {
		return u.refused("look for namespaces in the mesh", err)
	}
	var labelled []string
	for _, n := range namespaces.Items {
		if n.DeletionTimestamp == nil && n.Labels["app.kubernetes.io/part-of"] != "tulle" {
			labelled = append(labelled, n.Name)
		}
	}
	if n, _ := pods.count(); n > 0 {
		fmt.Fprintf(u.out, "\n%s still injected. To make them anew:\n\n", are(n, "pod"))
		commands := make([]string, 0, len(pods))
		for c := range pods {
			commands = append(commands, c)
		}
		slices.SortFunc(commands, func(a, b string) int { // those that cannot send first
			return cmp.Or(cmp.Compare(min(pods[b][webhook.ModeHost], 1), min(pods[a][webhook.ModeHost], 1)), cmp.Compare(a, b))
		})
		for _, c := range commands {
			var what []string
			for _, mode := range []webhook.Mode{webhook.ModeHost, webhook.ModeSidecar} {
				if n := pods[c][mode]; n > 0 {
					what = append(what, fmt.Sprintf("%d %s", n, mode))
				}
			}
			fmt.Fprintf(u.out, "  %s  # %s\n", c, strings.Join(what, ", "))
		}
	}
	if len(labelled) > 0 {
		fmt.Fprintf(u.out, "\nThe labels of namespaces stay, and do nothing. To remove them:\n\n  kubectl label namespace %s %s- %s-\n",
			strings.Join(labelled, " "), webhook.LabelInject, webhook.LabelMode)
	}
	if !u.all {
		return u.dtabs(ctx)
	}
	return nil
}

// dtabs says how many dtabs were kept.
func (u *uninstall) dtabs(ctx context.Context) error {
	of, err := u.of(schema.GroupVersionKind{Group: "l5d.io", Version: "v1alpha1", Kind: "DTab"}, u.namespace)
	if meta.IsNoMatchError(err) {
		return nil
	}
	if err == nil {
		var list *unstructured.UnstructuredList
		if list, err = of.List(ctx, metav1.ListOptions{}); err == nil {
			if n := len(list.Items); n > 0 {
				fmt.Fprintf(u.talk, "%s kept in the namespace %s; tulle uninstall --all deletes them.\n", are(n, "dtab"), u.namespace)
			}
			return nil
		}
	}
	return u.refused("look for dtabs", err)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// are is count with its verb.
func are(n int, what string) string {
	if n == 1 {
		return "1 " + what + " is"
	}
	return fmt.Sprintf("%d %ss are", n, what)
}

// indent moves the further lines of a text to where its first one is.
func indent(s string) string { return strings.ReplaceAll(s, "\n", "\n    ") }
