package inject

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/webhook"
	"github.com/tulle-mesh/tulle/webhook/workload"
)

// foreign are keys by which other meshes are asked to inject.
var foreign = map[string]string{
	"istio-injection": "Istio", "istio.io/rev": "Istio", "sidecar.istio.io/inject": "Istio", "linkerd.io/inject": "Linkerd", "istio.io/dataplane-mode": "Istio",
	"kuma.io/sidecar-injection": "Kuma", "consul.hashicorp.com/connect-inject": "Consul",
}

// lint finds keys that somebody wrote for us, or for another mesh, and that have no effect where they are.
func lint(t workload.Template, ns webhook.Namespace, labels, annotations map[string]string, warnings []string) (hints []string) {
	object := strings.ToLower(t.Kind) + "/" + t.Name
	look := func(keys map[string]string, place, kind string, known []string, advice func(key string) string) {
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			if mesh, ok := foreign[key]; ok {
				hints = append(hints, fmt.Sprintf("the %s %s of %s is for %s; Tulle goes by the label %s", kind, key, place, mesh, webhook.LabelInject))
				continue
			}
			if slices.Contains(known, key) || slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, key) }) {
				continue
			}
			if s := advice(key); s != "" {
				hints = append(hints, fmt.Sprintf("the %s %s of %s %s", kind, key, place, s))
			}
		}
	}
	// meant returns what a key that is not known here is probably meant to be.
	meant := func(known []string) func(string) string {
		return func(key string) string {
			if !strings.Contains(key, "tulle") || strings.HasPrefix(key, "kubernetes.io/") {
				return ""
			}
			if near := nearest(key, known); near != "" {
				return fmt.Sprintf("means nothing; is %s meant?", near)
			}
			if strings.HasPrefix(key, "tulle.dev/") {
				return "means nothing there; known are " + strings.Join(known, ", ")
			}
			return ""
		}
	}
	namespaceKeys := []string{webhook.LabelInject, webhook.LabelMode}
	place := "namespace " + ns.Name
	look(ns.Labels, place, "label", namespaceKeys, meant(namespaceKeys))
	look(ns.Annotations, place, "annotation", nil, func(key string) string {
		if slices.Contains(namespaceKeys, key) {
			return "means nothing: it must be a label"
		}
		return meant(namespaceKeys)(key)
	})

	where := "the pod"
	if t.Path != "" {
		where = "the pod template"
		misplaced := func(key string) string {
			if strings.HasPrefix(key, "tulle.dev/") {
				return fmt.Sprintf("means nothing there: write it at %s.metadata", t.Path)
			}
			return ""
		}
		look(t.Labels, object, "label", nil, misplaced)
		look(t.Annotations, object, "annotation", nil, misplaced)
	}
	podLabels := []string{webhook.LabelInject, webhook.LabelMode}
	look(labels, where, "label", podLabels, func(key string) string {
		if slices.Contains(webhook.Annotations(), key) {
			return "means nothing: it must be an annotation"
		}
		return meant(podLabels)(key)
	})
	look(annotations, where, "annotation", append(webhook.Annotations(), webhook.AnnotationStatus), func(key string) string {
		if key == webhook.LabelInject {
			return "means nothing: it must be a label"
		}
		return meant(webhook.Annotations())(key)
	})
	return hints
}

// nearest returns the known key that is at most three edits away, with or without its prefix; empty if none is.
func nearest(key string, known []string) string {
	best, least := "", 4
	for _, k := range known {
		if d := distance(key, k); d < least {
			best, least = k, d
		}
		_, a, _ := strings.Cut(key, "/")
		_, b, _ := strings.Cut(k, "/")
		if d := distance(a, b); a != "" && d < least && d <= 2 {
			best, least = k, d
		}
	}
	return best
}

// distance is that of Levenshtein.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
