package workload

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// lines are those of a new entry in block style, without the indentation that all of them share.
func (w *writer) lines(e *entry, inArray bool) []string {
	first, rest := w.value(e.value, inArray)
	head := "-"
	if !inArray {
		head = yamlText(e.key) + ":"
	}
	if first != "" {
		head += " " + first
	}
	return append([]string{head}, rest...)
}

// value is what stands behind the colon or the dash of a value in block style, and the lines below, indented as against
// the key or the dash.
func (w *writer) value(n *node, inArray bool) (first string, rest []string) {
	if n.kind == scalar {
		s, ok := n.text()
		if !ok {
			return string(n.raw), nil
		}
		step := w.step
		if inArray {
			step = 2
		}
		if lines, ok := literal(s); ok && !w.quote {
			return lines[0], indented(lines[1:], step)
		}
		return yamlText(s), nil
	}
	if len(n.entries) == 0 {
		return brackets(n), nil
	}
	var lines []string
	for _, e := range n.entries {
		lines = append(lines, w.lines(e, n.kind == array)...)
	}
	switch {
	case inArray:
		return lines[0], indented(lines[1:], 2)
	case n.kind == array:
		return "", indented(lines, w.dash)
	}
	return "", indented(lines, w.step)
}

func indented(lines []string, by int) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		if out[i] = line; line != "" {
			out[i] = strings.Repeat(" ", by) + line
		}
	}
	return out
}

// literal writes a text of several lines in block style, if that keeps it as it is. The first line is the indicator.
func literal(s string) ([]string, bool) {
	body := strings.TrimSuffix(s, "\n")
	if !strings.Contains(body, "\n") || strings.HasSuffix(body, "\n") || strings.TrimLeft(body, " \t\n") != body || !printable(s, "\n\t") {
		return nil, false
	}
	lines := strings.Split(body, "\n")
	for _, line := range lines {
		if line != "" && strings.TrimSpace(line) == "" {
			return nil, false
		}
	}
	indicator := "|-"
	if body != s {
		indicator = "|"
	}
	return append([]string{indicator}, lines...), true
}

// printable reports whether YAML takes s unescaped.
func printable(s, also string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return r != ' ' && !unicode.IsGraphic(r) && !strings.ContainsRune(also, r) || r >= 0x80 && unicode.IsSpace(r) || r == unicode.ReplacementChar
	}) < 0
}

// bare matches what needs no quotes, if it is not read as something else than a text.
var bare = regexp.MustCompile(`^[A-Za-z0-9_/.$(]([A-Za-z0-9_/.,:$()@+=%*-]*[A-Za-z0-9_/.$()=%*-])?$`)

// yamlText writes a text on one line: bare, in single quotes, or in double quotes, whichever is the first that fits.
func yamlText(s string) string {
	if bare.MatchString(s) && string(plainValue(s)) == string(quoteJSON(s)) {
		var again any
		if yaml.Unmarshal([]byte("a: "+s), &again) == nil {
			if m, ok := again.(map[string]any); ok && m["a"] == s {
				return s
			}
		}
	}
	if strings.ContainsAny(s, `"\`) && printable(s, "") {
		return singleQuoted(s)
	}
	return yamlQuoted(s)
}

func singleQuoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// yamlQuoted writes a text in double quotes. It differs from JSON in what needs an escape.
func yamlQuoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == ' ' || r < 0x80 && unicode.IsGraphic(r) || r != unicode.ReplacementChar && unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02X`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			fmt.Fprintf(&b, `\U%08X`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// flowStyle is how the brackets of a collection are filled.
type flowStyle struct {
	between string // behind a comma
	colon   string
	unit    string // of indentation; empty if all is on one line
	plain   bool   // texts need no quotes
}

// flowStyle finds how n, which is in the text, is written.
func (w *writer) flowStyle(n *node) flowStyle {
	style := flowStyle{between: " ", colon: ": "}
	if len(n.source) == 0 {
		return style
	}
	first := n.source[0]
	style.plain = !w.json && (n.kind == array || first.start < len(w.text) && w.text[first.start] != '"')
	if between := w.text[n.start:first.start]; strings.Contains(string(between), "\n") {
		lead := func(at int) string {
			line := string(w.text[lineBegin(w.text, at):at])
			return line[:len(line)-len(strings.TrimLeft(line, " \t"))]
		}
		own := lead(first.start)
		style.between = w.eol + own
		if style.unit = strings.TrimPrefix(own, lead(n.start)); style.unit == "" {
			style.unit = "  "
		}
	} else if w.json {
		for _, e := range n.source {
			if n.kind == object && e.value.start == e.colon && w.text[e.colon-1] == ':' {
				style.colon, style.between = ":", ""
			}
		}
		if len(n.source) > 1 && w.text[n.source[1].start-1] == ',' || n.kind == array && w.compact(n) {
			style.colon, style.between = ":", ""
		}
	}
	return style
}

// compact reports whether an object within n has no space behind its colons.
func (w *writer) compact(n *node) bool {
	for _, e := range n.source {
		if len(e.value.source) > 0 && e.value.kind == object {
			return w.text[e.value.source[0].colon-1] == ':'
		}
	}
	return false
}

func (w *writer) flowEntry(e *entry, inArray bool, style flowStyle) string {
	if inArray {
		return w.flowValue(e.value, style)
	}
	return style.text(w, e.key) + style.colon + w.flowValue(e.value, style)
}

// wordy matches what needs no quotes within brackets, if it is not read as something else than a text.
var wordy = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_./-]*$`)

func (s flowStyle) text(w *writer, text string) string {
	if s.plain && wordy.MatchString(text) && yamlText(text) == text {
		return text
	}
	if w.json {
		return string(quoteJSON(text))
	}
	return yamlQuoted(text)
}

func (w *writer) flowValue(n *node, style flowStyle) string {
	if n.kind == scalar {
		if s, ok := n.text(); ok {
			return style.text(w, s)
		}
		return string(n.raw)
	}
	if len(n.entries) == 0 {
		return brackets(n)
	}
	inner := style
	var begin, end string
	if style.unit != "" {
		inner.between = style.between + style.unit
		begin, end = inner.between, style.between
	}
	var parts []string
	for _, e := range n.entries {
		parts = append(parts, w.flowEntry(e, n.kind == array, inner))
	}
	b := brackets(n)
	return b[:1] + begin + strings.Join(parts, ","+inner.between) + end + b[1:]
}
