package naming

// Step is one step from a name to the replica set that it is bound to.
type Step struct {
	Path Path
	Rule *Dentry // by which the path came from the one before; nil for the first one, and for what a namer says
}

// String returns the step as /path (/prefix=>/destination).
func (s Step) String() string {
	if s.Rule == nil {
		return s.Path.String()
	}
	return s.Path.String() + " (" + s.Rule.Prefix.String() + "=>" + s.Rule.Dst.String() + ")"
}

// Explain returns the steps by which Bind comes from p to the replica set called
// id: the first ones in the order in which it tries them, nil if there are none.
// It asks resolve what Bind asks, and more of it where Bind stops at an earlier
// answer; it is bounded as Bind is.
func Explain(d Dtab, p Path, resolve Resolver, id Path) []Step {
	e := explainer{binder: binder{dtab: d, resolve: resolve, work: maxWork}, id: id.String()}
	if !e.lookup(p, nil, 0) {
		return nil
	}
	return e.steps
}

type explainer struct {
	binder
	id    string
	steps []Step // on the way to where the search is
}

// lookup reports whether p leads to the replica set, and leaves the steps there.
func (e *explainer) lookup(p Path, by *Dentry, depth int) bool {
	if e.lookups++; depth == maxDepth || e.lookups > maxLookups || !e.spend(nodeWork+len(p)*elementWork) {
		return false
	}
	e.steps = append(e.steps, Step{p, by})
	matched, neg := 0, false
	for i := len(e.dtab) - 1; i >= 0; i-- {
		rule := &e.dtab[i]
		n, ok := rule.Prefix.match(p)
		if !e.spend(1 + n) {
			return false
		}
		if !ok {
			continue
		}
		matched, neg = matched+1, rule.Dst == Tree(Neg)
		if e.tree(rule.Dst, p[n:], rule, depth+1) {
			return true
		}
	}
	if matched == 0 || matched == 1 && neg {
		switch r := e.resolve(p); {
		case r.Bound != nil && r.Bound.ID.String() == e.id:
			return true
		case r.Tree != nil && e.tree(r.Tree, nil, nil, depth+1):
			return true
		}
	}
	e.steps = e.steps[:len(e.steps)-1]
	return false
}

// tree reports whether one of the paths of t, with rest appended, leads there.
func (e *explainer) tree(t Tree, rest Path, by *Dentry, depth int) bool {
	if !e.spend(nodeWork) {
		return false
	}
	switch t := t.(type) {
	case Leaf:
		return e.lookup(Path(t).Join(rest...), by, depth)
	case Alt:
		for _, t := range t {
			if e.tree(t, rest, by, depth) {
				return true
			}
		}
	case Union:
		for _, w := range t {
			if e.tree(w.Tree, rest, by, depth) {
				return true
			}
		}
	}
	return false
}
