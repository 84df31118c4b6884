package router

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// Every code that the source can answer is documented, and the other way round.
func TestCodesAreDocumented(t *testing.T) {
	codes := func(file, pattern string) []string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
			all = append(all, string(m[1]))
		}
		slices.Sort(all)
		return all
	}
	source, docs := codes("problem.go", `= "(T\d+)"`), codes("../../docs/errors.md", `(?m)^\| (T\d+) \|`)
	if len(source) == 0 || !slices.Equal(source, docs) {
		t.Errorf("the source has the codes %v, docs/errors.md %v", source, docs)
	}
}
