package webhook

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/document"
)

// As is what a key can be, and count as.
type As string

// The two of them.
const (
	AsLabel      As = "label"
	AsAnnotation As = "annotation"
)

// One is "a label" or "an annotation".
func (a As) One() string {
	if a == AsAnnotation {
		return "an annotation"
	}
	return "a label"
}

// Stray is a key that somebody wrote for Tulle and that has no effect where it is.
type Stray struct {
	Key, Value string
	// As is what it is: AsLabel or AsAnnotation.
	As As
	// Meant is the key that it is, or that it most likely stands for; empty if there is none.
	Meant string
	// Counts is as what Meant counts: AsLabel or AsAnnotation. Without Meant it is As.
	Counts As
}

// Known reports whether it is a key of Tulle, so that only its place is wrong.
func (s Stray) Known() bool { return s.Key == s.Meant }

// NamespaceStrays returns the strays of a namespace: labels first, each kind sorted, and of each no more than anybody
// wants to read. So do the other functions.
func NamespaceStrays(labels, annotations map[string]string) []Stray {
	return strays(labels, annotations, []string{LabelInject, LabelMode}, nil, func(as As, key string) bool {
		return as == AsLabel && (key == LabelInject || key == LabelMode)
	})
}

// PodStrays returns the strays of a pod or of a pod template. What the injector writes is none.
func PodStrays(labels, annotations map[string]string) []Stray {
	return strays(labels, annotations, []string{LabelInject}, Annotations(), func(as As, key string) bool {
		if as == AsLabel {
			return key == LabelInject || key == LabelMode
		}
		return key == AnnotationStatus || slices.Contains(Annotations(), key)
	})
}

// WorkloadStrays returns the strays of an object with a pod template. No key has an effect there: they count in the
// template.
func WorkloadStrays(labels, annotations map[string]string) []Stray {
	return strays(labels, annotations, []string{LabelInject}, Annotations(), func(As, string) bool { return false })
}

// strays returns the keys of ours that are not right. The known ones count as labels or as annotations.
func strays(labels, annotations map[string]string, asLabel, asAnnotation []string, right func(as As, key string) bool) []Stray {
	var all []Stray
	for _, as := range []As{AsLabel, AsAnnotation} {
		keys, here, there := labels, asLabel, asAnnotation
		if as == AsAnnotation {
			keys, here, there = annotations, asAnnotation, asLabel
		}
		for _, key := range ourKeys(keys) {
			if right(as, key) {
				continue
			}
			s := Stray{Key: key, Value: keys[key], As: as, Counts: as}
			s.Meant = meant(key, here)
			if other := meant(key, there); other != "" && (s.Meant == "" || other == key) {
				s.Meant, s.Counts = other, AsLabel
				if as == AsLabel {
					s.Counts = AsAnnotation
				}
			}
			all = append(all, s)
		}
	}
	return all
}

// ourKeys returns the keys of m that are meant for us, sorted: those under tulle.dev/, and such as tulle.io/inject.
func ourKeys(m map[string]string) []string {
	ours := func(key string) bool {
		domain, word, ok := strings.Cut(key, "/")
		if !ok || domain != "tulle" && !strings.HasPrefix(domain, "tulle.") {
			return false
		}
		known := keyPrefix + word
		return key == known || known == LabelInject || slices.Contains(Annotations(), known)
	}
	var keys []string
	for key := range m {
		if ours(key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	const most = 50
	return keys[:min(len(keys), most)]
}

// meant returns the one of the known keys that key is or most likely stands for; empty if it stands for none.
func meant(key string, known []string) string {
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = strings.TrimPrefix(k, keyPrefix)
	}
	_, word, _ := strings.Cut(key, "/")
	near := document.Nearest(word, names)
	if i := slices.IndexFunc(names, func(k string) bool { return strings.HasPrefix(k, word+"-") }); near == "" && i >= 0 {
		near = names[i] // the beginning of a key
	}
	if near == "" {
		return ""
	}
	return keyPrefix + near
}

// OtherMesh returns the mesh that goes by a key, empty if none of those that are known does, and whether the value
// asks for its proxy.
func OtherMesh(key, value string) (mesh string, asks bool) {
	off := ""
	switch key {
	case "istio-injection":
		mesh, off = "Istio", "disabled"
	case "istio.io/rev":
		return "Istio", true
	case "istio.io/dataplane-mode":
		mesh, off = "Istio", "none"
	case "sidecar.istio.io/inject":
		mesh, off = "Istio", "false"
	case "linkerd.io/inject":
		mesh, off = "Linkerd", "disabled"
	case "kuma.io/sidecar-injection":
		mesh, off = "Kuma", "disabled"
	case "consul.hashicorp.com/connect-inject":
		mesh, off = "Consul", "false"
	default:
		return "", false
	}
	return mesh, value != off
}
