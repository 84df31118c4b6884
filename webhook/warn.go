package webhook

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tulle-mesh/tulle/internal/document"
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

// ourKeys returns the keys of m under tulle.dev/, sorted; no more than anybody wants to be warned of.
func ourKeys(m map[string]string) []string {
	var keys []string
	for key := range m {
		if strings.HasPrefix(key, keyPrefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys[:min(len(keys), 50)]
}

// misplaced warns about keys under tulle.dev/ that look meant for us but mean nothing where they are.
func (a *admission) misplaced() []string {
	var warnings []string
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	unknown := func(what, key string, known []string) {
		var names []string
		for _, k := range known {
			names = append(names, strings.TrimPrefix(k, keyPrefix))
		}
		word := strings.TrimPrefix(key, keyPrefix)
		near := document.Nearest(word, names)
		if i := slices.IndexFunc(names, func(k string) bool { return strings.HasPrefix(k, word+"-") }); near == "" && i >= 0 {
			near = names[i] // the beginning of a key
		}
		if near != "" {
			warn("%s %s is not known and has no effect; did you mean %s%s?", what, cut(key, 80), keyPrefix, near)
		} else {
			warn("%s %s is not known and has no effect", what, cut(key, 80))
		}
	}
	for _, key := range ourKeys(a.ns.Labels) {
		if key != LabelInject && key != LabelMode {
			unknown("the label of namespace "+a.ns.Name, key, []string{LabelInject, LabelMode})
		}
	}
	for _, key := range ourKeys(a.ns.Annotations) {
		if key == LabelInject || key == LabelMode {
			warn("%s is an annotation of namespace %s, but only counts as a label", key, a.ns.Name)
		}
	}
	if m := a.pod.Metadata; m != nil {
		for _, key := range ourKeys(m.Annotations) {
			switch {
			case key == AnnotationStatus || slices.Contains(Annotations(), key):
			case key == LabelInject:
				warn("%s is an annotation of the pod, but only counts as a label", key)
			default:
				unknown("the pod's annotation", key, Annotations())
			}
		}
		for _, key := range ourKeys(m.Labels) {
			switch {
			case key == LabelInject:
			case key == LabelMode:
				if v := m.Labels[key]; v != string(a.mode) {
					warn("the pod's label %s is %s and is overwritten; the annotation %s chooses the mode", key, quote(v), AnnotationMode)
				}
			case slices.Contains(Annotations(), key):
				warn("%s is a label of the pod, but only counts as an annotation", key)
			default:
				unknown("the pod's label", key, []string{LabelInject})
			}
		}
	}
	slices.Sort(warnings)
	return warnings
}
