package inject

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/workload"
)

// lint finds keys that somebody wrote for us, or for another mesh, and that have no effect where they are. Those of
// namespace and pod that the injector warns of are left out.
func lint(t workload.Template, ns webhook.Namespace, labels, annotations map[string]string, warnings []string) (hints []string) {
	look := func(place string, warnings []string, labels, annotations map[string]string, strays []webhook.Stray, advice func(webhook.Stray) string) {
		for _, kind := range []struct {
			as   webhook.As
			keys map[string]string
		}{{webhook.AsLabel, labels}, {webhook.AsAnnotation, annotations}} {
			for _, key := range slices.Sorted(maps.Keys(kind.keys)) {
				if mesh, _ := webhook.OtherMesh(key, ""); mesh != "" {
					hints = append(hints, fmt.Sprintf("the %s %s of %s is for %s; Tulle goes by the label %s", kind.as, key, place, mesh, webhook.LabelInject))
				}
			}
		}
		for _, s := range strays {
			warned := func(w string) bool {
				return strings.HasPrefix(w, fmt.Sprintf("%s is %s of ", s.Key, s.As.One())) || strings.HasPrefix(w, fmt.Sprintf("the %s %s of ", s.As, s.Key))
			}
			if !slices.ContainsFunc(warnings, warned) {
				hints = append(hints, fmt.Sprintf("the %s %s of %s means nothing%s", s.As, s.Key, place, advice(s)))
			}
		}
	}
	meant := func(s webhook.Stray) string {
		switch {
		case s.Known():
			return ": it must be " + s.Counts.One()
		case s.Meant == "":
			return "; docs/injection.md has the keys that do"
		case s.Counts != s.As:
			return fmt.Sprintf("; is the %s %s meant?", s.Counts, s.Meant)
		}
		return fmt.Sprintf("; is %s meant?", s.Meant)
	}
	look("namespace "+ns.Name, warnings, ns.Labels, ns.Annotations, webhook.NamespaceStrays(ns.Labels, ns.Annotations), meant)
	where := "the pod"
	if t.Path != "" {
		where = "the pod template"
		look(t.Ref(), nil, t.Labels, t.Annotations, webhook.WorkloadStrays(t.Labels, t.Annotations), func(s webhook.Stray) string {
			if s.Known() {
				return fmt.Sprintf(" there: write it at %s.metadata", t.Path)
			}
			return meant(s)
		})
	}
	look(where, warnings, labels, annotations, webhook.PodStrays(labels, annotations), meant)
	return hints
}
