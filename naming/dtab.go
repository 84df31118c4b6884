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

// Dtab is an ordered list of rules. Every rule that matches a path is an alternative for it,
// later ones first, so an earlier rule answers where a later one is Neg; only position counts,
// not the length of prefixes. The zero Dtab is empty and answers nothing.
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
