package naming_test

import (
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/naming"
)

// reference binds the way the language is explained: it collects all rules for a path, grafts
// the rest of the path on all of them, and binds the alternatives they make. It is slow, has no
// limits but the depth, and no code in common with Bind.
type reference struct{ dtab naming.Dtab }

func (r reference) bind(t naming.Tree, depth int) (naming.BoundTree, error) {
	switch t := t.(type) {
	case naming.Leaf:
		return r.path(naming.Path(t), depth)
	case naming.Alt:
		for _, x := range t {
			if b, err := r.bind(x, depth); err != nil || b.Kind != naming.BoundNeg {
				return b, err
			}
		}
	case naming.Union:
		return r.union(t, depth)
	}
	switch t {
	case naming.Tree(naming.Fail):
		return naming.BoundTree{Kind: naming.BoundFail}, nil
	case naming.Tree(naming.Empty):
		return naming.BoundTree{Kind: naming.BoundEmpty}, nil
	}
	return naming.BoundTree{Kind: naming.BoundNeg}, nil
}

func (r reference) path(p naming.Path, depth int) (naming.BoundTree, error) {
	if depth == 100 {
		return naming.BoundTree{}, naming.ErrDepth
	}
	if t := r.lookup(p); t != naming.Tree(naming.Neg) {
		return r.bind(t, depth+1)
	}
	a := resolve(p)
	switch {
	case a.Err != nil:
		return naming.BoundTree{}, a.Err
	case a.Pending:
		return naming.BoundTree{}, nil
	case a.Bound != nil:
		return naming.BoundTree{Kind: naming.BoundLeaf, Leaf: *a.Bound}, nil
	case a.Tree != nil:
		return r.bind(a.Tree, depth+1)
	}
	return naming.BoundTree{Kind: naming.BoundNeg}, nil
}

func (r reference) lookup(p naming.Path) naming.Tree {
	var found naming.Alt
	for _, rule := range r.dtab {
		if n := len(rule.Prefix); matches(rule.Prefix, p) {
			found = append(naming.Alt{graft(rule.Dst, p[n:])}, found...)
		}
	}
	switch len(found) {
	case 0:
		return naming.Neg
	case 1:
		return found[0]
	}
	return found
}

func matches(prefix naming.Prefix, p naming.Path) bool {
	if len(prefix) == 0 {
		return true
	}
	return len(p) > 0 && (prefix[0] == naming.Any || prefix[0] == p[0]) && matches(prefix[1:], p[1:])
}

func graft(t naming.Tree, rest naming.Path) naming.Tree {
	switch t := t.(type) {
	case naming.Leaf:
		return naming.Leaf(naming.Path(t).Join(rest...))
	case naming.Alt:
		var grafted naming.Alt
		for _, x := range t {
			grafted = append(grafted, graft(x, rest))
		}
		return grafted
	case naming.Union:
		var grafted naming.Union
		for _, x := range t {
			grafted = append(grafted, naming.Weighted{Weight: x.Weight, Tree: graft(x.Tree, rest)})
		}
		return grafted
	}
	return t
}

func (r reference) union(u naming.Union, depth int) (naming.BoundTree, error) {
	var results []naming.BoundBranch
	var first error
	pending := false
	for _, x := range u {
		b, err := r.bind(x.Tree, depth)
		if err == nil && b.Kind != naming.BoundPending {
			results = append(results, naming.BoundBranch{Weight: x.Weight, Tree: b})
		} else if err != nil && first == nil {
			first = err
		}
		pending = pending || err == nil && b.Kind == naming.BoundPending
	}
	if len(results) == 0 && first != nil {
		return naming.BoundTree{}, first
	}
	var kept []naming.BoundBranch
	for _, b := range results {
		if b.Tree.Kind != naming.BoundNeg && b.Tree.Kind != naming.BoundFail {
			kept = append(kept, b)
		}
	}
	switch len(kept) {
	case 0:
		if pending {
			return naming.BoundTree{}, nil
		}
		return naming.BoundTree{Kind: naming.BoundNeg}, nil
	case 1:
		return kept[0].Tree, nil
	}
	return naming.BoundTree{Kind: naming.BoundUnion, Branches: kept}, nil
}

// Trying rules one by one gives what collecting them first would.
func TestBindIsAsExplained(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, p := genDtab().Draw(t, "dtab"), genPath().Draw(t, "path")
		got, err := naming.Bind(d, p, resolve)
		if errors.Is(err, naming.ErrWork) {
			t.Skip("the reference would take for ever")
		}
		want, wantErr := reference{d}.path(p, 0)
		if wantErr != nil {
			want = naming.BoundTree{}
		}
		if err != wantErr || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s, %v; want %s, %v", show(got), err, show(want), wantErr)
		}
	})
}
