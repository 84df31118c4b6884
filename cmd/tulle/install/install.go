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
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/webhook"
)

// Command returns "tulle install". It asks no cluster.
func Command() *cobra.Command {
	var v values
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

// values are what the chart is rendered with, as flags say.
type values struct {
	namespace   string
	files, sets []string
}

func (v *values) add(flags *pflag.FlagSet) {
	flags.StringVarP(&v.namespace, "namespace", "n", "tulle", "namespace that Tulle runs in")
	flags.StringArrayVarP(&v.files, "values", "f", nil, "file of values, \"-\" for stdin; may be repeated, later ones win")
	flags.StringArrayVar(&v.sets, "set", nil, "one value, as in helm: key=value; may be repeated, wins over files")
}

// render returns the objects as YAML.
func (v *values) render(stdin io.Reader) ([]byte, error) {
	if err := checkNamespace(v.namespace); err != nil {
		return nil, err
	}
	set, err := readValues(stdin, v.files)
	if err != nil {
		return nil, err
	}
	for _, s := range v.sets {
		if err := strvals.ParseInto(s, set); err != nil {
			return nil, fault.Misused(fmt.Errorf("read --set %q: %w", s, err), "write it as key=value or outer.inner=value")
		}
	}
	if err := checkTexts(set); err != nil {
		return nil, err
	}
	text, err := manifests.Render(v.namespace, set)
	var refused *manifests.ValuesError
	if errors.As(err, &refused) {
		return nil, fault.Failed(err, "manifests/chart/values.yaml lists the values there are")
	}
	if err != nil {
		return nil, fault.Failed(err, "")
	}
	return text, nil
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

// checkTexts reads the values that are texts in languages of their own, before a cluster gets them.
func checkTexts(values map[string]any) error {
	if text, ok := values["policy"].(string); ok {
		if _, err := policy.Parse("policy", []byte(text)); err != nil {
			return fault.Failed(err, "docs/policy.md lists the words of a policy")
		}
	}
	if text, ok := values["namers"].(string); ok {
		if _, _, err := registry.Parse("namers", []byte(text)); err != nil {
			return fault.Failed(err, "docs/namer.md lists the words of namers")
		}
	}
	dtabs, _ := values["dtabs"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(dtabs)) {
		if text, ok := dtabs[name].(string); ok {
			if _, err := naming.ParseDtab(text); err != nil {
				return fault.Failed(fmt.Errorf("dtabs.%s: %w", name, err), "a dtab is rules such as /svc => /host, with ; between them")
			}
		}
	}
	return nil
}

// readValues lays the files of values over each other.
func readValues(stdin io.Reader, files []string) (map[string]any, error) {
	values := map[string]any{}
	for _, file := range files {
		var text []byte
		var err error
		if file == "-" {
			text, err = io.ReadAll(stdin)
		} else {
			text, err = os.ReadFile(file)
		}
		if err != nil {
			return nil, fault.Failed(fmt.Errorf("read the values: %w", err), "")
		}
		var more map[string]any
		if err := yaml.UnmarshalStrict(text, &more); err != nil {
			return nil, fault.Failed(fmt.Errorf("read the values in %s: %w", file, err), "the file must be YAML of keys and values")
		}
		values = loader.MergeMaps(values, more)
	}
	return values, nil
}

// noArguments refuses arguments beside the flags.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fault.Misused(fmt.Errorf("%s takes no arguments, got %q", cmd.CommandPath(), args[0]),
		"run \""+cmd.CommandPath()+" --help\" for the flags")
}
