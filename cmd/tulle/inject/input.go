package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/webhook/workload"
)

// input is what is to be read.
type input struct {
	names []string
}

func (in *input) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&in.names, "filename", "f", nil, "file, folder, or \"-\" for stdin; may be repeated")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
}

// read reads all files. Folders are read as deep as they go, their *.yaml, *.yml and *.json in the order of the
// alphabet; what begins with a dot is left out. What is wrong with each file is told to stderr.
func (in *input) read(cmd *cobra.Command, args []string) ([]*workload.File, error) {
	names := slices.Concat(in.names, args)
	if len(names) == 0 {
		return nil, fault.Misused(fmt.Errorf("%s wants to know what to read", cmd.CommandPath()), "name files or folders with -f, or stdin with -f -")
	}
	var files []*workload.File
	var wrong []error
	stdin := false
	add := func(name string, text []byte, err error) {
		var f *workload.File
		if err == nil {
			f, err = workload.Parse(name, text)
		}
		if err != nil {
			wrong = append(wrong, err)
			return
		}
		files = append(files, f)
	}
	for _, name := range names {
		if name == "-" {
			if stdin {
				return nil, fault.Misused(errors.New("stdin is named twice"), "")
			}
			stdin = true
			text, err := io.ReadAll(cmd.InOrStdin())
			add("stdin", text, err)
			continue
		}
		found, err := expand(name)
		if err != nil {
			wrong = append(wrong, err)
		}
		for _, path := range found {
			text, err := os.ReadFile(path)
			add(path, text, err)
		}
	}
	switch len(wrong) {
	case 0:
		return files, nil
	case 1:
		return nil, fault.Failed(wrong[0], "")
	}
	for _, err := range wrong {
		fmt.Fprintln(cmd.ErrOrStderr(), shown(err.Error()))
	}
	return nil, fault.Failed(fmt.Errorf("%d files cannot be read", len(wrong)), "")
}

// expand returns the files that a name stands for.
func expand(name string) ([]string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	var found []string
	err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path != name && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		switch strings.ToLower(filepath.Ext(path)) {
		case ".yaml", ".yml", ".json":
		default:
			return nil
		}
		// Behind a link there may be a file, and there may be a folder, which is not followed.
		if info, err := os.Stat(path); err != nil {
			return err
		} else if info.Mode().IsRegular() {
			found = append(found, path)
		}
		return nil
	})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("there is no *.yaml, *.yml or *.json in the folder %s", name)
	}
	return found, err
}

// Forms of the output, beside the one of each input.
const (
	asYAML = "yaml"
	asJSON = "json"
)

// joined makes one text of several. One that begins where another ends gets a line "---" in between, unless all are
// JSON.
func joined(files []*workload.File, texts [][]byte, form string) ([]byte, error) {
	var out bytes.Buffer
	separate := form != asJSON && slices.ContainsFunc(files, func(f *workload.File) bool { return !f.JSON || form == asYAML })
	for i, text := range texts {
		text, err := converted(files[i], text, form)
		if err != nil {
			return nil, err
		}
		if len(texts) == 1 {
			return text, nil
		}
		if i < len(texts)-1 && !bytes.HasSuffix(text, []byte("\n")) {
			f, err := workload.Parse(files[i].Name, text)
			if err != nil {
				return nil, err
			}
			text = f.Ended()
		}
		text = bytes.TrimPrefix(text, []byte("\uFEFF")) // it means the beginning of a file
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if out.Len() > 0 {
			if !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
				out.WriteByte('\n')
			}
			if separate && !beginsDocument(text) {
				out.WriteString("---\n")
			}
		}
		out.Write(text)
	}
	return out.Bytes(), nil
}

// beginsDocument reports whether a text begins with "---", maybe after comments.
func beginsDocument(text []byte) bool {
	for line := range bytes.Lines(text) {
		switch line := bytes.TrimSpace(line); {
		case len(line) == 0 || line[0] == '#':
		default:
			return bytes.Equal(line, []byte("---")) || bytes.HasPrefix(line, []byte("--- "))
		}
	}
	return true
}

// converted returns a text in the form asked for.
func converted(f *workload.File, text []byte, form string) ([]byte, error) {
	if form == "" || form == asYAML && !f.JSON || form == asJSON && f.JSON {
		return text, nil
	}
	f, err := workload.Parse(f.Name, text)
	if err != nil {
		return nil, err
	}
	values, err := f.Values()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, v := range values {
		switch {
		case v == nil:
		case form == asJSON:
			if err := json.Indent(&out, v, "", "  "); err != nil {
				return nil, err
			}
			out.WriteByte('\n')
		default:
			if out.Len() > 0 {
				out.WriteString("---\n")
			}
			t, err := yaml.JSONToYAML(v)
			if err != nil {
				return nil, err
			}
			out.Write(t)
		}
	}
	return out.Bytes(), nil
}
