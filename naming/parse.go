package naming

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxNesting bounds the parentheses of a tree, which come from request headers too.
const maxNesting = 100

// ParseError says what a text should have held, and where. Its message is shown to users:
// in answers to a bad l5d-dtab header, by the namer API and by the CLI.
type ParseError struct {
	Input    string
	Offset   int    // of the offending character, in bytes; len(Input) at the end
	Expected string // characters are in single quotes
	Found    string // likewise, or "end of input"
}

// Error prints `<expected> expected but <found> found at '<before>[<char>]<after>'`.
func (e *ParseError) Error() string {
	_, size := utf8.DecodeRuneInString(e.Input[e.Offset:])
	return fmt.Sprintf("%s expected but %s found at '%s[%s]%s'", e.Expected, e.Found,
		e.Input[:e.Offset], e.Input[e.Offset:e.Offset+size], e.Input[e.Offset+size:])
}

// Brief says what err says, but of a *ParseError only where it is and what is wrong there: for logs,
// and for those who are not to read the rest of a text that may be anything.
func Brief(err error) string {
	var wrong *ParseError
	if !errors.As(err, &wrong) {
		return err.Error()
	}
	before := wrong.Input[:min(wrong.Offset, len(wrong.Input))]
	line := 1 + strings.Count(before, "\n")
	return fmt.Sprintf("line %d, column %d: %s expected but %s found", line, len(before)-strings.LastIndexByte(before, '\n'), wrong.Expected, wrong.Found)
}

// ParsePath reads a path such as /svc/world, with white space and comments allowed around
// it. A byte of an element may be written \xHH. Errors are *ParseError.
func ParsePath(s string) (Path, error) {
	return parse(s, func(p *parser) (Path, error) { return p.path() })
}

// ParsePrefix reads the left side of a rule, a path in which * is any one element. Errors
// are *ParseError.
func ParsePrefix(s string) (Prefix, error) {
	return parse(s, func(p *parser) (Prefix, error) { return p.prefix() })
}

// ParseTree reads a name tree such as "/a | 9*/b & /c". Errors are *ParseError.
func ParseTree(s string) (Tree, error) {
	return parse(s, func(p *parser) (Tree, error) { return p.tree() })
}

// ParseDtab reads rules such as "/srv => /#/io.l5d.k8s/default/http ; /svc => /srv". Empty
// text and text of comments only are the empty dtab. Errors are *ParseError.
func ParseDtab(s string) (Dtab, error) {
	return parse(s, func(p *parser) (Dtab, error) { return p.dtab() })
}

// parse runs one production over the whole of s.
func parse[T any](s string, production func(*parser) (T, error)) (T, error) {
	var zero T
	p := &parser{in: s}
	p.space()
	t, err := production(p)
	if err != nil {
		return zero, err
	}
	p.space()
	if p.pos < len(p.in) {
		return zero, p.expected("end of input")
	}
	return t, nil
}

// parser is a recursive descent over bytes. Productions start at their first character and
// stop right behind their last; those that call them skip white space.
type parser struct {
	in      string
	pos     int
	nesting int
}

// peek returns the next byte, or 0 at the end and for a NUL byte, which no production accepts.
func (p *parser) peek() byte {
	if p.pos < len(p.in) {
		return p.in[p.pos]
	}
	return 0
}

func (p *parser) accept(c byte) bool {
	if p.peek() != c {
		return false
	}
	p.pos++
	return true
}

func (p *parser) expected(what string) error {
	e := &ParseError{Input: p.in, Offset: p.pos, Expected: what, Found: "end of input"}
	if p.pos < len(p.in) {
		r, size := utf8.DecodeRuneInString(p.in[p.pos:])
		e.Found = "'" + p.in[p.pos:p.pos+size] + "'"
		if r == utf8.RuneError && size == 1 {
			e.Found = fmt.Sprintf(`'\x%02x'`, p.in[p.pos])
		}
	}
	return e
}

// space skips white space and comments.
func (p *parser) space() {
	for p.pos < len(p.in) {
		switch p.in[p.pos] {
		case ' ', '\t', '\n', '\r', '\v', '\f':
			p.pos++
		case '#':
			if end := strings.IndexByte(p.in[p.pos:], '\n'); end >= 0 {
				p.pos += end + 1
			} else {
				p.pos = len(p.in)
			}
		default:
			return
		}
	}
}

// dtab = [ dentry { ";" dentry } [ ";" ] ]
func (p *parser) dtab() (Dtab, error) {
	var d Dtab
	for p.pos < len(p.in) {
		rule, err := p.dentry()
		if err != nil {
			return nil, err
		}
		d = append(d, rule)
		p.space()
		if !p.accept(';') {
			if p.pos < len(p.in) {
				return nil, p.expected("';'")
			}
			break
		}
		p.space()
	}
	return d, nil
}

// dentry = prefix "=>" tree
func (p *parser) dentry() (Dentry, error) {
	prefix, err := p.prefix()
	if err != nil {
		return Dentry{}, err
	}
	p.space()
	if !strings.HasPrefix(p.in[p.pos:], "=>") {
		if p.accept('=') {
			return Dentry{}, p.expected("'>'")
		}
		return Dentry{}, p.expected("'=>'")
	}
	p.pos += len("=>")
	p.space()
	dst, err := p.tree()
	return Dentry{prefix, dst}, err
}

// tree = union { "|" union }
func (p *parser) tree() (Tree, error) {
	var alternatives Alt
	for {
		t, err := p.union()
		if err != nil {
			return nil, err
		}
		alternatives = append(alternatives, t)
		if !p.separator('|') {
			break
		}
	}
	if len(alternatives) == 1 {
		return alternatives[0], nil
	}
	return alternatives, nil
}

// union = weighted { "&" weighted }
func (p *parser) union() (Tree, error) {
	var branches Union
	for {
		w, err := p.weighted()
		if err != nil {
			return nil, err
		}
		branches = append(branches, w)
		if !p.separator('&') {
			break
		}
	}
	if len(branches) == 1 {
		return branches[0].Tree, nil // a weight with nothing to weigh against means nothing
	}
	return branches, nil
}

// separator accepts c with white space on both sides; if c does not follow, it consumes
// nothing.
func (p *parser) separator(c byte) bool {
	before := p.pos
	p.space()
	if !p.accept(c) {
		p.pos = before
		return false
	}
	p.space()
	return true
}

// weighted = [ number "*" ] simple
func (p *parser) weighted() (Weighted, error) {
	w := Weighted{Weight: 1}
	if c := p.peek(); c == '.' || isDigit(c) {
		var err error
		if w.Weight, err = p.number(); err != nil {
			return w, err
		}
		p.space()
		if !p.accept('*') {
			return w, p.expected("'*'")
		}
		p.space()
	}
	var err error
	w.Tree, err = p.simple()
	return w, err
}

// number = digits with at most one "."
func (p *parser) number() (float64, error) {
	start, digits, points := p.pos, 0, 0
	for ; p.pos < len(p.in); p.pos++ {
		if isDigit(p.in[p.pos]) {
			digits++
		} else if p.in[p.pos] == '.' && points == 0 {
			points++
		} else {
			break
		}
	}
	if digits == 0 || p.peek() == '.' {
		return 0, p.expected("digit")
	}
	n, err := strconv.ParseFloat(p.in[start:p.pos], 64)
	if err != nil { // only a number too large for a float64 is left
		p.pos = start
		return 0, p.expected("a smaller weight")
	}
	return n, nil
}

// simple = "(" tree ")" | path | "!" | "~" | "$"
func (p *parser) simple() (Tree, error) {
	switch c := p.peek(); c {
	case '/':
		path, err := p.path()
		return Leaf(path), err
	case byte(Neg), byte(Fail), byte(Empty):
		p.pos++
		return Token(c), nil
	case '(':
		if p.nesting == maxNesting {
			return nil, p.expected(fmt.Sprintf("no more than %d nested parentheses", maxNesting))
		}
		p.nesting++
		p.pos++
		p.space()
		t, err := p.tree()
		if err != nil {
			return nil, err
		}
		p.space()
		if !p.accept(')') {
			return nil, p.expected("')'")
		}
		p.nesting--
		return t, nil
	}
	return nil, p.expected("a path, '(', '~', '!' or '$'")
}

// path = "/" | "/" label { "/" label }
func (p *parser) path() (Path, error) {
	var path Path
	err := p.elements(func() error {
		label, err := p.label()
		path = append(path, label)
		return err
	})
	return path, err
}

// prefix = "/" | { "/" ( label | "*" ) }
func (p *parser) prefix() (Prefix, error) {
	var prefix Prefix
	err := p.elements(func() error {
		if p.accept('*') {
			prefix = append(prefix, Any)
			return nil
		}
		label, err := p.label()
		prefix = append(prefix, label)
		return err
	})
	return prefix, err
}

// elements reads "/" and, if an element follows it, that one and all others.
func (p *parser) elements(element func() error) error {
	if !p.accept('/') {
		return p.expected("'/'")
	}
	if strings.IndexByte("\x00 \t\n\r\v\f;=|&)", p.peek()) >= 0 {
		return nil // the empty path, for it is followed by the end or by another token
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if !p.accept('/') {
			return nil
		}
	}
}

// label = one or more of the showable characters and \xHH
func (p *parser) label() (string, error) {
	var unescaped []byte // nil as long as nothing was escaped
	start := p.pos
	for p.pos < len(p.in) {
		switch c := p.in[p.pos]; {
		case showable[c]:
			p.pos++
			if unescaped != nil {
				unescaped = append(unescaped, c)
			}
		case c == '\\':
			if unescaped == nil {
				unescaped = []byte(p.in[start:p.pos])
			}
			p.pos++
			if !p.accept('x') {
				return "", p.expected("'x'")
			}
			var b byte
			for range 2 {
				d, ok := unhex(p.peek())
				if !ok {
					return "", p.expected("hex digit")
				}
				b = b<<4 | d
				p.pos++
			}
			unescaped = append(unescaped, b)
		default:
			goto end
		}
	}
end:
	if unescaped != nil {
		return string(unescaped), nil
	}
	if p.pos == start {
		return "", p.expected("label character")
	}
	return p.in[start:p.pos], nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func unhex(c byte) (byte, bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
