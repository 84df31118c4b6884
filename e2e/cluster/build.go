package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster/debian"
)

const (
	harnessPackage = "github.com/tulle-mesh/tulle/e2e/cluster"
	cniPlugins     = "github.com/containernetworking/plugins/plugins/"
	crdModule      = "github.com/cert-manager/cert-manager"

	builtPrefix    = "bin-"      // of a directory of binaries; their key follows
	buildingPrefix = "building-" // of one that is not complete, or that a build left when it was killed
)

// programs are the binaries of the nested module: package to file name.
var programs = []struct{ Package, File string }{
	{"./hyper", "hyper"},
	{"./containerd", "containerd"},
	{"./shim", "containerd-shim-runc-v2"},
	{"./certmanager", "certmanager"},
	{"./pause", "pause"},
	{cniPlugins + "main/bridge", "bridge"},
	{cniPlugins + "main/loopback", "loopback"},
	{cniPlugins + "ipam/host-local", "host-local"},
	{cniPlugins + "meta/portmap", "portmap"},
}

// aliases are the further names of the multi-call binaries.
var aliases = map[string][]string{
	"hyper": {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
		"kubelet", "kube-proxy", "kubectl", "coredns"},
	"containerd": {"ctr"},
}

// binaries is a directory with every program of the cluster, under the names they are called by.
type binaries struct {
	dir string
	key string // changes whenever a program may have changed
}

// builtBinaries names the binaries of a key; they need not be built.
func builtBinaries(cache, key string) binaries {
	return binaries{dir: filepath.Join(cache, builtPrefix+key), key: key}
}

func (b binaries) path(name string) string { return filepath.Join(b.dir, name) }

// crds holds cert-manager's CustomResourceDefinitions, one file each.
func (b binaries) crds() string { return filepath.Join(b.dir, "crds") }

// env is the environment of the cluster's programs. Ours come first in PATH: containerd takes the
// first shim it finds, and a distribution's may be older.
func (b binaries) env() []string {
	return []string{"PATH=" + b.dir + ":" + debian.Path, "HOME=/root"}
}

// builder builds the nested module.
type builder struct {
	module string // its directory
	cache  string // where built binaries are kept
	progress
}

// newBuilder finds the nested module's sources by asking the go command in the working directory.
func newBuilder(ctx context.Context, cache string, p progress) (*builder, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return nil, fmt.Errorf("find the go command, which builds Kubernetes: %w", err)
	}
	dir, err := goOutput(ctx, "", "list", "-find", "-f", "{{.Dir}}", harnessPackage)
	if err != nil {
		return nil, fmt.Errorf("find the sources of the test cluster (run this inside tulle's repository): %w", err)
	}
	return &builder{module: filepath.Join(dir, "kube"), cache: cache, progress: p}, nil
}

// binaries returns the cluster's programs, building them first if no build of these sources is
// cached. The first build compiles all of Kubernetes, which is many minutes.
func (b *builder) binaries(ctx context.Context) (binaries, error) {
	toolchain, err := goOutput(ctx, b.module, "env", "GOVERSION", "GOARCH")
	if err != nil {
		return binaries{}, err
	}
	key, err := sourceKey(os.DirFS(b.module), toolchain)
	if err != nil {
		return binaries{}, fmt.Errorf("hash the sources of the test cluster: %w", err)
	}
	bin := builtBinaries(b.cache, key)
	if _, err := os.Stat(bin.dir); err == nil {
		return bin, nil
	}
	// Built aside and renamed when complete: a directory with a key in its name is whole.
	temp, err := os.MkdirTemp(b.cache, buildingPrefix)
	if err != nil {
		return binaries{}, fmt.Errorf("make room for the build: %w", err)
	}
	defer os.RemoveAll(temp)
	if err := b.build(ctx, temp); err != nil {
		return binaries{}, err
	}
	if err := os.Rename(temp, bin.dir); err != nil {
		return binaries{}, fmt.Errorf("keep the build: %w", err)
	}
	return bin, nil
}

func (b *builder) build(ctx context.Context, dir string) error {
	ldflags, err := b.ldflags(ctx)
	if err != nil {
		return err
	}
	b.printf("building Kubernetes, containerd and cert-manager from Go modules (%d CPUs; the first time this takes many minutes)", runtime.NumCPU())
	if err := b.compile(ctx, dir, ldflags); err != nil {
		return err
	}
	for _, p := range programs {
		// The go command names a binary after its package's last element.
		built := filepath.Join(dir, filepath.Base(p.Package))
		if err := os.Rename(built, filepath.Join(dir, p.File)); err != nil {
			return fmt.Errorf("name the binaries: %w", err)
		}
		for _, alias := range aliases[p.File] {
			if err := os.Symlink(p.File, filepath.Join(dir, alias)); err != nil {
				return fmt.Errorf("name the binaries: %w", err)
			}
		}
	}
	source, err := goOutput(ctx, b.module, "list", "-m", "-f", "{{.Dir}}", crdModule)
	if err != nil {
		return err
	}
	// Copied, because a module cache may be cleaned while the binaries stay.
	if err := os.CopyFS(filepath.Join(dir, "crds"), os.DirFS(filepath.Join(source, "deploy", "crds"))); err != nil {
		return fmt.Errorf("copy cert-manager's CRDs: %w", err)
	}
	return os.Chmod(dir, 0o755) // pods of other users run programs out of it
}

// ldflags says which Kubernetes this is, which `go build` cannot know; clients ask the API server.
func (b *builder) ldflags(ctx context.Context) (string, error) {
	version, err := goOutput(ctx, b.module, "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return "", err
	}
	return versionFlags(version)
}

func versionFlags(version string) (string, error) {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) != 3 {
		return "", fmt.Errorf("read the version of Kubernetes: got %q, want one like v1.2.3", version)
	}
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			"-X", pkg+".gitVersion="+version,
			"-X", pkg+".gitMajor="+parts[0],
			"-X", pkg+".gitMinor="+parts[1])
	}
	return strings.Join(flags, " "), nil
}

// compile runs the go command and prints every few seconds how far it is.
func (b *builder) compile(ctx context.Context, dir, ldflags string) error {
	args := []string{"build", "-v", "-ldflags", ldflags, "-o", dir + string(filepath.Separator)}
	for _, p := range programs {
		args = append(args, p.Package)
	}
	total, err := b.countPackages(ctx)
	if err != nil {
		return err
	}
	cmd := goCommand(ctx, b.module, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("build Kubernetes: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build Kubernetes: %w", err)
	}
	var compiled atomic.Int64
	stop := b.every(10*time.Second, func() {
		b.printf("building Kubernetes: %d packages compiled of at most %d", compiled.Load(), total)
	})
	problems := watchBuild(stderr, &compiled)
	err = cmd.Wait()
	stop()
	if ctx.Err() != nil {
		return fmt.Errorf("build Kubernetes: %w; what was compiled is kept, so the next start goes on from there", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("build Kubernetes: %w\n%s", err, problems)
	}
	b.printf("built Kubernetes: %d packages compiled, the rest were cached", compiled.Load())
	return nil
}

// countPackages counts what there is to compile when nothing is cached; it downloads the modules.
func (b *builder) countPackages(ctx context.Context) (int, error) {
	b.printf("downloading the modules of Kubernetes, if they are not there yet")
	args := []string{"list", "-deps", "-f", "{{.ImportPath}}"}
	for _, p := range programs {
		args = append(args, p.Package)
	}
	out, err := goOutput(ctx, b.module, args...)
	if err != nil {
		return 0, err
	}
	return strings.Count(out, "\n") + 1, nil
}

// every calls f at an interval in a goroutine of its own, until the function it returns is called.
func (b *builder) every(interval time.Duration, f func()) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f()
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

// watchBuild reads what `go build -v` prints, until it ends. It counts the packages and returns the
// other lines, the errors: those have spaces, import paths have none.
func watchBuild(r io.Reader, compiled *atomic.Int64) string {
	var problems strings.Builder
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if line := lines.Text(); strings.Contains(line, " ") {
			problems.WriteString(line + "\n")
		} else {
			compiled.Add(1)
		}
	}
	_, _ = io.Copy(io.Discard, r) // a line too long to scan must not block the build
	return problems.String()
}

// sourceKey hashes a source tree, names and contents, with whatever else decides about the binaries.
func sourceKey(tree fs.FS, extra ...string) (string, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%q %q %q\n", extra, programs, aliases)
	err := fs.WalkDir(tree, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tree, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%q %d\n", path, len(data))
		hash.Write(data)
		return nil
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// prune removes every build but the given one, finished or not; each is a third of a gigabyte.
func prune(cache string, keep binaries) error {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(cache, e.Name())
		ours := strings.HasPrefix(e.Name(), builtPrefix) || strings.HasPrefix(e.Name(), buildingPrefix)
		if ours && dir != keep.dir {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// goCommand prepares a go command in dir. Binaries are static, for they run in images with nothing
// else in them, and a workspace or flags of the user's do not change what is built.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off", "GOOS=linux")
	// Interrupted, the go command removes its temporary files; killed, it does not.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func goOutput(ctx context.Context, dir string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := goCommand(ctx, dir, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}
