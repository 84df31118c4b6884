package dtab

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// Exit codes, as those of all commands of tulle.
const (
	exitFailed   = 1
	exitFindings = 2
	exitUsage    = 64
)

// Error is why a command did not do what was asked, and what the user can do about it.
type Error struct {
	err  error
	hint string
	code int
}

// Error is one sentence, without the hint.
func (e *Error) Error() string { return e.err.Error() }

// Unwrap returns what went wrong underneath.
func (e *Error) Unwrap() error { return e.err }

// Hint is what to do about it; it may be empty.
func (e *Error) Hint() string { return e.hint }

// ExitCode is 1 if something failed, 2 if the command found what it looks for, 64 if the
// command line is wrong.
func (e *Error) ExitCode() int { return e.code }

func failed(err error, hint string) error { return &Error{err, hint, exitFailed} }
func found(err error, hint string) error  { return &Error{err, hint, exitFindings} }
func misused(err error, hint string) error {
	return &Error{err, hint, exitUsage}
}

// arguments wants as many arguments as there are words, of which those in [] may be missing.
// The first one, if there is any, is the name of a dtab.
func arguments(words ...string) cobra.PositionalArgs {
	least := 0
	for _, w := range words {
		if !strings.HasPrefix(w, "[") {
			least++
		}
	}
	return func(cmd *cobra.Command, args []string) error {
		hint := fmt.Sprintf("%s %s", cmd.CommandPath(), strings.Join(words, " "))
		switch {
		case len(args) < least:
			return misused(fmt.Errorf("%s wants %s", cmd.CommandPath(), words[len(args)]), hint)
		case len(args) > len(words):
			return misused(fmt.Errorf("%s does not know what to do with %q", cmd.CommandPath(), args[len(words)]), strings.TrimSpace(hint))
		case len(args) > 0 && !rewrite.IsLabel(args[0]):
			return misused(fmt.Errorf("%q cannot be the name of a dtab", args[0]),
				"use lower-case letters, digits and \"-\", 63 characters at most")
		}
		return nil
	}
}

// shown is a text of somebody else, safe for a terminal.
func shown(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// parseHint says how rules look.
const parseHint = "a dtab is rules such as /svc => /host, with ; between them"

var errNoNamer = errors.New("there is no way to a namer")
