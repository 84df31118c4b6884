// Package schematest holds a page of the documentation to the keys that a program knows.
//
// It looks at the tables of keys alone, not at what the page says beside.
package schematest

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/schema"
)

var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\|")

// Documented fails the test unless the page says of each key what holds without it, and of no
// other. Below a heading ### `admin`, a row | `ip` | 127.0.0.1 | is the key admin.ip.
func Documented(t *testing.T, page string, known []schema.Leaf) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for i, section := range strings.Split(string(text), "\n### `") {
		if i == 0 {
			continue // what comes before the keys
		}
		name, body, _ := strings.Cut(section, "`\n")
		for _, cells := range row.FindAllStringSubmatch(body, -1) {
			documented[name+"."+cells[1]] = cells[2]
		}
	}
	defaults := map[string]string{}
	for _, l := range known {
		defaults[l.Path] = l.Default
	}
	if diff := cmp.Diff(defaults, documented); diff != "" {
		t.Errorf("the keys (-) and those of %s (+) differ:\n%s", page, diff)
	}
}
