//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program that runs on some processors only. It dies with the benchmark.
type process struct {
	name   string
	pid    int
	output string // the file with what it prints
	ended  chan struct{}
	err    error // how it ended; for who has seen ended closed
}

// spawn starts a program. Its output goes to a file in dir.
func spawn(dir, name string, cpus []int, env []string, program string, args ...string) (*process, error) {
	output, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer func() { _ = output.Close() }()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
	cmd.Env = append(os.Environ(), env...)
	// A group of its own, so that Ctrl-C reaches the benchmark alone, which then ends it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := startOn(cmd, cpus); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, pid: cmd.Process.Pid, output: output.Name(), ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// startOn starts cmd on some processors: a process inherits them from the thread that starts it.
func startOn(cmd *exec.Cmd, cpus []int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("get affinity: %w", err)
	}
	if err := unix.SchedSetaffinity(0, cpuSet(cpus)); err != nil {
		return fmt.Errorf("set affinity to %v: %w", cpus, err)
	}
	err := cmd.Start()
	if undo := unix.SchedSetaffinity(0, &before); undo != nil {
		return errors.Join(err, fmt.Errorf("restore affinity: %w", undo))
	}
	return err
}

func cpuSet(cpus []int) *unix.CPUSet {
	var set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	return &set
}

// cpu is the processor time of all threads so far, those that have ended among them, in user space and
// in the kernel. It is the scheduler's own sum, in nanoseconds, and not the samples of /proc/PID/stat.
func (p *process) cpu() (time.Duration, error) {
	// CPUCLOCK_SCHED of a process, see clock_getcpuclockid(3) and the kernel's posix-timers_types.h.
	clock := int32(^p.pid<<3 | 2)
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("read the processor time of %s: %w%s", p.name, err, p.tail())
	}
	return time.Duration(ts.Nano()), nil
}

// rss is the resident memory in bytes. smaps_rollup walks the pages; what /proc/PID/status says is
// counted per processor and may lag by megabytes.
func (p *process) rss() (int, error) {
	page, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of %s: %w%s", p.name, err, p.tail())
	}
	return parseRSS(page)
}

func parseRSS(smaps []byte) (int, error) {
	for line := range bytes.Lines(smaps) {
		if f := strings.Fields(string(line)); len(f) == 3 && f[0] == "Rss:" && f[2] == "kB" {
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				return 0, fmt.Errorf("read Rss: %w", err)
			}
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("no line Rss in %q", smaps)
}

// files counts the open descriptors.
func (p *process) files() (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
	return len(entries), err
}

// stop ends the process and waits for it: by SIGTERM, and after a while by force.
func (p *process) stop() {
	_ = syscall.Kill(p.pid, syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(2 * time.Second):
		// It is still ours: its number is free only once ended is closed.
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
		<-p.ended
	}
}

// tail is what the process last said, to go at the end of an error.
func (p *process) tail() string {
	said, err := os.ReadFile(p.output)
	said = bytes.TrimSpace(said)
	if err != nil || len(said) == 0 {
		return ""
	}
	const most = 1000
	if len(said) > most {
		said = said[len(said)-most:]
	}
	return fmt.Sprintf("; %s says: %s", p.name, said)
}

// allowedCPUs are the processors that this process may use.
func allowedCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("get affinity: %w", err)
	}
	var cpus []int
	for c := 0; len(cpus) < set.Count(); c++ {
		if set.IsSet(c) {
			cpus = append(cpus, c)
		}
	}
	return cpus, nil
}

// keepTo moves every thread of this process to some processors; later threads inherit that.
func keepTo(cpus []int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list own threads: %w", err)
	}
	for _, t := range tasks {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return fmt.Errorf("list own threads: %w", err)
		}
		if err := unix.SchedSetaffinity(id, cpuSet(cpus)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("set affinity to %v: %w", cpus, err)
		}
	}
	return nil
}

// raiseFiles lets this process and those that it starts open as many files as the system allows, and
// returns how many.
func raiseFiles() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("get the limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raise the limit of open files: %w", err)
	}
	return limit.Max, nil
}

// othersDuring runs f and returns how many processors were taken meanwhile by what is neither this process nor
// one that f has started and waited for: by other programs, or by the hypervisor for other machines.
func othersDuring(f func() error) (float64, error) {
	var all, own [2]time.Duration
	var at [2]time.Time
	for i := range at {
		if i == 1 {
			if err := f(); err != nil {
				return 0, err
			}
		}
		at[i] = time.Now()
		page, err := os.ReadFile("/proc/stat")
		if err != nil {
			return 0, fmt.Errorf("read the processor time of the machine: %w", err)
		}
		if all[i], err = parseBusy(page); err != nil {
			return 0, err
		}
		for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
			var u syscall.Rusage
			if err := syscall.Getrusage(who, &u); err != nil {
				return 0, fmt.Errorf("read own processor time: %w", err)
			}
			own[i] += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	others := (all[1] - all[0]) - (own[1] - own[0])
	return max(others.Seconds()/at[1].Sub(at[0]).Seconds(), 0), nil
}

// parseBusy returns how long the processors have been busy or taken away, since the machine was started. The
// first line of /proc/stat has user, nice, system, idle, iowait, irq, softirq and steal, in hundredths of a
// second, see proc_stat(5).
func parseBusy(stat []byte) (time.Duration, error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var busy time.Duration
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		if i != 3 && i != 4 {
			busy += time.Duration(n) * time.Second / 100
		}
	}
	return busy, nil
}

// cacheDir is where the benchmark keeps things between runs.
func cacheDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "tulle", "bench")
	return dir, os.MkdirAll(dir, 0o755)
}

// alone waits until no other benchmark of this user runs: two would measure each other. The lock goes when
// this process ends, however it ends.
func alone(ctx context.Context, out io.Writer) (release func(), err error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	for said := false; ; said = true {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil:
			return func() { _ = f.Close() }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		}
		if !said {
			_, _ = fmt.Fprintln(out, "waiting for another benchmark on this machine to end")
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
}

// firstLine runs a program and returns the first line that has a word in it.
func firstLine(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return fmt.Sprintf("%s: of unknown version (%v)", filepath.Base(program), err)
}

// cpuModel is what the kernel calls the processor.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// pause waits, or until ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
