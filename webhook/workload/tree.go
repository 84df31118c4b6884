package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// kind is what a node is in JSON.
type kind int

const (
	scalar kind = iota
	object
	array
	alias
)

// node is a value with its place in the text, or a new one, which has none.
type node struct {
	kind  kind
	flow  bool            // written with brackets, as in JSON
	raw   json.RawMessage // of a scalar: its value; nil if it has none in JSON
	first int             // where its anchor or tag begins, if it has any, else start
	start int             // of its text
	end   int             // behind its last character; comments and the end of the line do not belong to it

	// Of a collection: its entries as they are to be, and as they are in the text.
	entries, source []*entry
	edited          bool // entries were added or removed

	target *node   // of an alias
	users  []*node // aliases of this node
	merges bool    // an object some of whose entries are merged in from elsewhere
	odd    string  // why it cannot be edited in place; empty if it can
	fresh  bool    // it is not in the text
}

// entry is an entry of an object, or of an array, where it has no key.
type entry struct {
	key   string
	named bool // the key is a text
	start int  // where the key begins, or the dash
	colon int  // behind the colon or the dash; in the brackets of an array: the value's own start
	bare  bool // in brackets: there is no colon
	value *node
	old   *node // what the text has for a value that was replaced
	fresh bool
}

// end of what the text has for an entry.
func (e *entry) end() int {
	if e.old != nil {
		return e.old.end
	}
	return e.value.end
}

const mergeKey = "<<"

// get returns the entry with a key, as written, nil if there is none.
func (n *node) get(key string) *entry {
	for _, e := range n.entries {
		if e.named && e.key == key {
			return e
		}
	}
	return nil
}

// resolve follows an alias.
func (n *node) resolve() *node {
	if n != nil && n.kind == alias {
		return n.target
	}
	return n
}

// child returns the value of a key, aliases and merges resolved; nil if n is no object or has none.
func (n *node) child(key string) *node {
	n = n.resolve()
	if n == nil || n.kind != object {
		return nil
	}
	if e := n.get(key); e != nil {
		return e.value.resolve()
	}
	if n.merges {
		for _, from := range n.merged() {
			if v := from.child(key); v != nil {
				return v
			}
		}
	}
	return nil
}

// merged returns the objects that are merged into n, the first one wins.
func (n *node) merged() (all []*node) {
	for _, e := range n.entries {
		if e.key != mergeKey || !e.named {
			continue
		}
		switch v := e.value.resolve(); {
		case v == nil:
		case v.kind == object:
			all = append(all, v)
		case v.kind == array:
			for _, item := range v.entries {
				if o := item.value.resolve(); o != nil && o.kind == object {
					all = append(all, o)
				}
			}
		}
	}
	return all
}

// text returns a scalar that is a string.
func (n *node) text() (s string, ok bool) {
	n = n.resolve()
	if n == nil || n.kind != scalar || len(n.raw) == 0 || n.raw[0] != '"' {
		return "", false
	}
	return s, json.Unmarshal(n.raw, &s) == nil
}

// budget bounds what aliases may blow a value up to.
const budget = 1 << 20

// badNode is a value that JSON cannot have.
type badNode struct {
	at  *node
	err error
}

func (e *badNode) Error() string { return e.err.Error() }

// encoder writes nodes as JSON.
type encoder struct {
	bytes.Buffer
	left   int            // nodes that aliases and merges may still bring in
	away   int            // how many of them lead here
	hidden map[*node]bool // left out
}

// encode returns n as JSON. The error is a *badNode.
func (n *node) encode() ([]byte, error) {
	w := &encoder{left: budget}
	if err := w.node(n); err != nil {
		return nil, err
	}
	return w.Bytes(), nil
}

func (w *encoder) node(n *node) error {
	if w.away > 0 {
		if w.left--; w.left < 0 {
			return &badNode{n, errors.New("its aliases make too much of it")}
		}
	}
	if w.hidden[n] {
		w.WriteString("…")
		return nil
	}
	switch n.kind {
	case alias:
		if n.target == nil {
			return &badNode{n, errors.New("an alias cannot be part of what it names")}
		}
		w.away++
		err := w.node(n.target)
		w.away--
		return err
	case array:
		w.WriteByte('[')
		for i, e := range n.entries {
			if i > 0 {
				w.WriteByte(',')
			}
			if err := w.node(e.value); err != nil {
				return err
			}
		}
		w.WriteByte(']')
	case object:
		w.WriteByte('{')
		if err := w.object(n, map[string]bool{}, 0); err != nil {
			return err
		}
		w.WriteByte('}')
	default:
		if n.raw == nil {
			return &badNode{n, errors.New("this value has a tag or a form that JSON, and so Kubernetes, does not know")}
		}
		w.Write(n.raw)
	}
	return nil
}

// object writes the entries of n that are not yet seen. Depth is how many merges it is away.
func (w *encoder) object(n *node, seen map[string]bool, depth int) error {
	own := map[string]bool{}
	for _, e := range n.entries {
		switch {
		case !e.named:
			return &badNode{e.value, errors.New("the key of this value is no text")}
		case n.merges && e.key == mergeKey:
			continue
		case own[e.key]:
			return &badNode{e.value, fmt.Errorf("the key %q is there twice", e.key)}
		}
		own[e.key] = true
		if seen[e.key] {
			continue
		}
		if len(seen) > 0 {
			w.WriteByte(',')
		}
		seen[e.key] = true
		key, err := json.Marshal(e.key)
		if err != nil {
			return &badNode{e.value, err}
		}
		w.Write(key)
		w.WriteByte(':')
		if err := w.node(e.value); err != nil {
			return err
		}
	}
	if !n.merges {
		return nil
	}
	if depth > 100 {
		return &badNode{n, errors.New("it merges too deep")}
	}
	for _, from := range n.merged() {
		if w.left--; w.left < 0 {
			return &badNode{n, errors.New("its merges make too much of it")}
		}
		w.away++
		err := w.object(from, seen, depth+1)
		w.away--
		if err != nil {
			return err
		}
	}
	return nil
}

// clone copies what an edit changes. Aliases keep pointing into the tree they come from, which is never changed.
func (n *node) clone() *node {
	c := *n
	c.entries = make([]*entry, len(n.entries))
	for i, e := range n.entries {
		d := *e
		d.value = e.value.clone()
		c.entries[i] = &d
	}
	c.source = slices.Clone(c.entries)
	return &c
}
