package workload

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// splice replaces text[start:end].
type splice struct {
	start, end int
	text       string
}

// apply makes the replacements, those at one place in their order.
func apply(text []byte, all []splice) []byte {
	slices.SortStableFunc(all, func(a, b splice) int { return cmp.Compare(a.start, b.start) })
	var out bytes.Buffer
	at := 0
	for _, s := range all {
		out.Write(text[at:max(at, s.start)])
		out.WriteString(s.text)
		at = max(at, s.end)
	}
	out.Write(text[at:])
	return out.Bytes()
}

// writer finds the splices that make of a text what an edited tree says. It takes its habits from the text.
type writer struct {
	text    []byte
	json    bool
	splices []splice
	eol     string
	step    int  // columns by which an object within an object is indented
	dash    int  // columns by which a list within an object is
	quote   bool // texts of several lines are quoted
}

// learn takes the habits of a template.
func (w *writer) learn(template *node) {
	w.eol, w.step, w.dash = "\n", 2, 2
	if end := bytes.IndexByte(w.text, '\n'); end > 0 && w.text[end-1] == '\r' {
		w.eol = "\r\n"
	}
	spec := template.child("spec")
	if spec == nil || spec.kind != object || spec.flow || template.flow || len(spec.entries) == 0 {
		return
	}
	own := w.column(spec.entries[0].start)
	if step := own - w.column(template.entries[0].start); step > 0 && step <= 8 {
		w.step = step
	}
	if list := spec.get("containers"); list != nil && list.value.kind == array && !list.value.flow {
		if dash := w.column(list.value.entries[0].start) - own; dash >= 0 && dash <= 8 {
			w.dash = dash
		}
	}
}

func (w *writer) column(at int) int { return at - lineBegin(w.text, at) }

func (w *writer) put(start, end int, text string) {
	w.splices = append(w.splices, splice{start, end, text})
}

// collection writes an object or an array that is in the text.
func (w *writer) collection(n *node) {
	if n.kind != object && n.kind != array {
		return
	}
	gap := w.blockGap
	if n.flow {
		gap = w.flowGap
	}
	if !n.edited {
		for _, e := range n.entries {
			w.entry(n, e)
		}
		return
	}
	// Between two entries that stay there may be some that go and some that come.
	var prev *entry
	var coming []*entry
	rest := n.source
	for _, e := range n.entries {
		if e.fresh {
			coming = append(coming, e)
			continue
		}
		i := slices.IndexFunc(rest, func(s *entry) bool { return s.start == e.start })
		gap(n, prev, coming, rest[:i], e)
		w.entry(n, e)
		prev, coming, rest = e, nil, rest[i+1:]
	}
	gap(n, prev, coming, rest, nil)
}

// entry writes the value of an entry that stays.
func (w *writer) entry(n *node, e *entry) {
	v := e.value
	switch {
	case v.fresh:
		w.replace(n, e, e.old)
	case v.edited && len(v.source) == 0:
		w.replace(n, e, v)
	case v.edited && len(v.entries) == 0 && (v.flow || w.beginsWithin(v)):
		w.put(v.start, v.end, brackets(v))
	case v.edited && len(v.entries) == 0:
		w.put(e.colon, e.colon, " "+brackets(v))
		w.put(w.front(v), lineEnd(w.text, v.end), "")
	default:
		w.collection(v)
	}
}

func brackets(n *node) string {
	if n.kind == array {
		return "[]"
	}
	return "{}"
}

// beginsWithin reports whether the first entry of a block collection stands behind something else on its line, as the
// first key does of an object in a list.
func (w *writer) beginsWithin(n *node) bool {
	at := n.source[0].start
	return len(bytes.TrimLeft(w.text[lineBegin(w.text, at):at], " ")) > 0
}

// front is the end of the line after which the first entry of a block collection and the comments on it begin; -1 if there
// is no such line.
func (w *writer) front(n *node) int {
	begin := lineBegin(w.text, n.source[0].start)
	for column := w.column(n.source[0].start); begin > 0 && column > 0; {
		above := lineBegin(w.text, begin-1)
		line := bytes.TrimSpace(w.text[above:begin])
		if len(line) > 0 && line[0] != '#' {
			break
		}
		begin = above
	}
	return w.before(begin)
}

// after is the end of the line after which the entry behind e begins: comments that are indented deeper belong to e.
func (w *writer) after(e *entry, column int) int {
	at := lineEnd(w.text, e.end())
	for at < len(w.text) {
		next := lineEnd(w.text, afterLine(w.text, at))
		line := w.text[afterLine(w.text, at):next]
		if text := bytes.TrimLeft(line, " "); len(text) == 0 || text[0] != '#' || len(line)-len(text) <= column {
			break
		}
		at = next
	}
	return at
}

// noBlock reports whether a text in block style would be another one behind the line of at: it swallows a comment below
// that is deeper than column, and loses its end where the file does not end its last line.
func (w *writer) noBlock(at, column int) bool {
	if at = lineEnd(w.text, at); at == len(w.text) {
		return true
	}
	for at < len(w.text) {
		begin := afterLine(w.text, at)
		at = lineEnd(w.text, begin)
		line := w.text[begin:at]
		if text := bytes.TrimLeft(line, " \t"); len(text) > 0 {
			return text[0] == '#' && len(line)-len(text) > column
		}
	}
	return false
}

// before is the end of the line before the one that begins at begin; -1 if there is none.
func (w *writer) before(begin int) int {
	if begin == 0 || w.text[begin-1] != '\n' {
		return -1
	}
	if begin > 1 && w.text[begin-2] == '\r' {
		return begin - 2
	}
	return begin - 1
}

// blockGap writes what is between prev and next, either of which may be nil, in lines of their own.
func (w *writer) blockGap(n *node, prev *entry, coming, going []*entry, next *entry) {
	if len(coming)+len(going) == 0 {
		return
	}
	indent := strings.Repeat(" ", w.column(n.source[0].start))
	at := w.front(n)
	if prev != nil {
		at = w.after(prev, len(indent))
	}
	w.quote = w.noBlock(max(at, 0), len(indent))
	for _, e := range going { // comments on it stay
		w.quote = w.quote || w.noBlock(e.end(), len(indent))
	}
	var lines []string
	for _, e := range coming {
		lines = append(lines, w.lines(e, n.kind == array)...)
	}
	if prev == nil && w.beginsWithin(n) {
		start, end := n.source[0].start, n.source[0].start
		switch {
		case next == nil:
			end = going[len(going)-1].end()
		case len(going) > 0:
			end = next.start
		}
		text := join(lines, w.eol, indent)
		if next != nil && len(lines) > 0 {
			text += w.eol + indent
		}
		w.put(start, end, text)
		return
	}
	if len(lines) > 0 {
		if at >= 0 {
			w.put(at, at, w.eol+indent+join(lines, w.eol, indent))
		} else {
			begin := lineBegin(w.text, n.source[0].start)
			w.put(begin, begin, indent+join(lines, w.eol, indent)+w.eol)
		}
	}
	for _, e := range going {
		begin, end := lineBegin(w.text, e.start), lineEnd(w.text, e.end())
		if above := w.before(begin); above >= 0 {
			w.put(above, end, "")
		} else {
			w.put(begin, afterLine(w.text, end), "")
		}
	}
}

// join indents all lines but the first; those that are empty stay so.
func join(lines []string, eol, indent string) string {
	var b strings.Builder
	for i, line := range lines {
		if i > 0 {
			b.WriteString(eol)
			if line != "" {
				b.WriteString(indent)
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// flowGap writes what is between prev and next within brackets.
func (w *writer) flowGap(n *node, prev *entry, coming, going []*entry, next *entry) {
	if len(coming)+len(going) == 0 {
		return
	}
	style := w.flowStyle(n)
	var b strings.Builder
	for i, e := range coming {
		if i > 0 || prev != nil {
			b.WriteString("," + style.between)
		}
		b.WriteString(w.flowEntry(e, n.kind == array, style))
	}
	switch {
	case prev != nil:
		end := prev.end()
		if len(going) > 0 {
			end = going[len(going)-1].end()
		}
		w.put(prev.end(), end, b.String())
	case next != nil:
		if len(coming) > 0 {
			b.WriteString("," + style.between)
		}
		w.put(n.source[0].start, next.start, b.String())
	default:
		w.put(n.source[0].start, going[len(going)-1].end(), b.String())
	}
}

// replace writes a value where the text has another one.
func (w *writer) replace(n *node, e *entry, old *node) {
	if n.flow {
		text := w.flowValue(e.value, w.flowStyle(n))
		if s, ok := w.likewise(e.value, old); ok {
			text = s
		}
		switch {
		case old.end > old.start:
			w.put(old.first, old.end, text)
		case e.bare:
			w.put(e.colon, e.colon, ": "+text)
		default:
			w.put(e.colon, old.end, " "+text)
		}
		return
	}
	w.quote = w.noBlock(old.end, w.column(n.source[0].start))
	first, rest := w.value(e.value, n.kind == array)
	if s, ok := w.likewise(e.value, old); ok {
		first, rest = s, nil
	}
	indent := strings.Repeat(" ", w.column(n.source[0].start))
	sameLine := bytes.IndexByte(w.text[e.colon:old.start], '\n') < 0
	switch {
	case first != "" && old.first == old.start && old.end > old.start && sameLine:
		w.put(old.start, old.end, first)
	case first != "":
		w.put(e.colon, old.end, " "+first)
	default:
		w.put(e.colon, old.end, "")
	}
	if len(rest) > 0 {
		at := lineEnd(w.text, old.end)
		w.put(at, at, join(append([]string{""}, rest...), w.eol, indent))
	}
}

// likewise writes a text in the quotes of the one that it replaces.
func (w *writer) likewise(n, old *node) (string, bool) {
	s, ok := n.text()
	if !ok || n.kind != scalar || old.kind != scalar || old.end == old.start {
		return "", false
	}
	switch {
	case w.text[old.start] == '"' && w.json:
		return string(quoteJSON(s)), true
	case w.text[old.start] == '"' && !strings.Contains(s, "\n"):
		return yamlQuoted(s), true
	case w.text[old.start] == '\'' && printable(s, ""):
		return singleQuoted(s), true
	}
	return "", false
}
