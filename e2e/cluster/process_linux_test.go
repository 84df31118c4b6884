package cluster

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestMachineName(t *testing.T) {
	for line, want := range map[string]string{
		"/s/machine\x00/s/machines/n1/machine.json\x00": "n1",
		"/s/machine\x00": "",
		"":               "",
	} {
		if got, ok := machineName([]byte(line)); got != want || ok != (want != "") {
			t.Errorf("machineName(%q) = %q, %v, want %q", line, got, ok, want)
		}
	}
}

func TestKillMachine(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if !alive(pid) {
		t.Fatal("a process that runs is taken for dead")
	}
	for range 2 { // it is no error that it is gone
		if err := killMachine(t.Context(), pid); err != nil {
			t.Fatal(err)
		}
	}
	if alive(pid) {
		t.Error("a process that was killed is taken for alive")
	}
}

func TestFindMachinesTakesNoOther(t *testing.T) {
	found, err := findMachines(stateDir(t.TempDir()))
	if err != nil || len(found) != 0 {
		t.Errorf("found %v (%v) of a cluster that is not there", found, err)
	}
}

// The kernel names the program of a process without links, however it was started.
func TestFindMachinesBehindLink(t *testing.T) {
	real, link := t.TempDir(), filepath.Join(t.TempDir(), "cache")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	o, err := Options{CacheDir: link}.defaults()
	if err != nil {
		t.Fatal(err)
	}
	// A machine is a program of this name with its description as the argument; a shell waits like one for a script
	// from a pipe.
	dir := o.state()
	pipe := filepath.Join(dir.machine("n1"), "machine.json")
	if err := os.MkdirAll(filepath.Dir(pipe), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(shell)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir.init(), program, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(link, "state", filepath.Base(dir.init())), pipe)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := killMachine(context.Background(), cmd.Process.Pid); err != nil {
			t.Error(err)
		}
	}()
	found, err := findMachines(dir)
	if err != nil || found["n1"] != cmd.Process.Pid {
		t.Errorf("found %v (%v), want n1 as process %d", found, err, cmd.Process.Pid)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, dir); err == nil {
		t.Error("two hold the lock")
	}
	unlock()
	again, err := lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestKeepLogs(t *testing.T) {
	dir, kept := stateDir(t.TempDir()), t.TempDir()+"/kept"
	for _, file := range []string{dir.log("n1", "kubelet"), dir.podLogs("n1") + "/pod.log"} {
		if err := os.MkdirAll(file, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := keepLogs(dir, kept); err == nil {
		t.Error("keepLogs says nothing; it has to say where the logs are")
	}
	for _, file := range []string{"n1/kubelet.log", "n1/pods/pod.log"} {
		if _, err := os.Stat(kept + "/" + file); err != nil {
			t.Error(err)
		}
	}
}
