package webhook

import (
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
)

// The API server cuts warnings that are longer, and drops what exceeds the sum.
const (
	maxWarning  = 256
	maxWarnings = 4096
)

// maxMessage bounds the message of a denial, which may quote what people wrote.
const maxMessage = 4096

// bounded returns the warnings without repetitions, and as many as kubectl is going to show.
func bounded(warnings []string) []string {
	var out []string
	sum := 0
	for i, w := range warnings {
		w = cut(w, maxWarning)
		if slices.Contains(out, w) {
			continue
		}
		more := fmt.Sprintf("and %d more warnings: see them all with tulle explain", len(warnings)-i)
		if sum += len(w); sum > maxWarnings-len(more) {
			return append(out, more)
		}
		out = append(out, w)
	}
	return out
}

// cut shortens s to n bytes, which is no less than an ellipsis takes.
func cut(s string, n int) string {
	const ellipsis = "…"
	if len(s) <= n {
		return s
	}
	n -= len(ellipsis)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + ellipsis
}

// quote quotes what somebody wrote, in a message that must stay short.
func quote(s string) string { return strconv.Quote(cut(s, 64)) }

// misplaced warns about keys that look meant for us but mean nothing where they are.
func (a *admission) misplaced() []string {
	var warnings []string
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	each := func(strays []Stray, owner string) {
		for _, s := range strays {
			switch key := cut(s.Key, 80); {
			case s.Known():
				warn("%s is %s of %s, but only counts as %s", key, s.As.One(), owner, s.Counts.One())
			case s.Meant != "":
				warn("the %s %s of %s is not known and has no effect; did you mean %s?", s.As, key, owner, s.Meant)
			default:
				warn("the %s %s of %s is not known and has no effect", s.As, key, owner)
			}
		}
	}
	each(NamespaceStrays(a.ns.Labels, a.ns.Annotations), "namespace "+a.ns.Name)
	if m := a.pod.Metadata; m != nil {
		each(PodStrays(m.Labels, m.Annotations), "the pod")
		if v, ok := m.Labels[LabelMode]; ok && v != string(a.mode) {
			warn("the pod's label %s is %s and is overwritten; the annotation %s chooses the mode", LabelMode, quote(v), AnnotationMode)
		}
	}
	slices.Sort(warnings)
	return warnings
}
