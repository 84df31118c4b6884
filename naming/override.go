package naming

import "fmt"

// Limits of the rules that one request may bring. Every proxy on its way parses, keeps, prints
// and sends on all of them, so they are far below what fits into headers, and far above what
// people write: an override is one rule or two.
const (
	MaxOverrideBytes = 8 << 10 // of text, as it came and as the rules print
	MaxOverrideRules = 100
)

// AppendOverride parses rules that a request brings and returns them behind those that it
// brought before, which they win over. All together keep to MaxOverrideRules and, as String
// prints them, to MaxOverrideBytes, so that what one proxy takes and prints, the next takes
// too.
//
// Errors are *ParseError, or say which limit the request is over; d is then as it was. It may
// share memory with the result.
func AppendOverride(d Dtab, text string) (Dtab, error) {
	if len(text) > MaxOverrideBytes { // before any work on it
		return nil, fmt.Errorf("read rules of the request: they have %d bytes, more than %d", len(text), MaxOverrideBytes)
	}
	rules, err := ParseDtab(text)
	if err != nil {
		return nil, err
	}
	all := append(d[:len(d):len(d)], rules...)
	if len(all) > MaxOverrideRules {
		return nil, fmt.Errorf("read rules of the request: they are %d, more than %d", len(all), MaxOverrideRules)
	}
	if n := len(all.String()); n > MaxOverrideBytes {
		return nil, fmt.Errorf("read rules of the request: they have %d bytes when printed, more than %d", n, MaxOverrideBytes)
	}
	return all, nil
}
