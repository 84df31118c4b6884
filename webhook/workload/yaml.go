package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	kyaml "sigs.k8s.io/yaml"
)

// yamlReader finds the place of each value of a YAML file. The parser says what there is; its nodes have no end,
// so the reader walks through the text along with them. Where the two disagree it gives up.
type yamlReader struct {
	name  string
	text  []byte
	at    int
	doc   int
	nodes map[*yaml.Node]*node // those with an anchor
	open  map[*yaml.Node]bool  // those that are being read
	cut   int                  // see File.cut
	// seen is a place that line was counted up to.
	seen, line int
	cr         bool // there are line ends other than \n
}

// readYAML reads a stream of YAML documents.
func readYAML(name string, text []byte) ([]document, int, error) {
	r := &yamlReader{name: name, text: text, line: 1, cr: bytes.IndexByte(text, '\r') >= 0}
	if bytes.HasPrefix(text, bom) {
		r.at = len(bom)
	}
	var docs []document
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var d yaml.Node
		err := decoder.Decode(&d)
		if errors.Is(err, io.EOF) {
			return docs, r.cut, nil
		}
		r.doc = len(docs) + 1
		if err != nil {
			return nil, 0, r.syntax(err)
		}
		r.nodes, r.open = map[*yaml.Node]*node{}, map[*yaml.Node]bool{}
		r.begin()
		if len(d.Content) != 1 {
			return nil, 0, r.lost("a document")
		}
		root, err := r.node(d.Content[0], -1, false, 0)
		if err != nil {
			return nil, 0, err
		}
		docs = append(docs, document{root: root})
	}
}

// unrendered is said of what has {{ where YAML cannot have it.
const unrendered = "it looks like a template, render it first, as by helm template"

// lineOf takes the line out of a message of the parser.
var lineOf = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

func (r *yamlReader) syntax(err error) error {
	m := lineOf.FindStringSubmatch(err.Error())
	e := &Error{File: r.name, Document: r.doc, Err: fmt.Errorf("this is no YAML: %s", strings.TrimPrefix(err.Error(), m[0]))}
	if bytes.Contains(r.text, []byte("{{")) {
		e.Err = fmt.Errorf("%w; %s", e.Err, unrendered)
	}
	e.Line, _ = strconv.Atoi(m[1])
	if at := bytes.IndexFunc(r.text, func(c rune) bool { return c < ' ' && !strings.ContainsRune("\t\r\n", c) || c == 0x7f }); at >= 0 && strings.Contains(err.Error(), "control characters") {
		e.Document = 0 // the parser reads ahead
		e.Line, e.Column = position(r.text, at)
	} else if e.Line == 0 {
		e.Line = 1 // which is the one that the parser leaves out
	}
	return e
}

// lost says that the reader cannot follow the parser.
func (r *yamlReader) lost(what string) error {
	line, column := position(r.text, min(r.at, len(r.text)))
	return &Error{File: r.name, Document: r.doc, Line: line, Column: column,
		Err: fmt.Errorf("the layout of %s is too unusual to follow; write it in the usual way", what)}
}

func (r *yamlReader) peek() byte {
	if r.at < len(r.text) {
		return r.text[r.at]
	}
	return 0
}

func (r *yamlReader) lineStart() bool {
	return r.at == 0 || r.text[r.at-1] == '\n' || r.at == len(bom) && bytes.HasPrefix(r.text, bom)
}

// space goes to the next token.
func (r *yamlReader) space() {
	for r.at < len(r.text) {
		switch c := r.text[r.at]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			r.at++
		case c == '#' && (r.lineStart() || strings.IndexByte(" \t", r.text[r.at-1]) >= 0):
			r.at = lineEnd(r.text, r.at)
		case c == 0xEF && bytes.HasPrefix(r.text[r.at:], bom) && r.lineStart():
			r.at += len(bom)
		default:
			return
		}
	}
}

// marker reports whether "---" or "..." begins here.
func (r *yamlReader) marker(m string) bool {
	if !r.lineStart() && !(r.at >= len(bom) && bytes.HasSuffix(r.text[:r.at], bom)) || !bytes.HasPrefix(r.text[r.at:], []byte(m)) {
		return false
	}
	rest := r.text[r.at+len(m):]
	return len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0
}

// begin goes over what separates documents.
func (r *yamlReader) begin() {
	for {
		r.space()
		switch {
		case r.marker("..."):
			r.at += 3
		case r.peek() == '%' && r.lineStart():
			r.at = lineEnd(r.text, r.at)
		case r.marker("---"):
			r.at += 3
			return
		default:
			return
		}
	}
}

// node reads the value of y, which begins here or after some space. Indent is the column of the block collection that
// it is part of, -1 for none; flow says that there are brackets around it.
func (r *yamlReader) node(y *yaml.Node, indent int, flow bool, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, r.lost("what is nested so deep")
	}
	n := &node{first: r.at, start: r.at, end: r.at}
	tagged := y.Style&yaml.TaggedStyle != 0
	if y.Kind == yaml.ScalarNode && y.Value == "" && y.Style&^yaml.TaggedStyle == 0 {
		if tagged || y.Anchor != "" {
			r.space()
			n.first = r.at
			r.properties(y)
			n.odd = "it has a tag or an anchor"
		}
		n.start, n.end, n.raw = r.at, r.at, resolvePlain(y, tagged)
		r.remember(y, n)
		return n, nil
	}
	r.space()
	n.first = r.at
	if y.Kind == yaml.AliasNode {
		return r.alias(y, n)
	}
	if tagged || y.Anchor != "" {
		r.properties(y)
		r.space()
	}
	n.start = r.at
	if y.Line > 0 {
		r.line += bytes.Count(r.text[r.seen:n.first], []byte("\n"))
		if r.seen = n.first; r.line != y.Line && !r.cr {
			return nil, r.lost("this value")
		}
	}
	r.open[y] = true
	defer delete(r.open, y)
	r.remember(y, n)
	var err error
	switch y.Kind {
	case yaml.ScalarNode:
		err = r.scalar(y, n, indent, tagged)
	case yaml.MappingNode:
		n.kind = object
		err = r.mapping(y, n, flow, depth)
	case yaml.SequenceNode:
		n.kind = array
		err = r.sequence(y, n, flow, depth)
	default:
		err = r.lost("this value")
	}
	n.end, n.source = r.at, n.entries
	return n, err
}

func (r *yamlReader) remember(y *yaml.Node, n *node) {
	if y.Anchor != "" {
		r.nodes[y] = n
	}
}

func (r *yamlReader) alias(y *yaml.Node, n *node) (*node, error) {
	if r.peek() != '*' {
		return nil, r.lost("an alias")
	}
	n.kind, n.start = alias, r.at
	r.at += 1 + len(y.Value)
	n.end = r.at
	if target := r.nodes[y.Alias]; target != nil {
		target.users = append(target.users, n)
		if !r.open[y.Alias] {
			n.target = target
		}
		return n, nil
	}
	return nil, r.lost("an alias")
}

// properties goes over a tag and an anchor, in either order.
func (r *yamlReader) properties(y *yaml.Node) {
	for range 2 {
		if c := r.peek(); c != '&' && c != '!' {
			return
		}
		for r.at < len(r.text) && strings.IndexByte(" \t\r\n,[]{}", r.text[r.at]) < 0 {
			r.at++
		}
		end := r.at
		if r.space(); r.peek() != '&' && r.peek() != '!' {
			r.at = end
			return
		}
	}
}

func (r *yamlReader) column(at int) int { return at - lineBegin(r.text, at) }

func (r *yamlReader) mapping(y *yaml.Node, n *node, flow bool, depth int) error {
	n.flow = y.Style&yaml.FlowStyle != 0
	open := n.flow && r.peek() == '{'
	if n.flow && !open {
		n.odd = "it has no brackets of its own"
	}
	if open {
		r.at++
	}
	indent := r.column(r.at)
	for i := 0; i+1 < len(y.Content); i += 2 {
		key, value := y.Content[i], y.Content[i+1]
		if r.space(); i > 0 && n.flow {
			if r.peek() != ',' {
				return r.lost("this object")
			}
			r.at++
			r.space()
		}
		e := &entry{start: r.at}
		if r.peek() == '?' && (r.at+1 == len(r.text) || strings.IndexByte(" \t\r\n", r.text[r.at+1]) >= 0) {
			n.odd = "it has keys that are written with a question mark"
			r.at++
		}
		k, err := r.node(key, indent, n.flow, depth+1)
		if err != nil {
			return err
		}
		if k.odd != "" || k.first != k.start {
			n.odd = "it has keys with a tag or an anchor"
		}
		e.key, e.named = keyText(key, k)
		if e.named && e.key == mergeKey && (key.Tag == "!!merge" || key.Style == 0) {
			n.merges = true
		}
		end := r.at
		if r.space(); r.peek() == ':' {
			r.at++
		} else if !n.flow && n.odd == "" {
			return r.lost("this key")
		} else {
			r.at, e.bare = end, true
		}
		e.colon = r.at
		if e.value, err = r.node(value, indent, n.flow, depth+1); err != nil {
			return err
		}
		n.entries = append(n.entries, e)
	}
	if open {
		return r.close('}')
	}
	return nil
}

// close goes over the last bracket of a collection, and a comma before it.
func (r *yamlReader) close(bracket byte) error {
	if r.space(); r.peek() == ',' {
		r.at++
		r.space()
	}
	if r.peek() != bracket {
		return r.lost("what stands in brackets here")
	}
	r.at++
	return nil
}

func (r *yamlReader) sequence(y *yaml.Node, n *node, flow bool, depth int) error {
	n.flow = y.Style&yaml.FlowStyle != 0
	if n.flow {
		if r.peek() != '[' {
			return r.lost("this list")
		}
		r.at++
	}
	indent := r.column(r.at)
	for i, value := range y.Content {
		r.space()
		if n.flow && i > 0 {
			if r.peek() != ',' {
				return r.lost("this list")
			}
			r.at++
			r.space()
		}
		e := &entry{start: r.at}
		if !n.flow {
			if r.peek() != '-' {
				return r.lost("this list")
			}
			r.at++
		}
		e.colon = r.at
		var err error
		if e.value, err = r.node(value, indent, n.flow, depth+1); err != nil {
			return err
		}
		n.entries = append(n.entries, e)
	}
	if n.flow {
		return r.close(']')
	}
	return nil
}

// keyText is the key as JSON has it. Kubernetes makes texts of numbers and truth values.
func keyText(y *yaml.Node, n *node) (string, bool) {
	if n.kind != scalar || n.raw == nil {
		return "", false
	}
	if s, ok := n.text(); ok {
		return s, true
	}
	return y.Value, true
}

func (r *yamlReader) scalar(y *yaml.Node, n *node, indent int, tagged bool) error {
	switch style := y.Style &^ yaml.TaggedStyle; style {
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		n.raw = resolveText(y, tagged)
		return r.quoted()
	case yaml.LiteralStyle, yaml.FoldedStyle:
		n.raw = resolveText(y, tagged)
		return r.block(indent)
	default:
		n.raw = resolvePlain(y, tagged)
		return r.plain(y.Value)
	}
}

func (r *yamlReader) quoted() error {
	quote := r.peek()
	if quote != '"' && quote != '\'' {
		return r.lost("this text")
	}
	for r.at++; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; {
		case c == '\\' && quote == '"':
			r.at++
		case c == quote && quote == '\'' && r.at+1 < len(r.text) && r.text[r.at+1] == quote:
			r.at++
		case c == quote:
			r.at++
			return nil
		}
	}
	return r.lost("this text")
}

// plain follows a text without quotes, the lines of which are folded.
func (r *yamlReader) plain(value string) error {
	for i := 0; i < len(value); {
		switch {
		case r.at < len(r.text) && r.text[r.at] == value[i] && value[i] != ' ' && value[i] != '\n':
			r.at++
			i++
		case value[i] == ' ' || value[i] == '\n':
			begin := r.at
			for r.at < len(r.text) && strings.IndexByte(" \t\r\n", r.text[r.at]) >= 0 {
				r.at++
			}
			if r.at == begin {
				return r.lost("this text")
			}
			for i < len(value) && strings.IndexByte(" \t\n", value[i]) >= 0 {
				i++
			}
		default:
			return r.lost("this text")
		}
	}
	return nil
}

// block follows a text that begins with | or >.
func (r *yamlReader) block(indent int) error {
	if c := r.peek(); c != '|' && c != '>' {
		return r.lost("this text")
	}
	r.at++
	width, keep, strip := 0, false, false
	for ; strings.IndexByte("+-0123456789", r.peek()) >= 0 && r.peek() != 0; r.at++ {
		switch c := r.peek(); {
		case c == '+':
			keep = true
		case c == '-':
			strip = true
		default:
			width = int(c - '0')
		}
	}
	header, end := r.at, r.at
	least := max(indent, -1) + 1 // the column where content may begin
	if width > 0 {
		least = max(indent, 0) + width
	} else {
		width = -1
	}
	for at := lineEnd(r.text, r.at); at < len(r.text); {
		begin := afterLine(r.text, at)
		if begin >= len(r.text) {
			break
		}
		stop := lineEnd(r.text, begin)
		line := r.text[begin:stop]
		spaces := len(line) - len(bytes.TrimLeft(line, " "))
		blank := spaces == len(line)
		if !blank && width < 0 {
			least, width = max(least, spaces), 0
		}
		r.at = begin
		if !blank && (spaces < least || r.marker("---") || r.marker("...")) {
			break
		}
		if !blank || keep {
			end = stop
		}
		at = stop
	}
	if r.cut = 0; end == len(r.text) && !strip {
		r.cut = header
	}
	r.at = end
	return nil
}

// resolveText is the value of a text in quotes.
func resolveText(y *yaml.Node, tagged bool) json.RawMessage {
	if tagged && y.Tag != "!!str" && y.Tag != "!" {
		return nil
	}
	return quoteJSON(y.Value)
}

// resolvePlain is the value of a text without quotes, as Kubernetes reads it: by YAML 1.1, where yes is true.
func resolvePlain(y *yaml.Node, tagged bool) json.RawMessage {
	if tagged {
		switch y.Tag {
		case "!!str", "!":
			return quoteJSON(y.Value)
		case "!!int", "!!bool", "!!null", "!!float":
		default:
			return nil
		}
	}
	return plainValue(y.Value)
}

// plainValue is what Kubernetes reads when s is written without quotes; nil if JSON does not have it.
func plainValue(s string) json.RawMessage {
	if certainlyText.MatchString(s) && !truthValue.MatchString(s) {
		return quoteJSON(s)
	}
	text, err := kyaml.YAMLToJSON([]byte("a: " + s))
	const before, after = `{"a":`, `}`
	if err != nil || !bytes.HasPrefix(text, []byte(before)) {
		return nil
	}
	return bytes.TrimSuffix(bytes.TrimSpace(text[len(before):]), []byte(after))
}

var (
	certainlyText = regexp.MustCompile(`^[A-Za-z/][^\n]*$`)
	truthValue    = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|true|false|null)$`)
)

func quoteJSON(s string) json.RawMessage {
	var b bytes.Buffer
	w := json.NewEncoder(&b)
	w.SetEscapeHTML(false)
	if w.Encode(s) != nil {
		return nil
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// lineBegin is where the line of a byte begins.
func lineBegin(text []byte, at int) int {
	begin := bytes.LastIndexByte(text[:at], '\n') + 1
	if begin == 0 && bytes.HasPrefix(text, bom) {
		return min(at, len(bom))
	}
	return begin
}

// lineEnd is where the line of a byte ends, before what ends it.
func lineEnd(text []byte, at int) int {
	end := bytes.IndexByte(text[at:], '\n')
	if end < 0 {
		return len(text)
	}
	if end += at; end > at && text[end-1] == '\r' {
		end--
	}
	return end
}

// afterLine is where the next line begins, given where one ends.
func afterLine(text []byte, end int) int {
	if bytes.HasPrefix(text[end:], []byte("\r\n")) {
		return end + 2
	}
	return min(end+1, len(text))
}
