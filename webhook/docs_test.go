package webhook

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

const page = "../docs/injection.md"

// table returns the rows of the table whose first column is called so, without its head.
func table(t *testing.T, column string) [][]string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	in := false
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case !strings.HasPrefix(line, "|"):
			in = false
		case cells[0] == column:
			in = true
		case in && !strings.HasPrefix(cells[0], "---"):
			rows = append(rows, cells)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("%s has no table with the column %q", page, column)
	}
	return rows
}

func unquoted(cell string) string { return strings.Trim(cell, "`") }

// The page lists every reason, in the order of Reasons, and says rightly which of them refuse.
func TestPageListsReasons(t *testing.T) {
	want := map[Reason]bool{}
	for _, r := range Reasons() {
		want[r] = true
	}
	for _, row := range table(t, "reason") {
		r := Reason(unquoted(row[0]))
		if !want[r] {
			t.Errorf("%s: %q is no reason, or is there twice", page, r)
		}
		delete(want, r)
		if r.Denies() != strings.HasPrefix(row[1], "refused") {
			t.Errorf("%s: of %s it says %q", page, r, row[1])
		}
	}
	for r := range want {
		t.Errorf("%s does not list the reason %s", page, r)
	}
}

// The page lists every annotation, and no other key.
func TestPageListsKeys(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	// The last one is an annotation of the webhook configuration.
	known := map[string]bool{LabelInject: true, AnnotationStatus: true, "tulle.dev/breakglass-by": true}
	listed := map[string]bool{}
	for _, key := range Annotations() {
		known[key] = true
	}
	for _, row := range table(t, "annotation") {
		for _, key := range strings.Split(row[0], ", ") {
			listed[unquoted(key)] = true
		}
	}
	for _, key := range Annotations() {
		if !listed[key] {
			t.Errorf("%s does not list %s", page, key)
		}
	}
	for _, key := range regexp.MustCompile(`(?:[a-z-]+\.)*tulle\.dev(?:/[a-z-]+)?`).FindAllString(string(text), -1) {
		if strings.HasPrefix(key, keyPrefix) && key != keyPrefix && !known[key] {
			t.Errorf("%s speaks of %s, which is no key", page, key)
		}
	}
}

// Every line of the page's truth table holds, with every value in place of "*" for which no line before it fits.
func TestPageTruthTable(t *testing.T) {
	rows := table(t, "namespace `inject`")
	values := [5][]string{
		{"–", "disabled", "word", "enabled", "best-effort"}, {"–", "host", "sidecar", "none", "word"}, {"–", "true", "false", "word"},
		{"–", "host", "sidecar", "none", "word"}, defaultModes(t),
	}
	fits := func(row []string, c [5]string) bool {
		for i, v := range c {
			switch cell := unquoted(row[i]); {
			case cell == "*", cell == v, cell == "enabled" && v == "best-effort", cell == "another word" && v == "word":
			default:
				return false
			}
		}
		return true
	}
	used := make([]bool, len(rows))
	var try func(c [5]string, i int)
	try = func(c [5]string, i int) {
		if i < len(c) {
			for _, v := range values[i] {
				c[i] = v
				try(c, i+1)
			}
			return
		}
		for n, row := range rows {
			if !fits(row, c) {
				continue
			}
			used[n] = true
			set := func(pairs ...string) map[string]string {
				m := map[string]string{}
				for i := 0; i < len(pairs); i += 2 {
					if pairs[i+1] != "–" {
						m[pairs[i]] = pairs[i+1]
					}
				}
				return m
			}
			cfg := testConfig()
			cfg.DefaultMode = Mode(c[4])
			raw := marshal(t, object{"metadata": object{"labels": set(LabelInject, c[2]), "annotations": set(AnnotationMode, c[3])},
				"spec": object{"containers": []any{object{"name": "app"}}}})
			res := mustInject(t, raw, Namespace{Name: "shop", Labels: set(LabelInject, c[0], LabelMode, c[1])}, cfg)
			if want := Reason(unquoted(row[5])); res.Reason != want {
				t.Errorf("%s: %v gives %s, the page says %s", page, c, res.Reason, want)
			}
			return
		}
	}
	try([5]string{}, 0)
	for n, ok := range used {
		if !ok {
			t.Errorf("%s: the line %v never fits", page, rows[n])
		}
	}
}

// defaultModes are those that the chart allows.
func defaultModes(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../manifests/chart/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties struct {
			Injector struct {
				Properties struct {
					DefaultMode struct{ Enum []string }
				}
			}
		}
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	modes := schema.Properties.Injector.Properties.DefaultMode.Enum
	if len(modes) == 0 {
		t.Fatal("the chart's schema does not say which default modes there are")
	}
	return modes
}

// The variables of host mode are those of the page, in its order.
func TestPageListsVariables(t *testing.T) {
	raw := []byte(`{"spec":{"containers":[{"name":"app"}]}}`)
	var got, want []string
	for _, e := range list(tree(t, applied(t, raw, mustInject(t, raw, enabled("shop"), testConfig())))["spec"].(object)["containers"].([]any)[0].(object)["env"]) {
		got = append(got, e.(object)["name"].(string))
	}
	for _, row := range table(t, "variable") {
		for _, name := range strings.Split(row[0], ", ") {
			want = append(want, unquoted(name))
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s lists %q, containers get %q", page, want, got)
	}
}
