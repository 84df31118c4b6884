package check

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/cmd/tulle/input"
	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/settings"
	"github.com/tulle-mesh/tulle/webhook/workload"
)

// linter reads the keys of namespaces and workloads.
type linter struct {
	*report
	config webhook.Config
	// namespaces are those that are known.
	namespaces map[string]webhook.Namespace
	mesh       string
	// offline is whether objects are from files, which no command changes.
	offline  bool
	findings int
	failed   error // the injector could not say what it would do
	passed   bool  // there are templates that are taken for none
}

// nobody stands in for the CA of the mesh, which decides about no pod.
func nobody() string { return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"})) }

// lint reads the keys of what is in the cluster.
func (c *checker) lint(ctx context.Context) {
	l := &linter{report: c.report, config: c.config, mesh: c.mesh, namespaces: map[string]webhook.Namespace{}}
	for i := range c.namespaces {
		ns := &c.namespaces[i]
		l.namespaces[ns.Name] = webhook.Namespace{Name: ns.Name, Labels: ns.Labels, Annotations: ns.Annotations}
		l.namespace(workload.Object{Kind: "Namespace", Name: ns.Name, Labels: ns.Labels, Annotations: ns.Annotations}, "")
	}
	workloads := 0
	for _, kind := range []struct {
		apiVersion, kind string
		list             func(metav1.ListOptions) (runtime.Object, error)
	}{
		{"apps/v1", "Deployment", func(o metav1.ListOptions) (runtime.Object, error) {
			return c.client.AppsV1().Deployments(c.only).List(ctx, o)
		}},
		{"apps/v1", "StatefulSet", func(o metav1.ListOptions) (runtime.Object, error) {
			return c.client.AppsV1().StatefulSets(c.only).List(ctx, o)
		}},
		{"apps/v1", "DaemonSet", func(o metav1.ListOptions) (runtime.Object, error) {
			return c.client.AppsV1().DaemonSets(c.only).List(ctx, o)
		}},
		{"batch/v1", "CronJob", func(o metav1.ListOptions) (runtime.Object, error) {
			return c.client.BatchV1().CronJobs(c.only).List(ctx, o)
		}},
		{"batch/v1", "Job", func(o metav1.ListOptions) (runtime.Object, error) {
			return c.client.BatchV1().Jobs(c.only).List(ctx, o)
		}},
	} {
		n, err := l.live(kind.apiVersion, kind.kind, kind.list)
		if err != nil {
			c.skip(strings.ToLower(kind.kind)+"s", err)
		}
		workloads += n
	}
	l.end(fmt.Sprintf("no label or annotation of %s and %s is wrong", count(len(c.namespaces), "namespace"), count(workloads, "workload")))
}

func (l *linter) end(passed string) {
	if l.failed != nil {
		l.skip("what would be injected", l.failed)
	} else if l.findings == 0 && !l.passed {
		l.pass("%s", passed)
	}
}

// live reads the objects of one kind, a page at a time.
func (l *linter) live(apiVersion, kind string, list func(metav1.ListOptions) (runtime.Object, error)) (n int, err error) {
	for o := (metav1.ListOptions{Limit: 500}); ; {
		page, err := list(o)
		if err != nil {
			return n, err
		}
		text, err := json.Marshal(page)
		if err != nil {
			return n, err
		}
		var items struct {
			Metadata metav1.ListMeta
			Items    []map[string]any
		}
		if err := json.Unmarshal(text, &items); err != nil {
			return n, err
		}
		for _, item := range items.Items {
			meta, _ := item["metadata"].(map[string]any)
			namespace, _ := meta["namespace"].(string)
			if meta["ownerReferences"] != nil || l.excluded(namespace) {
				continue // its owner is looked at
			}
			item["apiVersion"], item["kind"] = apiVersion, kind
			text, err := json.Marshal(item)
			if err != nil {
				return n, err
			}
			f, err := workload.Parse(kind, text)
			if err != nil {
				return n, err
			}
			n++
			for _, t := range f.Templates {
				l.template(t, "")
			}
		}
		if o.Continue = items.Metadata.Continue; o.Continue == "" {
			return n, nil
		}
	}
}

func (l *linter) excluded(namespace string) bool {
	return slices.Contains(webhook.ExcludedNamespaces(l.mesh), namespace) || slices.Contains(l.config.ExcludedNamespaces, namespace)
}

// files reads the keys of what is in files.
func (c *checker) files(cmd *cobra.Command, in *input.Files) error {
	files, err := in.Read(cmd, nil)
	if err != nil {
		return err
	}
	c.section("Files")
	l := &linter{report: c.report, mesh: c.mesh, namespaces: map[string]webhook.Namespace{}, offline: true}
	s := settings.Default()
	s.Namespace = c.mesh
	l.config = s.Resolve(settings.Facts{}).Config(nobody())
	for _, f := range files {
		for _, o := range f.Objects {
			if o.Kind == "Namespace" && o.APIVersion == "v1" {
				l.namespaces[o.Name] = webhook.Namespace{Name: o.Name, Labels: o.Labels, Annotations: o.Annotations}
			}
		}
	}
	objects := 0
	for _, f := range files {
		objects += len(f.Objects)
		for _, o := range f.Objects {
			if o.Kind == "Namespace" && o.APIVersion == "v1" {
				l.namespace(o, f.Name)
			}
		}
		for _, t := range f.Templates {
			if t.Namespace == "" {
				t.Namespace = c.only
			}
			l.template(t, f.Name)
		}
		for _, p := range f.Passed {
			l.passed = true
			l.skip(where(p.Object, f.Name), errors.New(p.String()))
		}
	}
	l.end("no label or annotation of " + count(objects, "object") + " is wrong")
	return nil
}

// found notes a finding about an object. The command is left out where no cluster is asked; then the sentence says what
// to write.
func (l *linter) found(code Code, o workload.Object, file, message, command, otherwise string) {
	f := Finding{Code: code, Object: o.Ref(), Namespace: o.Namespace, Message: message, Fix: command}
	if file != "" {
		f.Object = where(o, file)
	}
	if l.offline {
		f.Fix = otherwise
	} else if command == "" {
		f.Fix = kubectl(o.Namespace, "edit", o.Ref()+"  # "+otherwise)
	}
	l.findings++
	l.find(f)
}

// namespace reads the keys of a namespace.
func (l *linter) namespace(o workload.Object, file string) {
	if l.excluded(o.Name) {
		return
	}
	label := func(change string) string { return "kubectl label namespace " + o.Name + " " + change }
	allowed := map[string][]string{
		webhook.LabelInject: {webhook.NamespaceEnabled, webhook.NamespaceBestEffort, webhook.NamespaceDisabled},
		webhook.LabelMode:   {string(webhook.ModeHost), string(webhook.ModeSidecar), string(webhook.ModeNone)},
	}
	meant := func(key, value string) string {
		if near := document.Nearest(value, allowed[key]); near != "" {
			return near
		}
		if slices.Contains([]string{"false", "no", "off", "never", "0", ""}, strings.ToLower(value)) {
			return allowed[key][len(allowed[key])-1]
		}
		return allowed[key][0] // "true", "yes", "1"
	}
	for _, key := range slices.Sorted(maps.Keys(o.Labels)) {
		if v := o.Labels[key]; allowed[key] != nil && !slices.Contains(allowed[key], v) {
			l.found(WrongNamespace, o, file, fmt.Sprintf("its label %s is %q, allowed: %s; its pods are refused", key, v, strings.Join(allowed[key], ", ")),
				label(key+"="+meant(key, v)+" --overwrite"), "write "+key+": "+meant(key, v))
		}
	}
	for _, s := range webhook.NamespaceStrays(o.Labels, o.Annotations) {
		message, change, write := unknown(s, ""), fmt.Sprintf("kubectl %s namespace %s %s-", verb[s.As], o.Name, s.Key), "remove it"
		if s.Known() {
			message = fmt.Sprintf("the %s %s only counts as %s", s.As, s.Key, s.Counts.One())
		}
		if _, there := o.Labels[s.Meant]; s.Meant != "" && !there {
			value := meant(s.Meant, s.Value)
			change, write = label(s.Meant+"="+value)+"\n"+change, "write "+s.Meant+": "+value+" in metadata.labels instead"
		}
		l.found(NoEffect, o, file, message, change, write)
	}
	if joined(o.Labels) {
		if key, mesh := asks(o.Labels, o.Annotations); key != "" {
			as := webhook.AsLabel
			if _, ok := o.Labels[key]; !ok {
				as = webhook.AsAnnotation
			}
			l.found(TwoMeshes, o, file, fmt.Sprintf("it has joined Tulle, and by %s %s, too: pods get two proxies", key, mesh), "kubectl "+verb[as]+" namespace "+o.Name+" "+key+"-", "remove one of them")
		}
	}
}

// asks returns a key by which another mesh is asked to inject.
func asks(all ...map[string]string) (key, mesh string) {
	for _, keys := range all {
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			if mesh, asks := webhook.OtherMesh(k, keys[k]); asks {
				return k, mesh
			}
		}
	}
	return "", ""
}

// verb is the command of kubectl that changes a label or an annotation.
var verb = map[webhook.As]string{webhook.AsLabel: "label", webhook.AsAnnotation: "annotate"}

// unknown says that a key is none of Tulle's.
func unknown(s webhook.Stray, of string) string {
	message := fmt.Sprintf("the %s %s%s is not known and has no effect", s.As, s.Key, of)
	if s.Meant != "" {
		message += "; did you mean " + s.Meant + "?"
	}
	return message
}

// template reads the keys of a workload and of its pod template, and asks the injector what it would do.
func (l *linter) template(t workload.Template, file string) {
	var pod struct {
		Metadata struct {
			Labels, Annotations map[string]string
		}
	}
	if err := json.Unmarshal(t.JSON, &pod); err != nil {
		l.unread(t, file, err)
		return
	}
	o := t.Object
	if t.Path != "" {
		for _, s := range webhook.WorkloadStrays(t.Labels, t.Annotations) {
			l.outside(t, file, s)
		}
	}
	for _, s := range webhook.PodStrays(pod.Metadata.Labels, pod.Metadata.Annotations) {
		message := unknown(s, " of its pods")
		if s.Known() {
			message = fmt.Sprintf("the %s %s of its pods only counts as %s", s.As, s.Key, s.Counts.One())
		}
		l.found(NoEffect, o, file, message, "", write(t, s))
	}
	ns, ok := l.namespaces[t.Namespace]
	if l.excluded(t.Namespace) {
		return
	}
	if !ok {
		l.anywhere(t, file)
		return
	}
	if !joined(ns.Labels) {
		_, mode := pod.Metadata.Annotations[webhook.AnnotationMode]
		if pod.Metadata.Labels[webhook.LabelInject] == "true" || mode && pod.Metadata.Annotations[webhook.AnnotationStatus] == "" {
			l.found(NotJoined, o, file, "its pods ask for the mesh, which namespace "+ns.Name+" has not joined: they stay outside",
				"kubectl label namespace "+ns.Name+" "+webhook.LabelInject+"="+webhook.NamespaceEnabled+" --overwrite", "give the namespace the label "+webhook.LabelInject+": "+webhook.NamespaceEnabled)
		}
		return
	}
	if key, mesh := asks(pod.Metadata.Labels, pod.Metadata.Annotations); key != "" && pod.Metadata.Labels[webhook.LabelInject] != "false" {
		l.found(TwoMeshes, o, file, fmt.Sprintf("its pods ask for %s by %s, in a namespace that has joined Tulle: they get two proxies", mesh, key), "", "remove it at "+at(t)+", or label the pods "+webhook.LabelInject+": \"false\"")
	}
	res, err := webhook.Inject(t.JSON, ns, l.config)
	switch {
	case err != nil:
		l.unread(t, file, err)
	case res.Reason.Denies():
		why, hint, ok := strings.Cut(res.Message, "; hint: ")
		if !ok {
			hint = "correct it"
		}
		l.found(WouldBeDenied, o, file, "its pods are refused: "+why, kubectl(o.Namespace, "edit", o.Ref()+"  # at "+at(t)+": "+hint), hint+", at "+at(t))
	}
}

// unread notes that a pod is none that could be created, or that the injector could not say what it would do with it.
func (l *linter) unread(t workload.Template, file string, err error) {
	l.failed = errors.Join(l.failed, fmt.Errorf("%s: %w", where(t.Object, file), err))
}

// where says which object is meant. The file is empty for one of a cluster.
func where(o workload.Object, file string) string {
	if file != "" {
		return fmt.Sprintf("%s:%d: %s", file, o.Line, o.Ref())
	}
	if o.Namespace != "" {
		return o.Ref() + " in namespace " + o.Namespace
	}
	return o.Ref()
}

// anywhere finds values that no namespace of the mesh takes, for a template whose own is in none of the files.
func (l *linter) anywhere(t workload.Template, file string) {
	if !l.offline {
		return
	}
	ns := webhook.Namespace{Name: t.Namespace, Labels: map[string]string{webhook.LabelInject: webhook.NamespaceEnabled}}
	res, err := webhook.Inject(t.JSON, ns, l.config)
	if err != nil {
		l.unread(t, file, err)
		return
	}
	if !slices.Contains([]webhook.Reason{webhook.InvalidInject, webhook.InvalidMode, webhook.InvalidPort, webhook.InvalidAnnotation}, res.Reason) {
		return
	}
	why, hint, ok := strings.Cut(res.Message, "; hint: ")
	if !ok {
		hint = "correct it"
	}
	l.found(WouldBeDenied, t.Object, file, "its pods are refused if their namespace has joined the mesh: "+why, "", hint+", at "+at(t))
}

// at is where the metadata of a template is.
func at(t workload.Template) string {
	if t.Path == "" {
		return "metadata"
	}
	return t.Path + ".metadata"
}

// write says what to do about a key of a workload or of its template.
func write(t workload.Template, s webhook.Stray) string {
	right := fmt.Sprintf("%s.%ss", at(t), s.Counts)
	switch {
	case s.Known():
		return "move it to " + right
	case s.Meant != "":
		return "write " + s.Meant + " at " + right + " instead"
	}
	return "remove it"
}

// outside notes a key on a workload itself, which only counts in its template.
func (l *linter) outside(t workload.Template, file string, s webhook.Stray) {
	if !s.Known() {
		l.found(NoEffect, t.Object, file, unknown(s, ""), "", write(t, s))
		return
	}
	what := fmt.Sprintf("the %s %s is the %s's own, and only counts in the pod template", s.As, s.Key, t.Kind)
	patch := map[string]any{"metadata": map[string]any{string(s.As) + "s": map[string]any{s.Key: nil}}}
	inner := map[string]any{"metadata": map[string]any{string(s.Counts) + "s": map[string]any{s.Key: s.Value}}}
	parts := strings.Split(t.Path, ".")
	for i := len(parts) - 1; i >= 0; i-- {
		inner = map[string]any{parts[i]: inner}
	}
	maps.Copy(patch, inner)
	text, err := json.Marshal(patch)
	if err != nil || strings.ContainsAny(string(text), "'") || strings.Contains(t.Path, "[") || strings.HasPrefix(t.Path, "metadata") {
		l.found(NoEffect, t.Object, file, what, "", write(t, s))
		return
	}
	name := strings.ToLower(t.Kind)
	if group := schema.FromAPIVersionAndKind(t.APIVersion, t.Kind).Group; group != "" && group != "apps" && group != "batch" {
		name += "." + group
	}
	l.found(NoEffect, t.Object, file, what, kubectl(t.Namespace, "patch", name+"/"+t.Name+" --type=merge -p '"+string(text)+"'"), write(t, s))
}
