package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// maxDepth bounds how deep values may be nested.
const maxDepth = 1000

// jsonReader reads JSON (RFC 8259) with the place of each value.
type jsonReader struct {
	text []byte
	at   int
}

// readJSON reads values that follow each other.
func readJSON(name string, text []byte) (docs []document, err error) {
	r := &jsonReader{text: text}
	if bytes.HasPrefix(text, bom) {
		r.at = len(bom)
	}
	for {
		r.space()
		if r.at == len(text) {
			return docs, nil
		}
		n, err := r.value(0)
		if err != nil {
			line, column := position(text, r.at)
			return nil, &Error{File: name, Document: len(docs) + 1, Line: line, Column: column, Err: err}
		}
		docs = append(docs, document{root: n})
	}
}

// parseValue reads one value as a new node: one with no place in any text.
func parseValue(text []byte) (*node, error) {
	r := &jsonReader{text: text}
	r.space()
	n, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if r.space(); r.at != len(text) {
		return nil, r.unexpected("the end")
	}
	n.renew()
	return n, nil
}

// renew makes n a value that is in no text yet.
func (n *node) renew() {
	n.fresh, n.source, n.odd = true, nil, ""
	for _, e := range n.entries {
		e.fresh = true
		e.value.renew()
	}
}

func (r *jsonReader) space() {
	for r.at < len(r.text) && bytes.IndexByte([]byte(" \t\r\n"), r.text[r.at]) >= 0 {
		r.at++
	}
}

func (r *jsonReader) peek() byte {
	if r.at < len(r.text) {
		return r.text[r.at]
	}
	return 0
}

func (r *jsonReader) unexpected(want string) error {
	if r.at >= len(r.text) {
		return fmt.Errorf("the text ends where %s is expected", want)
	}
	return fmt.Errorf("%q is found where %s is expected", []rune(string(r.text[r.at:min(r.at+4, len(r.text))]))[0], want)
}

func (r *jsonReader) value(depth int) (*node, error) {
	if depth > maxDepth {
		return nil, errors.New("it is nested too deep")
	}
	n := &node{first: r.at, start: r.at, flow: true}
	switch c := r.peek(); c {
	case '{', '[':
		n.kind = object
		if c == '[' {
			n.kind = array
		}
		if err := r.entries(n, depth); err != nil {
			return nil, err
		}
		n.source = n.entries
	case '"':
		text, err := r.quoted()
		if err != nil {
			return nil, err
		}
		n.raw = text
	default:
		for r.at < len(r.text) && bytes.IndexByte([]byte("+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"), r.text[r.at]) >= 0 {
			r.at++
		}
		if n.raw = r.text[n.start:r.at]; len(n.raw) == 0 {
			return nil, r.unexpected("a value")
		}
		if !json.Valid(n.raw) {
			r.at = n.start
			return nil, fmt.Errorf("%s is no value; texts need quotes", n.raw)
		}
	}
	n.end = r.at
	return n, nil
}

// entries reads an object or an array, from its first bracket to its last.
func (r *jsonReader) entries(n *node, depth int) error {
	last := byte('}')
	if n.kind == array {
		last = ']'
	}
	r.at++
	for r.space(); r.peek() != last; r.space() {
		if len(n.entries) > 0 {
			if r.peek() != ',' {
				return r.unexpected(fmt.Sprintf("a comma or %q", last))
			}
			r.at++
			r.space()
		}
		e := &entry{start: r.at}
		if n.kind == object {
			if r.peek() != '"' {
				return r.unexpected("a key in quotes")
			}
			text, err := r.quoted()
			if err != nil {
				return err
			}
			if err := json.Unmarshal(text, &e.key); err != nil {
				return err
			}
			e.named = true
			if r.space(); r.peek() != ':' {
				return r.unexpected("a colon")
			}
			r.at++
			r.space()
		}
		e.colon = r.at
		var err error
		if e.value, err = r.value(depth + 1); err != nil {
			return err
		}
		n.entries = append(n.entries, e)
	}
	r.at++
	return nil
}

// quoted reads a string with its quotes.
func (r *jsonReader) quoted() ([]byte, error) {
	begin := r.at
	for r.at++; r.at < len(r.text); r.at++ {
		switch r.text[r.at] {
		case '\\':
			r.at++
		case '"':
			r.at++
			text := r.text[begin:r.at]
			if !json.Valid(text) {
				r.at = begin
				return nil, errors.New("this text holds an escape or a character that JSON does not allow")
			}
			return text, nil
		case '\n':
			r.at = begin
			return nil, errors.New("the quote that begins here does not end on its line")
		}
	}
	r.at = begin
	return nil, errors.New("the quote that begins here does not end")
}
