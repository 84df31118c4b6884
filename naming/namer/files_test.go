package namer_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/logtest"
	"github.com/tulle-mesh/tulle/naming/namer"
)

// files is a Files on a directory, and what it logged.
type files struct {
	*namer.Files
	dir string
	log logtest.Buffer
}

// edit writes a file as an editor does: not at once.
func (f *files) edit(t *testing.T, namespace, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, namespace+".dtab"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *files) get(t *testing.T, namespace string) (rules, version string) {
	t.Helper()
	v, err := f.Get(t.Context(), namespace)
	if err != nil {
		return err.Error(), ""
	}
	return v.Dtab.Exact(), v.Version
}

func openFiles(t *testing.T, dir string) (f *files, stop func()) {
	t.Helper()
	f = &files{dir: dir}
	f.Files = namer.NewFiles(namer.FilesConfig{Dir: dir, Logger: slog.New(slog.NewTextHandler(&f.log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	return f, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func change(t *testing.T, rules, by string) namer.Change {
	return namer.Change{Dtab: dtab(t, rules), By: by}
}

func version(n byte) string { return "\x00\x00\x00\x00\x00\x00\x00" + string(n) }

const settle = 700 * time.Millisecond // two looks

func TestFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, stopA := openFiles(t, dir)
		defer stopA()
		b, stopB := openFiles(t, dir)
		defer stopB()
		synctest.Wait()
		if names := a.Names().Get(); names == nil || len(names) != 0 {
			t.Fatalf("names are %v", names)
		}
		watched, release := b.Watch("web")
		defer release()
		if v := watched.Get(); v == nil || v.Version != "" {
			t.Fatalf("watched %+v", v)
		}
		if _, err := a.Update(t.Context(), "web", change(t, "/a=>/b", ""), ""); !errors.Is(err, namer.ErrNotFound) {
			t.Fatalf("update of nothing: %v", err)
		}
		v1, err := a.Create(t.Context(), "web", change(t, "/svc=>0.001*/a & /b ; /x=>/y", "ann"))
		if err != nil || v1 != version(1) {
			t.Fatalf("create: %q, %v", v1, err)
		}
		if _, err := b.Create(t.Context(), "web", change(t, "", "")); !errors.Is(err, namer.ErrExists) {
			t.Fatalf("created twice: %v", err)
		}
		if text, _ := os.ReadFile(filepath.Join(dir, "web.dtab")); string(text) != "/svc => 0.001*/a & /b ;\n/x => /y ;\n" {
			t.Fatalf("the file is %q", text)
		}
		// The other one reads it at once, and watches it soon.
		if rules, v := b.get(t, "web"); rules != "/svc=>0.001*/a & /b;/x=>/y" || v != v1 {
			t.Fatalf("the other has %s, %q", rules, v)
		}
		time.Sleep(settle)
		synctest.Wait()
		if v := watched.Get(); v.Version != v1 || !slices.Equal(b.Names().Get(), []string{"web"}) {
			t.Fatalf("the other watches %+v of %v", v, b.Names().Get())
		}
		v2, err := b.Update(t.Context(), "web", change(t, "/svc=>/c", "bob"), v1)
		if err != nil || v2 != version(2) {
			t.Fatalf("update: %q, %v", v2, err)
		}
		if _, err := a.Update(t.Context(), "web", change(t, "/svc=>/d", ""), v1); !errors.Is(err, namer.ErrVersion) {
			t.Fatalf("stale update: %v", err)
		}

		// An edit, with comments; then one of comments alone.
		a.edit(t, "web", "# mine\n/svc => /e ; # end\n")
		if rules, v := a.get(t, "web"); rules != "/svc=>/c" || v != v2 {
			t.Fatalf("an edit is believed at once: %s", rules)
		}
		if _, err := b.Update(t.Context(), "web", change(t, "/svc=>/lost", ""), v2); !errors.Is(err, namer.ErrVersion) {
			t.Fatalf("an edit is overwritten: %v", err)
		}
		time.Sleep(settle)
		synctest.Wait()
		rulesA, versionA := a.get(t, "web")
		rulesB, versionB := b.get(t, "web")
		if rulesA != "/svc=>/e" || rulesB != rulesA || versionA != version(3) || versionB != versionA {
			t.Fatalf("after the edit: %s %q and %s %q", rulesA, versionA, rulesB, versionB)
		}
		a.edit(t, "web", "/svc=>/e")
		time.Sleep(settle)
		if _, v := b.get(t, "web"); v != version(3) {
			t.Fatalf("comments are a version: %q", v)
		}

		// What does not parse changes nothing, over a restart too.
		a.edit(t, "web", "/svc => ")
		time.Sleep(settle)
		if rules, v := a.get(t, "web"); rules != "/svc=>/e" || v != version(3) || !strings.Contains(a.log.String(), "column 9: a path, ") {
			t.Fatalf("after a bad edit: %s %q, said %s", rules, v, a.log.String())
		}
		stopA()
		a, stopA = openFiles(t, dir)
		defer stopA()
		synctest.Wait()
		if rules, v := a.get(t, "web"); rules != "/svc=>/e" || v != version(3) {
			t.Fatalf("after a restart: %s %q", rules, v)
		}
		past, err := a.History(t.Context(), "web")
		if err != nil || len(past) != 3 || past[0].By != "" || past[1].By != "bob" || past[2].By != "ann" || past[2].Dtab.Exact() != "/svc=>0.001*/a & /b;/x=>/y" {
			t.Fatalf("history is %+v, %v", past, err)
		}

		// Deleted, by hand and through the store; versions go on.
		if err := a.Delete(t.Context(), "web", "ann"); err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(t.Context(), "web", "ann"); !errors.Is(err, namer.ErrNotFound) {
			t.Fatalf("deleted twice: %v", err)
		}
		time.Sleep(settle)
		synctest.Wait()
		if v := watched.Get(); v.Version != "" {
			t.Fatalf("the other watches %+v", v)
		}
		if v, err := b.Put(t.Context(), "web", change(t, "/svc=>/f", "")); err != nil || v != version(4) {
			t.Fatalf("written again as %q, %v", v, err)
		}
		if err := os.Remove(filepath.Join(dir, "web.dtab")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(settle)
		synctest.Wait()
		if len(a.Names().Get()) != 0 || watched.Get().Version != "" {
			t.Fatalf("removed by hand: %v, %+v", a.Names().Get(), watched.Get())
		}
		if rules, _ := a.get(t, "web"); rules != namer.ErrNotFound.Error() {
			t.Fatalf("removed by hand: %s", rules)
		}

		// A new file that never parsed is nobody's dtab, and not an empty one.
		late, release2 := a.Watch("late")
		defer release2()
		a.edit(t, "late", "/svc")
		a.edit(t, "Not A Name", "/svc=>/a")
		time.Sleep(settle)
		synctest.Wait()
		if _, err := a.Get(t.Context(), "late"); err == nil || errors.Is(err, namer.ErrNotFound) {
			t.Errorf("what does not parse is %v", err)
		}
		a.edit(t, "late", "/svc => /a")
		time.Sleep(settle)
		synctest.Wait()
		if v := late.Get(); v.Dtab.String() != "/svc=>/a" || !slices.Equal(a.Names().Get(), []string{"late"}) {
			t.Errorf("late is %+v of %v", v, a.Names().Get())
		}
		// Names are no paths.
		for _, name := range []string{"../x", "", ".", "a/b", "UP"} {
			v, release := a.Watch(name)
			release()
			if _, err := a.Put(t.Context(), name, change(t, "", "")); err == nil || v.Get().Version != "" {
				t.Errorf("%q is a namespace", name)
			}
		}
	})
}

// What is wrong with one file or its history is nothing to the others, and is said with its name.
func TestFilesThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		write := func(name, text string) {
			t.Helper()
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		write("good.dtab", "/svc=>/a")
		write("bad.dtab", "/svc=>/b")
		write("wrong.dtab", "/svc=>/b")
		write(".history/bad.json", "{")
		write(".history/wrong.json", `{"writes":1,"revisions":[{"version":1,"dtab":"/svc"}]}`)
		write(".history/dir.json", `{"writes":7,"revisions":[{"version":7,"dtab":"/svc=>/dir"}]}`)
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "dir.dtab"), 0o700), os.Mkdir(filepath.Join(dir, "new.dtab"), 0o700), os.Symlink("loop.dtab", filepath.Join(dir, "loop.dtab"))); err != nil {
			t.Fatal(err)
		}
		f, stop := openFiles(t, dir)
		defer stop()
		synctest.Wait()
		if rules, _ := f.get(t, "good"); rules != "/svc=>/a" || !slices.Equal(f.Names().Get(), []string{"dir", "good"}) {
			t.Fatalf("good is %s of %v:\n%s", rules, f.Names().Get(), f.log.String())
		}
		if rules, v := f.get(t, "dir"); rules != "/svc=>/dir" || v != version(7) { // as if it did not parse
			t.Errorf("dir is %s, %q", rules, v)
		}
		for name, want := range map[string]string{
			"bad":   "/.history/bad.json: unexpected end of JSON input; restore it, or delete it to begin a new history with the rules of " + dir + "/bad.dtab",
			"wrong": "/.history/wrong.json: dtab of version 1: line 1, column 5: ",
			"new":   dir + "/new.dtab is a directory; move it away, and put a file of rules into its place",
			"loop":  "/loop.dtab: too many levels of symbolic links; have it be a file that the namer may read",
		} {
			watched, release := f.Watch(name)
			defer release()
			if rules, _ := f.get(t, name); !strings.Contains(rules, want) || !strings.Contains(f.log.String(), want) || watched.Get() != nil {
				t.Errorf("%s is %s, watched %v, said\n%s", name, rules, watched.Get(), f.log.String())
			}
			if _, err := f.Put(t.Context(), name, change(t, "/svc=>/c", "")); name != "loop" && (err == nil || errors.Is(err, namer.ErrNotFound)) {
				t.Errorf("%s is written, %v", name, err)
			}
		}
		if v, err := f.Put(t.Context(), "good", change(t, "/svc=>/good", "")); err != nil || v != version(2) {
			t.Fatalf("put: %q, %v", v, err)
		}

		// A history that breaks is not needed any more; nor does another problem make this one silent.
		write(".history/good.json", "{")
		if rules, v := f.get(t, "good"); rules != "/svc=>/good" || v != version(2) || strings.Count(f.log.String(), "good.json") != 1 {
			t.Errorf("with a broken history: %s, %q\n%s", rules, v, f.log.String())
		}
		if err := errors.Join(os.Remove(filepath.Join(dir, "good.dtab")), os.Mkdir(filepath.Join(dir, "good.dtab"), 0o700)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(settle)
		if rules, v := f.get(t, "good"); rules != "/svc=>/good" || v != version(2) {
			t.Errorf("with nothing to read: %s, %q", rules, v)
		}
		if err := os.Remove(filepath.Join(dir, "good.dtab")); err != nil {
			t.Fatal(err)
		}
		write("good.dtab", "/svc=>/edited")
		time.Sleep(settle)
		if rules, v := f.get(t, "good"); rules != "/svc=>/edited" || v != version(3) {
			t.Errorf("an edit beside a broken history: %s, %q", rules, v)
		}
		if text, _ := os.ReadFile(filepath.Join(dir, ".history/good.json")); !strings.Contains(string(text), "/edited") {
			t.Errorf("the history is %s", text)
		}

		// What is put right is served.
		if err := errors.Join(os.Remove(filepath.Join(dir, ".history/bad.json")), os.Remove(filepath.Join(dir, "new.dtab"))); err != nil {
			t.Fatal(err)
		}
		write("new.dtab", "/svc=>/new")
		time.Sleep(settle)
		synctest.Wait()
		if rules, v := f.get(t, "bad"); rules != "/svc=>/b" || v != version(1) {
			t.Errorf("bad is %s, %q", rules, v)
		}
		if names := f.Names().Get(); !slices.Equal(names, []string{"bad", "dir", "good", "loop", "new"}) {
			t.Errorf("names are %v", names)
		}
		if n := strings.Count(f.log.String(), "wrong.json: "); n != 1 {
			t.Errorf("said %d times:\n%s", n, f.log.String())
		}
	})
}

// A file that is no dtab may be anything, and does not go to the log.
func TestFilesLogNoContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		f, stop := openFiles(t, dir)
		defer stop()
		f.edit(t, "key", "# a\n/svc=>/b ;\nsecret"+strings.Repeat("x", 1<<20-100))
		time.Sleep(settle)
		if log := f.log.String(); !strings.Contains(log, "line 3, column 1: ") || strings.Contains(log, "secret") || len(log) > 1000 {
			t.Errorf("said %.2000s", log)
		}
	})
}

func TestFilesReadOnly(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "web.dtab"), []byte("/svc=>/a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	a, stop := openFiles(t, dir)
	defer stop()
	if _, err := a.Names().Wait(t.Context(), func(names []string) bool { return names != nil }); err != nil {
		t.Fatal(err)
	}
	if rules, v := a.get(t, "web"); rules != "/svc=>/a" || len(v) != 8 {
		t.Fatalf("got %s, %q", rules, v)
	}
	if _, err := a.Put(t.Context(), "web", change(t, "", "")); !errors.Is(err, namer.ErrForbidden) {
		t.Fatalf("put: %v", err)
	}
}

func TestFilesNoDirectory(t *testing.T) {
	f := namer.NewFiles(namer.FilesConfig{Dir: filepath.Join(t.TempDir(), "none"), Logger: quiet})
	if err := f.Run(t.Context()); err == nil {
		t.Error("there is no directory and nobody says so")
	}
}
