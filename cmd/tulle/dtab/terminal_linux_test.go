package dtab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
)

// Where nobody answers, nothing is deleted, and nobody is asked where nobody is: a device is not
// always a terminal.
func TestNobodyAnswers(t *testing.T) {
	m := newMesh(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	keyboard, terminal := openTerminal(t)
	asked := "Without shop, 1 name in use would be lost (names seen by " + m.url + ").\nDelete shop and its history? [y/N] "
	for _, c := range []struct {
		in          *os.File
		typed       string
		code        int
		err, talked string
	}{
		{null, "", 64, "shop is not deleted: there is nobody to ask", ""},
		{terminal, "\x04", 64, "shop is not deleted: there is nobody to ask", asked + "\n"},
		{terminal, "no\n", 1, "shop is not deleted", asked},
		{terminal, "y\n", 0, "", asked + "shop: deleted\n"},
	} {
		if _, err := keyboard.WriteString(c.typed); err != nil {
			t.Fatal(err)
		}
		root := Command()
		root.SilenceErrors, root.SilenceUsage = true, true
		var talk bytes.Buffer
		root.SetIn(c.in)
		root.SetErr(&talk)
		root.SetArgs([]string{"delete", "shop", "--namer", m.url})
		e, code, text := (*fault.Error)(nil), 0, ""
		if errors.As(root.ExecuteContext(t.Context()), &e) {
			code, text = e.ExitCode(), e.Error()
		}
		if code != c.code || text != c.err || !strings.HasSuffix(talk.String(), c.talked) || (c.talked == "") != (talk.Len() == 0) {
			t.Errorf("%q: %d, %s: %s", c.typed, code, text, talk.String())
		}
		if _, err := m.store.Get(t.Context(), "shop"); (err == nil) != (c.code != 0) {
			t.Errorf("%q: %v", c.typed, err)
		}
	}
}

// openTerminal returns a terminal, and what types at it.
func openTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	open := func(name string) *os.File {
		f, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	keyboard = open("/dev/ptmx")
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return keyboard, open(fmt.Sprintf("/dev/pts/%d", n))
}
