package namerd

import (
	"encoding/json"
	"testing"

	"github.com/tulle-mesh/tulle/naming"
)

// Whatever a namerd says, what is found sound can be worked with.
func FuzzSound(f *testing.F) {
	for _, text := range []string{
		`{"type":"transformation"}`, `{"type":"leaf"}`, `{"type":"alt","alt":[{"type":"transformation","name":"x","tree":{"type":"neg"}}]}`,
		`{"type":"delegate","path":"/a","dentry":{"prefix":"/a","dst":"/b"},"delegate":{"type":"leaf","path":"/b","bound":{"addr":{"type":"neg"},"id":"/#/x/b","path":"/"}}}`,
		`{"type":"union","union":[{"weight":0.5,"tree":{"type":"transformation","tree":null}}]}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var d naming.Delegation
		if json.Unmarshal([]byte(text), &d) != nil || !sound(&d) {
			return
		}
		d = d.Transform("t", func(b naming.Bound) naming.BoundTree { return naming.BoundTree{Kind: naming.BoundLeaf, Leaf: b} })
		_, _ = d.BoundTree()
		_ = d.Pending()
		var again naming.Delegation
		if err := json.Unmarshal(d.JSON(func(naming.Path) naming.Replicas { return naming.Replicas{State: naming.StateNeg} }), &again); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	})
}
