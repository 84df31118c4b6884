package webhook

import (
	"encoding/json"
	"strings"
)

// operation is one step of an RFC 6902 patch.
type operation struct {
	Op    string
	From  string // of a move
	Path  string
	Value any // of an add
}

// patch gathers operations, in the order in which they are to be applied.
type patch []operation

func (p *patch) add(path string, value any) {
	*p = append(*p, operation{Op: "add", Path: path, Value: value})
}
func (p *patch) remove(path string)   { *p = append(*p, operation{Op: "remove", Path: path}) }
func (p *patch) move(from, to string) { *p = append(*p, operation{Op: "move", From: from, Path: to}) }

// encode returns the patch as JSON, nil if there is nothing to do.
//
// Most of a patch are the same few variables for each container; package json, which finds its way by reflection,
// would take longer over them than all the rest of an admission.
func (p patch) encode() ([]byte, error) {
	if len(p) == 0 {
		return nil, nil
	}
	b := append(make([]byte, 0, 256*(len(p)+8)), '[')
	for i, op := range p {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(append(b, `{"op":`...), op.Op)
		if op.From != "" {
			b = appendText(append(b, `,"from":`...), op.From)
		}
		b = appendText(append(b, `,"path":`...), op.Path)
		if op.Value != nil {
			b = append(b, `,"value":`...)
			var err error
			if b, err = appendValue(b, op.Value); err != nil {
				return nil, err
			}
		}
		b = append(b, '}')
	}
	return append(b, ']'), nil
}

func appendValue(b []byte, value any) ([]byte, error) {
	switch v := value.(type) {
	case string:
		return appendText(b, v), nil
	case envVar:
		return v.appendTo(b), nil
	case []envVar:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = e.appendTo(b)
		}
		return append(b, ']'), nil
	}
	text, err := json.Marshal(value)
	return append(b, text...), err
}

func (v envVar) appendTo(b []byte) []byte {
	b = appendText(append(b, `{"name":`...), v.Name)
	if v.Value != "" {
		b = appendText(append(b, `,"value":`...), v.Value)
	}
	if v.ValueFrom != nil {
		b = v.ValueFrom.appendTo(append(b, `,"valueFrom":`...))
	}
	return append(b, '}')
}

func (s envSource) appendTo(b []byte) []byte {
	b = appendText(append(b, `{"fieldRef":{"apiVersion":`...), s.FieldRef.APIVersion)
	b = appendText(append(b, `,"fieldPath":`...), s.FieldRef.FieldPath)
	return append(b, `}}`...)
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			text, _ := json.Marshal(s) // a string: cannot fail
			return append(b, text...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// pointer joins the segments of a JSON pointer (RFC 6901).
func pointer(segments ...string) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(escaper.Replace(s))
	}
	return b.String()
}

// escaper is immutable and safe for concurrent use.
var escaper = strings.NewReplacer("~", "~0", "/", "~1")
