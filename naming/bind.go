package naming

import (
	"errors"
	"fmt"
)

// Limits of one Bind. Dtabs come from request headers too, so no text may cost more than a
// moment: neither a loop, nor a tree that doubles at every step, nor ten thousand rules that
// all match.
const (
	maxDepth   = 100  // nested lookups; the number and the text of the error are Linkerd's
	maxLookups = 1000 // lookups in all; a real dtab needs a dozen or two
	// maxWork bounds what all lookups do together, in steps of some nanoseconds or four
	// bytes: a few milliseconds, and two megabytes. It is enough for a dozen lookups in a
	// dtab of 40,000 rules.
	maxWork = 1 << 19
)

// What things take of maxWork. Comparing with a rule is one step, and one for each element
// that matches; so is each byte given to the Resolver.
const (
	nodeWork    = 4  // to visit a node of a tree
	elementWork = 4  // to copy an element of a path
	branchWork  = 24 // to keep a branch of a union
)

// ErrDepth is returned by Bind for a path whose rules never come to an end.
//
//lint:ignore ST1005 users of Linkerd 1.x look for this text in answers and logs
var ErrDepth = errors.New("Max recursion level: 100 reached in Namer lookup")

// ErrWork is wrapped by the error of Bind for rules that need more lookups or steps than one
// request may cost: those that branch at nearly every step, or that lead back through unions.
var ErrWork = errors.New("the rules take too much work")

var errLookups = fmt.Errorf("%w: more than %d lookups", ErrWork, maxLookups)

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

// Tree returns the tree that is b alone.
func (b Bound) Tree() BoundTree { return BoundTree{Kind: BoundLeaf, Leaf: b} }

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
// that are Neg, Fail, pending or failing are left out as long as one branch leads somewhere.
// If none does, a failing branch makes it failing unless another is Neg or Fail, and else a
// pending one makes it pending.
//
// Rules are tried one by one, the last that matches first, and what an earlier one means is
// not looked at before all later ones are Neg. One Bind allocates a few megabytes at most and
// takes a few milliseconds, whatever the rules; what resolve does is bounded to 1000 calls.
//
// The error is ErrDepth for endless rules, wraps ErrWork if a limit is reached otherwise, or
// is what resolve returned; a request for such a path fails, and the tree is then the zero
// BoundTree.
func Bind(d Dtab, p Path, resolve Resolver) (BoundTree, error) {
	b := binder{dtab: d, resolve: resolve, work: maxWork}
	t, err := b.lookup(p, 0)
	if b.exhausted != nil {
		err = fmt.Errorf("bind %s: %w", p, b.exhausted)
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
	work      int   // what is left of maxWork
	exhausted error // a limit was reached: unwind at once, whatever unions forgive
}

// spend takes n units of work, and is false if there are not so many left.
func (b *binder) spend(n int) bool {
	if b.work -= n; b.work < 0 {
		b.work, b.exhausted = -1, ErrWork
	}
	return b.work >= 0
}

// bind binds t with rest appended to each of its paths.
func (b *binder) bind(t Tree, rest Path, depth int) (BoundTree, error) {
	if !b.spend(nodeWork) {
		return BoundTree{}, b.exhausted
	}
	switch t := t.(type) {
	case Leaf:
		if !b.spend(elementWork * (len(t) + len(rest))) {
			return BoundTree{}, b.exhausted
		}
		return b.lookup(Path(t).Join(rest...), depth)
	case Alt:
		for _, t := range t {
			if bound, err := b.bind(t, rest, depth); err != nil || bound.Kind != BoundNeg {
				return bound, err
			}
		}
	case Union:
		return b.union(t, rest, depth)
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
		b.exhausted = errLookups
		return BoundTree{}, b.exhausted
	}
	// The dtab goes first, so it may rewrite even what a namer would answer. Rules that match
	// are alternatives, the last one first.
	matched, neg := 0, false
	for i := len(b.dtab) - 1; i >= 0; i-- {
		rule := &b.dtab[i]
		n, ok := rule.Prefix.match(p)
		if !b.spend(1 + n) {
			return BoundTree{}, b.exhausted
		}
		if !ok {
			continue
		}
		matched, neg = matched+1, rule.Dst == Tree(Neg)
		if bound, err := b.bind(rule.Dst, p[n:], depth+1); err != nil || bound.Kind != BoundNeg {
			return bound, err
		}
	}
	// A single rule that is nothing but Neg leaves the path to the namer, as no rule does.
	if matched > 1 || matched == 1 && !neg {
		return BoundTree{Kind: BoundNeg}, nil
	}
	size := 0
	for _, e := range p {
		size += elementWork + len(e)
	}
	if !b.spend(size) {
		return BoundTree{}, b.exhausted
	}
	switch r := b.resolve(p); {
	case r.Err != nil:
		return BoundTree{}, r.Err
	case r.Pending:
		return BoundTree{Kind: BoundPending}, nil
	case r.Bound != nil:
		return BoundTree{Kind: BoundLeaf, Leaf: *r.Bound}, nil
	case r.Tree != nil:
		return b.bind(r.Tree, nil, depth+1)
	}
	return BoundTree{Kind: BoundNeg}, nil
}

func (b *binder) union(u Union, rest Path, depth int) (BoundTree, error) {
	if !b.spend(branchWork * len(u)) {
		return BoundTree{}, b.exhausted
	}
	all := union{room: len(u)}
	for _, w := range u {
		t, err := b.bind(w.Tree, rest, depth)
		if b.exhausted != nil {
			return BoundTree{}, b.exhausted
		}
		all.add(w.Weight, t, err)
	}
	return all.result()
}

// union is what the branches of a union come to. Its zero value has no branches.
type union struct {
	room     int // for how many branches to make room
	kept     []BoundBranch
	answered bool
	pending  bool
	failure  error
}

func (u *union) add(weight float64, t BoundTree, err error) {
	switch {
	case err != nil:
		if u.failure == nil {
			u.failure = err
		}
	case t.Kind == BoundPending:
		u.pending = true
	default:
		u.answered = true
		if t.Kind != BoundNeg && t.Kind != BoundFail {
			if u.kept == nil {
				u.kept = make([]BoundBranch, 0, u.room)
			}
			u.kept = append(u.kept, BoundBranch{weight, t})
		}
	}
}

func (u *union) result() (BoundTree, error) {
	switch {
	case !u.answered && u.failure != nil:
		return BoundTree{}, u.failure
	case len(u.kept) == 0 && u.pending:
		return BoundTree{Kind: BoundPending}, nil
	case len(u.kept) == 0:
		return BoundTree{Kind: BoundNeg}, nil
	case len(u.kept) == 1:
		return u.kept[0].Tree, nil
	}
	return BoundTree{Kind: BoundUnion, Branches: u.kept}, nil
}

// Map returns t with f of every leaf, as if that were what the leaf's name had meant:
// of a union, branches that become Neg or Fail are left out.
func (t BoundTree) Map(f func(Bound) BoundTree) BoundTree {
	switch t.Kind {
	case BoundLeaf:
		return f(t.Leaf)
	case BoundUnion:
		all := union{room: len(t.Branches)}
		for _, b := range t.Branches {
			all.add(b.Weight, b.Tree.Map(f), nil)
		}
		t, _ = all.result()
	}
	return t
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
