package input

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
)

const object = "kind: ConfigMap\n"

// tree writes files into a folder, and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// read returns the names of the files that a command line reads, without the folder.
func read(dir string, args ...string) (names []string, talk string, err error) {
	var in Files
	var out bytes.Buffer
	cmd := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true, Args: cobra.ArbitraryArgs, RunE: func(cmd *cobra.Command, args []string) error {
		files, err := in.Read(cmd, args)
		for _, f := range files {
			names = append(names, strings.TrimPrefix(f.Name, dir+"/"))
		}
		return err
	}}
	in.Flag(cmd, "what to read")
	cmd.SetIn(strings.NewReader(object))
	cmd.SetErr(&out)
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "DIR", dir)
	}
	cmd.SetArgs(args)
	err = cmd.Execute()
	return names, strings.ReplaceAll(out.String(), dir+"/", ""), err
}

// A folder is read in the order of the alphabet, and without what is none of ours.
func TestFolder(t *testing.T) {
	dir := tree(t, map[string]string{"b.yaml": object, "a/z.yml": object, "a/A.JSON": `{"kind":"ConfigMap"}`, ".git/x.yaml": "[", ".x.yaml": "[", "README.md": "[", "other/more.yaml": object})
	for link, to := range map[string]string{"link.yaml": "b.yaml", "folder.yaml": "other"} {
		if err := os.Symlink(filepath.Join(dir, to), filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	names, talk, err := read(dir, "-f", "DIR", "-f", "-", "DIR/b.yaml")
	if got := strings.Join(names, " "); err != nil || talk != "" || got != "a/A.JSON a/z.yml b.yaml link.yaml other/more.yaml stdin b.yaml" {
		t.Errorf("%s, %q, %v", got, talk, err)
	}
}

// What cannot be read is named, all of it.
func TestUnread(t *testing.T) {
	dir := tree(t, map[string]string{"bad.yaml": "a: [", "good.yaml": object, "none/README.md": ""})
	for _, c := range []struct {
		args      []string
		want      string
		talk, has string
		code      int
	}{
		{nil, "x wants to know what to read", "", "with -f", fault.ExitUsage},
		{[]string{"-", "-f", "-"}, "stdin is named twice", "", "", fault.ExitUsage},
		{[]string{"DIR/gone.yaml"}, "DIR/gone.yaml: no such file or directory", "", "YAML or JSON", fault.ExitFailed},
		{[]string{"DIR/none"}, "there is no *.yaml, *.yml or *.json in the folder DIR/none", "", "", fault.ExitFailed},
		{[]string{"-f", "DIR", "DIR/gone.yaml"}, "2 files cannot be read", "gone.yaml: no such file or directory\n", "", fault.ExitFailed},
	} {
		names, talk, err := read(dir, c.args...)
		var f *fault.Error
		if !errors.As(err, &f) || f.Error() != strings.ReplaceAll(c.want, "DIR", dir) || !strings.Contains(f.Hint(), c.has) || f.ExitCode() != c.code || len(names) > 0 {
			t.Errorf("%q: %q, %v, %+v", c.args, names, err, f)
		}
		if !strings.HasSuffix(talk, c.talk) || c.talk == "" && talk != "" {
			t.Errorf("%q says %q", c.args, talk)
		}
	}
}
