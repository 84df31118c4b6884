package demo

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that the demo started. Its output goes to a file.
type process struct {
	name string // for people
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it is gone

	mu       sync.Mutex
	expected bool // it was told to go
}

// deadError says that a process ended that should not have.
type deadError struct{ name, words string }

func (e *deadError) Error() string { return fmt.Sprintf("%s has stopped: %s", e.name, e.words) }

// startProcess runs a program. died is told if it ends unexpectedly.
func startProcess(dir, name, binary string, args, env []string, died func(error)) (*process, error) {
	log := filepath.Join(dir, strings.NewReplacer("/", "-", " ", "-").Replace(name)+".log")
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	p := &process{name: name, log: log, done: make(chan struct{})}
	p.cmd = exec.Command(binary, args...)
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = dieWithParent()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.expected {
			died(&deadError{name, p.lastWords()})
		}
	}()
	return p, nil
}

// lastWords returns the last line that the process printed.
func (p *process) lastWords() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	if last := string(lines[len(lines)-1]); last != "" {
		return last
	}
	return p.cmd.ProcessState.String()
}

func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	p.expected = true
	p.mu.Unlock()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		_ = p.cmd.Process.Kill()
	}
}

// kill ends the process at once, as a crash would, and waits for its end.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// stopAll asks all to stop, then makes them.
func stopAll(all []*process) {
	for _, p := range all {
		p.signal(syscall.SIGTERM)
	}
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	for _, p := range all {
		select {
		case <-p.done:
			continue
		case <-timer.C:
		}
		break
	}
	for _, p := range all {
		p.kill()
	}
}
