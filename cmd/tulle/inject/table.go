package inject

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/webhook/hostpolicy"
)

// maxPods bounds the pods in the table; those that are as they should be are only counted.
const maxPods = 10

// table writes an explanation for people.
func table(w io.Writer, x Explanation) {
	line := func(format string, args ...any) { fmt.Fprintln(w, fault.Shown(fmt.Sprintf(format, args...))) }
	head := func(s string) { fmt.Fprintf(w, "\n%s\n", s) }
	where := ""
	if x.Path != "" && x.Path != "spec.template" {
		where = ", " + x.Path
	}
	if x.Source != "" {
		where += ", " + x.Source
	}
	line("%s/%s in namespace %s%s", strings.ToLower(x.Kind), cmp.Or(x.Name, "(no name)"), x.Namespace, where)
	line("  %s", verdict(x))

	labels := "no label of Tulle"
	if len(x.NamespaceLabels) > 0 {
		var all []string
		for _, k := range slices.Sorted(maps.Keys(x.NamespaceLabels)) {
			all = append(all, k+"="+x.NamespaceLabels[k])
		}
		labels = strings.Join(all, " ")
	}
	head("Namespace")
	line("  %s", labels)

	if len(x.Entries) > 0 {
		head("API server")
		for _, e := range x.Entries {
			switch {
			case e.Name == hostpolicy.Name || e.Name == hostpolicy.Refusals:
				line("  policy %s: %s", e.Name, e.Why)
			case e.Calls:
				line("  %s asks the injector; %s (failurePolicy: %s)", e.Name, e.Why, e.FailurePolicy)
			default:
				line("  %s does not: %s", e.Name, e.Why)
			}
			for _, p := range e.Problems {
				line("    problem: %s", p)
			}
		}
	}

	head("Rules")
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range x.Steps {
		mark := " "
		if s.Decided {
			mark = ">"
		}
		fmt.Fprintf(columns, "%s %s\t%s\n", mark, s.Rule, fault.Shown(s.Said))
	}
	columns.Flush()

	if a := x.Adds; a != nil {
		head("Adds")
		for _, l := range []struct {
			what  string
			names []string
		}{{"init containers", a.InitContainers}, {"containers", a.Containers}, {"volumes", a.Volumes}, {"pull secrets", a.PullSecrets}} {
			if len(l.names) > 0 {
				line("  %s: %s", l.what, strings.Join(l.names, ", "))
			}
		}
		for _, e := range a.Env {
			line("  environment of %s: %s", e.Container, strings.Join(e.Names, ", "))
		}
	}
	if len(x.Pods) > 0 {
		head("Pods that run")
		podTable(w, x.Pods, line)
	}
	if len(x.Warnings)+len(x.Hints) > 0 {
		fmt.Fprintln(w)
	}
	for _, s := range x.Warnings {
		line("warning: %s", s)
	}
	for _, s := range x.Hints {
		line("hint: %s", s)
	}
}

func podTable(w io.Writer, pods []Pod, line func(string, ...any)) {
	current, left := 0, 0
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	printed := 0
	for _, p := range pods {
		switch {
		case p.State == stateCurrent && len(pods) > 1:
			current++
		case printed == maxPods:
			left++
		default:
			printed++
			fmt.Fprintf(columns, "  %s\t%s\t%s\n", p.Name, p.State, fault.Shown(p.Said))
		}
	}
	columns.Flush()
	if left > 0 {
		line("  and %d more that differ", left)
	}
	if current > 0 {
		line("  %d of %d are as they would be now", current, len(pods))
	}
}

// verdict is the answer in one sentence.
func verdict(x Explanation) string {
	who, are, belong, them := "it", "is", "it belongs", "it"
	if x.Path != "" {
		who, are, belong, them = "its pods", "are", "they belong", "them"
	}
	said := x.Steps[len(x.Steps)-1].Said
	unasked, refused := x.unasked(), x.refused()
	switch {
	case x.Path == "" && len(x.Pods) == 1 && x.Pods[0].State == stateEscaped && unasked:
		return fmt.Sprintf("it is NOT in the mesh, where it belongs in mode %s, because the API server does not ask the injector", x.Mode)
	case x.Path == "" && len(x.Pods) == 1:
		return x.Pods[0].Said
	case x.Reason.Denies() && unasked && !refused:
		return fmt.Sprintf("%s %s NOT in the mesh, because the API server does not ask the injector, which would refuse %s (%s): %s", who, are, them, x.Reason, x.Message)
	case x.Reason.Denies():
		return fmt.Sprintf("%s %s DENIED (%s): %s", who, are, x.Reason, x.Message)
	case x.Mode == "":
		return fmt.Sprintf("%s %s not in the mesh (%s): %s", who, are, x.Reason, said)
	case unasked && refused:
		return fmt.Sprintf("%s %s DENIED, where %s in mode %s: there is no injector, and the policy of host mode cannot do %s", who, are, belong, x.Mode, them)
	case unasked:
		return fmt.Sprintf("%s %s NOT in the mesh, where %s in mode %s, because the API server does not ask the injector", who, are, belong, x.Mode)
	case slices.ContainsFunc(x.Entries, func(e Entry) bool { return e.Calls && len(e.Problems) > 0 }):
		return fmt.Sprintf("%s %s to be injected in mode %s, but the injector CANNOT be reached", who, are, x.Mode)
	}
	return fmt.Sprintf("%s %s injected in mode %s (%s)", who, are, x.Mode, x.Reason)
}

// unasked reports that the API server asks nobody about such a pod.
func (x *Explanation) unasked() bool { return x.Called != nil && !*x.Called }

// refused reports that the API server refuses such a pod by itself.
func (x *Explanation) refused() bool {
	return slices.ContainsFunc(x.Entries, func(e Entry) bool { return e.Name == hostpolicy.Refusals && e.Calls })
}
