package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"

	"github.com/spf13/cobra"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/policy"
)

func installCommand() *cobra.Command {
	var (
		namespace string
		files     []string
		sets      []string
	)
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
			if !namespaceName.MatchString(namespace) {
				return misused(fmt.Errorf("%q cannot be the name of a namespace", namespace),
					"use lower-case letters, digits and \"-\", 63 characters at most")
			}
			values, err := readValues(cmd.InOrStdin(), files)
			if err != nil {
				return err
			}
			for _, s := range sets {
				if err := strvals.ParseInto(s, values); err != nil {
					return misused(fmt.Errorf("read --set %q: %w", s, err), "write it as key=value or outer.inner=value")
				}
			}
			if err := checkTexts(values); err != nil {
				return err
			}
			text, err := manifests.Render(namespace, values)
			var refused *manifests.ValuesError
			if errors.As(err, &refused) {
				return failed(err, "manifests/chart/values.yaml lists the values there are")
			}
			if err != nil {
				return failed(err, "")
			}
			if _, err := cmd.OutOrStdout().Write(text); err != nil {
				return failed(fmt.Errorf("write the objects: %w", err), "")
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "tulle", "namespace that Tulle runs in")
	cmd.Flags().StringArrayVarP(&files, "values", "f", nil, "file of values, \"-\" for stdin; may be repeated, later ones win")
	cmd.Flags().StringArrayVar(&sets, "set", nil, "one value, as in helm: key=value; may be repeated, wins over files")
	return cmd
}

// checkTexts reads the values that are texts in languages of their own, before a cluster gets them.
func checkTexts(values map[string]any) error {
	if text, ok := values["policy"].(string); ok {
		if _, err := policy.Parse("policy", []byte(text)); err != nil {
			return failed(err, "docs/policy.md lists the words of a policy")
		}
	}
	if text, ok := values["namers"].(string); ok {
		if _, _, err := registry.Parse("namers", []byte(text)); err != nil {
			return failed(err, "docs/namer.md lists the words of namers")
		}
	}
	dtabs, _ := values["dtabs"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(dtabs)) {
		if text, ok := dtabs[name].(string); ok {
			if _, err := naming.ParseDtab(text); err != nil {
				return failed(fmt.Errorf("dtabs.%s: %w", name, err), "a dtab is rules such as /svc => /host, with ; between them")
			}
		}
	}
	return nil
}

// namespaceName is an RFC 1123 label.
var namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

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
			return nil, failed(fmt.Errorf("read the values: %w", err), "")
		}
		var more map[string]any
		if err := yaml.UnmarshalStrict(text, &more); err != nil {
			return nil, failed(fmt.Errorf("read the values in %s: %w", file, err), "the file must be YAML of keys and values")
		}
		values = loader.MergeMaps(values, more)
	}
	return values, nil
}
