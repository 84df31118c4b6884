package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster/machine"
)

// startMachine starts a machine, which then lives on its own: it ends by [killMachine] only, not
// with this process. The machine waits at its gates.
func startMachine(dir stateDir, spec *machine.Spec) error {
	data, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return fmt.Errorf("describe machine %s: %w", spec.Name, err)
	}
	// Gates of an earlier life of this machine would let its daemons through too soon.
	gates := dir.gates(spec.Name)
	if err := os.RemoveAll(gates); err != nil {
		return fmt.Errorf("close the gates of %s: %w", spec.Name, err)
	}
	for _, d := range []string{gates, spec.Disk, filepath.Dir(dir.log(spec.Name, "machine"))} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make machine %s: %w", spec.Name, err)
		}
	}
	file := filepath.Join(dir.machine(spec.Name), "machine.json")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return fmt.Errorf("describe machine %s: %w", spec.Name, err)
	}
	log, err := os.OpenFile(dir.log(spec.Name, "machine"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of machine %s: %w", spec.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(dir.init(), file)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = "/", log, log, ownNamespaces()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start machine %s (namespaces need root and a kernel that allows them): %w", spec.Name, err)
	}
	return cmd.Process.Release()
}

// openGate lets the daemons of a machine start that wait for the gate.
func openGate(dir stateDir, machine, gate string) error {
	if err := os.WriteFile(dir.gate(machine, gate), nil, 0o644); err != nil {
		return fmt.Errorf("open gate %s of %s: %w", gate, machine, err)
	}
	return nil
}

// findMachines returns the process ids of the running machines by name. It knows them by the program
// they run, so no record of them can be stale or lost, and no other process is ever taken for one.
func findMachines(dir stateDir) (map[string]int, error) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	found := make(map[string]int)
	for _, proc := range processes {
		exe, err := os.Readlink(filepath.Join(proc, "exe"))
		if err != nil || strings.TrimSuffix(exe, " (deleted)") != dir.init() {
			continue // ended meanwhile, a zombie, a kernel thread, or another program
		}
		pid, _ := strconv.Atoi(filepath.Base(proc))
		args, err := os.ReadFile(filepath.Join(proc, "cmdline"))
		if err != nil {
			continue
		}
		if name, ok := machineName(args); ok {
			found[name] = pid
		}
	}
	return found, nil
}

// machineName reads the name of a machine off its command line: the directory of its description.
func machineName(cmdline []byte) (string, bool) {
	args := strings.Split(string(bytes.TrimRight(cmdline, "\x00")), "\x00")
	if len(args) != 2 {
		return "", false
	}
	return filepath.Base(filepath.Dir(args[1])), true
}

// findMachine returns the process id of one machine that must be running.
func findMachine(dir stateDir, name string) (int, error) {
	all, err := findMachines(dir)
	if err != nil {
		return 0, err
	}
	pid, ok := all[name]
	if !ok {
		return 0, fmt.Errorf("machine %s is not running; see %s", name, dir.log(name, "machine"))
	}
	return pid, nil
}

// killMachine ends a machine and with it everything in it, and waits until it is gone.
func killMachine(ctx context.Context, pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill machine (process %d): %w", pid, err)
	}
	for alive(pid) {
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("wait for machine (process %d) to end: %w", pid, err)
		}
	}
	return nil
}

// alive tells whether a process still runs, reaping it if it has ended and is ours. One that has
// ended and is nobody's yet counts as gone.
func alive(pid int) bool {
	if reaped, _ := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); reaped == pid {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The state follows the command's name, which is in parentheses and may hold any character.
	_, rest, ok := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')'):]), " ")
	return ok && !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}
