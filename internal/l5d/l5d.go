// Package l5d reads the words that the configurations of Linkerd 1.x and of its namerd
// share: addresses, the administration port, telemetry, TLS of servers, rules.
//
// It knows neither program: what a word leads to is the business of package linkerd of the
// proxy and package namerd of the namer. It opens nothing.
//
// Invariant: a word means the same in both configurations, or its function asks for what
// differs.
//
//	fields := []schema.Field[draft]{
//		schema.Lift(l5d.AdminField(9991), func(d *draft) *l5d.Admin { return &d.admin }),
//		l5d.Telemetry[draft](nil),
//	}
//	sets, ok := schema.Read(r, "", l5d.Root(r, content), fields, nil)
package l5d

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming"
)

// Loopback is where everything listens that is not told otherwise.
const Loopback = "127.0.0.1"

// Root parses content as document.Reader.Root does, all of JSON too.
func Root(r *document.Reader, content []byte) *yaml.Node { return r.Root(YAML(content)) }

// YAML returns content without what of JSON the parser of YAML does not take: tabs before
// a value and slashes that are escaped, as some writers do with all of them. Lines stay.
func YAML(content []byte) []byte {
	if !strings.HasPrefix(strings.TrimSpace(string(content)), "{") {
		return content
	}
	// A string of JSON has no tabs, and a backslash is of a string. The first pair keeps
	// what is escaped itself from being taken for an escape.
	return []byte(strings.NewReplacer(`\\`, `\\`, `\/`, "/", "\t", " ").Replace(string(content)))
}

// Quiet is f, read and without effect, which needs no warning.
func Quiet[T any](f schema.Field[T]) schema.Field[T] {
	return schema.IdleUnless(f, "", func(*yaml.Node) bool { return true })
}

// IP is the address to listen at.
func IP[T any](unset string, at func(*T) *string) schema.Field[T] {
	return schema.Scalar("ip", unset, at, func(n *yaml.Node) (string, error) {
		if n.Value == "localhost" {
			return Loopback, nil
		}
		ip, err := netip.ParseAddr(n.Value)
		if err != nil {
			return "", fmt.Errorf("%q is no IP address, such as %s or 0.0.0.0", n.Value, Loopback)
		}
		return ip.String(), nil
	}, func(s string) any {
		if s == "" {
			return nil
		}
		return s
	})
}

// Address returns ip and port as one word.
func Address(ip string, port int) string { return net.JoinHostPort(ip, strconv.Itoa(port)) }

// Dtab reads rules. Its errors show the line of the rules where they are wrong, and are
// noted at that of the file if that can be told.
func Dtab(r *document.Reader, path string, n *yaml.Node) (naming.Dtab, bool) {
	d, err := naming.ParseDtab(n.Value)
	if err == nil {
		return d, true
	}
	at := *n
	var wrong *naming.ParseError
	if errors.As(err, &wrong) {
		before, after := wrong.Input[:wrong.Offset], wrong.Input[wrong.Offset:]
		start := strings.LastIndexByte(before, '\n') + 1
		if n.Style&yaml.LiteralStyle != 0 {
			at.Line += 1 + strings.Count(before, "\n")
		}
		line, _, _ := strings.Cut(after, "\n")
		err = &naming.ParseError{Input: before[start:] + line, Offset: len(before) - start, Expected: wrong.Expected, Found: wrong.Found}
	}
	r.Fault(&at, "%s: %w", path, err)
	return nil, false
}

// Said returns the mapping root for who asks what a program was told, as what becomes JSON: keys
// as they are written, and values too but for numbers, true, false and null. It is nil if root is
// no mapping.
func Said(root *yaml.Node) map[string]any {
	if root == nil {
		return nil
	}
	all, _ := said(root, 0).(map[string]any)
	return all
}

// maxDepth bounds what is shown, far beyond what any key holds, of aliases that hold themselves.
const maxDepth = 50

func said(n *yaml.Node, depth int) any {
	if n = document.Resolve(n); depth > maxDepth {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		all := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			all[n.Content[i].Value] = said(n.Content[i+1], depth+1)
		}
		return all
	case yaml.SequenceNode:
		all := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			all = append(all, said(item, depth+1))
		}
		return all
	}
	var value any
	switch n.Tag {
	case "!!null":
		return nil
	case "!!int", "!!float", "!!bool":
		if err := n.Decode(&value); err == nil && json.Valid([]byte(fmt.Sprint(value))) { // unlike .inf
			return value
		}
	}
	return n.Value
}

// Absent returns those files that cannot be read now, with the line of their keys.
func Absent(files []document.Mention) []document.Warning { return absent(files, readable) }

// AbsentDirectories is Absent for directories.
func AbsentDirectories(all []document.Mention) []document.Warning {
	return absent(all, func(path string) error {
		info, err := os.Stat(path)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is no directory", path)
		}
		return err
	})
}

func absent(files []document.Mention, check func(path string) error) []document.Warning {
	var all []document.Warning
	for _, m := range files {
		if err := check(m.Path); err != nil {
			all = append(all, document.Warning{File: m.File, Line: m.Line, Text: fmt.Sprintf("%s: %v", m.Key, err)})
		}
	}
	return all
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	return err
}
