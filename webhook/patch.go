package webhook

import (
	"encoding/json"
	"strings"
)

// operation is one step of an RFC 6902 patch.
type operation struct {
	Op    string `json:"op"`
	From  string `json:"from,omitempty"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// patch gathers operations, in the order in which they are to be applied.
type patch []operation

func (p *patch) add(path string, value any) {
	*p = append(*p, operation{Op: "add", Path: path, Value: value})
}
func (p *patch) remove(path string)   { *p = append(*p, operation{Op: "remove", Path: path}) }
func (p *patch) move(from, to string) { *p = append(*p, operation{Op: "move", From: from, Path: to}) }

// encode returns the patch as JSON, nil if there is nothing to do.
func (p patch) encode() ([]byte, error) {
	if len(p) == 0 {
		return nil, nil
	}
	return json.Marshal(p)
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
