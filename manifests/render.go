package manifests

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

//go:embed all:chart
var chartFiles embed.FS

//go:embed examples/hello-world.yaml
var helloWorld string

// HelloWorld returns examples/hello-world.yaml: the hello and world apps in two namespaces, one in each mode.
func HelloWorld() []byte { return []byte(helloWorld) }

// ValuesError says which values the chart's schema refuses.
type ValuesError struct {
	// Problems has one sentence for each value, which begins with where it is.
	Problems []string
}

// Error implements error.
func (e *ValuesError) Error() string {
	return "the values do not fit the chart: " + strings.Join(e.Problems, "; ")
}

// Render returns the chart's objects as YAML documents, in an order in which they can be applied. The values
// are laid over the chart's own; nil means these alone. Unlike with "helm install", the namespace is part of the
// output, unless the values say createNamespace: false.
//
// Values that the chart's schema refuses give a *ValuesError. Render does not change values.
func Render(namespace string, values map[string]any) ([]byte, error) {
	c, err := load()
	if err != nil {
		return nil, err
	}
	merged := map[string]any{"createNamespace": true}
	merged = loader.MergeMaps(merged, values)
	vals, err := util.ToRenderValuesWithSchemaValidation(c, merged, common.ReleaseOptions{
		Name: "tulle", Namespace: namespace, Revision: 1, IsInstall: true,
	}, nil, true)
	if err != nil {
		return nil, fmt.Errorf("merge the values: %w", err)
	}
	if err := checkValues(c, vals); err != nil {
		return nil, err
	}
	rendered, err := engine.Engine{Strict: true}.RenderWithContext(context.Background(), c, vals)
	if err != nil {
		return nil, fmt.Errorf("render the chart: %w", err)
	}
	var objects []object
	for name, text := range rendered {
		if !strings.HasSuffix(name, ".yaml") {
			continue // notes and helpers
		}
		found, err := split(text)
		if err != nil {
			return nil, fmt.Errorf("render the chart: %s: %w", name, err)
		}
		objects = append(objects, found...)
	}
	slices.SortFunc(objects, compare)
	var out bytes.Buffer
	for _, o := range objects {
		out.WriteString("---\n")
		out.WriteString(o.text)
		out.WriteByte('\n')
	}
	return out.Bytes(), nil
}

// load reads the embedded chart.
func load() (*chart.Chart, error) {
	var files []*archive.BufferedFile
	err := fs.WalkDir(chartFiles, "chart", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := chartFiles.ReadFile(path)
		files = append(files, &archive.BufferedFile{Name: strings.TrimPrefix(path, "chart/"), Data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	return c, nil
}

// checkValues holds the merged values against the chart's schema.
func checkValues(c *chart.Chart, vals common.Values) error {
	values, _ := vals["Values"].(common.Values)
	err := util.ValidateAgainstSingleSchema(values, c.Schema)
	if err == nil {
		return nil
	}
	var problems []string
	for line := range strings.Lines(err.Error()) {
		where, what, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if ok && strings.HasPrefix(where, "- at '") && what != "validation failed" { // which only begins a list
			path := strings.Trim(strings.TrimPrefix(where, "- at "), "'")
			path = strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", ".")
			problems = append(problems, cmp.Or(path, "top level")+": "+what)
		}
	}
	if len(problems) == 0 {
		return fmt.Errorf("check the values: %w", err)
	}
	return &ValuesError{Problems: problems}
}

// object is one rendered object.
type object struct {
	kind, namespace, name string
	text                  string
}

var separator = regexp.MustCompile(`(?m)^---[ \t]*$`)

// split takes the documents of one rendered template apart; those that hold nothing are dropped.
func split(text string) ([]object, error) {
	var objects []object
	for _, doc := range separator.Split(text, -1) {
		var head struct {
			Kind     string `json:"kind"`
			Metadata struct {
				Name      string `json:"name"`
				Namespace string `json:"namespace"`
			} `json:"metadata"`
		}
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			return nil, err
		}
		doc = strings.TrimSpace(doc)
		if head.Kind == "" {
			if doc != "" {
				return nil, errors.New("a document has no kind")
			}
			continue
		}
		objects = append(objects, object{head.Kind, head.Metadata.Namespace, head.Metadata.Name, doc})
	}
	return objects, nil
}

// order puts what others need first, and last the policies and webhooks, which from then on are asked about pods and dtabs.
func order() []string {
	return []string{
		"Namespace", "CustomResourceDefinition", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
		"Issuer", "Certificate", "ConfigMap", "Service", "PodDisruptionBudget", "Deployment", "DaemonSet",
		"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
		"MutatingWebhookConfiguration",
	}
}

func compare(a, b object) int {
	return cmp.Or(
		cmp.Compare(slices.Index(order(), a.kind), slices.Index(order(), b.kind)),
		cmp.Compare(a.kind, b.kind), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name),
	)
}
