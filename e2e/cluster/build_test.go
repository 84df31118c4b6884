package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
)

func TestSourceKey(t *testing.T) {
	tree := func(content string) fstest.MapFS {
		return fstest.MapFS{"go.mod": {Data: []byte("module m")}, "hyper/main.go": {Data: []byte(content)}}
	}
	key := func(tree fstest.MapFS, extra ...string) string {
		t.Helper()
		k, err := sourceKey(tree, extra...)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	base := key(tree("a"), "go1.26")
	if base != key(tree("a"), "go1.26") {
		t.Error("the same sources have two keys")
	}
	if base == key(tree("b"), "go1.26") {
		t.Error("an edit does not change the key")
	}
	if base == key(tree("a"), "go1.27") {
		t.Error("another Go does not change the key")
	}
	renamed := tree("a")
	renamed["hyper/other.go"] = renamed["hyper/main.go"]
	delete(renamed, "hyper/main.go")
	if base == key(renamed, "go1.26") {
		t.Error("another file name does not change the key")
	}
}

func TestVersionFlags(t *testing.T) {
	flags, err := versionFlags("v1.37.2")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"component-base/version.gitVersion=v1.37.2", "component-base/version.gitMajor=1", "client-go/pkg/version.gitMinor=37"} {
		if !strings.Contains(flags, want) {
			t.Errorf("flags lack %q: %s", want, flags)
		}
	}
	if _, err := versionFlags("devel"); err == nil {
		t.Error("a version without numbers is taken")
	}
}

func TestWatchBuild(t *testing.T) {
	const output = "go: downloading k8s.io/api v0.37.2\nk8s.io/api/core/v1\nruntime\n# k8s.io/x\nx.go:1:2: undefined: y in z\n"
	var compiled atomic.Int64
	problems := watchBuild(strings.NewReader(output), &compiled)
	if compiled.Load() != 2 {
		t.Errorf("counted %d packages, want 2", compiled.Load())
	}
	if !strings.Contains(problems, "undefined: y") {
		t.Errorf("the compiler's error is lost: %q", problems)
	}
}

func TestPrune(t *testing.T) {
	cache := t.TempDir()
	for _, name := range []string{"bin-old", "bin-new", "building-123", "state"} {
		if err := os.Mkdir(filepath.Join(cache, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(cache, builtBinaries(cache, "new")); err != nil {
		t.Fatal(err)
	}
	for name, kept := range map[string]bool{"bin-old": false, "bin-new": true, "building-123": false, "state": true} {
		if _, err := os.Stat(filepath.Join(cache, name)); (err == nil) != kept {
			t.Errorf("%s: kept %v, want %v", name, err == nil, kept)
		}
	}
}
