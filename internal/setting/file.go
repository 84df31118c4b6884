package setting

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
)

// mapKey is what a key of a map may look like: viper folds case and splits keys at dots, so that any other
// key would not come out as it went in.
var mapKey = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// file is one settings file while it is being read.
type file struct {
	document.Reader // with the faults of values that cannot be read
	loader          *Loader
	unknown         []error // keys that nobody knows
}

// parse reads a settings file into the nested maps that viper takes.
func (l *Loader) parse(path string, content []byte) (tree map[string]any, unknown, unreadable []error) {
	f := &file{Reader: document.Reader{File: path}, loader: l}
	tree = map[string]any{}
	if root := f.Root(content); root != nil {
		f.section("", root, tree)
	}
	return tree, f.unknown, f.Errors()
}

// section reads the mapping under a key that holds settings; at is its path, empty for the whole file.
func (f *file) section(at string, n *yaml.Node, into map[string]any) {
	for key, value := range f.Entries(at, n) {
		path := document.Join(at, key.Value)
		if f.loader.sections[path] && !strings.Contains(key.Value, ".") {
			inner := map[string]any{}
			f.section(path, value, inner)
			into[key.Value] = inner
			continue
		}
		i := slices.IndexFunc(f.loader.settings, func(s Setting) bool { return s.Key == path })
		if i < 0 || strings.Contains(key.Value, ".") {
			f.unknown = append(f.unknown, f.At(key, fmt.Errorf("%s is not a setting%s", path, f.similar(path))))
			continue
		}
		var err error
		if f.loader.settings[i].kind.Kind() == reflect.Map {
			into[key.Value] = f.mapping(path, value)
		} else if into[key.Value], err = scalar(value, f.loader.settings[i].kind); err != nil {
			f.Fault(value, "%s: %w", path, err)
		}
	}
}

// mapping reads a map from string to string.
func (f *file) mapping(path string, n *yaml.Node) map[string]any {
	into := map[string]any{}
	for key, value := range f.Entries(path, n) {
		var err error
		if !mapKey.MatchString(key.Value) {
			err = fmt.Errorf("%s: the key %q must be lower-case letters, digits and inner hyphens", path, key.Value)
		} else if into[key.Value], err = scalar(value, reflect.TypeFor[string]()); err != nil {
			err = fmt.Errorf("%s.%s: %w", path, key.Value, err)
		}
		if err != nil {
			f.Fault(key, "%w", err)
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
