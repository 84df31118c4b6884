package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// gatePoll is how often a daemon that is held back looks for its file.
	gatePoll = 20 * time.Millisecond
	// restartDelay keeps a daemon that fails at once from using up a core, and is short enough that
	// a test that kills one need not know about it.
	restartDelay = 500 * time.Millisecond
)

// Run prepares the machine and keeps its daemons running. It returns only when the machine could not
// be prepared: a machine ends by SIGKILL. It must be process 1 of namespaces made for it.
func Run(spec *Spec) error {
	if os.Getpid() != 1 {
		return fmt.Errorf("run machine %s: this is process %d; a machine must be process 1 of its own namespaces (start one by cluster.Up)",
			spec.Name, os.Getpid())
	}
	if err := spec.prepare(); err != nil {
		return fmt.Errorf("prepare machine %s: %w", spec.Name, err)
	}
	starts := make(chan start)
	for _, d := range spec.Daemons {
		go d.keep(starts, nil)
	}
	reap(starts)
	return nil
}

// start asks the reaper to start a command and to tell when it ends.
type start struct {
	cmd  *exec.Cmd
	err  chan error
	exit chan syscall.WaitStatus
}

// reap starts what it is asked to and collects every child that ends, ours and orphans alike. One
// goroutine does both, so a child cannot end before its channel is known; exec.Cmd.Wait would race with
// the collecting of orphans.
func reap(starts <-chan start) {
	exits := make(map[int]chan syscall.WaitStatus)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case s := <-starts:
			err := s.cmd.Start()
			if err == nil {
				exits[s.cmd.Process.Pid] = s.exit
				err = s.cmd.Process.Release()
			}
			s.err <- err
		case <-tick.C:
		}
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
			if exit, ok := exits[pid]; ok {
				delete(exits, pid)
				exit <- status
			}
		}
	}
}

// keep runs the daemon until stop is closed, which a machine never does. Its gate counts at every start: one that is
// closed and then killed stays away until the gate is open again.
func (d Daemon) keep(starts chan<- start, stop <-chan struct{}) {
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-stop:
			return
		case <-again.C:
		}
		for d.After != "" {
			if _, err := os.Stat(d.After); err == nil {
				break
			}
			time.Sleep(gatePoll)
		}
		err := d.runOnce(starts)
		fmt.Fprintf(os.Stderr, "%s %s: %v; starting it again\n", time.Now().Format(time.TimeOnly), d.Name, err)
		again.Reset(restartDelay)
	}
}

// runOnce runs the daemon until it ends; it always returns an error, for a daemon should not end.
func (d Daemon) runOnce(starts chan<- start) error {
	if err := os.MkdirAll(filepath.Dir(d.Log), 0o755); err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	s := start{cmd: exec.Command(d.Path, d.Args...), err: make(chan error), exit: make(chan syscall.WaitStatus, 1)}
	s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = d.Env, log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	starts <- s
	if err := <-s.err; err != nil {
		return err
	}
	status := <-s.exit
	if status.Signaled() {
		return fmt.Errorf("ended by %s", status.Signal())
	}
	return fmt.Errorf("ended with status %d", status.ExitStatus())
}
