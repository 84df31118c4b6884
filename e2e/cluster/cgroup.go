package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// cgroupRoot is where distributions mount the cgroup tree, of either version.
const cgroupRoot = "/sys/fs/cgroup"

// makeCgroups makes a node's cgroup, in which the kubelet puts its pods, in every hierarchy. The
// node's daemons stay in the cgroup that Up runs in.
func makeCgroups(root, node string) error {
	hierarchies, err := cgroupHierarchies(root)
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		parent := h
		for _, name := range []string{clusterName, node} {
			dir := filepath.Join(parent, name)
			if err := handDown(parent); err != nil {
				return err
			}
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("make a cgroup for %s: %w", node, err)
			}
			if err := copyCPUSet(parent, dir); err != nil {
				return err
			}
			parent = dir
		}
	}
	return nil
}

// cgroupHierarchies lists the roots of the mounted hierarchies: one for version 2, one for each
// controller (and perhaps a version 2 tree without any) for version 1.
func cgroupHierarchies(root string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return []string{root}, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() { // cpu and cpuacct may be links to cpu,cpuacct
			dirs = append(dirs, filepath.Join(root, e.Name()))
		}
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("find the cgroup hierarchies: nothing is mounted below %s", root)
	}
	return dirs, nil
}

// podControllers are those that the kubelet limits pods by.
var podControllers = []string{"cpuset", "cpu", "memory", "pids"}

// handDown lets the children of a version 2 cgroup use its controllers. Version 1 has no such switch,
// and a version 2 tree beside it has none of these controllers.
func handDown(parent string) error {
	available, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the controllers of %s: %w", parent, err)
	}
	for _, controller := range podControllers {
		if !slices.Contains(strings.Fields(string(available)), controller) {
			continue
		}
		if err := os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return fmt.Errorf("hand the controller %s down to the children of %s: %w", controller, parent, err)
		}
	}
	return nil
}

// copyCPUSet gives a new version 1 cpuset its parent's CPUs and memory nodes; it is born without, and then no
// process can enter it.
func copyCPUSet(parent, child string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		data, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, os.ErrNotExist) {
			continue // another hierarchy, or version 2, where a child has what its parent has
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", file, err)
		}
		if err := os.WriteFile(filepath.Join(child, file), data, 0o644); err != nil {
			return fmt.Errorf("copy %s: %w", file, err)
		}
	}
	return nil
}

// removeCgroups removes a cgroup of the cluster, by its path below each hierarchy, with everything below it. What ran in
// it may still be dying, so it tries until ctx ends.
func removeCgroups(ctx context.Context, root, path string) error {
	hierarchies, err := cgroupHierarchies(root)
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		for {
			err := removeTree(filepath.Join(h, path))
			if err == nil {
				break
			}
			if sleep(ctx, 20*time.Millisecond) != nil {
				return fmt.Errorf("remove the cgroup %s: %w", filepath.Join(h, path), err)
			}
		}
	}
	return nil
}

// removeTree removes a tree of cgroups, the deepest first. Their files cannot be removed and need not be.
func removeTree(top string) error {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		}
		if entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Reverse(dirs) // a walk names parents first
	for _, dir := range dirs {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
