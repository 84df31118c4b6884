package policy

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const page = "../../docs/policy.md"

func readPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every key that there is is documented with its default, and the other way round.
func TestKeysAreDocumented(t *testing.T) {
	documented := map[string]string{}
	for section := range strings.SplitSeq(readPage(t), "\n## ") {
		name, body, _ := strings.Cut(section, "\n")
		if name != "server" && name != "client" && name != "egress" && name != "service" {
			continue
		}
		for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(body, -1) {
			documented[name+"."+row[1]] = row[2]
		}
	}
	known := map[string]string{}
	for _, l := range Leaves() {
		known[l.Path] = l.Default
	}
	if diff := cmp.Diff(known, documented); diff != "" {
		t.Errorf("the keys (-) and those of %s (+) differ:\n%s", page, diff)
	}
}

// Every block loads without a warning, and together they show every key.
func TestExamplesLoad(t *testing.T) {
	shown := map[string]bool{}
	blocks := regexp.MustCompile("(?s)```yaml policy\n(.*?)```").FindAllStringSubmatch(readPage(t), -1)
	for _, block := range blocks {
		p, err := Parse(page, []byte(block[1]))
		if err != nil {
			t.Errorf("%v\n%s", err, block[1])
			continue
		}
		for _, w := range p.Warnings {
			t.Errorf("%s", w.Text)
		}
		for _, word := range regexp.MustCompile(`[A-Za-z]+:`).FindAllString(block[1], -1) {
			shown[word] = true
		}
	}
	for _, l := range Leaves() {
		if key := l.Path[strings.LastIndexByte(l.Path, '.')+1:]; !shown[key+":"] && l.Default != "no effect" {
			t.Errorf("no example has %s", l.Path)
		}
	}
}
