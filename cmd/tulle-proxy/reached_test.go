//go:build linux

package main

import (
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/cli"
)

// A proxy as it runs answers what reach asks, and says so at the port of pods only.
func TestReachProxy(t *testing.T) {
	var at [2]string
	for i := range at {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at[i] = ln.Addr().String()
		_ = ln.Close()
	}
	proxy := exec.CommandContext(t.Context(), "/proc/self/exe", "--mode", "standalone", "--dtab", "/svc => /#/io.l5d.fs", "--fs-root", t.TempDir(), "--outgoing", at[0], "--admin", at[1])
	proxy.Env = append(os.Environ(), programKey+"=1")
	proxy.Cancel = func() error { return proxy.Process.Signal(syscall.SIGTERM) }
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Wait() }) // after the end of the test's context
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		_, err := start(t, "reach", at[0])
		if err == nil {
			break
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal(err)
		}
	}
	if _, err := start(t, "reach", at[1]); err == nil || cli.ExitCode(err) != 1 {
		t.Errorf("the admin port: %v", err)
	}
}
