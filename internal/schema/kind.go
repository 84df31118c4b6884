package schema

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
)

// Kind is one kind of a T.
type Kind[T any] struct {
	Name     string
	Base     T // without the required ones
	Fields   []Field[T]
	Required []string
	Check    func(*T) error
	Idle     string // why this kind is read as another or has no effect, empty if it has
	// Experimental kinds need experimental: true beside them, as in Linkerd 1.x.
	Experimental bool
}

// Kinds are all kinds of a T.
type Kinds[T any] struct {
	// Unset is the kind that holds without the key, as documented; "required" if there must be one.
	Unset string
	// NameOf returns the kind of a T.
	NameOf func(T) string
	// Foreign are kinds that are none of ours, by the beginning of their name, and why.
	Foreign map[string]string
	Kinds   []Kind[T]
}

// Kinded is a field that is a mapping with a kind, which says what else is in it.
// The parameters are the fields of Kinds.
func Kinded[P, T any](key, unset string, at func(*P) *T, nameOf func(T) string, foreign map[string]string, all ...Kind[T]) Field[P] {
	kinds := Kinds[T]{unset, nameOf, foreign, all}
	return Field[P]{
		Key: key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*P) {
			t, ok := kinds.Read(r, path, n)
			if !ok {
				return nil
			}
			return func(p *P) { *at(p) = t }
		},
		Show:   func(p P) any { return kinds.show(*at(&p)) },
		Leaves: kinds.Leaves,
	}
}

// Read reads the mapping n, whose key is path. It is false if anything was wrong.
func (ks Kinds[T]) Read(r *document.Reader, path string, n *yaml.Node) (t T, ok bool) {
	named := Child(n, "kind")
	if named == nil {
		if faultMerge(r, path, n) {
			return t, false
		}
		if n.Tag == "!!null" && ks.Unset == "required" {
			r.Fault(n, "%s: it has no value, and must have a kind, allowed: %s", path, strings.Join(ks.names(), ", "))
		} else if n.Kind == yaml.MappingNode {
			r.Fault(n, "%s.kind is not set, allowed: %s", path, strings.Join(ks.names(), ", "))
		} else {
			Read[T](r, path, n, nil, nil) // which says that it is no mapping
		}
		return t, false
	}
	k := ks.find(named.Value)
	if k == nil {
		r.Fault(named, "%s.kind: %s", path, UnknownKind(named.Value, ks.names(), ks.Foreign))
		return t, false
	}
	owners := map[string][]string{}
	for _, other := range ks.Kinds {
		for _, f := range other.Fields {
			owners[f.Key] = append(owners[f.Key], other.Name)
		}
	}
	elsewhere := map[string]string{}
	for key, names := range owners {
		of := names[len(names)-1]
		if len(names) > 1 {
			of = strings.Join(names[:len(names)-1], ", ") + " or " + of
		}
		elsewhere[key] = fmt.Sprintf("it is of kind %s, and this is %s", of, k.Name)
	}
	var experimental struct{ is bool }
	fields := append([]Field[T]{
		Marker[T]("kind", nil),
		Marker[T]("experimental", func(r *document.Reader, path string, n *yaml.Node) {
			f := Flag("", false, func(e *struct{ is bool }) *bool { return &e.is })
			if set := f.Read(r, path, n); set != nil {
				set(&experimental)
			}
		}),
	}, k.Fields...)
	sets, ok := Read(r, path, n, fields, elsewhere)
	ok = require(r, path, n, k.Required, k.Name) && ok
	if k.Experimental && !experimental.is {
		r.Fault(named, "%s.kind: %s is experimental and must be enabled: experimental: true", path, k.Name)
		ok = false
	}
	t = Apply(k.Base, sets)
	if !ok || !checked(r, path, n, &t, k.Check) {
		return t, false
	}
	if k.Idle != "" {
		r.Warn(named, "%s.kind %s has no effect: %s", path, k.Name, k.Idle)
	}
	return t, true
}

func (ks Kinds[T]) names() []string {
	var names []string
	for _, k := range ks.Kinds {
		names = append(names, k.Name)
	}
	return names
}

func (ks Kinds[T]) find(name string) *Kind[T] {
	i := slices.IndexFunc(ks.Kinds, func(k Kind[T]) bool { return k.Name == name })
	if i < 0 {
		return nil
	}
	return &ks.Kinds[i]
}

func (ks Kinds[T]) show(t T) any {
	k := ks.find(ks.NameOf(t))
	if k == nil {
		return nil
	}
	words := Show(t, k.Fields)
	words["kind"] = k.Name
	return words
}

// Leaves lists the kind and the keys of all kinds below path, each once.
func (ks Kinds[T]) Leaves(path string) []Leaf {
	all := []Leaf{{path + ".kind", ks.Unset}}
	for _, k := range ks.Kinds {
		for _, l := range Leaves(path, k.Fields) {
			if !slices.ContainsFunc(all, func(a Leaf) bool { return a.Path == l.Path }) {
				all = append(all, l.required(path, k.Required))
			}
		}
	}
	return all
}

// UnknownKind says that name is no kind, and what may have been meant. foreign is
// as Kinds.Foreign.
func UnknownKind(name string, known []string, foreign map[string]string) string {
	longest := ""
	for prefix := range foreign {
		if strings.HasPrefix(name, prefix) && len(prefix) > len(longest) {
			longest = prefix
		}
	}
	if longest != "" {
		return fmt.Sprintf("%s is not here: %s", name, foreign[longest])
	}
	hint := "."
	if near := document.Nearest(name, known); near != "" {
		hint = "; did you mean " + near + "?"
	}
	return fmt.Sprintf("%q is none%s Allowed: %s", name, hint, strings.Join(known, ", "))
}
