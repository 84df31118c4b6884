package dtab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/naming"
)

// source is a dtab that somebody wrote, and the version that it was made from, if it says so.
type source struct {
	Version string
	Dtab    naming.Dtab
}

// versionLine is the first line of what get prints.
var versionLine = regexp.MustCompile(`\A\s*# version (\S+)[ \t]*(?:\r?\n|\z)`)

// maxFile bounds what is read; the namer takes no more.
const maxFile = 1 << 20

// readSource reads a file, or stdin if its name is "-": rules as text, or what get prints as JSON
// or YAML, or a list of rules, or an object dtabs.l5d.io.
func readSource(cmd *cobra.Command, name string) (source, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return source{}, unread(err)
		}
		defer f.Close()
		in = f
	} else {
		name = "<stdin>"
	}
	content, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	switch {
	case err != nil:
		return source{}, unread(err)
	case len(content) > maxFile:
		return source{}, fault.Failed(fmt.Errorf("read the dtab: %s is larger than the 1 MiB that a dtab may have", name), "")
	}
	text := string(content)
	if isText(text) {
		return readText(cmd.ErrOrStderr(), name, text)
	}
	return readDocument(name, content)
}

func unread(err error) error {
	return fault.Failed(fmt.Errorf("read the dtab: %w", err), "name a file, or - for standard input")
}

// isText reports whether something is rules, and not JSON or YAML: rules begin with a /.
func isText(s string) bool {
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line == "---" {
			continue
		}
		return !strings.HasPrefix(line, "{") && !strings.HasPrefix(line, "[") && !strings.HasPrefix(line, "- ") && !yamlKey.MatchString(line)
	}
	return true
}

var yamlKey = regexp.MustCompile(`^[A-Za-z]+:(\s|$)`)

func readText(talk io.Writer, name, text string) (source, error) {
	var s source
	if m := versionLine.FindStringSubmatch(text); m != nil {
		s.Version = m[1]
	}
	var err error
	s.Dtab, err = naming.ParseDtab(text)
	var parse *naming.ParseError
	if errors.As(err, &parse) {
		line, column := place(text, parse.Offset)
		point(talk, text, parse.Offset)
		err = fmt.Errorf("%s:%d:%d: %s expected but %s found", name, line, column, parse.Expected, parse.Found)
	}
	if err != nil {
		return source{}, fault.Failed(err, parseHint)
	}
	return s, nil
}

// place returns the line and the character in it, both counted from 1.
func place(text string, offset int) (line, column int) {
	before := text[:offset]
	start := strings.LastIndexByte(before, '\n') + 1
	return 1 + strings.Count(before, "\n"), 1 + utf8.RuneCountInString(before[start:])
}

// point shows a line with a mark under one character.
func point(talk io.Writer, text string, offset int) {
	line, column := place(text, offset)
	shownLine := fault.Shown(strings.ReplaceAll(strings.Split(text, "\n")[line-1], "\t", " "))
	fmt.Fprintf(talk, "%4d | %s\n     | %s^\n", line, shownLine, strings.Repeat(" ", column-1))
}

// readDocument reads JSON or YAML; JSON is YAML enough, and so has lines, too.
func readDocument(name string, content []byte) (source, error) {
	wrong := func(n *yaml.Node, format string, args ...any) error {
		return fault.Failed(fmt.Errorf("%s:%d:%d: %s", name, n.Line, n.Column, fmt.Sprintf(format, args...)),
			`write it as tulle dtab get -o json does: {"version":"…","dtab":[{"prefix":"/svc","dst":"/host"}]}`)
	}
	var doc, more yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	if err := decoder.Decode(&doc); err != nil {
		return source{}, fault.Failed(fmt.Errorf("%s: %w", name, err), "it is neither rules nor JSON nor YAML")
	}
	if decoder.Decode(&more) == nil {
		return source{}, wrong(&more, "there is more than one document")
	}
	root, s := doc.Content[0], source{Dtab: naming.Dtab{}}
	rules := root
	if root.Kind == yaml.MappingNode {
		rules = nil
		for i := 0; i < len(root.Content); i += 2 {
			switch key, value := root.Content[i], root.Content[i+1]; key.Value {
			case "version":
				s.Version = value.Value
			case "dtab", "dentries":
				if rules != nil {
					return source{}, wrong(key, "there is a second list of rules")
				}
				rules = value
			case "apiVersion", "kind", "metadata", "status": // of an object
			default:
				return source{}, wrong(key, "the key %q is unknown", key.Value)
			}
		}
	}
	if rules == nil || rules.Kind != yaml.SequenceNode {
		return source{}, wrong(root, "there is no list of rules")
	}
	for _, n := range rules.Content {
		d, at, err := readRule(n)
		if err != nil {
			return source{}, wrong(at, "%s", err)
		}
		s.Dtab = append(s.Dtab, d)
	}
	return s, nil
}

func readRule(n *yaml.Node) (d naming.Dentry, at *yaml.Node, err error) {
	var prefix, dst *yaml.Node
	if n.Kind == yaml.MappingNode {
		for i := 0; i < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			switch {
			case key.Value == "prefix" && prefix == nil:
				prefix = value
			case key.Value == "dst" && dst == nil:
				dst = value
			default:
				return d, key, fmt.Errorf("the key %q is unknown in a rule, or there twice", key.Value)
			}
		}
	}
	if prefix == nil || dst == nil {
		return d, n, errors.New("a rule has a prefix and a dst")
	}
	if d.Prefix, err = naming.ParsePrefix(prefix.Value); err != nil {
		return d, prefix, err
	}
	d.Dst, err = naming.ParseTree(dst.Value)
	return d, dst, err
}

// pretty prints a dtab as namerctl does: the arrows two columns behind the longest prefix.
func pretty(version string, d naming.Dtab) string {
	var b strings.Builder
	if version != "" {
		fmt.Fprintf(&b, "# version %s\n", version)
	}
	width := 0
	for _, rule := range d {
		width = max(width, len(rule.Prefix.String()))
	}
	for _, rule := range d {
		prefix, dst := sides(rule)
		fmt.Fprintf(&b, "%-*s  => %s ;\n", width, prefix, dst)
	}
	return b.String()
}

// sides prints both sides of a rule, with weights as they are: what is shown may be written back.
func sides(rule naming.Dentry) (prefix, dst string) {
	prefix, dst, _ = strings.Cut(naming.Dtab{rule}.Lossless(), "=>")
	return prefix, dst
}
