package naming

import "slices"

// Simplify returns the shortest tree it can find that means the same as t: that binds
// to the same whatever the rules and the namers say. Alternatives of alternatives are
// one list, without what is Neg, what was tried before and what is never tried. Unions
// are kept as they are weighted, with one Neg at most for all branches that have no
// answer.
//
// A tree that is nothing but Neg stays an alternative of two, ~ | ~, unless it was the
// token itself: as the destination of a single rule only ~ leaves a name to the namers.
func Simplify(t Tree) Tree {
	s := simplify(t)
	if s == Tree(Neg) && t != Tree(Neg) {
		return Alt{Neg, Neg}
	}
	return s
}

func simplify(t Tree) Tree {
	switch t := t.(type) {
	case Alt:
		return simplifyAlt(t)
	case Union:
		return simplifyUnion(t)
	}
	return t
}

func simplifyAlt(t Alt) Tree {
	var all Alt
	for _, b := range t {
		next := Alt{simplify(b)}
		if nested, ok := next[0].(Alt); ok {
			next = nested
		}
		for _, b := range next {
			if b == Tree(Neg) || slices.ContainsFunc(all, func(a Tree) bool { return sameLeaf(a, b) }) {
				continue
			}
			if all = append(all, b); answers(b) {
				return oneOf(all)
			}
		}
	}
	return oneOf(all)
}

func oneOf(all Alt) Tree {
	switch len(all) {
	case 0:
		return Neg
	case 1:
		return all[0]
	}
	return all
}

func sameLeaf(a, b Tree) bool {
	x, ok := a.(Leaf)
	y, also := b.(Leaf)
	return ok && also && Path(x).Equal(Path(y))
}

// answers reports whether a simplified tree is never Neg, pending or an error: what
// follows it is never tried.
func answers(t Tree) bool {
	switch t := t.(type) {
	case Token:
		return t != Neg
	case Union:
		return slices.ContainsFunc(t, func(w Weighted) bool { return w.Tree == Tree(Empty) })
	}
	return false
}

func simplifyUnion(t Union) Tree {
	var all Union
	silent := -1 // where a branch without an answer is
	for _, w := range t {
		w.Tree = simplify(w.Tree)
		switch w.Tree {
		case Tree(Neg), Tree(Fail):
			if silent >= 0 {
				continue
			}
			silent, w = len(all), Weighted{1, Neg}
		}
		all = append(all, w)
	}
	// Such a branch only counts if all others are pending or failing.
	if silent >= 0 && (len(all) == 1 || answers(all)) {
		all = slices.Delete(all, silent, silent+1)
	}
	switch {
	case len(all) == 0:
		return Neg
	case len(all) == 1 && (all[0].Tree == Tree(Empty)):
		return Empty
	}
	return all
}
