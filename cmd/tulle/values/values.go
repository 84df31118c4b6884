// Package values is the chart as a command line asks for it: rendered with files of values and with single ones, as helm
// takes them.
//
// It reads files and asks no cluster. Invariant: what it returns has passed the chart's schema, and the texts in languages
// of their own (policy, namers, dtabs, names of ConfigMaps) parse. Its errors are those of package fault.
//
//	objects, err := values.Render("tulle", files, sets, cmd.InOrStdin())
package values

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/manifests"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/kubernetes"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/policy"
)

// Render returns the chart's objects for a namespace, as YAML. Later files win over earlier ones, "-" is stdin, and sets,
// each a key=value, win over files.
func Render(namespace string, files, sets []string, stdin io.Reader) ([]byte, error) {
	values, err := read(stdin, files)
	if err != nil {
		return nil, err
	}
	for _, set := range sets {
		if err := strvals.ParseInto(set, values); err != nil {
			return nil, fault.Misused(fmt.Errorf("read --set %q: %w", set, err), "write it as key=value or outer.inner=value")
		}
	}
	if err := check(values); err != nil {
		return nil, err
	}
	text, err := manifests.Render(namespace, values)
	var refused *manifests.ValuesError
	if errors.As(err, &refused) {
		return nil, fault.Failed(err, "manifests/chart/values.yaml lists the values there are")
	}
	if err != nil {
		return nil, fault.Failed(err, "")
	}
	return text, nil
}

// read lays the files of values over each other.
func read(stdin io.Reader, files []string) (map[string]any, error) {
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

// check reads the values that are texts in languages of their own, before a cluster gets them.
func check(values map[string]any) error {
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
	namer, _ := values["namer"].(map[string]any)
	configMaps, _ := namer["configMaps"].([]any)
	for i, m := range configMaps {
		if name, ok := m.(string); ok {
			if _, err := kubernetes.ParseConfigMap(name); err != nil {
				return fault.Failed(fmt.Errorf("namer.configMaps[%d]: %w", i, err), "")
			}
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
