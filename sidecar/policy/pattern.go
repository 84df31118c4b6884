package policy

import (
	"fmt"
	"strings"
)

// pattern is a path whose elements are literal, `*` for any one, or text with
// {captures}. It matches the names that begin with such elements. Names are
// compared as they are printed.
type pattern []string

// parsePattern reads a pattern; "/" matches every name.
func parsePattern(s string) (pattern, error) {
	rest, ok := strings.CutPrefix(s, "/")
	if !ok {
		return nil, fmt.Errorf("%q does not begin with /", s)
	}
	if rest == "" {
		return nil, nil
	}
	p := pattern(strings.Split(rest, "/"))
	for _, e := range p {
		if err := checkElement(e); err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
	}
	return p, nil
}

func checkElement(e string) error {
	if e == "" {
		return fmt.Errorf("it has an empty element: two slashes, or one at its end")
	}
	if e == "*" {
		return nil
	}
	for rest := e; rest != ""; {
		literal, capture, found := strings.Cut(rest, "{")
		if i := strings.IndexFunc(literal, func(r rune) bool { return !isShown(r) }); i >= 0 {
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
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || strings.ContainsRune("_.:-", r)
}

// isShown reports whether r is part of a printed name: an element of other
// bytes is printed as \xhh throughout.
func isShown(r rune) bool { return isVariable(r) || strings.ContainsRune(`#$%\`, r) }

func (p pattern) String() string { return "/" + strings.Join(p, "/") }

func (p pattern) match(name string) bool {
	rest, ok := strings.CutPrefix(name, "/")
	if !ok {
		return false
	}
	for _, want := range p {
		var e string
		if e, rest, _ = strings.Cut(rest, "/"); e == "" || !matchElement(want, e) {
			return false
		}
	}
	return true
}

// matchElement matches a whole element, from end to end. Each capture takes one
// byte or more.
func matchElement(want, e string) bool {
	if want == "*" {
		return true
	}
	literals := literals(want)
	last := len(literals) - 1
	if last == 0 {
		return e == want
	}
	e, begins := strings.CutPrefix(e, literals[0])
	e, ends := strings.CutSuffix(e, literals[last])
	// From the right, so that the first captures take as much as they can.
	for i := last - 1; i > 0 && e != ""; i-- {
		at := strings.LastIndex(e[:len(e)-1], literals[i])
		e = e[:max(at, 0)]
	}
	return begins && ends && e != ""
}

// literals returns what is around the captures of an element.
func literals(element string) []string {
	literal, capture, found := strings.Cut(element, "{")
	all := []string{literal}
	for found {
		_, after, _ := strings.Cut(capture, "}")
		literal, capture, found = strings.Cut(after, "{")
		all = append(all, literal)
	}
	return all
}
