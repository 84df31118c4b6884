// Package input is what -f of a command names: files, folders and stdin, full of Kubernetes objects.
//
// What is in them is known to package workload; what is to become of them, to the command. It asks no cluster.
//
// Invariant: either all that is named was read, or there is an error that says what was not.
//
//	var in input.Files
//	in.Flag(cmd, "file, folder, or \"-\" for stdin; may be repeated")
//	files, err := in.Read(cmd, args)
package input

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/webhook/workload"
)

// Files is what a command line names. The zero value names nothing.
type Files struct {
	names []string
}

// Flag adds the flag -f.
func (in *Files) Flag(cmd *cobra.Command, usage string) {
	cmd.Flags().StringArrayVarP(&in.names, "filename", "f", nil, usage)
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
}

// Named reports whether the flag is there.
func (in *Files) Named() bool { return len(in.names) > 0 }

// Read reads what the flag names, and what the arguments do. Folders are read as deep as they go, their *.yaml, *.yml and
// *.json in the order of the alphabet; what begins with a dot is left out. The error is a [fault.Error]; where several
// files cannot be read, stderr is told what is wrong with each.
func (in *Files) Read(cmd *cobra.Command, args []string) ([]*workload.File, error) {
	names := slices.Concat(in.names, args)
	if len(names) == 0 {
		return nil, fault.Misused(fmt.Errorf("%s wants to know what to read", cmd.CommandPath()), "name files or folders with -f, or stdin with -f -")
	}
	const hint = "they are YAML or JSON of Kubernetes objects, in files or folders"
	var files []*workload.File
	var wrong []error
	stdin := false
	add := func(name string, text []byte, err error) {
		var f *workload.File
		if err == nil {
			f, err = workload.Parse(name, text)
		}
		if missing := (*fs.PathError)(nil); errors.As(err, &missing) {
			err = fmt.Errorf("%s: %w", missing.Path, missing.Err)
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
			add(name, nil, err)
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
		return nil, fault.Failed(wrong[0], hint)
	}
	for _, err := range wrong {
		fmt.Fprintln(cmd.ErrOrStderr(), fault.Shown(err.Error()))
	}
	return nil, fault.Failed(fmt.Errorf("%d files cannot be read", len(wrong)), hint)
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
