package naming

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Delegation is a name and everything that the rules make of it: each step, the
// branches that lead nowhere and those that are not needed. It is also the form in
// which namerd's API and the admin pages of Linkerd 1.x show names, so that it can be
// written and read with encoding/json.
//
// Type says which of the fields are there. Delegate, Alt, Union and Tree hold what
// comes next.
type Delegation struct {
	Type string `json:"type"` // one of the constants below

	// Path is the name at this point, as it is printed, or "~" or "!" where a rule
	// says so. It is empty in a bound tree, which only says what came out.
	Path string `json:"path,omitempty"`
	// Dentry is the rule by which the name came here; nil at the root and for what a
	// namer makes of a name.
	Dentry *Dentry `json:"dentry,omitempty"`

	Message  string             `json:"message,omitempty"`  // of an Exception, and of the root of a tree that is not whole
	Delegate *Delegation        `json:"delegate,omitempty"` // of a Delegate
	Alt      []Delegation       `json:"alt,omitempty"`      // of an Alt: the first that is not Neg counts
	Union    []DelegationBranch `json:"union,omitempty"`    // of a Union

	Name  string          `json:"name,omitempty"`  // of a Transformation: who changed Bound
	Bound *DelegationLeaf `json:"bound,omitempty"` // of a Leaf and a Transformation
	Tree  *Delegation     `json:"tree,omitempty"`  // of a Transformation: what became of Bound
}

// The types of a Delegation.
const (
	NodeDelegate       = "delegate"  // the name means one other
	NodeAlt            = "alt"       // several rules, or alternatives of one
	NodeUnion          = "union"     // a weighted choice for each request
	NodeLeaf           = "leaf"      // bound: the name of a replica set
	NodeNeg            = "neg"       // no answer
	NodeFail           = "fail"      // an answer that stops
	NodeEmpty          = "empty"     // an answer without endpoints
	NodeException      = "exception" // a failure of a namer, or endless rules
	NodePending        = "pending"   // the namer has not answered yet
	NodeTransformation = "transformation"
)

// DelegationBranch is one branch of a union.
type DelegationBranch struct {
	Weight double     `json:"weight"`
	Tree   Delegation `json:"tree"`
}

// DelegationLeaf is a bound name, with the replica set that it had at the time.
type DelegationLeaf struct {
	Addr     Addr `json:"addr"`
	ID       Path `json:"id"`
	Residual Path `json:"path"`
}

// JSON returns the tree on a line of its own, with the replica sets that addr says.
func (d Delegation) JSON(addr func(id Path) Replicas) []byte { return jsonLine(d.locate(addr)) }

// JSON returns what namerd answers to a bind: a Delegation that has no paths and no
// rules, on a line of its own, with the replica sets that addr says.
func (t BoundTree) JSON(addr func(id Path) Replicas) []byte {
	return t.delegation("", nil).JSON(addr)
}

// locate returns a copy of d with the replica sets of all leaves.
func (d Delegation) locate(addr func(id Path) Replicas) Delegation {
	if d.Bound != nil {
		leaf := *d.Bound
		leaf.Addr = addr(leaf.ID).Addr()
		d.Bound = &leaf
	}
	return d.descend(func(d Delegation) Delegation { return d.locate(addr) })
}

// descend returns a copy of d with f of what comes next.
func (d Delegation) descend(f func(Delegation) Delegation) Delegation {
	for _, next := range []**Delegation{&d.Delegate, &d.Tree} {
		if *next != nil {
			n := f(**next)
			*next = &n
		}
	}
	d.Alt, d.Union = slices.Clone(d.Alt), slices.Clone(d.Union)
	for i, t := range d.Alt {
		d.Alt[i] = f(t)
	}
	for i, b := range d.Union {
		d.Union[i].Tree = f(b.Tree)
	}
	return d
}

// next returns what comes next, in the order in which it is tried.
func (d *Delegation) next() iter.Seq[*Delegation] {
	return func(yield func(*Delegation) bool) {
		for _, n := range []*Delegation{d.Delegate, d.Tree} {
			if n != nil && !yield(n) {
				return
			}
		}
		for i := range d.Alt {
			if !yield(&d.Alt[i]) {
				return
			}
		}
		for i := range d.Union {
			if !yield(&d.Union[i].Tree) {
				return
			}
		}
	}
}

// Transform returns d with every leaf made into a transformation: what name, a
// transformer, makes of it by f.
func (d Delegation) Transform(name string, f func(Bound) BoundTree) Delegation {
	if d.Type == NodeLeaf && d.Bound != nil {
		t := f(Bound{d.Bound.ID, d.Bound.Residual}).delegation(d.Path, d.Dentry)
		if t.Bound != nil {
			t.Path = t.Bound.ID.String()
		}
		return Delegation{Type: NodeTransformation, Path: d.Path, Dentry: d.Dentry, Name: name, Bound: d.Bound, Tree: &t}
	}
	if d.Type == NodeTransformation { // its Bound is history
		tree := d.Tree.Transform(name, f)
		d.Tree = &tree
		return d
	}
	return d.descend(func(d Delegation) Delegation { return d.Transform(name, f) })
}

// delegation returns t in the form of a Delegation at path.
func (t BoundTree) delegation(path string, by *Dentry) Delegation {
	d := Delegation{Path: path, Dentry: by}
	switch t.Kind {
	case BoundPending:
		d.Type = NodePending
	case BoundNeg:
		d.Type = NodeNeg
	case BoundFail:
		d.Type = NodeFail
	case BoundEmpty:
		d.Type = NodeEmpty
	case BoundLeaf:
		d.Type, d.Bound = NodeLeaf, &DelegationLeaf{ID: t.Leaf.ID, Residual: t.Leaf.Residual}
	case BoundUnion:
		d.Type = NodeUnion
		for _, b := range t.Branches {
			d.Union = append(d.Union, DelegationBranch{double(b.Weight), b.Tree.delegation(path, by)})
		}
	}
	return d
}

// BoundTree returns what d comes to. For a Delegation that Delegate made that is what
// Bind returns; for one that was read, what the program that wrote it would route by.
// The error has the message of the first exception in the way, or says what is wrong
// with a Delegation that was read.
func (d Delegation) BoundTree() (BoundTree, error) {
	if d.Message != "" {
		return BoundTree{}, errors.New(d.Message)
	}
	switch d.Type {
	case NodePending:
		return BoundTree{Kind: BoundPending}, nil
	case NodeNeg:
		return BoundTree{Kind: BoundNeg}, nil
	case NodeFail:
		return BoundTree{Kind: BoundFail}, nil
	case NodeEmpty:
		return BoundTree{Kind: BoundEmpty}, nil
	case NodeException:
		return BoundTree{}, errors.New(d.Message)
	case NodeLeaf:
		if d.Bound != nil {
			return BoundTree{Kind: BoundLeaf, Leaf: Bound{d.Bound.ID, d.Bound.Residual}}, nil
		}
	case NodeDelegate:
		if d.Delegate != nil {
			return d.Delegate.BoundTree()
		}
	case NodeTransformation:
		if d.Tree != nil {
			return d.Tree.BoundTree()
		}
	case NodeAlt:
		for _, next := range d.Alt {
			if t, err := next.BoundTree(); err != nil || t.Kind != BoundNeg {
				return t, err
			}
		}
		return BoundTree{Kind: BoundNeg}, nil
	case NodeUnion:
		var u union
		for _, b := range d.Union {
			t, err := b.Tree.BoundTree()
			u.add(float64(b.Weight), t, err)
		}
		return u.result()
	default:
		return BoundTree{}, fmt.Errorf("read a delegation: the type %q is unknown", d.Type)
	}
	return BoundTree{}, fmt.Errorf("read a delegation: there is nothing in a node of type %q", d.Type)
}

// Pending reports whether a namer has yet to answer for some name of the tree.
func (d Delegation) Pending() bool {
	for n := range d.next() {
		if n.Pending() {
			return true
		}
	}
	return d.Type == NodePending
}

// Step is one step from a name to what it is bound to.
type Step struct {
	Path   string
	Dentry *Dentry // by which the path came from the one before; nil for the first one, and for what a namer says
}

// String returns the step as /path (/prefix=>/destination).
func (s Step) String() string {
	if s.Dentry == nil {
		return s.Path
	}
	return s.Path + " (" + s.Dentry.String() + ")"
}

// Steps returns how d leads to the replica set called id, nil if it does not. Where
// there are several ways, it is the one that is tried first.
func (d Delegation) Steps(id Path) []Step {
	here := Step{d.Path, d.Dentry}
	if d.Bound != nil && d.Bound.ID.Equal(id) {
		return []Step{here}
	}
	for n := range d.next() {
		steps := n.Steps(id)
		switch {
		case steps == nil:
		case d.Type == NodeTransformation || n.Path == d.Path: // another id, or a branch of a rule: no step
			steps[0] = here
			return steps
		default:
			return append([]Step{here}, steps...)
		}
	}
	return nil
}

type dentryJSON struct {
	Prefix string `json:"prefix"`
	Dst    string `json:"dst"`
}

// MarshalJSON writes the rule as namerd does, {"prefix":"/svc","dst":"/a & 9.00*/b"}, with the
// weights of Dtab.Lossless.
func (d Dentry) MarshalJSON() ([]byte, error) {
	var dst strings.Builder
	d.Dst.print(&dst, lossless)
	return jsonLine(dentryJSON{d.Prefix.String(), dst.String()}), nil
}

// UnmarshalJSON reads what MarshalJSON wrote. Errors in the texts are *ParseError.
func (d *Dentry) UnmarshalJSON(text []byte) error {
	var form dentryJSON
	if err := json.Unmarshal(text, &form); err != nil {
		return err
	}
	prefix, err := ParsePrefix(form.Prefix)
	if err != nil {
		return err
	}
	dst, err := ParseTree(form.Dst)
	if err != nil {
		return err
	}
	*d = Dentry{prefix, dst}
	return nil
}
