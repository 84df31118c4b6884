package naming

import "strings"

// Dentry is one rule: a path that begins with Prefix becomes Dst, with the rest of the path
// appended to each of its leaves.
type Dentry struct {
	Prefix Prefix
	Dst    Tree
}

// String prints prefix=>tree.
func (d Dentry) String() string { return d.Prefix.String() + "=>" + d.Dst.String() }

// Dtab is an ordered list of rules, of which later ones come first. The zero Dtab is empty
// and answers nothing.
type Dtab []Dentry

// String prints the rules joined by ";" in canonical form, which ParseDtab reads back.
func (d Dtab) String() string {
	var b strings.Builder
	for i, rule := range d {
		if i > 0 {
			b.WriteByte(';')
		}
		b.WriteString(rule.String())
	}
	return b.String()
}

// Concat returns the rules of d followed by those of later, which therefore win over d's.
// It shares memory with neither list.
func (d Dtab) Concat(later ...Dentry) Dtab {
	joined := make(Dtab, 0, len(d)+len(later))
	return append(append(joined, d...), later...)
}

// Lookup applies the rules to p once: every rule that matches, last one first, with the
// unmatched rest of p grafted on its leaves. No match is Neg; one match is its tree; several
// are alternatives, so an earlier rule answers where a later one is Neg.
func (d Dtab) Lookup(p Path) Tree {
	var found Alt
	for i := len(d) - 1; i >= 0; i-- {
		if d[i].Prefix.Matches(p) {
			found = append(found, d[i].Dst.graft(p[len(d[i].Prefix):]))
		}
	}
	switch len(found) {
	case 0:
		return Neg
	case 1:
		return found[0]
	}
	return found
}
