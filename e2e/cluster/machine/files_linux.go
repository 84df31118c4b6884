package machine

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// prepare turns the copy of the host's mounts that a new mount namespace starts with into the
// machine's own view. The order matters: each step says why.
func (s *Spec) prepare() error {
	// First of all: nothing that follows may reach the host.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("set host name %s: %w", s.Name, err)
	}
	// /proc shows the process namespace it was mounted from.
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := renewSys(); err != nil {
		return err
	}
	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"/etc", "/var"} {
		if err := s.overlay(dir); err != nil {
			return err
		}
	}
	for _, b := range s.Binds {
		if err := s.bind(b); err != nil {
			return err
		}
	}
	if err := writeFiles(s.Files); err != nil {
		return err
	}
	for name, value := range s.Sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
			return fmt.Errorf("set sysctl (does this kernel have it, or its module loaded?): %w", err)
		}
	}
	if err := s.mask(); err != nil {
		return err
	}
	// The kubelet wants mounts to propagate into pods that ask for it.
	return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// renewSys mounts a fresh /sys, which shows the links of this network namespace, and keeps the
// host's cgroup tree in it.
func renewSys() error {
	const aside = "/run"
	if err := mount("/sys/fs/cgroup", aside, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Unmount("/sys", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount /sys: %w", err)
	}
	if err := mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	return mount(aside, "/sys/fs/cgroup", "", unix.MS_MOVE, "")
}

// overlay lays the machine's own layer over dir, so that what its daemons write there is on its disk.
func (s *Spec) overlay(dir string) error {
	upper, work := filepath.Join(s.Disk, "layer", dir), filepath.Join(s.Disk, "work", dir)
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make the layer of %s: %w", dir, err)
		}
	}
	return mount("overlay", dir, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work))
}

func (s *Spec) bind(b Bind) error {
	from := filepath.Join(s.Disk, b.From)
	for _, dir := range []string{from, b.To} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("bind %s over %s: %w", from, b.To, err)
		}
	}
	return mount(from, b.To, "", unix.MS_BIND, "")
}

// mask lays plain files over files of /proc/sys. They are on /run, so a write goes to the file.
func (s *Spec) mask() error {
	const dir = "/run/machine"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the masks: %w", err)
	}
	for name, value := range s.Masks {
		file := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
		if err := mount(file, filepath.Join("/proc/sys", name), "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

func writeFiles(files map[string]string) error {
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		// The host's file may be a symbolic link out of the layer; replace the link, not its target.
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("write %s: %w", path, err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s (%s) on %s: %w", source, kind, target, err)
	}
	return nil
}
