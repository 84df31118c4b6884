package naming

// maxExplained bounds the work of one Delegate, and with it its result: that prints as
// a few megabytes of JSON at most, for what a node shows is work too. It looks at
// every branch, of which Bind needs few, and rules that people can follow are far
// below it.
const maxExplained = 4 << 20

const shownWork = 128 // to show a node, beside its path and its rule

// Delegate explains how p is resolved by the rules of d: what Bind looks at, in the
// same order, and also what it has no need to look at. It is for people and tools, and
// takes some milliseconds where Bind takes microseconds.
//
// It is bounded as Bind is, in 1000 lookups and in work. Where that ends the tree does
// too, and its root has a Message. A name that is endless ends in an exception.
func Delegate(d Dtab, p Path, resolve Resolver) Delegation {
	x := delegator{binder{dtab: d, resolve: resolve, work: maxExplained}, map[*Dentry]int{}}
	n := x.lookup(p, nil, 0)
	if x.exhausted != nil {
		n.Message = x.exhausted.Error()
	}
	return n
}

// delegator walks as binder.bind does, which see.
type delegator struct {
	binder
	printed map[*Dentry]int // how long the rules are that were seen
}

// node returns a node of type t at path, where by led.
func (x *delegator) node(t, path string, by *Dentry) Delegation {
	if by != nil && x.printed[by] == 0 {
		x.printed[by] = len(by.String())
	}
	x.spend(shownWork + len(path) + x.printed[by])
	return Delegation{Type: t, Path: path, Dentry: by}
}

func (x *delegator) exception(path string, by *Dentry, message string) Delegation {
	n := x.node(NodeException, path, by)
	n.Message = message
	return n
}

func (x *delegator) lookup(p Path, by *Dentry, depth int) Delegation {
	path := p.String()
	if x.lookups++; x.lookups > maxLookups && x.exhausted == nil {
		x.exhausted = errLookups
	}
	switch {
	case x.exhausted != nil:
		return x.exception(path, by, x.exhausted.Error())
	case depth == maxDepth:
		return x.exception(path, by, "Max recursion level reached.")
	}
	var rules []Delegation
	neg := false
	for i := len(x.dtab) - 1; i >= 0 && x.exhausted == nil; i-- {
		rule := &x.dtab[i]
		n, ok := rule.Prefix.match(p)
		x.spend(1 + n)
		if ok {
			rules, neg = append(rules, x.tree(rule.Dst, path, p[n:], rule, depth+1)), rule.Dst == Tree(Neg)
		}
	}
	if len(rules) > 1 || len(rules) == 1 && !neg {
		return x.alt(path, by, rules)
	}
	answer := x.ask(p, path, by, depth)
	if len(rules) == 1 && answer.Type != NodeNeg {
		rules = append(rules, answer)
	}
	if len(rules) > 0 {
		return x.alt(path, by, rules)
	}
	return answer
}

// ask returns what the namers say to p.
func (x *delegator) ask(p Path, path string, by *Dentry, depth int) Delegation {
	if !x.spend(elementWork*len(p) + len(path)) {
		return x.exception(path, by, x.exhausted.Error())
	}
	r := x.resolve(p)
	switch t := r.Tree.(type) {
	case nil:
	case Token:
		return x.node(t.node(), path, by)
	default:
		return x.delegate(path, by, x.tree(t, path, nil, nil, depth+1))
	}
	n := x.node(NodeNeg, path, by)
	switch {
	case r.Err != nil:
		n.Type, n.Message = NodeException, r.Err.Error()
	case r.Pending:
		n.Type = NodePending
	case r.Bound != nil:
		n.Type, n.Bound = NodeLeaf, &DelegationLeaf{ID: r.Bound.ID, Residual: r.Bound.Residual}
	}
	return n
}

// node returns the type of the node that t makes.
func (t Token) node() string {
	switch t {
	case Fail:
		return NodeFail
	case Empty:
		return NodeEmpty
	}
	return NodeNeg
}

// tree explains t, the destination of a rule that matched path, which left rest.
func (x *delegator) tree(t Tree, path string, rest Path, by *Dentry, depth int) Delegation {
	if !x.spend(nodeWork) {
		return x.exception(path, by, x.exhausted.Error())
	}
	switch t := t.(type) {
	case Leaf:
		if !x.spend(elementWork * (len(t) + len(rest))) {
			return x.exception(path, by, x.exhausted.Error())
		}
		return x.lookup(Path(t).Join(rest...), by, depth)
	case Alt:
		var all []Delegation
		for _, t := range t {
			if all = append(all, x.tree(t, path, rest, by, depth)); x.exhausted != nil {
				break
			}
		}
		return x.alt(path, by, all)
	case Union:
		n := x.node(NodeUnion, path, by)
		for _, w := range t {
			n.Union = append(n.Union, DelegationBranch{double(w.Weight), x.tree(w.Tree, path, rest, by, depth)})
			if x.exhausted != nil {
				break
			}
		}
		switch len(n.Union) {
		case 0:
			n.Type = NodeNeg
		case 1:
			return x.delegate(path, by, n.Union[0].Tree)
		}
		return n
	case Token:
		if t == Empty {
			return x.node(NodeEmpty, path, by)
		}
		return x.node(t.node(), t.String(), by)
	}
	return x.node(NodeNeg, path, by)
}

// alt returns the alternatives for path, where by led.
func (x *delegator) alt(path string, by *Dentry, all []Delegation) Delegation {
	switch len(all) {
	case 0:
		return x.node(NodeNeg, path, by)
	case 1:
		return x.delegate(path, by, all[0])
	}
	n := x.node(NodeAlt, path, by)
	for _, t := range all {
		if t.Type == NodeAlt && t.Path == path { // alternatives of alternatives
			n.Alt = append(n.Alt, t.Alt...)
		} else {
			n.Alt = append(n.Alt, t)
		}
	}
	return n
}

// delegate returns path, where by led, as the name that means next.
func (x *delegator) delegate(path string, by *Dentry, next Delegation) Delegation {
	switch next.Type {
	case NodeNeg, NodeFail, NodeEmpty: // says by which rule
	default:
		if next.Path == path {
			x.spend(x.printed[by])
			next.Dentry = by
			return next
		}
	}
	n := x.node(NodeDelegate, path, by)
	n.Delegate = &next
	return n
}
