// Package workload finds the pod templates in files of Kubernetes objects, and changes them where they stand.
//
// A file is YAML of any number of documents, or JSON. Templates are found by their shape, not by a list of kinds, so
// that those of custom resources are found too; see [Parse]. A change is an RFC 6902 patch of one template. It is
// spliced into the text: comments, order, quotes and indentation of all that the patch does not name stay.
//
// It decides nothing about pods, reads no files and knows no cluster.
//
// Invariant: the result of an edit, read as Kubernetes reads it, is what the patches make of what was read before;
// else there is an error and no result. Bytes outside of the edited templates are never different, nor is a file that no
// patch touches.
//
//	file, err := workload.Parse("deploy.yaml", text)
//	for i, template := range file.Templates {
//		patches[i] = decide(template.JSON)
//	}
//	text, err = file.Edit(patches)
package workload

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// Error is what is wrong with a file, and where.
type Error struct {
	File     string
	Document int // from 1; 0 if it is the file as a whole
	Line     int // from 1; 0 if not known
	Column   int // from 1, in characters; 0 if not known
	Err      error
}

// Error begins with the place, as compilers write it.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	for _, n := range []int{e.Line, e.Column} {
		if n == 0 {
			break
		}
		fmt.Fprintf(&b, ":%d", n)
	}
	b.WriteString(": ")
	if e.Document > 1 {
		fmt.Fprintf(&b, "document %d: ", e.Document)
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns the error without its place.
func (e *Error) Unwrap() error { return e.Err }

// File is the text of a file and the pod templates in it. It is immutable and safe for concurrent use.
type File struct {
	// Name is the one given to Parse.
	Name string
	// Templates are the pod templates, in the order of the text.
	Templates []Template
	// Passed are those places that look like pod templates, or pods, and are taken for none, in the order of the text.
	Passed []Passed
	// Objects are all objects, those with templates and others, but no Lists.
	Objects []Object
	// Documents is how many documents there are, of any kind, the empty ones included.
	Documents int
	// JSON says that the file is JSON, one value after the other, and not YAML.
	JSON bool

	text  []byte
	lines []int // where each begins, but the first
	docs  []document
	// cut is behind the indicator of a text in block style that the file ends in, if the line that it ends in does
	// not end itself: with another line behind it the text would have one more. Else it is 0.
	cut int
}

// Object is an object of Kubernetes, as far as it says what it is.
type Object struct {
	// Document is the number of the document it is in, from 1; Line that of the line on which it begins.
	Document, Line int
	// APIVersion, Kind, Namespace and Name are its own; a name that is to be generated is the beginning of one.
	// Namespace and Name may be empty.
	APIVersion, Kind, Namespace, Name string
	// Labels and Annotations are those of the object, not those of its template.
	Labels, Annotations map[string]string
}

// Ref names it as kubectl does, such as deployment/web.
func (o Object) Ref() string {
	name := o.Name
	if name == "" {
		name = "(no name)"
	}
	return strings.ToLower(o.Kind) + "/" + name
}

// Template is a pod template, or a pod that stands for itself.
type Template struct {
	// Object is what the template is part of.
	Object
	// Path leads from the object to the template, as in spec.template; it is empty for a Pod.
	Path string
	// JSON is the template: an object with metadata and spec, and for a Pod all else that it has. Keys and list
	// entries have the order of the text. Aliases and merges are resolved.
	JSON []byte

	root   *node
	shared string // why it cannot be changed alone
}

// Passed is what would be a template, were it not for the name of a container.
type Passed struct {
	// Object and Path are as in a Template.
	Object
	Path string
	// At is the line of the container, from 1.
	At int
	// Why says which container it is, and what is wrong with its name.
	Why string
}

// String says why it is no template, and what would make it one.
func (p Passed) String() string {
	return fmt.Sprintf("it is taken for no pod: %s (line %d); give it one, or fill it in first", p.Why, p.At)
}

// document is one document of a file.
type document struct {
	root *node // nil if there is nothing in it
}

// place returns an error about n, or about a document as a whole.
func (f *File) place(doc int, n *node, format string, args ...any) error {
	e := &Error{File: f.Name, Document: doc, Err: fmt.Errorf(format, args...)}
	if n != nil {
		e.Line, e.Column = position(f.text, n.start)
	}
	return e
}

// Parse reads a file. Its name is for errors, which are of type *[Error].
//
// An object holds a pod template where
//   - its kind is Pod: the object itself, or
//   - a key that ends in "template", of any case and at any depth below spec or at the top, holds an object whose
//     spec.containers lists containers: one at least, each with a name as Kubernetes allows. There may be lists on the
//     way, as in the kinds that have one template for each role. The search does not go on inside of a template.
//
// An object whose kind ends in List is looked through item by item, as deep as Lists go. Items that say no kind are of
// that of the list, as the API server writes a PodList. What is none of this, such
// as documents that are no objects, is no template and no error.
func Parse(name string, text []byte) (*File, error) {
	f := &File{Name: name, text: text}
	if !utf8.Valid(text) {
		at := 0
		for rest := text; len(rest) > 0; {
			r, size := utf8.DecodeRune(rest)
			if r == utf8.RuneError && size == 1 {
				break
			}
			at, rest = at+size, rest[size:]
		}
		line, column := position(text, at)
		return nil, &Error{File: name, Line: line, Column: column, Err: fmt.Errorf("this is no UTF-8 text")}
	}
	if err := f.read(); err != nil {
		return nil, err
	}
	f.Documents = len(f.docs)
	for i, c := range text {
		if c == '\n' {
			f.lines = append(f.lines, i+1)
		}
	}
	for i, d := range f.docs {
		if d.root == nil {
			continue
		}
		if err := f.find(i+1, d.root); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// read fills docs. What begins like JSON is read as JSON, and if it is none as YAML, of which JSON is a part.
func (f *File) read() error {
	begin := bytes.TrimLeft(bytes.TrimPrefix(f.text, bom), " \t\r\n")
	if len(begin) > 0 && (begin[0] == '{' || begin[0] == '[') {
		docs, err := readJSON(f.Name, f.text)
		if err == nil {
			f.docs, f.JSON = docs, true
			return nil
		}
		if strings.HasSuffix(strings.ToLower(f.Name), ".json") {
			return err
		}
	}
	var err error
	f.docs, f.cut, err = readYAML(f.Name, f.text)
	return err
}

// Values returns the documents as JSON, nil for one that is empty. The error is an *[Error]: of YAML that JSON does not have.
func (f *File) Values() ([][]byte, error) {
	all := make([][]byte, len(f.docs))
	for i, d := range f.docs {
		if d.root == nil {
			continue
		}
		text, err := d.root.encode()
		if bad := (*badNode)(nil); errors.As(err, &bad) {
			return nil, f.place(i+1, bad.at, "%w", bad.err)
		}
		if all[i] = text; string(text) == "null" {
			all[i] = nil
		}
	}
	return all, nil
}

var bom = []byte("\uFEFF")

// line is the line of a byte, from 1.
func (f *File) line(at int) int { return sort.SearchInts(f.lines, at+1) + 1 }

// position returns the line and the column of a byte.
func position(text []byte, at int) (line, column int) {
	before := text[:at]
	begin := bytes.LastIndexByte(before, '\n') + 1
	return bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(bytes.TrimPrefix(before[begin:], bom)) + 1
}
