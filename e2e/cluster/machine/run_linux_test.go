package machine

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestDaemon plays the reaper: it sees when a daemon asks to be started.
func TestDaemon(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := Daemon{Name: "d", Path: "/bin/true", Log: filepath.Join(dir, "logs", "d.log"), After: filepath.Join(dir, "gate")}
		starts := make(chan start)
		stop := make(chan struct{})
		go d.keep(starts, stop)

		select {
		case <-starts:
			t.Fatal("the daemon starts before its gate is open")
		case <-time.After(time.Minute):
		}
		if err := os.WriteFile(d.After, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		var last time.Time
		for i := range 3 {
			s := <-starts
			if since := time.Since(last); i > 0 && since != restartDelay {
				t.Errorf("the daemon starts again after %s, want %s", since, restartDelay)
			}
			if s.cmd.Path != d.Path || s.cmd.Stdout == nil {
				t.Errorf("the daemon starts %s with output %v", s.cmd.Path, s.cmd.Stdout)
			}
			s.err <- nil
			s.exit <- syscall.WaitStatus(1 << 8)
			last = time.Now()
		}
		close(stop)
	})
}

func TestRunWantsToBeFirst(t *testing.T) {
	if err := Run(&Spec{Name: "n1"}); err == nil || !strings.Contains(err.Error(), "process 1") {
		t.Errorf("got error %v, want one that says what a machine is", err)
	}
}

func TestReadSpec(t *testing.T) {
	file := filepath.Join(t.TempDir(), "machine.json")
	if _, err := ReadSpec(file); err == nil {
		t.Error("a missing file is read")
	}
	if err := os.WriteFile(file, []byte(`{"Name":"n1","Daemons":[{"Name":"d"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	spec, err := ReadSpec(file)
	if err != nil || spec.Name != "n1" || len(spec.Daemons) != 1 {
		t.Errorf("got %+v (%v)", spec, err)
	}
}
