// Package cli is what programs that take the place of Linkerd's have in common on the command line: flags with one
// hyphen, a configuration that may come from standard input, and exit codes that scripts go by.
//
// It knows no flag and reads no configuration, and prints nothing but an error at the end. Exit codes are 0; 1 if it
// failed; 2 if a configuration names files that are not here, and all else is right; 64 if the command line is wrong.
//
//	cmd := command()
//	cmd.SetArgs(cli.Hyphens(cmd.Flags(), os.Args[1:]))
//	os.Exit(cli.Exit(os.Stderr, "tulle-proxy", cmd.ExecuteContext(ctx)))
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// What a check of a configuration found, when it has been printed.
var (
	ErrReported = errors.New("the configuration cannot be served")
	ErrAbsent   = errors.New("files that the configuration names are not here")
)

// Exit codes beside 0. 64 is EX_USAGE of sysexits(3).
const (
	ExitFailed = 1
	ExitAbsent = 2
	ExitUsage  = 64
)

// misuse is a mistake on the command line.
type misuse struct{ err error }

func (m *misuse) Error() string { return m.err.Error() }
func (m *misuse) Unwrap() error { return m.err }

// Misused marks an error as a mistake on the command line.
func Misused(err error) error { return &misuse{err} }

// ExitCode returns with what a program exits.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.As(err, new(*misuse)):
		return ExitUsage
	case errors.Is(err, ErrAbsent):
		return ExitAbsent
	}
	return ExitFailed
}

// Exit prints an error, if that has not been done, and returns with what the program exits.
func Exit(w io.Writer, program string, err error) int {
	if err != nil && !errors.Is(err, ErrReported) && !errors.Is(err, ErrAbsent) {
		fmt.Fprintf(w, "%s: %v\n", program, err)
	}
	return ExitCode(err)
}

// Hyphens writes flags with one hyphen, as users of Linkerd 1.x do (-config FILE, -validate), with two.
func Hyphens(known *pflag.FlagSet, args []string) []string {
	all := slices.Clone(args)
	for i, arg := range all {
		if arg == "--" {
			break
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if len(name) > 1 && name[0] != '-' && arg[0] == '-' && known.Lookup(name) != nil {
			all[i] = "-" + arg
		}
	}
	return all
}

// maxFile is the largest configuration in bytes, that of a ConfigMap.
const maxFile = 1 << 20

// ReadFile returns the name of a configuration, for errors, and its text; the path - is standard input.
func ReadFile(path string) (name string, content []byte, err error) {
	in := os.Stdin
	if name = "standard input"; path != "-" {
		name = path
		if in, err = os.Open(path); err != nil {
			return "", nil, fmt.Errorf("read config: %w", err)
		}
		defer in.Close()
	}
	content, err = io.ReadAll(io.LimitReader(in, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	if err != nil {
		return "", nil, fmt.Errorf("read config: %w", err)
	}
	return name, content, nil
}
