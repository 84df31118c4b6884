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

// mapKey is what a key of a map may look like: as the names of Kubernetes' objects and of our settings.
var mapKey = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// file is one settings file while it is being read.
type file struct {
	document.Reader // with the faults of values that cannot be read
	loader          *Loader
	partial         bool    // what is not in the struct at the top is somebody else's
	unknown         []error // keys that nobody knows

	values  map[string]string            // by the path of a setting, checked
	entries map[string]map[string]string // likewise, of maps
}

func newFile(l *Loader) *file {
	return &file{loader: l, values: map[string]string{}, entries: map[string]map[string]string{}}
}

// read reads a settings file.
func (f *file) read(path string, content []byte) {
	f.File = path
	if root := f.Root(content); root != nil {
		f.section("", root)
	}
}

// section reads the mapping under a key that holds settings; at is its path, empty for the whole file.
func (f *file) section(at string, n *yaml.Node) {
	for key, value := range f.Entries(at, n) {
		path := document.Join(at, key.Value)
		plain := !strings.Contains(key.Value, ".")
		i := slices.IndexFunc(f.loader.settings, func(s Setting) bool { return s.Key == path })
		switch {
		case plain && f.loader.sections[path]:
			f.section(path, value)
		case plain && i < 0 && f.partial && at == "":
		case !plain || i < 0:
			f.unknown = append(f.unknown, f.At(key, fmt.Errorf("%s is not a setting%s", path, f.similar(path))))
		case f.loader.settings[i].entries != nil:
			f.entries[path] = f.mapping(path, value)
		default:
			text, err := scalar(value, f.loader.settings[i].kind)
			if err != nil {
				f.Fault(value, "%s: %w", path, err)
				continue
			}
			f.values[path] = text
		}
	}
}

// mapping reads a map from string to string.
func (f *file) mapping(path string, n *yaml.Node) map[string]string {
	into := map[string]string{}
	for key, value := range f.Entries(path, n) {
		if !mapKey.MatchString(key.Value) {
			f.Fault(key, "%s: the key %q must be lower-case letters, digits and inner hyphens", path, key.Value)
			continue
		}
		text, err := scalar(value, reflect.TypeFor[string]())
		if err != nil {
			f.Fault(key, "%s.%s: %w", path, key.Value, err)
			continue
		}
		into[key.Value] = text
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
