package sidecar

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

func TestRulesOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "internal.dtab")
	r := newRules(path, slog.New(slog.DiscardHandler))
	for _, step := range []struct{ file, want string }{
		{"", ""}, // there is none yet
		{"/svc => /host ; # a comment\n/host => /srv", "/svc=>/host;/host=>/srv"},
		{"/svc => ", "/svc=>/host;/host=>/srv"},
		{"/svc => /other", "/svc=>/other"},
		{"-", ""}, // removed
		{"/svc => /again", "/svc=>/again"},
	} {
		var err error
		switch step.file {
		case "":
		case "-":
			err = os.Remove(path)
		default:
			err = os.WriteFile(path, []byte(step.file), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		before := r.dtab.Get()
		r.look()
		if step.file != "" && r.dtab.Get() != before {
			t.Errorf("%q was taken at first sight", step.file)
		}
		r.look()
		if got := r.dtab.Get().String(); got != step.want {
			t.Errorf("%q: the rules are %s, want %s", step.file, got, step.want)
		}
	}
	// At the start it counts at once.
	if got := newRules(path, slog.New(slog.DiscardHandler)).dtab.Get().String(); got != "/svc=>/again" {
		t.Error(got)
	}
}
