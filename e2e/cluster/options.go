package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Options say how a cluster is brought up and taken down. The zero value is what tests want.
type Options struct {
	// Fresh makes Up replace a healthy cluster that is already running. By default Up reuses it.
	Fresh bool
	// Install lets Up install missing Debian packages by apt-get. By default Up names them and fails.
	Install bool
	// CacheDir keeps the built Kubernetes and the state of the running cluster. By default it is
	// tulle/cluster below os.UserCacheDir. Two clusters with two cache directories would still want
	// the same addresses.
	CacheDir string
	// Log takes the progress, in lines for a person. By default it is os.Stderr.
	Log io.Writer
}

// ErrUnsupported is what errors wrap when this machine cannot run the cluster, whatever one installs.
var ErrUnsupported = errors.New("this machine cannot run the test cluster")

// checkPlatform reports a machine that cannot run the cluster, by one sentence and a way out.
func checkPlatform() error {
	switch {
	case runtime.GOOS != "linux":
		return fmt.Errorf("%w: it needs Linux and this is %s; `make unit` runs the tests that need no cluster", ErrUnsupported, runtime.GOOS)
	case os.Geteuid() != 0:
		return fmt.Errorf("%w: it needs root, for namespaces and mounts; run it under sudo, or `make unit` for the tests that need no cluster", ErrUnsupported)
	}
	return nil
}

// defaults fills in what was left out, and makes the cache directory.
func (o Options) defaults() (Options, error) {
	if o.CacheDir == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("find the cache directory (set HOME or XDG_CACHE_HOME): %w", err)
		}
		o.CacheDir = filepath.Join(dir, "tulle", "cluster")
	}
	dir, err := filepath.Abs(o.CacheDir)
	if err != nil {
		return o, fmt.Errorf("find the cache directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return o, fmt.Errorf("make the cache directory: %w", err)
	}
	// Without links, as the kernel names the programs of running processes: see findMachines.
	if o.CacheDir, err = filepath.EvalSymlinks(dir); err != nil {
		return o, fmt.Errorf("find the cache directory: %w", err)
	}
	if o.Log == nil {
		o.Log = os.Stderr
	}
	return o, nil
}

func (o Options) state() stateDir { return stateDir(filepath.Join(o.CacheDir, "state")) }

// failedLogs is where the logs of the last Up that failed are kept.
func (o Options) failedLogs() string { return filepath.Join(o.CacheDir, "failed-logs") }

// progress prints what Up does, each line with the time since it began.
type progress struct {
	w     io.Writer
	begun time.Time
}

// Write prints what a part of Up that has a writer says, a line at a time.
func (p progress) Write(line []byte) (int, error) {
	p.printf("%s", bytes.TrimSuffix(line, []byte("\n")))
	return len(line), nil
}

func (p progress) printf(format string, args ...any) {
	fmt.Fprintf(p.w, "cluster %6.1fs  %s\n", time.Since(p.begun).Seconds(), fmt.Sprintf(format, args...))
}
