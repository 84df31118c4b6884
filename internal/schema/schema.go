// Package schema reads the mappings of a YAML document by tables of their keys:
// what a key's value may be, what it means, what holds without it. The same
// tables print a value in the words of a file, and list all keys for a test of
// the documentation.
//
// It knows no key by itself; package document reads the text.
//
// Invariant: every key of a mapping is read by a field of its table or is a
// fault, and nothing of a mapping with a fault is used.
//
//	fields := []schema.Field[Limits]{
//		schema.Integer("maxConnections", 1, 1, 1000, 0, func(l *Limits) *int { return &l.Connections }),
//	}
//	settings, ok := schema.Read(&reader, "limits", node, fields, nil)
//	limits := schema.Apply(Limits{}, settings)
package schema

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

// Field is one key of a mapping that stands for a T.
type Field[T any] struct {
	Key string
	// Read returns what the key's value does to a T, nil if that is nothing; what
	// is wrong it tells r. path is the key with those around it.
	Read func(r *document.Reader, path string, n *yaml.Node) func(*T)
	// Show returns the value that a T has, in the words of a file, nil if there is
	// none. A nil Show is that too.
	Show func(T) any
	// Leaves lists the key, or those in it. A nil Leaves is none.
	Leaves func(path string) []Leaf
}

// Leaf is a key that a file may have, with all keys around it.
type Leaf struct {
	Path string // such as client.loadBalancer.decayTimeMs
	// Default is its value where there is none: "none" if there is none either,
	// "required" if it must be given; or else one of the words below.
	Default string
}

// What a Leaf has for a default if its key does nothing.
const (
	NoEffect = "no effect" // it is read, and a warning says why
	Refusal  = "refused"   // it is known, and the fault says why it is one
	Later    = "later"     // what it asks for is understood and cannot be done yet
)

// Setting is what a key of a file does to a T.
type Setting[T any] struct {
	Key string
	Set func(*T)
}

// Read reads the mapping n, whose key is path. It is false if anything was wrong.
// elsewhere are keys that are none here, and why.
func Read[T any](r *document.Reader, path string, n *yaml.Node, fields []Field[T], elsewhere map[string]string) (settings []Setting[T], ok bool) {
	before := r.Faults()
	if n.Tag == "!!null" {
		r.Fault(n, "%s: it has no value; leave it out for the default", path)
	}
	faultMerge(r, path, n)
	for key, value := range r.Entries(path, n) {
		if key.Tag == mergeTag {
			continue
		}
		at := document.Join(path, key.Value)
		i := slices.IndexFunc(fields, func(f Field[T]) bool { return f.Key == key.Value })
		if i < 0 {
			if why := elsewhere[key.Value]; why != "" {
				r.Fault(key, "%s is not known here: %s", at, why)
				continue
			}
			var known []string
			for _, f := range fields {
				known = append(known, f.Key)
			}
			r.Unknown(key, at, known)
			continue
		}
		if set := fields[i].Read(r, at, value); set != nil {
			settings = append(settings, Setting[T]{key.Value, set})
		}
	}
	return settings, r.Faults() == before
}

// mergeTag is that of the key << of YAML.
const mergeTag = "!!merge"

// mergeKey returns the first merge key of a mapping, nil if there is none: what it would bring in is not read.
func mergeKey(n *yaml.Node) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag == mergeTag {
			return n.Content[i]
		}
	}
	return nil
}

// faultMerge notes a merge key, if there is one.
func faultMerge(r *document.Reader, path string, n *yaml.Node) bool {
	key := mergeKey(n)
	if key == nil {
		return false
	}
	if path != "" {
		path += ": "
	}
	r.Fault(key, "%smerge keys (<<) are not taken: write the keys themselves, or an alias for the whole value", path)
	return true
}

// Apply returns value after all settings.
func Apply[T any](value T, settings []Setting[T]) T {
	for _, s := range settings {
		s.Set(&value)
	}
	return value
}

// Show prints t in the words of a file.
func Show[T any](t T, fields []Field[T]) map[string]any {
	words := map[string]any{}
	for _, f := range fields {
		if f.Show == nil {
			continue
		}
		if v := f.Show(t); v != nil {
			words[f.Key] = v
		}
	}
	return words
}

// Leaves lists the keys of fields below path.
func Leaves[T any](path string, fields []Field[T]) []Leaf {
	var all []Leaf
	for _, f := range fields {
		if f.Leaves != nil {
			all = append(all, f.Leaves(document.Join(path, f.Key))...)
		}
	}
	return all
}

// Child returns the value of a key of a mapping, nil if there is none.
func Child(n *yaml.Node, key string) *yaml.Node {
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

// Items returns the items of the list n, whose key is path. what says of what it
// must be a list.
func Items(r *document.Reader, path string, n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		r.Fault(n, "%s: it must be a list of %s", path, what)
		return nil
	}
	items := make([]*yaml.Node, 0, len(n.Content))
	for _, item := range n.Content {
		items = append(items, document.Resolve(item))
	}
	return items
}

// Lift makes a field of a T one of a P, which has a T at at.
func Lift[P, T any](f Field[T], at func(*P) *T) Field[P] {
	lifted := Field[P]{
		Key: f.Key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*P) {
			set := f.Read(r, path, n)
			if set == nil {
				return nil
			}
			return func(p *P) { set(at(p)) }
		},
		Leaves: f.Leaves,
	}
	if f.Show != nil {
		lifted.Show = func(p P) any { return f.Show(*at(&p)) }
	}
	return lifted
}

// Marker is a key that its mapping reads by itself.
func Marker[T any](key string, read func(r *document.Reader, path string, n *yaml.Node)) Field[T] {
	return Field[T]{
		Key: key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*T) {
			if read != nil {
				read(r, path, n)
			}
			return nil
		},
	}
}

// Idle is f, read and without effect, and why.
func Idle[T any](f Field[T], why string) Field[T] {
	return IdleUnless(f, why, func(*yaml.Node) bool { return false })
}

// IdleUnless is Idle without a warning for values that ask for what is so anyway.
func IdleUnless[T any](f Field[T], why string, so func(n *yaml.Node) bool) Field[T] {
	return Field[T]{
		Key: f.Key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*T) {
			if set := f.Read(r, path, n); set != nil && !so(n) {
				r.Warn(n, "%s has no effect: %s", path, why)
			}
			return nil
		},
		Leaves: func(path string) []Leaf { return []Leaf{{path, NoEffect}} },
	}
}

// Deferred is f, read and without effect, because what it is for is not there yet,
// as is said elsewhere.
func Deferred[T any](f Field[T]) Field[T] {
	return Field[T]{
		Key: f.Key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*T) {
			f.Read(r, path, n)
			return nil
		},
		Leaves: func(path string) []Leaf {
			all := f.Leaves(path)
			for i := range all {
				all[i].Default = Later
			}
			return all
		},
	}
}

// Refused is a key that is known and never taken, and why.
func Refused[T any](key, why string) Field[T] {
	return Field[T]{
		Key: key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*T) {
			r.Fault(n, "%s is refused: %s", path, why)
			return nil
		},
		Leaves: func(path string) []Leaf { return []Leaf{{path, Refusal}} },
	}
}

// Nowhere is where the value goes of a field that is read and not used.
func Nowhere[T, V any](*T) *V { return new(V) }

// Is returns a test for IdleUnless: whether a node is one of these values.
func Is(values ...string) func(*yaml.Node) bool {
	return func(n *yaml.Node) bool { return slices.Contains(values, n.Value) }
}

// Scalar is a field with a single value; unset is what holds without it.
func Scalar[T, V any](key string, unset V, at func(*T) *V, read func(*yaml.Node) (V, error), show func(V) any) Field[T] {
	return Field[T]{
		Key: key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*T) {
			v, err := readScalar(n, read)
			if err != nil {
				r.Fault(n, "%s: %w", path, err)
				return nil
			}
			return func(t *T) { *at(t) = v }
		},
		Show: func(t T) any { return show(*at(&t)) },
		Leaves: func(path string) []Leaf {
			if value := show(unset); value != nil {
				return []Leaf{{path, fmt.Sprint(value)}}
			}
			return []Leaf{{path, "none"}}
		},
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

// Integer is a whole number times unit, from lo to hi; less than lo stands for
// none and is not shown.
func Integer[T any, V ~int | ~int64](key string, unit V, lo, hi int64, unset V, at func(*T) *V) Field[T] {
	return Scalar(key, unset, at, func(n *yaml.Node) (V, error) {
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

// Number is any number from lo to hi.
func Number[T any](key string, lo, hi, unset float64, at func(*T) *float64) Field[T] {
	return Scalar(key, unset, at, func(n *yaml.Node) (f float64, err error) {
		if n.Tag != "!!int" && n.Tag != "!!float" || n.Decode(&f) != nil {
			return 0, fmt.Errorf("%s is not a number", quote(n))
		}
		if !(lo <= f && f <= hi) || math.IsInf(f, 0) {
			return 0, fmt.Errorf("%s is out of range: %v to %v", n.Value, lo, hi)
		}
		return f, nil
	}, func(f float64) any { return f })
}

// MaxTime is the longest time that can be asked for, thirty days.
const MaxTime = 30 * 24 * time.Hour

// Millis is a time in milliseconds, 1 or more.
func Millis[T any](key string, unset time.Duration, at func(*T) *time.Duration) Field[T] {
	return Integer(key, time.Millisecond, 1, int64(MaxTime/time.Millisecond), unset, at)
}

// Flag is true or false.
func Flag[T any](key string, unset bool, at func(*T) *bool) Field[T] {
	return Scalar(key, unset, at, func(n *yaml.Node) (b bool, err error) {
		if n.Tag != "!!bool" || n.Decode(&b) != nil {
			return false, fmt.Errorf("%s is not true or false", quote(n))
		}
		return b, nil
	}, func(b bool) any { return b })
}

// Text is a string, as read makes it, or as it is if read is nil; unset is often
// empty, which is none.
func Text[T any](key, unset string, at func(*T) *string, read func(string) (string, error)) Field[T] {
	return Scalar(key, unset, at, func(n *yaml.Node) (string, error) {
		if n.Tag != "!!str" {
			return "", notText(n)
		}
		if read == nil {
			return n.Value, nil
		}
		return read(n.Value)
	}, func(s string) any {
		if s == "" {
			return nil
		}
		return s
	})
}

func notText(n *yaml.Node) error {
	read := map[string]string{"!!int": "a number", "!!float": "a number", "!!bool": "true or false", "!!timestamp": "a date"}[n.Tag]
	if read == "" {
		return fmt.Errorf("%s is not text", n.Value)
	}
	return fmt.Errorf("%s is not text but read as %s; quotes make it text", n.Value, read)
}

// File is the path of a file that must be there once the program runs, which is
// noted in the reader.
func File[T any](key string, at func(*T) *string) Field[T] {
	f := Text(key, "", at, func(path string) (string, error) {
		if path == "" {
			return "", errors.New("it is empty, and must be the path of a file")
		}
		return path, nil
	})
	read := f.Read
	f.Read = func(r *document.Reader, path string, n *yaml.Node) func(*T) {
		set := read(r, path, n)
		if set != nil {
			r.Mention(n, path)
		}
		return set
	}
	return f
}

// Lines is a list of texts, or of paths as of File, kept as lines.
func Lines[T any](key string, files bool, at func(*T) *string) Field[T] {
	whole := func(s *string) *string { return s }
	item := Text("", "", whole, func(s string) (string, error) {
		if s == "" || strings.Contains(s, "\n") {
			return "", errors.New("it must be a line of text")
		}
		return s, nil
	})
	if files {
		item = File("", whole)
	}
	return Field[T]{
		Key: key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*T) {
			var lines []string
			before := r.Faults()
			for i, n := range Items(r, path, n, "texts") {
				if set := item.Read(r, fmt.Sprintf("%s[%d]", path, i), n); set != nil {
					var line string
					set(&line)
					lines = append(lines, line)
				}
			}
			if r.Faults() > before {
				return nil
			}
			return func(t *T) { *at(t) = strings.Join(lines, "\n") }
		},
		Show: func(t T) any {
			if text := *at(&t); text != "" {
				return strings.Split(text, "\n")
			}
			return nil
		},
		Leaves: func(path string) []Leaf { return []Leaf{{path, "none"}} },
	}
}

func quote(n *yaml.Node) string {
	if n.Tag == "!!str" {
		return fmt.Sprintf("%q", n.Value)
	}
	return n.Value
}

// Object is a field that is a mapping, read onto base as a whole. check may end
// what is read, and says what is wrong with it.
func Object[P, T any](key string, base T, at func(*P) *T, check func(*T) error, fields ...Field[T]) Field[P] {
	return Field[P]{
		Key: key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*P) {
			sets, ok := Read(r, path, n, fields, nil)
			t := Apply(base, sets)
			if !ok || !checked(r, path, n, &t, check) {
				return nil
			}
			return func(p *P) { *at(p) = t }
		},
		Show: func(p P) any {
			if words := Show(*at(&p), fields); len(words) > 0 {
				return words
			}
			return nil
		},
		Leaves: func(path string) []Leaf { return Leaves(path, fields) },
	}
}

// Group is a field that is a mapping of more fields of the same T.
func Group[T any](key string, fields ...Field[T]) Field[T] {
	return Field[T]{
		Key: key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*T) {
			sets, ok := Read(r, path, n, fields, nil)
			if !ok {
				return nil
			}
			return func(t *T) { *t = Apply(*t, sets) }
		},
		Leaves: func(path string) []Leaf { return Leaves(path, fields) },
	}
}

func checked[T any](r *document.Reader, path string, n *yaml.Node, t *T, check func(*T) error) bool {
	if check == nil {
		return true
	}
	if err := check(t); err != nil {
		r.Fault(n, "%s: %w", path, err)
		return false
	}
	return true
}

// Required is the object f in which keys must be set.
func Required[T any](f Field[T], keys ...string) Field[T] {
	read, leaves := f.Read, f.Leaves
	f.Read = func(r *document.Reader, path string, n *yaml.Node) func(*T) {
		set := read(r, path, n)
		if n.Kind == yaml.MappingNode && !require(r, path, n, keys, "") {
			return nil
		}
		return set
	}
	f.Leaves = func(path string) []Leaf {
		all := leaves(path)
		for i := range all {
			all[i] = all[i].required(path, keys)
		}
		return all
	}
	return f
}

// require notes keys of a mapping that are not set; kind, if not empty, is whose
// they are.
func require(r *document.Reader, path string, n *yaml.Node, keys []string, kind string) bool {
	ok := true
	if mergeKey(n) != nil {
		return false // which has been said
	}
	for _, key := range keys {
		if Child(n, key) != nil {
			continue
		}
		ok = false
		if kind == "" {
			r.Fault(n, "%s is not set", document.Join(path, key))
		} else {
			r.Fault(n, "%s is not set, which kind %s needs", document.Join(path, key), kind)
		}
	}
	return ok
}

// required returns l with that default if it is one of keys at path.
func (l Leaf) required(path string, keys []string) Leaf {
	if slices.Contains(keys, strings.TrimPrefix(l.Path, path+".")) {
		l.Default = "required"
	}
	return l
}
