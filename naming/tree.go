package naming

import (
	"strconv"
	"strings"
)

// Tree is an expression over paths: the right side of a rule. It is one of Leaf, Alt, Union
// and the tokens Neg, Fail and Empty.
type Tree interface {
	// String prints the tree in canonical form; ParseTree reads it back, with weights
	// rounded to two decimals.
	String() string
	// print appends the tree to b, with as many decimals of weights.
	print(b *strings.Builder, decimals int)
}

// Decimals of weights in print.
const (
	canonical = 2
	exact     = -1 // as many as it takes to read the same weight back
	lossless  = -2 // canonical where that reads back as the same weight, else exact
)

func printWeight(weight float64, decimals int) string {
	if decimals != lossless {
		return strconv.FormatFloat(weight, 'f', decimals, 64)
	}
	s := printWeight(weight, canonical)
	if same, err := strconv.ParseFloat(s, 64); err != nil || same != weight {
		s = printWeight(weight, exact)
	}
	return s
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
func (a Alt) String() string { return printed(a) }

// String prints the branches joined by " & ". Weights other than 1 have two decimals, so
// 1.001 prints as 1.00 and a weight below 0.005 as 0.00: that is what Linkerd 1.x prints.
// Dtab.Exact and Dtab.Lossless round nothing.
func (u Union) String() string { return printed(u) }

func printed(t Tree) string {
	var b strings.Builder
	t.print(&b, canonical)
	return b.String()
}

func (t Token) print(b *strings.Builder, _ int) { b.WriteByte(byte(t)) }
func (l Leaf) print(b *strings.Builder, _ int)  { Path(l).print(b) }

func (a Alt) print(b *strings.Builder, decimals int) {
	if len(a) == 0 {
		Neg.print(b, decimals) // what an empty list means
	}
	for i, t := range a {
		if i > 0 {
			b.WriteString(" | ")
		}
		_, nested := t.(Alt)
		printIn(b, t, nested, decimals)
	}
}

func (u Union) print(b *strings.Builder, decimals int) {
	if len(u) == 0 {
		Neg.print(b, decimals)
	}
	for i, w := range u {
		if i > 0 {
			b.WriteString(" & ")
		}
		if w.Weight != 1 {
			b.WriteString(printWeight(w.Weight, decimals))
			b.WriteByte('*')
		}
		switch w.Tree.(type) {
		case Alt, Union:
			printIn(b, w.Tree, true, decimals)
		default:
			printIn(b, w.Tree, false, decimals)
		}
	}
}

func printIn(b *strings.Builder, t Tree, parens bool, decimals int) {
	if parens {
		b.WriteByte('(')
	}
	t.print(b, decimals)
	if parens {
		b.WriteByte(')')
	}
}
