package linkerd_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/sidecar/linkerd"
)

// Every key that there is is documented with what holds without it, and the other
// way round.
func TestKeysAreDocumented(t *testing.T) {
	const page = "../../docs/linkerd.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for section := range strings.SplitSeq(string(text), "\n### `") {
		name, body, _ := strings.Cut(section, "`\n")
		for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(body, -1) {
			documented[name+"."+row[1]] = row[2]
		}
	}
	known := map[string]string{}
	for _, l := range linkerd.Leaves() {
		known[l.Path] = l.Default
	}
	for key := range documented {
		if !strings.HasPrefix(key, "# ") {
			continue
		}
		delete(documented, key) // of the table of defaults
	}
	if diff := cmp.Diff(known, documented); diff != "" {
		t.Errorf("the keys (-) and those of %s (+) differ:\n%s", page, diff)
	}
}
