package debian

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMissing(t *testing.T) {
	got := Missing(Cluster(), func(name string) bool { return name != "nft" && name != "runc" })
	if strings.Join(got, " ") != "nftables runc" {
		t.Errorf("got %v, want the packages of nft and runc", got)
	}
	if got := Missing(Test(), func(string) bool { return true }); got != nil {
		t.Errorf("got %v, want nothing", got)
	}
	twice := []Need{{"a", "both"}, {"b", "both"}}
	if got := Missing(twice, func(string) bool { return false }); len(got) != 1 {
		t.Errorf("got %v, want each package once", got)
	}
}

// What is missing is a sentence with the command, as long as nobody allows to install it.
func TestEnsureNamesTheCommand(t *testing.T) {
	var log bytes.Buffer
	err := Ensure(t.Context(), []Need{{"no-such-program", "no-such-package"}}, false, &log)
	if err == nil || !strings.HasSuffix(err.Error(), "apt-get install -y --no-install-recommends no-such-package") {
		t.Errorf("got error %v, want one that names the command", err)
	}
	if err := Ensure(t.Context(), []Need{{t.TempDir(), "any"}}, false, &log); err != nil {
		t.Error(err)
	}
	if log.Len() > 0 {
		t.Errorf("it said %q and did nothing", log.String())
	}
}

func TestHas(t *testing.T) {
	file := filepath.Join(t.TempDir(), "header.h")
	if Has(file) {
		t.Error("a file is found that is not there")
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !Has(file) {
		t.Error("a file is not found by its path")
	}
}

func TestCompiler(t *testing.T) {
	for cc, want := range map[string]string{"": "gcc", "no-such-cc": "no-such-cc", "no-such-cc -target x": "no-such-cc"} {
		if got := compiler(cc); filepath.Base(got) != want {
			t.Errorf("compiler(%q) = %q, want %q", cc, got, want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if got := compiler(""); got != "gcc" {
		t.Errorf("an empty PATH has the compiler %q", got)
	}
}
