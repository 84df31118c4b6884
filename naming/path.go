package naming

import (
	"slices"
	"strings"
)

// Path is an ordered list of elements, written /a/b/c. Elements are bytes, compared exactly,
// and never empty. The zero Path is the empty path, written /.
type Path []string

const hexDigits = "0123456789abcdef"

// showable says for each byte whether it stands for itself in a printed element.
var showable = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'A'; c <= 'Z'; c++ {
		t[c], t[c+'a'-'A'] = true, true
	}
	for _, c := range "_:.#$%-" {
		t[c] = true
	}
	return t
}()

// String prints p in the form used everywhere: in headers, metrics and JSON. An element with
// any byte outside 0-9 A-Z a-z _ : . # $ % - is printed wholly as \xhh.
func (p Path) String() string {
	if len(p) == 0 {
		return "/"
	}
	n := 0
	for _, e := range p {
		n += 1 + len(e)
	}
	var b strings.Builder
	b.Grow(n)
	p.print(&b)
	return b.String()
}

func (p Path) print(b *strings.Builder) {
	if len(p) == 0 {
		b.WriteByte('/')
	}
	for _, e := range p {
		b.WriteByte('/')
		writeElement(b, e)
	}
}

func writeElement(b *strings.Builder, e string) {
	for i := range len(e) {
		if !showable[e[i]] {
			for i := range len(e) {
				b.WriteString(`\x`)
				b.WriteByte(hexDigits[e[i]>>4])
				b.WriteByte(hexDigits[e[i]&15])
			}
			return
		}
	}
	b.WriteString(e)
}

// Equal reports whether p and q have the same elements.
func (p Path) Equal(q Path) bool { return slices.Equal(p, q) }

// Join returns the path of p followed by rest. It shares memory with neither.
func (p Path) Join(rest ...string) Path {
	joined := make(Path, 0, len(p)+len(rest))
	return append(append(joined, p...), rest...)
}

// MarshalText prints p, so that a Path is a string in JSON.
func (p Path) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText parses what MarshalText wrote. Its errors are *ParseError.
func (p *Path) UnmarshalText(text []byte) error {
	q, err := ParsePath(string(text))
	if err == nil {
		*p = q
	}
	return err
}

// Any is the element of a Prefix that matches every element of a path. No path element is
// empty, so it cannot be mistaken for one; it is written *.
const Any = ""

// Prefix is the left side of a rule: elements to match, or Any.
type Prefix []string

// String prints the prefix as Path does, with * for Any.
func (p Prefix) String() string {
	if len(p) == 0 {
		return "/"
	}
	var b strings.Builder
	for _, e := range p {
		b.WriteByte('/')
		if e == Any {
			b.WriteByte('*')
			continue
		}
		writeElement(&b, e)
	}
	return b.String()
}

// match returns how many of p's elements path begins with, and whether these are all: the
// empty prefix matches every path.
func (p Prefix) match(path Path) (n int, ok bool) {
	if len(p) > len(path) {
		return 0, false
	}
	for i, e := range p {
		if e != Any && e != path[i] {
			return i, false
		}
	}
	return len(p), true
}
