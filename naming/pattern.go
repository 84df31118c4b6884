package naming

import (
	"fmt"
	"strings"
)

// Pattern is a path by which a configuration says which names it is about. Its
// elements are literal, `*` for any one element, or text with {captures}, each of
// which takes one byte or more. It matches the names that begin with such
// elements, so the empty Pattern, written /, matches every name. Unlike Linkerd
// 1.x, whose captures are searched for, an element matches from end to end.
//
// Names are compared as they are printed: an element that is not wholly showable
// is \xhh throughout.
type Pattern []string

// ParsePattern reads a pattern such as /#/io.l5d.k8s/*/http/{service}. Variables
// are of letters, digits, "_", ".", ":" and "-". A slash at its end is nothing, as in
// configurations of Linkerd 1.x.
func ParsePattern(s string) (Pattern, error) {
	rest, ok := strings.CutPrefix(s, "/")
	if !ok {
		return nil, fmt.Errorf("%q does not begin with /", s)
	}
	if rest == "" {
		return nil, nil
	}
	rest = strings.TrimSuffix(rest, "/")
	p := Pattern(strings.Split(rest, "/"))
	for i, e := range p {
		if err := checkElement(e); err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		if e == "*" || strings.Contains(e, "{") {
			continue
		}
		literal, err := ParsePath("/" + e) // so that it is compared as it is printed
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		p[i] = literal.String()[1:]
	}
	return p, nil
}

func checkElement(e string) error {
	if e == "" {
		return fmt.Errorf("it has an empty element, of two slashes")
	}
	if e == "*" {
		return nil
	}
	for rest := e; rest != ""; {
		literal, capture, found := strings.Cut(rest, "{")
		if i := strings.IndexFunc(literal, func(r rune) bool { return !isPrinted(r) }); i >= 0 {
			return fmt.Errorf("the element %q has a character that no name has; * must be a whole element", e)
		}
		if !found {
			return nil
		}
		name, after, closed := strings.Cut(capture, "}")
		if !closed || name == "" || strings.ContainsFunc(name, func(r rune) bool { return !isVariable(r) }) {
			return fmt.Errorf("the element %q has a { that begins no capture such as {name}", e)
		}
		rest = after
	}
	return nil
}

func isVariable(r rune) bool {
	return isPrinted(r) && !strings.ContainsRune(`#$%\`, r)
}

// isPrinted reports whether r may be in a printed element.
func isPrinted(r rune) bool { return r == '\\' || r < 0x80 && showable[r] }

// String prints the pattern, which ParsePattern reads back.
func (p Pattern) String() string { return "/" + strings.Join(p, "/") }

// Match reports whether name, a printed path, begins as the pattern says.
func (p Pattern) Match(name string) bool { return p.walk(name, nil) }

// Capture is Match, and returns what the captures took, as it is printed; of two
// captures with one name, the last. The first captures of an element take as much
// as they can: {a}-{b} on x-y-z is x-y and z.
func (p Pattern) Capture(name string) (map[string]string, bool) {
	vars := map[string]string{}
	if !p.walk(name, vars) {
		return nil, false
	}
	return vars, true
}

// Vars returns the names of the captures, in order.
func (p Pattern) Vars() []string {
	var all []string
	for _, e := range p {
		_, vars := splitElement(e)
		all = append(all, vars...)
	}
	return all
}

// Substitute replaces every {name} of text that vars has. Others stay as they are.
func Substitute(text string, vars map[string]string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "{")
		name, after, closed := strings.Cut(rest, "}")
		value, known := vars[name]
		b.WriteString(before)
		switch {
		case !found:
			return b.String()
		case closed && known:
			b.WriteString(value)
			text = after
		default:
			b.WriteByte('{')
			text = rest
		}
	}
}

// walk matches name, and puts captures into vars unless that is nil.
func (p Pattern) walk(name string, vars map[string]string) bool {
	rest, ok := strings.CutPrefix(name, "/")
	if !ok {
		return false
	}
	for _, want := range p {
		var e string
		if e, rest, _ = strings.Cut(rest, "/"); e == "" || !matchElement(want, e, vars) {
			return false
		}
	}
	return true
}

// matchElement matches a whole element, from end to end.
func matchElement(want, e string, vars map[string]string) bool {
	if want == "*" {
		return true
	}
	literals, names := splitElement(want)
	last := len(names)
	if last == 0 {
		return e == want
	}
	e, begins := strings.CutPrefix(e, literals[0])
	e, ends := strings.CutSuffix(e, literals[last])
	if !begins || !ends || e == "" {
		return false
	}
	captured := make([]string, last)
	// From the right, so that the first captures take as much as they can.
	for i := last - 1; i > 0; i-- {
		at := strings.LastIndex(e[:len(e)-1], literals[i])
		if at <= 0 {
			return false
		}
		captured[i], e = e[at+len(literals[i]):], e[:at]
	}
	captured[0] = e
	if vars != nil {
		for i, name := range names {
			vars[name] = captured[i]
		}
	}
	return true
}

// splitElement returns what is around the captures of an element, and their names:
// one literal more than there are names.
func splitElement(e string) (literals, names []string) {
	literal, rest, found := strings.Cut(e, "{")
	literals = append(literals, literal)
	for found {
		var name string
		name, rest, _ = strings.Cut(rest, "}")
		literal, rest, found = strings.Cut(rest, "{")
		names, literals = append(names, name), append(literals, literal)
	}
	return literals, names
}
