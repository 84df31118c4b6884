package workload

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/tools/txtar"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEdit runs the files of testdata/edit: the file "patch" is applied to each template of "before".
func TestEdit(t *testing.T) {
	files, err := filepath.Glob("testdata/edit/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no tests", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]string{}
			for _, f := range archive.Files {
				parts[f.Name] = string(f.Data)
			}
			for _, crlf := range []bool{false, true} {
				before, after := parts["before"], parts["after"]
				if crlf {
					before, after = strings.ReplaceAll(before, "\n", "\r\n"), strings.ReplaceAll(after, "\n", "\r\n")
				}
				got, err := editAll("before", before, parts["patch"])
				if want, ok := parts["error"]; ok {
					if err == nil || err.Error() != strings.TrimSpace(want) {
						t.Errorf("got error %v, want %s", err, want)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(after, got); diff != "" {
					if os.Getenv("UPDATE") != "" && !crlf {
						for i := range archive.Files {
							if archive.Files[i].Name == "after" {
								archive.Files[i].Data = []byte(got)
							}
						}
						os.WriteFile(file, txtar.Format(archive), 0o644)
					}
					t.Errorf("CRLF %v: (-want +got)\n%s", crlf, diff)
				}
				// What was added is taken away without a trace.
				if undo, ok := parts["undo"]; ok {
					back, err := editAll("after", got, undo)
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(before, back); diff != "" {
						t.Errorf("CRLF %v, undone: (-want +got)\n%s", crlf, diff)
					}
				}
			}
		})
	}
}

func editAll(name, text, patch string) (string, error) {
	f, err := Parse(name, []byte(text))
	if err != nil {
		return "", err
	}
	var patches [][]byte
	for range f.Templates {
		patches = append(patches, []byte(patch))
	}
	out, err := f.Edit(patches)
	return string(out), err
}

// A file of many objects takes time in proportion.
func BenchmarkEdit(b *testing.B) {
	const one = "---\nkind: Deployment\nspec:\n  template:\n    metadata: {labels: {a: b}}\n    spec:\n      containers:\n      - name: a\n        args: [x, \"y\"]\n        command:\n        - |\n          sh\n"
	text := []byte(strings.Repeat(one, 10000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		f, err := Parse("f", text)
		if err != nil {
			b.Fatal(err)
		}
		patches := make([][]byte, len(f.Templates))
		for i := range patches {
			patches[i] = []byte(`[{"op":"add","path":"/spec/containers/0/env","value":[{"name":"A"}]}]`)
		}
		if _, err := f.Edit(patches); err != nil {
			b.Fatal(err)
		}
	}
}
