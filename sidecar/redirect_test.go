//go:build linux

package sidecar

import (
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tulle-mesh/tulle/sidecar/capture"
)

func TestCaptureConfig(t *testing.T) {
	sidecar := DefaultConfig()
	sidecar.PodIP, sidecar.Namespace, sidecar.ServiceAccount, sidecar.ControllerCA, sidecar.Node = "10.0.0.1", "default", "default", "pem", "n"
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"redirect":     {func(c *Config) { c.Capture, c.OpaquePorts = CaptureRedirect, "3306,9000-9100" }, ""},
		"unset":        {func(c *Config) { c.Capture = "" }, ""},
		"else":         {func(c *Config) { c.Capture = "iptables" }, `capture is "iptables", allowed: env, redirect`},
		"on a node":    {func(c *Config) { c.Capture, c.Mode = CaptureRedirect, "host" }, "only a proxy in a pod"},
		"opaque names": {func(c *Config) { c.Capture, c.OpaquePorts = CaptureRedirect, "mysql" }, `opaque-ports: "mysql" is no port`},
		"a file":       {func(c *Config) { c.Capture, c.Config = CaptureRedirect, "linkerd.yaml" }, "without config"},
	} {
		c := sidecar
		test.change(&c)
		err := c.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// Redirected connections of either family find the proxy.
func TestListensOnBothLoopbacks(t *testing.T) {
	for _, test := range []struct {
		capture, outgoing string
		want              []string
	}{
		{CaptureEnv, "127.0.0.1:4140", []string{"127.0.0.1:4140"}},
		{CaptureRedirect, ":4140", []string{":4140"}},
		{CaptureRedirect, "10.0.0.1:4140", []string{"10.0.0.1:4140"}},
		{CaptureRedirect, "[::1]:4140", []string{"[::1]:4140", "127.0.0.1:4140"}},
	} {
		c := Config{Capture: test.capture, Outgoing: test.outgoing}
		if got := c.listens(); !slices.Equal(got, test.want) {
			t.Errorf("%s %s: %v", test.capture, test.outgoing, got)
		}
	}
	c := Config{Capture: CaptureRedirect, Outgoing: "127.0.0.1:4140"}
	if got := c.listens(); got[0] != c.Outgoing || len(got) == 2 && got[1] != "[::1]:4140" {
		t.Error(got)
	}
}

// A connection to the controller has the mark before it connects.
func TestControllerIsDialedWithTheMark(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	env := Config{Capture: CaptureEnv}
	if env.dial() != nil {
		t.Error("without redirection connections are marked")
	}
	c := Config{Capture: CaptureRedirect}
	conn, err := c.dial()(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	priority := 0
	if err := raw.Control(func(fd uintptr) {
		priority, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PRIORITY)
	}); err != nil || priority != capture.Priority {
		t.Errorf("the mark is %d, %v", priority, err)
	}
}
