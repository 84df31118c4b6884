package inject

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/input"
	"github.com/tulle-mesh/tulle/cmd/tulle/kube"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/workload"
)

// Explanation is why one pod or pod template is, or is not, injected. Its JSON is stable: fields are added, never changed.
type Explanation struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name,omitempty"`
	// Path leads to the template within the object, as in spec.template; empty for a pod.
	Path string `json:"path,omitempty"`
	// Source is file:line if the object is in a file.
	Source string `json:"source,omitempty"`
	// NamespaceLabels are those of the namespace that begin with tulle.dev/.
	NamespaceLabels map[string]string `json:"namespaceLabels"`
	// Called is whether the API server asks the injector when such a pod is created; absent if that is not known.
	Called *bool `json:"called,omitempty"`
	// Entries are those of the cluster's webhook configuration that are about new pods.
	Entries []Entry `json:"entries,omitempty"`
	// Steps are what the rules found, in their order; the last one decided.
	Steps    []Step         `json:"steps"`
	Reason   webhook.Reason `json:"reason"`
	Mode     webhook.Mode   `json:"mode,omitempty"`
	Message  string         `json:"message,omitempty"` // if it is denied
	Hash     string         `json:"hash,omitempty"`
	Warnings []string       `json:"warnings,omitempty"`
	Adds     *Adds          `json:"adds,omitempty"`
	// Pods are those that run, as against what they would be if they were created now.
	Pods []Pod `json:"pods,omitempty"`
	// Hints are what could be done.
	Hints []string `json:"hints,omitempty"`

	labels map[string]string // of the template
}

// Step is what one rule found.
type Step struct {
	Rule    string `json:"rule"`
	Said    string `json:"said"`
	Decided bool   `json:"decided,omitempty"`
}

// asked is what an explanation is about.
type asked struct {
	template workload.Template
	source   string
	live     *liveObject // nil if it is from a file
}

// ExplainCommand returns "tulle explain".
func ExplainCommand() *cobra.Command {
	e := &explainer{}
	var in input.Files
	var output string
	var offline bool
	cmd := &cobra.Command{
		Use:   "explain KIND NAME | -f FILE",
		Short: "Say why a pod is, or is not, in the mesh, rule by rule",
		Long: `Say why a pod is, or is not, in the mesh, rule by rule.

It asks whether the API server would call the injector at all, goes through the injector's rules with the settings and the
labels of the cluster, shows what would be added, and compares the pods that run with what they would be if they were
created now. KIND is any kind with a pod template, as kubectl names them. Nothing is changed.

With -f it explains what is in files. Without a cluster, as with --offline, settings are the chart's with --values and
--set, and namespaces are those in the files.`,
		Example: `  tulle explain pod web-5d8f-x2k -n shop
  tulle explain deploy web -n shop
  tulle explain -f shop.yaml --offline`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 2 {
				return fault.Misused(fmt.Errorf("tulle explain does not know what to do with %q", args[2]), "tulle explain KIND NAME, or tulle explain -f FILE")
			}
			return nil
		},
		ValidArgsFunction: e.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"table", asJSON, asYAML}, output) {
				return fault.Misused(fmt.Errorf("-o %q is unknown", output), "it is table, json or yaml")
			}
			kind, name, err := e.target(args, in.Named())
			if err != nil {
				return err
			}
			if offline && kind != "" {
				return fault.Misused(errors.New("--offline goes with -f: what runs is in a cluster"), "")
			}
			cluster := !offline && len(e.src.values)+len(e.src.sets) == 0
			if cluster && kind == "" && !e.src.asksCluster() {
				if _, err := e.src.at.Config(); errors.Is(err, kube.ErrNone) {
					cluster = false
				}
			}
			var all []Explanation
			if kind != "" {
				all, err = e.live(cmd.Context(), cluster, kind, name)
			} else {
				all, err = e.files(cmd, cluster, &in)
			}
			if err != nil {
				return err
			}
			(&report{cmd: cmd}).notes(e.by.notes)
			return print(cmd.OutOrStdout(), output, all)
		},
	}
	in.Flag(cmd, filesUsage)
	e.src.flags(cmd)
	cmd.Flags().BoolVar(&offline, "offline", false, "ask no cluster")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "form of what goes to stdout: table, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", asJSON, asYAML}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// explainer answers one command line.
type explainer struct {
	src source
	by  *injector
}

// target reads KIND NAME or KIND/NAME.
func (e *explainer) target(args []string, files bool) (kind, name string, err error) {
	const usage = "tulle explain KIND NAME, or tulle explain -f FILE"
	if files && len(args) == 0 {
		return "", "", nil
	}
	switch {
	case files:
		err = fmt.Errorf("it is either -f or %q", args[0])
	case len(args) == 0:
		err = errors.New("tulle explain wants to know what to explain")
	case len(args) == 2:
		return args[0], args[1], nil
	default:
		if kind, name, ok := strings.Cut(args[0], "/"); ok && kind != "" && name != "" {
			return kind, name, nil
		}
		err = fmt.Errorf("tulle explain wants the name of a %s", args[0])
	}
	return "", "", fault.Misused(err, usage)
}

func (e *explainer) files(cmd *cobra.Command, cluster bool, in *input.Files) ([]Explanation, error) {
	files, err := in.Read(cmd, nil)
	if err != nil {
		return nil, err
	}
	if e.by, err = e.src.open(cmd.Context(), cluster); err != nil {
		if known := (*fault.Error)(nil); cluster && errors.As(err, &known) && known.ExitCode() == fault.ExitFailed {
			err = fault.Failed(err, known.Hint()+"; or ask no cluster, with --offline")
		}
		return nil, err
	}
	e.by.learn(files)
	var all []Explanation
	talk := &report{cmd: cmd}
	for _, f := range files {
		for _, p := range f.Passed {
			talk.line("%s: skipped: %s", placeOf(f, p.Object, p.Path), p)
		}
		for _, t := range f.Templates {
			x, err := e.explain(cmd.Context(), asked{template: t, source: fmt.Sprintf("%s:%d", f.Name, t.Line)})
			if err != nil {
				return nil, err
			}
			all = append(all, x)
		}
	}
	if len(all) == 0 {
		return nil, fault.Failed(errors.New("there are no pods and no pod templates in this"), "")
	}
	return all, nil
}

func (e *explainer) live(ctx context.Context, cluster bool, kind, name string) ([]Explanation, error) {
	if !cluster {
		return nil, fault.Misused(errors.New("--values and --set are settings without a cluster, but what runs is in one"), "leave them out")
	}
	var err error
	if e.by, err = e.src.open(ctx, true); err != nil {
		return nil, err
	}
	object, err := e.find(ctx, kind, name)
	if err != nil {
		return nil, err
	}
	f, err := workload.Parse(object.title(), object.json)
	if err != nil {
		return nil, fault.Failed(err, "")
	}
	if len(f.Templates) == 0 && len(f.Passed) > 0 {
		return nil, fault.Failed(fmt.Errorf("%s cannot be explained: %s", object.title(), f.Passed[0].Why), "explain a pod that it has made")
	}
	if len(f.Templates) == 0 {
		return nil, fault.Failed(fmt.Errorf("%s is no pod and has no pod template", object.title()), "")
	}
	var all []Explanation
	for _, t := range f.Templates {
		x, err := e.explain(ctx, asked{template: t, live: object})
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return all, nil
}

// placeholder stands for a CA that cannot be read, where it does not matter which it is.
const placeholder = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"

// explain explains one template.
func (e *explainer) explain(ctx context.Context, q asked) (Explanation, error) {
	t := q.template
	ns, err := e.by.lookup(ctx, e.src.namespaceOf(t.Object, e.by))
	if err != nil {
		return Explanation{}, err
	}
	x := Explanation{APIVersion: t.APIVersion, Kind: t.Kind, Namespace: ns.Name, Name: t.Name, Path: t.Path, Source: q.source, NamespaceLabels: map[string]string{}}
	for k, v := range ns.Labels {
		if strings.HasPrefix(k, "tulle.dev/") {
			x.NamespaceLabels[k] = v
		}
	}
	config := e.by.config
	if config.ControllerCA == "" {
		config.ControllerCA = placeholder
	}
	res, steps, err := webhook.Explain(t.JSON, ns, config)
	if errors.Is(err, webhook.ErrConfig) {
		return x, e.by.excuse(err)
	} else if err != nil {
		return x, fault.Failed(fmt.Errorf("%s: %w", nameOf(t.Object, t.Path), wording(err)), "")
	}
	x.Reason, x.Mode, x.Message, x.Hash, x.Warnings = res.Reason, res.Mode, res.Message, res.Hash, res.Warnings
	if q.live != nil && t.Path == "" { // advice for templates; the pod itself is compared below
		x.Warnings = slices.DeleteFunc(slices.Clone(x.Warnings), func(w string) bool { return strings.Contains(w, webhook.AnnotationStatus) })
	}
	if e.by.config.ControllerCA == "" && res.Mode == webhook.ModeSidecar {
		x.Hash = "" // it is that of another CA
	}
	for _, s := range steps {
		x.Steps = append(x.Steps, Step(s))
	}
	if x.Adds, err = added(t.JSON, res.Patch); err != nil {
		return x, fault.Failed(err, "")
	}
	labels, annotations := metadataOf(t.JSON)
	x.labels = labels
	if e.by.client != nil {
		if e.by.absent[ns.Name] {
			x.Hints = append(x.Hints, fmt.Sprintf("there is no namespace %s in the cluster: what is said here holds for one without labels", ns.Name))
		}
		if err := e.entries(ctx, &x, ns, annotations, res); err != nil {
			return x, err
		}
	} else if _, ok := e.by.made[ns.Name]; !ok {
		x.Hints = append(x.Hints, fmt.Sprintf("namespace %s is not in the files and no cluster was asked: what is said here holds for one without labels", ns.Name))
	}
	if q.live != nil {
		if err := e.pods(ctx, &x, q.live, ns, config); err != nil {
			return x, err
		}
	}
	if res.Reason != webhook.NamespaceExcluded { // where no key does anything
		x.Hints = append(x.Hints, lint(t, ns, labels, annotations, x.Warnings)...)
	}
	return x, nil
}

// print writes explanations in the form asked for.
func print(w io.Writer, form string, all []Explanation) error {
	if form == "table" {
		for i, x := range all {
			if i > 0 {
				fmt.Fprintln(w)
			}
			table(w, x)
		}
		return nil
	}
	list := struct {
		Items []Explanation `json:"items"`
	}{all}
	var text bytes.Buffer
	out := json.NewEncoder(&text)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	err := out.Encode(list)
	if err == nil && form == asYAML {
		var converted []byte
		converted, err = yaml.Marshal(list)
		text = *bytes.NewBuffer(converted)
	}
	if err == nil {
		_, err = w.Write(text.Bytes())
	}
	if err != nil {
		return fault.Failed(fmt.Errorf("write the explanation: %w", err), "")
	}
	return nil
}
