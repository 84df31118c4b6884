// Package check is "tulle check": it says what is wrong with an installation and with what is meshed by it, or what would
// be in the way of one.
//
// It asks the API server and, through it, the proxies of the nodes; it changes nothing. The pods that it tries are dry
// runs, but for those of --from-nodes, which are real and are deleted before the command ends. Whatever it finds has a code (docs/check.md) and a fix; what it may not look at it says, and what cannot be known
// from outside of the nodes it does not claim.
//
// Invariant: the exit code is 0 only if everything was looked at and nothing was found.
//
//	root.AddCommand(check.Command())
package check

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/input"
	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/settings"
)

// forms are what -o takes.
var forms = [...]string{"table", "json"}

// checker is one run of the check.
type checker struct {
	*report
	client kubernetes.Interface
	mesh   string // namespace that Tulle runs in
	only   string // namespace to look at; empty for all
	// fromNodes is whether to start pods on the nodes.
	fromNodes bool

	// What parts of the check learn for those that follow.
	settings   settings.Settings
	config     webhook.Config // of the injector, without the CA of the mesh
	namespaces []corev1.Namespace
	hosts      []corev1.Pod      // host proxies
	hostSet    *appsv1.DaemonSet // that they are of; nil if it is not there or cannot be read
}

// Command returns "tulle check".
func Command() *cobra.Command {
	var (
		c      = checker{report: &report{}}
		flags  kube.Flags
		in     input.Files
		pre    bool
		output string
	)
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Find what is wrong with Tulle in a cluster, with the fix",
		Long: `Find what is wrong with Tulle in a cluster, with the fix.

It looks at the API server and cert-manager, at the webhook, the controller and the host proxies, and at certificates;
tries a pod in each namespace of the mesh, as a dry run, through the API server and the injector; reads the labels and
annotations of namespaces and workloads; reaches for the ports of each node's proxy; and lists pods that are not as they
would be made now. It changes nothing. docs/check.md explains each code.

--from-nodes also tries the way that requests of pods take: for a moment it starts a small pod on each node that has a host
proxy, in Tulle's namespace, which looks whether that answers where pods are told it is. The pods are deleted again.

--pre looks at what an installation needs. -f reads files, or all *.yaml, *.yml and *.json of a folder, and asks no
cluster.

Exit codes: 0 all is well, 2 something was found, 1 nothing was found but not everything could be looked at, 64 the
command line is wrong.`,
		Example: `  tulle check --pre
  tulle check
  tulle check --from-nodes
  tulle check -n shop -o json
  tulle check -f shop.yaml
  tulle check -f k8s/`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return fault.Misused(fmt.Errorf("%s takes no arguments, got %q", cmd.CommandPath(), args[0]), "name a namespace with -n, a file or a folder with -f")
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !slices.Contains(forms[:], output):
				return fault.Misused(fmt.Errorf("-o %q is unknown", output), "it is table or json")
			case pre && in.Named():
				return fault.Misused(errors.New("--pre asks a cluster, and -f asks none"), "leave one of them out")
			case c.fromNodes && (pre || in.Named()):
				return fault.Misused(errors.New("--from-nodes looks at an installation, and --pre and -f do not"), "leave one of them out")
			}
			if output == "table" {
				c.to = cmd.OutOrStdout()
			}
			var err error
			if in.Named() {
				err = c.files(cmd, &in)
			} else {
				err = c.cluster(cmd.Context(), flags, pre)
			}
			if err != nil {
				return err
			}
			if err := c.print(cmd.OutOrStdout()); err != nil {
				return fault.Failed(fmt.Errorf("write the findings: %w", err), "")
			}
			passed, findings, unchecked := c.count()
			switch {
			case findings > 0:
				return fault.Found(fmt.Errorf("%s", count(findings, "finding")), "docs/check.md explains the codes")
			case unchecked > 0:
				return fault.Failed(fmt.Errorf("nothing was found, but %s could not be checked", count(unchecked, "thing")), "the lines with ? say why")
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s, nothing found.\n", count(passed, "check"))
			return nil
		},
	}
	f := cmd.Flags()
	flags.Add(f)
	f.StringVar(&c.mesh, "mesh-namespace", "tulle", "namespace that Tulle runs in, or is going to")
	f.StringVarP(&c.only, "namespace", "n", "", "look at the pods and workloads of this namespace only")
	in.Flag(cmd, "file or folder of objects to look at instead of a cluster, \"-\" for stdin; may be repeated")
	f.BoolVar(&c.fromNodes, "from-nodes", false, "also start a pod on each node for a moment, to see whether pods reach their proxy")
	f.BoolVar(&pre, "pre", false, "look at what an installation needs")
	f.StringVarP(&output, "output", "o", "table", "form of what goes to stdout: table or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms[:], cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// cluster looks at a cluster. The error is that there is no way to it.
func (c *checker) cluster(ctx context.Context, flags kube.Flags, pre bool) error {
	config, err := flags.Config()
	if err == nil {
		config.Timeout = kube.AnswerTime + probeMargin
		config.QPS, config.Burst = 50, 100
		c.client, err = kubernetes.NewForConfig(config)
	}
	if err != nil {
		return fault.Failed(fmt.Errorf("there is no way to a cluster: %w", err), kube.Hint)
	}
	c.section("Cluster")
	if err := c.server(ctx, config.Host); err != nil {
		return err
	}
	c.certManager()
	if pre {
		c.rights(ctx)
		c.podSecurity(ctx)
		return nil
	}
	c.section("Tulle")
	if !c.installed(ctx) {
		return nil
	}
	c.podSecurity(ctx)
	c.controller(ctx)
	c.hostProxies(ctx)
	c.section("Injector")
	c.webhook(ctx)
	c.section("Certificates")
	c.certificates(ctx)
	c.section("Namespaces")
	if err := c.learn(ctx); err != nil {
		c.skip("namespaces and what is in them", err)
		return nil
	}
	c.tryPods(ctx)
	c.lint(ctx)
	c.section("Nodes")
	c.nodes(ctx)
	if c.fromNodes {
		c.section("From the nodes")
		c.reach(ctx)
	}
	c.section("Pods")
	c.pods(ctx)
	return nil
}
