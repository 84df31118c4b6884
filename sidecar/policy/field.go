package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
)

// decoder reads the nodes of one file.
type decoder struct {
	document.Reader
}

// field is one key of a mapping that stands for a T, both ways: read returns
// what the key's value does to a T, nil if it is wrong; show returns the value
// that a T has, in the words of a file, nil if none is set.
type field[T any] struct {
	key    string
	read   func(d *decoder, path string, n *yaml.Node) func(*T)
	show   func(T) any
	leaves func(path string) []Leaf
}

// setting is what a key of a file does to a T.
type setting[T any] struct {
	key string
	set func(*T)
}

// marker is a key that its mapping reads by itself.
func marker[T any](key string, read func(d *decoder, path string, n *yaml.Node)) field[T] {
	return field[T]{
		key: key,
		read: func(d *decoder, path string, n *yaml.Node) func(*T) {
			if read != nil {
				read(d, path, n)
			}
			return nil
		},
	}
}

// Leaf is a key that a file may have, with all keys around it.
type Leaf struct {
	Path    string // such as client.loadBalancer.decayTimeMs
	Default string // "none" if there is none, "required" if it must be given
}

func leaf(path string, value any) []Leaf {
	if value == nil {
		return []Leaf{{path, "none"}}
	}
	return []Leaf{{path, fmt.Sprint(value)}}
}

// scalar is a field with a single value.
func scalar[T, V any](key string, unset V, at func(*T) *V, read func(*yaml.Node) (V, error), show func(V) any) field[T] {
	return field[T]{
		key: key,
		read: func(d *decoder, path string, n *yaml.Node) func(*T) {
			v, err := readScalar(n, read)
			if err != nil {
				d.Fault(n, "%s: %w", path, err)
				return nil
			}
			return func(t *T) { *at(t) = v }
		},
		show:   func(t T) any { return show(*at(&t)) },
		leaves: func(path string) []Leaf { return leaf(path, show(unset)) },
	}
}

func readScalar[V any](n *yaml.Node, read func(*yaml.Node) (V, error)) (v V, err error) {
	switch {
	case n.Kind != yaml.ScalarNode:
		return v, errors.New("it must be a single value")
	case n.Tag == "!!null":
		return v, errors.New("it has no value; leave it out for the default")
	}
	return read(n)
}

// integer is a whole number times unit, from lo to hi; less than lo stands for
// none and is not shown.
func integer[T any, V ~int | ~int64](key string, unit V, lo, hi int64, unset V, at func(*T) *V) field[T] {
	return scalar(key, unset, at, func(n *yaml.Node) (V, error) {
		var i int64
		if n.Tag != "!!int" {
			return 0, fmt.Errorf("%s is not a whole number", quote(n))
		}
		if n.Decode(&i) != nil || i < lo || i > hi {
			return 0, fmt.Errorf("%s is out of range: %d to %d", n.Value, lo, hi)
		}
		return V(i) * unit, nil
	}, func(v V) any {
		if i := int64(v / unit); i >= lo {
			return i
		}
		return nil
	})
}

// number is any number from lo to hi.
func number[T any](key string, lo, hi, unset float64, at func(*T) *float64) field[T] {
	return scalar(key, unset, at, func(n *yaml.Node) (f float64, err error) {
		if n.Tag != "!!int" && n.Tag != "!!float" || n.Decode(&f) != nil {
			return 0, fmt.Errorf("%s is not a number", quote(n))
		}
		if !(lo <= f && f <= hi) || math.IsInf(f, 0) {
			return 0, fmt.Errorf("%s is out of range: %v to %v", n.Value, lo, hi)
		}
		return f, nil
	}, func(f float64) any { return f })
}

// maxTime is the longest time that can be asked for, thirty days.
const maxTime = 30 * 24 * time.Hour

// millis is a time in milliseconds, 1 or more.
func millis[T any](key string, unset time.Duration, at func(*T) *time.Duration) field[T] {
	return integer(key, time.Millisecond, 1, int64(maxTime/time.Millisecond), unset, at)
}

func flag[T any](key string, unset bool, at func(*T) *bool) field[T] {
	return scalar(key, unset, at, func(n *yaml.Node) (b bool, err error) {
		if n.Tag != "!!bool" || n.Decode(&b) != nil {
			return false, fmt.Errorf("%s is not true or false", quote(n))
		}
		return b, nil
	}, func(b bool) any { return b })
}

// text is a string, as read makes it; without one there is none.
func text[T any](key string, at func(*T) *string, read func(string) (string, error)) field[T] {
	return scalar(key, "", at, func(n *yaml.Node) (string, error) {
		if n.Tag != "!!str" {
			return "", fmt.Errorf("%s is not text", n.Value)
		}
		return read(n.Value)
	}, func(s string) any {
		if s == "" {
			return nil
		}
		return s
	})
}

func quote(n *yaml.Node) string {
	if n.Tag == "!!str" {
		return fmt.Sprintf("%q", n.Value)
	}
	return n.Value
}

// idle is a field that is read and has no effect, and why.
func idle[T any](f field[T], why string) field[T] {
	return field[T]{
		key: f.key,
		read: func(d *decoder, path string, n *yaml.Node) func(*T) {
			if set := f.read(d, path, n); set != nil {
				d.Warn(n, "%s has no effect: %s", path, why)
			}
			return nil
		},
		show:   func(T) any { return nil },
		leaves: func(path string) []Leaf { return []Leaf{{path, "no effect"}} },
	}
}

// object is a field that is a mapping, read onto base as a whole. check may end
// what is read, and says what is wrong with it.
func object[P, T any](key string, base T, at func(*P) *T, check func(*T) error, fields ...field[T]) field[P] {
	return field[P]{
		key: key,
		read: func(d *decoder, path string, n *yaml.Node) func(*P) {
			sets, ok := readFields(d, path, n, fields, nil)
			t := apply(base, sets)
			if !ok || !checked(d, path, n, &t, check) {
				return nil
			}
			return func(p *P) { *at(p) = t }
		},
		show: func(p P) any {
			if words := show(*at(&p), fields); len(words) > 0 {
				return words
			}
			return nil
		},
		leaves: func(path string) []Leaf { return leaves(path, fields) },
	}
}

func checked[T any](d *decoder, path string, n *yaml.Node, t *T, check func(*T) error) bool {
	if check == nil {
		return true
	}
	if err := check(t); err != nil {
		d.Fault(n, "%s: %w", path, err)
		return false
	}
	return true
}

func apply[T any](value T, settings []setting[T]) T {
	for _, s := range settings {
		s.set(&value)
	}
	return value
}

func show[T any](t T, fields []field[T]) map[string]any {
	words := map[string]any{}
	for _, f := range fields {
		if v := f.show(t); v != nil {
			words[f.key] = v
		}
	}
	return words
}

func leaves[T any](path string, fields []field[T]) []Leaf {
	var all []Leaf
	for _, f := range fields {
		all = append(all, f.leaves(document.Join(path, f.key))...)
	}
	return all
}

// kind is one kind of a T.
type kind[T any] struct {
	name     string
	base     T // without the required ones
	fields   []field[T]
	required []string
	check    func(*T) error
	idle     string // why this kind is read as another, empty if it is not
}

// kinded is a field that is a mapping with a kind, which says what else is in
// it. nameOf returns the kind of a T. foreign are the kinds of Linkerd 1.x that
// are none of ours, by the beginning of their name, and why.
func kinded[P, T any](key string, unset string, at func(*P) *T, nameOf func(T) string, foreign map[string]string, kinds ...kind[T]) field[P] {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	find := func(name string) *kind[T] {
		if i := slices.Index(names, name); i >= 0 {
			return &kinds[i]
		}
		return nil
	}
	return field[P]{
		key: key,
		read: func(d *decoder, path string, n *yaml.Node) func(*P) {
			named := child(n, "kind")
			if named == nil && n.Kind == yaml.MappingNode {
				d.Fault(n, "%s.kind is not set, allowed: %s", path, strings.Join(names, ", "))
				return nil
			}
			var k *kind[T]
			if named != nil {
				if k = find(named.Value); k == nil {
					d.Fault(named, "%s.kind: %s", path, unknownKind(named, names, foreign))
					return nil
				}
			}
			if k == nil { // no mapping at all
				readFields[T](d, path, n, nil, nil)
				return nil
			}
			elsewhere := map[string]string{}
			for _, other := range kinds {
				for _, f := range other.fields {
					elsewhere[f.key] = fmt.Sprintf("it is of kind %s, and this is %s", other.name, k.name)
				}
			}
			sets, ok := readFields(d, path, n, append([]field[T]{marker[T]("kind", nil)}, k.fields...), elsewhere)
			for _, key := range k.required {
				if child(n, key) == nil {
					d.Fault(n, "%s.%s is not set, which kind %s needs", path, key, k.name)
					ok = false
				}
			}
			t := apply(k.base, sets)
			if !ok || !checked(d, path, n, &t, k.check) {
				return nil
			}
			if k.idle != "" {
				d.Warn(named, "%s.kind %s has no effect: %s", path, k.name, k.idle)
			}
			return func(p *P) { *at(p) = t }
		},
		show: func(p P) any {
			t := *at(&p)
			k := find(nameOf(t))
			if k == nil {
				return nil
			}
			words := show(t, k.fields)
			words["kind"] = k.name
			return words
		},
		leaves: func(path string) []Leaf {
			all := []Leaf{{path + ".kind", unset}}
			for _, k := range kinds {
				for _, l := range leaves(path, k.fields) {
					i := slices.IndexFunc(all, func(a Leaf) bool { return a.Path == l.Path })
					if slices.Contains(k.required, strings.TrimPrefix(l.Path, path+".")) {
						l.Default = "required"
					}
					if i < 0 {
						all = append(all, l)
					}
				}
			}
			return all
		},
	}
}

func unknownKind(n *yaml.Node, names []string, foreign map[string]string) string {
	for prefix, why := range foreign {
		if strings.HasPrefix(n.Value, prefix) {
			return fmt.Sprintf("%s is not here: %s", n.Value, why)
		}
	}
	hint := ""
	if near := document.Nearest(n.Value, names); near != "" {
		hint = "; did you mean " + near + "?"
	}
	return fmt.Sprintf("%q is none%s Allowed: %s", n.Value, strings.Replace(hint+".", "?.", "?", 1), strings.Join(names, ", "))
}

// child returns the value of a key of a mapping, nil if there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == key {
			return document.Resolve(n.Content[i+1])
		}
	}
	return nil
}

// readFields reads the mapping n. It is false if anything was wrong; elsewhere
// are keys that are none here, and why.
func readFields[T any](d *decoder, path string, n *yaml.Node, fields []field[T], elsewhere map[string]string) (settings []setting[T], ok bool) {
	before := d.Faults()
	if n.Tag == "!!null" {
		d.Fault(n, "%s: it has no value; leave it out for the default", path)
	}
	for key, value := range d.Entries(path, n) {
		at := document.Join(path, key.Value)
		i := slices.IndexFunc(fields, func(f field[T]) bool { return f.key == key.Value })
		if i < 0 {
			var known []string
			for _, f := range fields {
				known = append(known, f.key)
			}
			d.unknown(key, at, known, elsewhere)
			continue
		}
		if set := fields[i].read(d, at, value); set != nil {
			settings = append(settings, setting[T]{key.Value, set})
		}
	}
	return settings, d.Faults() == before
}

func (d *decoder) unknown(key *yaml.Node, path string, known []string, elsewhere map[string]string) {
	if why := elsewhere[key.Value]; why != "" {
		d.Fault(key, "%s is not known here: %s", path, why)
		return
	}
	hint := ""
	if near := document.Nearest(key.Value, known); near != "" {
		hint = "; did you mean " + near + "?"
	}
	d.Fault(key, "%s is not a key of a policy%s", path, hint)
}
