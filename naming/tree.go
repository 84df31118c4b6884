package naming

import (
	"strconv"
	"strings"
)

// Tree is an expression over paths: the right side of a rule. It is one of Leaf, Alt, Union
// and the tokens Neg, Fail and Empty.
type Tree interface {
	// String prints the tree in canonical form; ParseTree reads it back.
	String() string
	isTree()
}

// Leaf is a path that is to be looked up again.
type Leaf Path

// Alt is a list of alternatives, written a | b: the first that is not Neg is the answer.
type Alt []Tree

// Union is a weighted choice made for each request, written a & 9*b.
type Union []Weighted

// Weighted is one branch of a Union. Weights are relative to each other and not negative.
type Weighted struct {
	Weight float64
	Tree   Tree
}

// Token is a tree that is an answer in itself.
type Token byte

// The tokens, which are written as the byte they are.
const (
	Neg   Token = '~' // no answer: the next alternative is tried
	Fail  Token = '!' // stop: no alternative after it is tried
	Empty Token = '$' // an answer with no endpoints, which also stops
)

func (t Token) String() string { return string(rune(t)) }
func (l Leaf) String() string  { return Path(l).String() }

// String prints the alternatives joined by " | ".
func (a Alt) String() string {
	if len(a) == 0 {
		return Neg.String() // what an empty list means
	}
	var b strings.Builder
	for i, t := range a {
		if i > 0 {
			b.WriteString(" | ")
		}
		_, nested := t.(Alt)
		writeTree(&b, t, nested)
	}
	return b.String()
}

// String prints the branches joined by " & ". Weights have two decimals, so a weight below
// 0.005 prints as 0.00, and one that rounds to 1.00 is left out.
func (u Union) String() string {
	if len(u) == 0 {
		return Neg.String()
	}
	var b strings.Builder
	for i, w := range u {
		if i > 0 {
			b.WriteString(" & ")
		}
		if s := strconv.FormatFloat(w.Weight, 'f', 2, 64); s != "1.00" {
			b.WriteString(s)
			b.WriteByte('*')
		}
		switch w.Tree.(type) {
		case Alt, Union:
			writeTree(&b, w.Tree, true)
		default:
			writeTree(&b, w.Tree, false)
		}
	}
	return b.String()
}

func writeTree(b *strings.Builder, t Tree, parens bool) {
	if parens {
		b.WriteByte('(')
	}
	b.WriteString(t.String())
	if parens {
		b.WriteByte(')')
	}
}

func (Token) isTree() {}
func (Leaf) isTree()  {}
func (Alt) isTree()   {}
func (Union) isTree() {}
