// Package install is "tulle install", "tulle upgrade" and "tulle uninstall": it prints what Tulle is installed from,
// brings an installation to this version, and takes one away.
//
// What is installed is decided by the Helm chart alone (package manifests); nothing here makes objects of its own. An
// installation is found in the cluster by the labels that the chart gives its objects, whichever way they came there.
// What others look after (Helm, Argo CD, Flux) is theirs to change, and refused with the way to do it.
//
// Invariant: nothing is deleted but what has those labels, or what the controller and cert-manager made for it; and the
// webhooks, which can keep pods from starting, are the last to come and the first to go.
//
//	root.AddCommand(install.Command(), install.UpgradeCommand(), install.UninstallCommand())
package install

import (
	"fmt"
	"io"
	"regexp"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/values"
	"github.com/tulle-mesh/tulle/webhook"
)

// Command returns "tulle install". It asks no cluster.
func Command() *cobra.Command {
	var v installation
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Print what Tulle is installed from, as YAML",
		Long: `Print what Tulle is installed from, as YAML.

The cluster is not asked and not changed; cert-manager must be installed in it. The objects are those of the Helm
chart with the same values.`,
		Example: `  tulle install | kubectl apply -f -
  tulle install --set injector.defaultMode=sidecar
  tulle install --values values.yaml --set controller.image=registry.example/tulle-controller:1.0`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := v.render(cmd.InOrStdin())
			if err != nil {
				return err
			}
			if _, err := cmd.OutOrStdout().Write(text); err != nil {
				return fault.Failed(fmt.Errorf("write the objects: %w", err), "")
			}
			return nil
		},
	}
	v.add(cmd.Flags())
	return cmd
}

// installation is what the chart is rendered with, as flags say.
type installation struct {
	namespace   string
	files, sets []string
}

func (v *installation) add(flags *pflag.FlagSet) {
	flags.StringVarP(&v.namespace, "namespace", "n", "tulle", "namespace that Tulle runs in")
	flags.StringArrayVarP(&v.files, "values", "f", nil, "file of values, \"-\" for stdin; may be repeated, later ones win")
	flags.StringArrayVar(&v.sets, "set", nil, "one value, as in helm: key=value; may be repeated, wins over files")
}

// render returns the objects as YAML.
func (v *installation) render(stdin io.Reader) ([]byte, error) {
	if err := checkNamespace(v.namespace); err != nil {
		return nil, err
	}
	return values.Render(v.namespace, v.files, v.sets, stdin)
}

// namespaceName is an RFC 1123 label.
var namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func checkNamespace(name string) error {
	if name != "" && slices.Contains(webhook.ExcludedNamespaces(""), name) {
		return fault.Misused(fmt.Errorf("namespace %s is not for Tulle: what is in it must work without a mesh, and would go with it", name),
			"choose a namespace of its own, such as tulle")
	}
	if namespaceName.MatchString(name) {
		return nil
	}
	return fault.Misused(fmt.Errorf("%q cannot be the name of a namespace", name),
		"use lower-case letters, digits and \"-\", 63 characters at most")
}

// noArguments refuses arguments beside the flags.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fault.Misused(fmt.Errorf("%s takes no arguments, got %q", cmd.CommandPath(), args[0]),
		"run \""+cmd.CommandPath()+" --help\" for the flags")
}
