package dtab

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

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
			return fault.Misused(fmt.Errorf("%s wants %s", cmd.CommandPath(), words[len(args)]), hint)
		case len(args) > len(words):
			return fault.Misused(fmt.Errorf("%s does not know what to do with %q", cmd.CommandPath(), args[len(words)]), strings.TrimSpace(hint))
		case len(args) > 0 && !rewrite.IsLabel(args[0]):
			return fault.Misused(fmt.Errorf("%q cannot be the name of a dtab", args[0]),
				"use lower-case letters, digits and \"-\", 63 characters at most")
		}
		return nil
	}
}

// readPath reads a name, or the host of a request, which is /svc/HOST. From is where it is from, for
// errors.
func readPath(from, text string) (string, error) {
	path := text
	if !strings.HasPrefix(text, "/") {
		if strings.Contains(text, "/") {
			hint := "a name begins with /, such as /svc/world, and a host has no / in it"
			if _, err := naming.ParsePath("/" + text); err == nil {
				hint = "did you mean /" + text + "? A name begins with /, and a host has no / in it"
			}
			return "", fault.Misused(fmt.Errorf("%s%q is neither a name nor a host", from, text), hint)
		}
		path = naming.Path{"svc", text}.String()
	}
	if _, err := naming.ParsePath(path); err != nil {
		return "", fault.Misused(fmt.Errorf("%s%q is no name: %w", from, path, err), "a name is like /svc/world")
	}
	return path, nil
}

// parseHint says how rules look.
const parseHint = "a dtab is rules such as /svc => /host, with ; between them"

var errNoNamer = errors.New("there is no way to a namer")
