package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/tulle-mesh/tulle/internal/cli"
)

func TestHyphens(t *testing.T) {
	known := pflag.NewFlagSet("", pflag.ContinueOnError)
	known.String("config", "", "")
	known.Bool("validate", false, "")
	known.BoolP("quiet", "q", false, "")
	for _, tt := range []struct{ args, want string }{
		{"-config a.yaml -validate", "--config a.yaml --validate"},
		{"-config=a.yaml --validate", "--config=a.yaml --validate"},
		{"-q -", "-q -"},
		{"-none -conf", "-none -conf"},
		{"config -- -config", "config -- -config"},
	} {
		args := strings.Fields(tt.args)
		if got := cli.Hyphens(known, args); !slices.Equal(got, strings.Fields(tt.want)) {
			t.Errorf("%q: got %q", tt.args, got)
		}
		if strings.Join(args, " ") != tt.args {
			t.Errorf("%q was changed", tt.args)
		}
	}
}

func TestExit(t *testing.T) {
	broken := errors.New("it is broken")
	for _, tt := range []struct {
		err  error
		code int
		says string
	}{
		{nil, 0, ""},
		{broken, 1, "prog: it is broken\n"},
		{cli.Misused(broken), 64, "prog: it is broken\n"},
		{fmt.Errorf("so: %w", cli.Misused(broken)), 64, "prog: so: it is broken\n"},
		{cli.ErrReported, 1, ""},
		{cli.ErrAbsent, 2, ""},
	} {
		var out bytes.Buffer
		if code := cli.Exit(&out, "prog", tt.err); code != tt.code || out.String() != tt.says {
			t.Errorf("%v: got %d %q", tt.err, code, out.String())
		}
	}
	if !errors.Is(cli.Misused(broken), broken) {
		t.Error("the cause is lost")
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a: b\n")
	if name, content, err := cli.ReadFile(path); name != path || string(content) != "a: b\n" || err != nil {
		t.Errorf("got %q, %q, %v", name, content, err)
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	os.Stdin = in
	defer func() { os.Stdin = stdin }()
	if name, content, err := cli.ReadFile("-"); name != "standard input" || string(content) != "a: b\n" || err != nil {
		t.Errorf("got %q, %q, %v", name, content, err)
	}
	write(strings.Repeat("#", 1<<20))
	if _, content, err := cli.ReadFile(path); len(content) != 1<<20 || err != nil {
		t.Errorf("got %d bytes, %v", len(content), err)
	}
	write(strings.Repeat("#", 1<<20+1))
	if _, _, err := cli.ReadFile(path); err == nil || err.Error() != "read config: "+path+" is larger than 1048576 bytes" {
		t.Errorf("got %v", err)
	}
	if _, _, err := cli.ReadFile(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
