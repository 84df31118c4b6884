//go:build linux

// Package capturetest makes a pod for tests: a network namespace of its own, and
// around it another one that is the rest of the world. It needs root; without,
// tests are skipped.
//
//	pod, world := capturetest.New(t)
//	world.Do(func() { ln, err = net.Listen("tcp", "192.0.2.1:80") })
//	pod.Do(func() { conn, err = net.Dial("tcp", "192.0.2.1:80") })
package capturetest

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The addresses of the pod, and those in the world that its packets reach: a
// service, the world's end of the link, and a cloud's metadata.
const (
	Pod4, Pod6     = "10.77.0.2", "fd77::2"
	Near4          = "10.77.0.1"
	World4, World6 = "192.0.2.1", "2001:db8::1"
	Other4         = "192.0.2.2"
	Metadata       = "169.254.169.254"
)

// Space is a network namespace.
type Space struct {
	work chan func()
	tid  int
}

// Do runs f on a thread inside. Sockets that f opens, and processes that it starts,
// belong to the namespace; goroutines that it starts do not. f must not fail the test.
func (s *Space) Do(f func()) {
	done := make(chan struct{})
	s.work <- func() { defer close(done); f() }
	<-done
}

// Run runs a command inside and returns what it prints on either output.
func (s *Space) Run(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	var out []byte
	var err error
	s.Do(func() { out, err = exec.CommandContext(t.Context(), name, args...).CombinedOutput() })
	return string(out), err
}

func (s *Space) must(t testing.TB, command string) {
	t.Helper()
	words := strings.Fields(command)
	if out, err := s.Run(t, words[0], words[1:]...); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

func enter(t testing.TB) *Space {
	t.Helper()
	s := &Space{work: make(chan func())}
	ready := make(chan error)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlocked, so the thread ends with its namespace
		s.tid = unix.Gettid()
		err := unix.Unshare(unix.CLONE_NEWNET)
		ready <- err
		if err != nil {
			return
		}
		for f := range s.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { close(s.work); <-ended })
	return s
}

// New returns a pod and the world around it, joined by a link.
func New(t testing.TB) (pod, world *Space) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("there is no ip(8), which sets up network namespaces")
	}
	pod, world = enter(t), enter(t)
	for _, s := range []*Space{pod, world} {
		s.must(t, "ip link set lo up")
	}
	world.must(t, "ip link add pod type veth peer name eth0 netns "+strconv.Itoa(pod.tid))
	world.must(t, "ip link set pod up")
	pod.must(t, "ip link set eth0 up")
	world.must(t, "ip addr add "+Near4+"/24 dev pod")
	pod.must(t, "ip addr add "+Pod4+"/24 dev eth0")
	world.must(t, "ip -6 addr add fd77::1/64 dev pod nodad")
	pod.must(t, "ip -6 addr add "+Pod6+"/64 dev eth0 nodad")
	for _, a := range []string{World4 + "/32", Other4 + "/32", Metadata + "/32"} {
		world.must(t, "ip addr add "+a+" dev lo")
	}
	world.must(t, "ip -6 addr add "+World6+"/128 dev lo nodad")
	pod.must(t, "ip route add default via "+Near4)
	pod.must(t, "ip -6 route add default via fd77::1")
	return pod, world
}
