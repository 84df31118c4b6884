// Package document reads a YAML document strictly and node by node, for those
// who want to say everything that is wrong with it at once, with file and line.
//
// It decodes nothing: what keys there are and what their values mean is the
// caller's business. JSON is YAML and read too.
//
// Invariant: no text makes it panic or loop, and each key of a mapping is
// yielded once.
//
//	r := document.Reader{File: "policy.yaml"}
//	if root := r.Root(content); root != nil {
//		for key, value := range r.Entries("", root) {
//			r.Fault(key, "unknown key %s", key.Value)
//		}
//	}
//	err := r.Err()
package document

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Reader reads one file. The zero value but for File is ready. It is used by one goroutine.
type Reader struct {
	// File is the file's name, for errors.
	File string
	// Of is what the file is, such as "a policy", for keys that are none of it.
	Of string

	faults    []fault
	warnings  []Warning
	mentioned []Mention
}

// Mention is another file that a file names.
type Mention struct {
	File string
	Line int
	Key  string
	Path string // of the other file
}

// Warning is something in a file that was accepted and has no effect.
type Warning struct {
	File string
	Line int
	Text string
}

// String prints w as an error is printed: file:line: text.
func (w Warning) String() string { return fmt.Sprintf("%s:%d: %s", w.File, w.Line, w.Text) }

type fault struct {
	line int // 0: of the file as a whole
	err  error
}

// Root parses content and returns the node of its document, nil if it is empty
// or no YAML. A second document is a fault.
func (r *Reader) Root(content []byte) *yaml.Node {
	var document, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		r.faults = append(r.faults, fault{err: fmt.Errorf("%s: %w", r.File, err)})
		return nil
	}
	if err := decoder.Decode(&second); err == nil {
		r.Fault(&second, "a second document begins, there must be one")
	} else if !errors.Is(err, io.EOF) {
		r.faults = append(r.faults, fault{err: fmt.Errorf("%s: %w", r.File, err)})
	}
	if len(document.Content) == 0 {
		return nil
	}
	return Resolve(document.Content[0])
}

// Resolve returns the node that an alias stands for, and any other node itself.
func Resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// At gives err the file and the line of n.
func (r *Reader) At(n *yaml.Node, err error) error {
	return fmt.Errorf("%s:%d: %w", r.File, n.Line, err)
}

// Fault notes what is wrong at n.
func (r *Reader) Fault(n *yaml.Node, format string, args ...any) {
	r.faults = append(r.faults, fault{line: n.Line, err: r.At(n, fmt.Errorf(format, args...))})
}

// Warn notes what has no effect at n, and why.
func (r *Reader) Warn(n *yaml.Node, format string, args ...any) {
	r.warnings = append(r.warnings, Warning{File: r.File, Line: n.Line, Text: fmt.Sprintf(format, args...)})
}

// Warnings returns what has no effect, by line.
func (r *Reader) Warnings() []Warning {
	warnings := slices.Clone(r.warnings)
	slices.SortStableFunc(warnings, func(a, b Warning) int { return cmp.Compare(a.Line, b.Line) })
	return warnings
}

// Mention notes that n, the value of key, is the path of a file that must be
// there once the program runs.
func (r *Reader) Mention(n *yaml.Node, key string) {
	r.mentioned = append(r.mentioned, Mention{File: r.File, Line: n.Line, Key: key, Path: n.Value})
}

// Mentioned returns the files that the file names, in the order of Mention.
func (r *Reader) Mentioned() []Mention { return slices.Clone(r.mentioned) }

// Unknown notes that key, whose path is at, is none of those known.
func (r *Reader) Unknown(key *yaml.Node, at string, known []string) {
	of, hint := r.Of, ""
	if of == "" {
		of = "this file"
	}
	if near := Nearest(key.Value, known); near != "" {
		hint = "; did you mean " + near + "?"
	}
	r.Fault(key, "%s is not a key of %s%s", at, of, hint)
}

// Faults returns how many there are so far.
func (r *Reader) Faults() int { return len(r.faults) }

// Errors returns what is wrong, by line.
func (r *Reader) Errors() []error {
	faults := slices.Clone(r.faults)
	slices.SortStableFunc(faults, func(a, b fault) int { return cmp.Compare(a.line, b.line) })
	errs := make([]error, 0, len(faults))
	for _, f := range faults {
		errs = append(errs, f.err)
	}
	return errs
}

// Err joins Errors; it is nil if there are none.
func (r *Reader) Err() error { return errors.Join(r.Errors()...) }

// Entries yields the keys and values of the mapping n, aliases resolved. Keys
// that come twice or are no text are faults and not yielded; so is a node that is
// no mapping. A mapping without a value (`key:`) has no entries. path is the
// mapping's key, empty for the document.
func (r *Reader) Entries(path string, n *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(key, value *yaml.Node) bool) {
		if n.Tag == "!!null" {
			return
		}
		if n.Kind != yaml.MappingNode {
			r.Fault(n, "%sit must hold keys and values", label(path))
			return
		}
		first := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], Resolve(n.Content[i+1])
			if key.Kind != yaml.ScalarNode {
				r.Fault(key, "%sa key must be plain text", label(path))
				continue
			}
			if line, ok := first[key.Value]; ok {
				r.Fault(key, "%s is set twice, first in line %d", Join(path, key.Value), line)
				continue
			}
			first[key.Value] = key.Line
			if !yield(key, value) {
				return
			}
		}
	}
}

// Join returns the path of a key below the path of its mapping.
func Join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func label(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}

// Nearest returns the word of known that word most likely stands for, or "" if
// none is near: within two slips of the pen, or one for each three letters of a
// short word; case, hyphens and underscores do not count. If none is, it is the
// longest of four letters or more that word has whole, as baseDtab has dtab.
func Nearest(word string, known []string) string {
	fold := func(s string) string { return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s)) }
	const far = 3
	w := fold(word)
	if len(w) > 64 {
		return ""
	}
	best, nearest := min(far, 1+len(w)/3), ""
	for _, k := range known {
		if d := distance(w, fold(k)); d < best {
			best, nearest = d, k
		}
	}
	if nearest != "" {
		return nearest
	}
	parts, longest := split(word), 3
	for _, k := range known {
		if n := len(fold(k)); n > longest && strings.Contains(parts, split(k)) {
			longest, nearest = n, k
		}
	}
	return nearest
}

// split returns the words that s is made of in lower case, each between spaces, so
// that transport does not have port.
func split(s string) string {
	var b strings.Builder
	lower := false
	for _, c := range s {
		letter := unicode.IsLetter(c) || unicode.IsDigit(c)
		if !letter || lower && unicode.IsUpper(c) {
			b.WriteByte(' ')
		}
		if lower = letter && !unicode.IsUpper(c); letter {
			b.WriteRune(unicode.ToLower(c))
		}
	}
	return " " + b.String() + " "
}

// distance counts insertions, deletions and replacements of bytes, and swaps of
// two neighbours, none of which is touched again (optimal string alignment).
func distance(a, b string) int {
	before, row, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next[0] = i + 1
		for j := range len(b) {
			replace := row[j]
			if a[i] != b[j] {
				replace++
			}
			next[j+1] = min(replace, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(b)]
}
