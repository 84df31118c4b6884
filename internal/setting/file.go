package setting

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mapKey is what a key of a map may look like: viper folds case and splits keys at dots, so that any other
// key would not come out as it went in.
var mapKey = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// file is one settings file while it is being read.
type file struct {
	path       string
	loader     *Loader
	unknown    []error // keys that nobody knows
	unreadable []error // values that cannot be read
}

// parse reads a settings file into the nested maps that viper takes.
func (l *Loader) parse(path string, content []byte) (tree map[string]any, unknown, unreadable []error) {
	f := &file{path: path, loader: l}
	tree = map[string]any{}
	var document, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	if err := decoder.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		return tree, nil, []error{fmt.Errorf("%s: %w", path, err)}
	}
	if len(document.Content) > 0 {
		f.section("", document.Content[0], tree)
	}
	if err := decoder.Decode(&second); err == nil {
		f.unreadable = append(f.unreadable, f.wrong(&second, errors.New("a second document begins, there must be one")))
	} else if !errors.Is(err, io.EOF) {
		f.unreadable = append(f.unreadable, fmt.Errorf("%s: %w", path, err))
	}
	return tree, f.unknown, f.unreadable
}

func (f *file) wrong(n *yaml.Node, err error) error {
	return fmt.Errorf("%s:%d: %w", f.path, n.Line, err)
}

// section reads the mapping under a key that holds settings; prefix is empty or ends in a dot.
func (f *file) section(prefix string, n *yaml.Node, into map[string]any) {
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		f.unreadable = append(f.unreadable, f.wrong(n, fmt.Errorf("%sit must hold keys and values", label(prefix))))
		return
	}
	for key, value := range f.entries(prefix, n) {
		path := prefix + key.Value
		if f.loader.sections[path] && !strings.Contains(key.Value, ".") {
			inner := map[string]any{}
			f.section(path+".", value, inner)
			into[key.Value] = inner
			continue
		}
		i := slices.IndexFunc(f.loader.settings, func(s Setting) bool { return s.Key == path })
		if i < 0 || strings.Contains(key.Value, ".") {
			f.unknown = append(f.unknown, f.wrong(key, fmt.Errorf("%s is not a setting%s", path, f.similar(path))))
			continue
		}
		var err error
		if f.loader.settings[i].kind.Kind() == reflect.Map {
			into[key.Value] = f.mapping(path, value)
			continue
		} else if into[key.Value], err = scalar(value, f.loader.settings[i].kind); err != nil {
			f.unreadable = append(f.unreadable, f.wrong(value, fmt.Errorf("%s: %w", path, err)))
		}
	}
}

// entries yields the keys and values of a mapping and refuses keys that come twice.
func (f *file) entries(prefix string, n *yaml.Node) func(func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		first := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if value.Kind == yaml.AliasNode {
				value = value.Alias
			}
			if key.Kind != yaml.ScalarNode {
				f.unreadable = append(f.unreadable, f.wrong(key, fmt.Errorf("%sa key must be plain text", label(prefix))))
				continue
			}
			if line, ok := first[key.Value]; ok {
				f.unreadable = append(f.unreadable, f.wrong(key, fmt.Errorf("%s%s is set twice, first in line %d", prefix, key.Value, line)))
				continue
			}
			first[key.Value] = key.Line
			if !yield(key, value) {
				return
			}
		}
	}
}

// mapping reads a map from string to string.
func (f *file) mapping(path string, n *yaml.Node) map[string]any {
	into := map[string]any{}
	if n.Tag == "!!null" {
		return into
	}
	if n.Kind != yaml.MappingNode {
		f.unreadable = append(f.unreadable, f.wrong(n, fmt.Errorf("%s: it must hold keys and values", path)))
		return into
	}
	for key, value := range f.entries(path+".", n) {
		var err error
		if !mapKey.MatchString(key.Value) {
			err = fmt.Errorf("%s: the key %q must be lower-case letters, digits and inner hyphens", path, key.Value)
		} else if into[key.Value], err = scalar(value, reflect.TypeFor[string]()); err != nil {
			err = fmt.Errorf("%s.%s: %w", path, key.Value, err)
		}
		if err != nil {
			f.unreadable = append(f.unreadable, f.wrong(key, err))
		}
	}
	return into
}

// scalar returns the text of a single value after a check against its type.
func scalar(n *yaml.Node, kind reflect.Type) (string, error) {
	if n.Kind != yaml.ScalarNode {
		return "", errors.New("it must be a single value")
	}
	if n.Tag == "!!null" {
		return "", errors.New("it has no value; leave it out for the default")
	}
	return n.Value, checkText(n.Value, kind)
}

// similar suggests the known key that a misspelt one most likely stands for.
func (f *file) similar(path string) string {
	fold := strings.NewReplacer("-", "", "_", "", ".", "")
	known := maps.Clone(f.loader.sections)
	for _, s := range f.loader.settings {
		known[s.Key] = true
	}
	for _, key := range slices.Sorted(maps.Keys(known)) {
		a, b := fold.Replace(strings.ToLower(path)), fold.Replace(key)
		if a == b || strings.HasSuffix(key, "."+path) || strings.TrimSuffix(a, "s") == strings.TrimSuffix(b, "s") {
			return "; did you mean " + key + "?"
		}
	}
	return ""
}

func label(prefix string) string {
	if prefix == "" {
		return ""
	}
	return strings.TrimSuffix(prefix, ".") + ": "
}
