package naming

import (
	"errors"
	"fmt"
	"iter"
)

// Limits of one Bind. Dtabs come from request headers too, so neither a loop nor a tree that
// doubles at every step may cost more than a moment.
const (
	maxDepth   = 100  // nested lookups; the number and the text of the error are Linkerd's
	maxLookups = 1000 // lookups in all; a real dtab needs a dozen or two
)

// ErrDepth is returned by Bind for a path whose rules never come to an end.
//
//lint:ignore ST1005 users of Linkerd 1.x look for this text in answers and logs
var ErrDepth = errors.New("Max recursion level: 100 reached in Namer lookup")

// Bound names one replica set: ID is what a namer consumed of a path, Residual what it left.
// Everything kept per replica set (balancer, pools, metrics) is keyed by ID.
type Bound struct {
	ID       Path `json:"id"`
	Residual Path `json:"residual"`
}

// Resolution is a namer's answer for a path that the dtab says nothing about. At most one
// field is set; the zero Resolution means Neg, there is no such name.
type Resolution struct {
	Bound   *Bound // the name of a replica set
	Tree    Tree   // the path means this tree, which goes through the dtab again
	Pending bool   // not known yet
	Err     error  // cannot be known; no alternative is tried
}

// A Resolver answers, from what it knows now and without blocking, for a path that the dtab
// says nothing about. It must give the same answer to the same path throughout one Bind.
type Resolver func(Path) Resolution

// BoundKind says which of the forms a BoundTree has.
type BoundKind uint8

const (
	BoundPending BoundKind = iota // some answer is awaited
	BoundNeg                      // nothing answers the name
	BoundFail                     // a rule says it fails
	BoundEmpty                    // a rule says it has no endpoints
	BoundLeaf                     // one replica set, Leaf
	BoundUnion                    // a weighted choice among Branches, two or more
)

// BoundTree is what a path means now. It holds no alternatives: failover has been decided,
// and is decided again by the next Bind. The zero BoundTree is pending.
type BoundTree struct {
	Kind     BoundKind
	Leaf     Bound         // of a BoundLeaf
	Branches []BoundBranch // of a BoundUnion; each is a leaf, a union or empty
}

// BoundBranch is one branch of a union; its weight is relative to the others'.
type BoundBranch struct {
	Weight float64
	Tree   BoundTree
}

// Bind resolves p by the rules of d, asking resolve for paths that d says nothing about.
// It is a pure function of its arguments: run it again whenever one of them changes, which
// for resolve means any path it was asked about.
//
// Alternatives go left to right: Neg moves on to the next, everything else is the answer,
// and a pending or failing branch makes the whole pending or failing. Of a union, branches
// that are Neg, Fail, pending or failing are left out as long as one branch has an answer.
//
// The error is ErrDepth for endless rules, or what resolve returned, wrapped; a request for
// such a path fails, and the tree is then the zero BoundTree.
func Bind(d Dtab, p Path, resolve Resolver) (BoundTree, error) {
	b := binder{dtab: d, resolve: resolve}
	t, err := b.bind(Leaf(p), 0)
	if b.exhausted {
		err = fmt.Errorf("bind %s: more than %d lookups are needed", p, maxLookups)
	}
	if err != nil {
		return BoundTree{}, err
	}
	return t, nil
}

type binder struct {
	dtab      Dtab
	resolve   Resolver
	lookups   int
	exhausted bool // maxLookups was reached: unwind at once, whatever unions forgive
}

func (b *binder) bind(t Tree, depth int) (BoundTree, error) {
	switch t := t.(type) {
	case Leaf:
		return b.lookup(Path(t), depth)
	case Alt:
		return b.alternatives(t, depth)
	case Union:
		return b.union(t, depth)
	case Token:
		switch t {
		case Fail:
			return BoundTree{Kind: BoundFail}, nil
		case Empty:
			return BoundTree{Kind: BoundEmpty}, nil
		}
	}
	return BoundTree{Kind: BoundNeg}, nil
}

func (b *binder) lookup(p Path, depth int) (BoundTree, error) {
	if depth == maxDepth {
		return BoundTree{}, ErrDepth
	}
	if b.lookups++; b.lookups > maxLookups {
		b.exhausted = true
		return BoundTree{}, ErrDepth
	}
	// The dtab goes first, so it may rewrite even what a namer would answer.
	if t := b.dtab.Lookup(p); t != Tree(Neg) {
		return b.bind(t, depth+1)
	}
	switch r := b.resolve(p); {
	case r.Err != nil:
		return BoundTree{}, r.Err
	case r.Pending:
		return BoundTree{Kind: BoundPending}, nil
	case r.Bound != nil:
		return BoundTree{Kind: BoundLeaf, Leaf: *r.Bound}, nil
	case r.Tree != nil:
		return b.bind(r.Tree, depth+1)
	}
	return BoundTree{Kind: BoundNeg}, nil
}

func (b *binder) alternatives(a Alt, depth int) (BoundTree, error) {
	for _, t := range a {
		if bound, err := b.bind(t, depth); err != nil || bound.Kind != BoundNeg {
			return bound, err
		}
	}
	return BoundTree{Kind: BoundNeg}, nil
}

func (b *binder) union(u Union, depth int) (BoundTree, error) {
	var (
		kept     []BoundBranch
		answered bool
		pending  bool
		failure  error
	)
	for _, w := range u {
		t, err := b.bind(w.Tree, depth)
		switch {
		case b.exhausted:
			return BoundTree{}, err
		case err != nil:
			if failure == nil {
				failure = err
			}
		case t.Kind == BoundPending:
			pending = true
		default:
			answered = true
			if t.Kind != BoundNeg && t.Kind != BoundFail {
				kept = append(kept, BoundBranch{w.Weight, t})
			}
		}
	}
	switch {
	case !answered && failure != nil:
		return BoundTree{}, failure
	case !answered && pending:
		return BoundTree{Kind: BoundPending}, nil
	case len(kept) == 0:
		return BoundTree{Kind: BoundNeg}, nil
	case len(kept) == 1:
		return kept[0].Tree, nil
	}
	return BoundTree{Kind: BoundUnion, Branches: kept}, nil
}

// Pick chooses a leaf for one request, given a random number r in [0, 1): each branch of a
// union with probability weight/sum, or evenly if all weights are zero. It is false if the
// choice fell on something that is no leaf, such as an empty branch: the request fails, for
// picking knows nothing of the health of branches. Pick does not allocate.
func (t BoundTree) Pick(r float64) (Bound, bool) {
	for t.Kind == BoundUnion {
		t, r = t.pickBranch(r)
	}
	return t.Leaf, t.Kind == BoundLeaf
}

// pickBranch returns the branch at r and what is left of r, again in [0, 1).
func (t BoundTree) pickBranch(r float64) (BoundTree, float64) {
	var sum float64
	for _, b := range t.Branches {
		sum += b.Weight
	}
	if sum <= 0 {
		r *= float64(len(t.Branches))
		i := min(int(r), len(t.Branches)-1)
		return t.Branches[i].Tree, r - float64(i)
	}
	r *= sum
	last := 0
	for i, b := range t.Branches {
		if b.Weight <= 0 {
			continue
		}
		if last = i; r < b.Weight {
			return b.Tree, r / b.Weight
		}
		r -= b.Weight
	}
	return t.Branches[last].Tree, 0 // the sum was rounded
}

// Leaves yields every leaf of the tree from left to right, however small its weight.
func (t BoundTree) Leaves() iter.Seq[Bound] {
	return func(yield func(Bound) bool) { t.leaves(yield) }
}

func (t BoundTree) leaves(yield func(Bound) bool) bool {
	if t.Kind == BoundLeaf {
		return yield(t.Leaf)
	}
	for _, b := range t.Branches {
		if !b.Tree.leaves(yield) {
			return false
		}
	}
	return true
}
