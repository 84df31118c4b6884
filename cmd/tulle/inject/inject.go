// Package inject is "tulle inject", "tulle uninject" and "tulle explain": the injector by hand, and why it does what it
// does.
//
// It decides nothing itself. What becomes of a pod is what package webhook says, which is what the cluster's own injector
// says; where pods are in files is known to package workload.
//
// Invariant: if anything is denied or cannot be read, nothing goes to stdout, so that nothing is applied in part.
//
//	root.AddCommand(inject.Command(), inject.UninjectCommand(), inject.ExplainCommand())
//
//	tulle inject -f shop.yaml | kubectl apply -f -
package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/spf13/cobra"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/cmd/tulle/input"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/workload"
)

// Command returns "tulle inject".
func Command() *cobra.Command {
	var in input.Files
	var src source
	var mode, output string
	cmd := &cobra.Command{
		Use:   "inject -f FILE",
		Short: "Put the pods in files into the mesh, as the injector of a cluster would",
		Long: `Put the pods in files into the mesh, as the injector of a cluster would.

Files are YAML or JSON of any number of objects. Pods and pod templates of every kind are found by their shape and changed
where they stand: comments and all else stay as they are. The result goes to stdout and a report to stderr; if a pod is
denied or a file cannot be read, nothing goes to stdout.

The namespaces of the pods count as enabled. A pod's own annotation tulle.dev/mode chooses its mode, then --mode, then
the label tulle.dev/mode of its namespace, then the settings. Settings are those of the chart with --values and --set, or
with --live, --context or --kubeconfig those of the cluster, which then is asked for the labels of namespaces too.
Namespaces that are in the files themselves count as they are there.`,
		Example: `  tulle inject -f shop.yaml | kubectl apply -f -
  tulle inject -f k8s/ --mode host
  tulle inject -f shop.yaml --set injector.defaultMode=sidecar --controller-ca ca.crt`,
		Args: anyFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkForm(output); err != nil {
				return err
			}
			if m := webhook.Mode(mode); mode != "" && m != webhook.ModeHost && m != webhook.ModeSidecar {
				return fault.Misused(fmt.Errorf("--mode %q is unknown", mode), "it is host or sidecar")
			}
			if err := src.check(src.asksCluster()); err != nil {
				return err
			}
			files, err := in.Read(cmd, args)
			if err != nil {
				return err
			}
			by, err := src.open(cmd.Context(), src.asksCluster())
			if err != nil {
				return err
			}
			by.learn(files)
			r := &report{cmd: cmd, did: "injected"}
			r.notes(by.notes)
			return r.edit(files, output, func(t workload.Template) ([]byte, outcome, error) {
				ns, err := by.lookup(cmd.Context(), src.namespaceOf(t.Object, by))
				if err != nil {
					return nil, outcome{}, err
				}
				res, steps, err := webhook.Explain(t.JSON, joinedNamespace(ns, mode), by.config)
				if err != nil {
					return nil, outcome{}, by.excuse(err)
				}
				return res.Patch, outcomeOf(res, steps), nil
			})
		},
	}
	in.Flag(cmd, filesUsage)
	src.flags(cmd)
	cmd.Flags().BoolVar(&src.live, "live", false, "take settings, CA and labels of namespaces from the cluster")
	cmd.Flags().StringVar(&mode, "mode", "", "mode of pods that choose none themselves: host or sidecar")
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{string(webhook.ModeHost), string(webhook.ModeSidecar)}, cobra.ShellCompDirectiveNoFileComp))
	formFlag(cmd, &output)
	return cmd
}

// UninjectCommand returns "tulle uninject".
func UninjectCommand() *cobra.Command {
	var in input.Files
	var output string
	cmd := &cobra.Command{
		Use:   "uninject -f FILE",
		Short: "Take the pods in files out of the mesh again",
		Long: `Take the pods in files out of the mesh again.

It takes away what tulle inject, or the injector of a cluster, has added to a pod, and nothing else: the annotation
tulle.dev/status of the pod lists what that was. No cluster is asked.`,
		Example: `  tulle uninject -f shop.yaml | kubectl apply -f -
  tulle uninject -f k8s/ -o json`,
		Args: anyFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkForm(output); err != nil {
				return err
			}
			files, err := in.Read(cmd, args)
			if err != nil {
				return err
			}
			r := &report{cmd: cmd, did: "taken out"}
			return r.edit(files, output, func(t workload.Template) ([]byte, outcome, error) {
				patch, err := webhook.Uninject(t.JSON)
				if err == nil && patch != nil {
					patch, err = withoutMetadata(t.JSON, patch)
				}
				switch {
				case err != nil:
					return nil, outcome{verb: "denied", text: wording(err).Error(), denied: true}, nil
				case patch == nil:
					return nil, outcome{verb: "skipped", text: "it carries no injection"}, nil
				}
				return patch, outcome{verb: "uninjected", done: true}, nil
			})
		},
	}
	in.Flag(cmd, filesUsage)
	formFlag(cmd, &output)
	return cmd
}

// withoutMetadata lets a patch take away the metadata of a template of which nothing is left: it was made for the injection.
func withoutMetadata(template, patch []byte) ([]byte, error) {
	var ops []json.RawMessage
	if err := json.Unmarshal(patch, &ops); err != nil {
		return nil, fmt.Errorf("read the patch: %w", err)
	}
	decoded, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, fmt.Errorf("read the patch: %w", err)
	}
	after, err := decoded.Apply(template)
	if err != nil {
		return nil, fmt.Errorf("apply the patch: %w", err)
	}
	var is struct {
		Metadata map[string]json.RawMessage `json:"metadata"`
	}
	if err := json.Unmarshal(after, &is); err != nil || is.Metadata == nil || len(is.Metadata) > 0 {
		return patch, err
	}
	return json.Marshal(append(ops, json.RawMessage(`{"op":"remove","path":"/metadata"}`)))
}

// filesUsage says what -f takes.
const filesUsage = "file, folder, or \"-\" for stdin; may be repeated"

// anyFiles lets files be named without -f.
func anyFiles(*cobra.Command, []string) error { return nil }

func formFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "", "form of what goes to stdout: yaml or json (default: that of each file)")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{asYAML, asJSON}, cobra.ShellCompDirectiveNoFileComp))
}

func checkForm(output string) error {
	if !slices.Contains([]string{"", asYAML, asJSON}, output) {
		return fault.Misused(fmt.Errorf("-o %q is unknown", output), "it is yaml or json")
	}
	return nil
}

// namespaceOf is the namespace that an object is going to be in.
func (s *source) namespaceOf(o workload.Object, by *injector) string {
	switch {
	case o.Namespace != "":
		return o.Namespace
	case s.namespace != "":
		return s.namespace
	case by.client != nil:
		return s.at.Namespace()
	}
	return "default"
}

// outcome is what became of one template.
type outcome struct {
	verb     string
	text     string
	warnings []string
	denied   bool
	done     bool
}

func outcomeOf(res webhook.Result, steps []webhook.Step) outcome {
	o := outcome{warnings: res.Warnings}
	said := ""
	if len(steps) > 0 {
		said = steps[len(steps)-1].Said
	}
	switch {
	case res.Reason.Denies():
		o.verb, o.text, o.denied = "denied", fmt.Sprintf("%s (%s)", res.Message, res.Reason), true
	case len(res.Patch) > 0:
		o.verb, o.text, o.done = "injected", string(res.Mode), true
		if res.Reason != webhook.InjectedHost && res.Reason != webhook.InjectedSidecar {
			o.text += fmt.Sprintf(", %s", res.Reason)
		}
	default:
		o.verb, o.text = "skipped", fmt.Sprintf("%s (%s)", said, res.Reason)
	}
	return o
}

// report tells stderr what becomes of each template.
type report struct {
	cmd *cobra.Command
	did string
}

func (r *report) notes(all []string) {
	for _, n := range all {
		r.line("note: %s", n)
	}
}

func (r *report) line(format string, args ...any) {
	fmt.Fprintln(r.cmd.ErrOrStderr(), fault.Shown(fmt.Sprintf(format, args...)))
}

// tell writes a line for each template. If nothing was written, none says that anything was done.
func (r *report) tell(all []told, written bool) {
	for _, t := range all {
		if t.done && !written {
			t.verb = "would be " + t.verb
		}
		r.line("%s: %s", t.where, t.outcome)
		for _, w := range t.warnings {
			r.line("%s: warning: %s", t.where, w)
		}
	}
}

// told is what a line of the report is about.
type told struct {
	where string
	outcome
}

// edit asks decide about each template, and writes the result if none is denied. The report comes last, when it is known
// whether anything was written.
func (r *report) edit(files []*workload.File, form string, decide func(workload.Template) ([]byte, outcome, error)) error {
	texts := make([][]byte, len(files))
	var all []told
	fail := func(err error, hint string) error {
		r.tell(all, false)
		return fault.Failed(err, hint)
	}
	denied, total, done := 0, 0, 0
	var wrong []error
	passed := 0
	for i, f := range files {
		passed += len(f.Passed)
		for _, p := range f.Passed {
			all = append(all, told{placeOf(f, p.Object, p.Path), outcome{verb: "skipped", text: p.String()}})
		}
		patches := make([][]byte, len(f.Templates))
		for j, t := range f.Templates {
			total++
			where := placeOf(f, t.Object, t.Path)
			patch, o, err := decide(t)
			if err != nil {
				if known := (*fault.Error)(nil); errors.As(err, &known) {
					return fail(fmt.Errorf("%s: %w", where, err), known.Hint())
				}
				o = outcome{verb: "denied", text: wording(err).Error(), denied: true} // it is no pod that could be created
			}
			patches[j] = patch
			all = append(all, told{where, o})
			if o.denied {
				denied++
			}
			if o.done {
				done++
			}
		}
		if denied > 0 {
			continue
		}
		var err error
		if texts[i], err = f.Edit(patches); err != nil {
			wrong = append(wrong, err)
		}
	}
	switch {
	case denied > 0:
		return fail(fmt.Errorf("%d of %s denied, so nothing is written", denied, are(total, "pod template")), "correct what the lines above say")
	case len(wrong) > 0:
		return fail(errors.Join(wrong...), "nothing is written")
	}
	text, err := joined(files, texts, form)
	if err != nil {
		return fail(err, "")
	}
	if _, err := r.cmd.OutOrStdout().Write(text); err != nil {
		return fail(fmt.Errorf("write the result: %w", err), "")
	}
	r.tell(all, true)
	switch {
	case total == 0 && passed > 0:
		r.line("Nothing is %s: there are pod templates in this, but with containers that have no proper name.", r.did)
	case total == 0:
		r.line("There are no pods and no pod templates in this.")
	case total > 1:
		r.line("%d of %s %s.", done, are(total, "pod template"), r.did)
	}
	return nil
}

// String is what a line of the report says.
func (o outcome) String() string {
	switch {
	case o.text == "":
		return o.verb
	case o.done:
		return o.verb + " (" + o.text + ")"
	}
	return o.verb + ": " + o.text
}

// are is "one pod is" or "3 pods are".
func are(n int, what string) string {
	if n == 1 {
		return "1 " + what + " is"
	}
	return fmt.Sprintf("%d %ss are", n, what)
}

// placeOf is where a template, or what looks like one, is, and how it is called.
func placeOf(f *workload.File, o workload.Object, path string) string {
	return fmt.Sprintf("%s:%d: %s", f.Name, o.Line, nameOf(o, path))
}

// nameOf is how a template is called: as kubectl calls its object, and its path if the object may have more than one.
func nameOf(o workload.Object, path string) string {
	s := o.Ref()
	if o.Namespace != "" {
		s += " in " + o.Namespace
	}
	switch path {
	case "", "template", "spec.template", "spec.jobTemplate.spec.template":
		return s
	}
	return s + " (" + path + ")"
}

// wording says what is wrong with a pod that cannot be read, in words of Kubernetes and not of Go.
func wording(err error) error {
	var bad *json.UnmarshalTypeError
	if !errors.As(err, &bad) || bad.Field == "" {
		return err
	}
	found, want := "a "+bad.Value, "a number"
	switch bad.Value {
	case "bool":
		found = "true or false"
	case "object", "array":
		found = "an " + bad.Value
	}
	switch bad.Type.Kind() {
	case reflect.String:
		want = "text in quotes"
	case reflect.Bool:
		want = "true or false"
	case reflect.Struct, reflect.Map:
		want = "an object"
	case reflect.Slice, reflect.Array:
		want = "a list"
	}
	return fmt.Errorf("%s: %s is found, and %s is expected", bad.Field, found, want)
}
