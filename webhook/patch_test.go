package webhook

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// What the patch writes is what package json would.
func TestPatchEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "\"", "\\", "\x00\x7f\u2028<&>", "plain"}))
		v := literalVar(text.Draw(t, "name"), text.Draw(t, "value"))
		field, _ := fieldOf(envHostIP)
		p := patch{
			{Op: "add", Path: text.Draw(t, "path"), Value: []envVar{v, field}}, {Op: "add", Path: "/a", Value: field}, {Op: "add", Path: "/a", Value: v.Value},
			{Op: "move", From: text.Draw(t, "from"), Path: "/b"}, {Op: "remove", Path: "/c"}, {Op: "add", Path: "/d", Value: map[string]string{v.Name: v.Value}}, {Op: "add", Path: "/e", Value: json.RawMessage(`{"x":1}`)},
		}
		got, err := p.encode()
		if err != nil {
			t.Fatal(err)
		}
		type operation struct {
			Op    string `json:"op"`
			From  string `json:"from,omitempty"`
			Path  string `json:"path"`
			Value any    `json:"value,omitempty"`
		}
		var plain []operation
		for _, op := range p {
			plain = append(plain, operation(op))
		}
		want, err := json.Marshal(plain)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := json.Unmarshal(got, &a); err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		if err := json.Unmarshal(want, &b); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, a); diff != "" {
			t.Fatalf("(-json +patch)\n%s", diff)
		}
	})
}
