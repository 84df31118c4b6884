package cluster

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// TestCgroups makes and removes a node's cgroups in trees of plain files, which is all it can do of
// version 2 on a machine of version 1 and the other way round.
func TestCgroups(t *testing.T) {
	tests := map[string]struct {
		files map[string]string // of the tree before
		want  map[string]string // after; "" is a directory
	}{
		"version 1": {
			files: map[string]string{"cpuset/cpuset.cpus": "0-1", "cpuset/cpuset.mems": "0", "memory/tasks": "", "unified/cgroup.controllers": "hugetlb\n"},
			want: map[string]string{
				"cpuset/tulle-e2e/n1/cpuset.cpus": "0-1", "cpuset/tulle-e2e/n1/cpuset.mems": "0",
				"memory/tulle-e2e/n1": "", "unified/tulle-e2e/n1": "",
			},
		},
		"version 2": {
			files: map[string]string{"cgroup.controllers": "cpu memory hugetlb\n"},
			// The kernel would take the last word written as one more; a file keeps only that.
			want: map[string]string{"tulle-e2e/n1": "", "cgroup.subtree_control": "+memory"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, content := range test.files {
				path := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time it is all there
				if err := makeCgroups(root, "n1"); err != nil {
					t.Fatal(err)
				}
			}
			for file, want := range test.want {
				path := filepath.Join(root, file)
				if want == "" {
					if info, err := os.Stat(path); err != nil || !info.IsDir() {
						t.Errorf("%s is not made: %v", file, err)
					}
				} else if got, err := os.ReadFile(path); err != nil || string(got) != want {
					t.Errorf("%s = %q (%v), want %q", file, got, err, want)
				}
			}
		})
	}
}

func TestRemoveCgroups(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"cpu/tulle-e2e/n1/pods/a", "cpu/tulle-e2e/n2", "cpu/other", "memory/tulle-e2e/n1"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := removeCgroups(context.Background(), root, clusterName); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(root + "/*/*")
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "other" {
		t.Errorf("left: %v (%v), want only what is not the cluster's", left, err)
	}
}
