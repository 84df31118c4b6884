package policy

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// As the kubelet mounts a ConfigMap: policy.yaml → ..data/policy.yaml, ..data → a directory.
		dir := t.TempDir()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		version := 0
		swap := func(content string) {
			t.Helper()
			version++
			next := "..v" + string(rune('0'+version))
			must(os.Mkdir(filepath.Join(dir, next), 0o700))
			must(os.WriteFile(filepath.Join(dir, next, "policy.yaml"), []byte(content), 0o600))
			must(os.Symlink(next, filepath.Join(dir, "..tmp")))
			must(os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
		}
		depth := func(n string) string { return "server: {maxCallDepth: " + n + "}\n" }
		swap(depth("1"))
		path := filepath.Join(dir, "policy.yaml")
		must(os.Symlink("..data/policy.yaml", path))

		var log logtest.Buffer
		f := NewFile(path, slog.New(slog.NewTextHandler(&log, nil)))
		must(f.Load())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		expect := func(depth int, taken, refused uint64, logged string) {
			t.Helper()
			synctest.Wait()
			p := f.Value().Get()
			if a, b := f.Loads(); p.Server.MaxCallDepth != depth || a != taken || b != refused {
				t.Errorf("depth %d, %d taken, %d refused; want %d, %d, %d", p.Server.MaxCallDepth, a, b, depth, taken, refused)
			}
			if got := log.Take(); strings.Count(got, "\n") != min(len(logged), 1) || !strings.Contains(got, logged) {
				t.Errorf("it logged %q, want %q", got, logged)
			}
		}
		time.Sleep(10 * time.Second)
		expect(1, 1, 0, "")
		swap(depth("2"))
		time.Sleep(lookEvery)
		expect(1, 1, 0, "") // it may still be written
		time.Sleep(lookEvery)
		expect(2, 2, 0, "policy changed")
		swap("server: {maxCallDepht: 3}")
		time.Sleep(10 * time.Second)
		expect(2, 2, 1, "policy.yaml:1: server.maxCallDepht is not a key of a policy; did you mean maxCallDepth?")
		must(os.Remove(path))
		time.Sleep(10 * time.Second)
		expect(2, 2, 2, "no such file")
		must(os.WriteFile(path, []byte(depth("2")), 0o600))
		time.Sleep(10 * time.Second)
		expect(2, 2, 2, "policy is as it was")
		must(os.WriteFile(path, []byte(depth("4")), 0o600))
		f.Reload()
		expect(4, 3, 2, "policy changed")
		f.Reload()
		expect(4, 3, 2, "policy is as it was")
		must(os.WriteFile(path, bytes.Repeat([]byte("#"), maxSize+1), 0o600))
		f.Reload()
		expect(4, 3, 3, "larger than")
		cancel()
		must(<-done)
	})
}

func TestFileAtStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := NewFile(path, nil).Load(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("servre: {}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := NewFile(path, nil).Load(); err == nil || err.Error() != path+":1: servre is not a key of a policy; did you mean server?" {
		t.Error(err)
	}
}
