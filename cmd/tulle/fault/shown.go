package fault

import (
	"strings"
	"unicode"
)

// Shown makes one line of a text of somebody else, which a terminal cannot take for commands.
func Shown(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r) || r == unicode.ReplacementChar:
			return '?'
		}
		return r
	}, s)
}
