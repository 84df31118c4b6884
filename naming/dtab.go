package naming

import "strings"

// Dentry is one rule: a path that begins with Prefix becomes Dst, with the rest of the path
// appended to each of its leaves.
type Dentry struct {
	Prefix Prefix
	Dst    Tree
}

// String prints prefix=>tree.
func (d Dentry) String() string {
	var b strings.Builder
	d.print(&b, canonical)
	return b.String()
}

func (d Dentry) print(b *strings.Builder, decimals int) {
	b.WriteString(d.Prefix.String())
	b.WriteString("=>")
	d.Dst.print(b, decimals)
}

// Dtab is an ordered list of rules. Every rule that matches a path is an alternative for it,
// later ones first, so an earlier rule answers where a later one is Neg; only position counts,
// not the length of prefixes. The zero Dtab is empty and answers nothing.
type Dtab []Dentry

// String prints the rules joined by ";" in canonical form, which ParseDtab reads back with
// weights rounded to two decimals. It is the form that people and other programs see in headers.
func (d Dtab) String() string { return d.text(canonical) }

// Exact prints the rules as String does but for weights, which have as many decimals as it
// takes: ParseDtab reads back the very same rules. It is the form in which our own programs
// hand rules on.
func (d Dtab) Exact() string { return d.text(exact) }

// Lossless prints the rules as String does but for weights that two decimals do not say:
// 9.00*/a and 0.001*/b. It is the form of namerd's API, whose clients write back what they
// have read.
func (d Dtab) Lossless() string { return d.text(lossless) }

func (d Dtab) text(decimals int) string {
	var b strings.Builder
	for i, rule := range d {
		if i > 0 {
			b.WriteByte(';')
		}
		rule.print(&b, decimals)
	}
	return b.String()
}

// Concat returns the rules of d followed by those of later, which therefore win over d's.
// It shares memory with neither list.
func (d Dtab) Concat(later ...Dentry) Dtab {
	joined := make(Dtab, 0, len(d)+len(later))
	return append(append(joined, d...), later...)
}
