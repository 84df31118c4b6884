package sidecar

import (
	"strings"
	"testing"
)

func TestConfigSaysEverythingThatIsWrong(t *testing.T) {
	c := DefaultConfig()
	c.Mode, c.Outgoing, c.Controller, c.TrustDomain = "pod", "4140", "http://x", "A b"
	err := c.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{`mode is "pod", allowed: sidecar, host, standalone`, `outgoing is "4140"`, `controller is "http://x"`, "controller-ca", "pod-ip", "trust-domain"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	c = DefaultConfig()
	c.PodIP, c.Namespace, c.ServiceAccount, c.ControllerCA = "10.0.0.1", "default", "default", "pem"
	if err := c.Validate(); err != nil {
		t.Errorf("a good configuration is refused: %v", err)
	}
	if _, err := c.roots(); err == nil || !strings.Contains(err.Error(), "controller-ca holds no certificate") {
		t.Errorf("got %v", err)
	}
}

func TestStandaloneConfig(t *testing.T) {
	c := DefaultConfig()
	c.Mode, c.Dtab = ModeStandalone, "/svc => /#/io.l5d.fs"
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	for dtab, want := range map[string]string{"": "dtab is not set", "/svc => a": "found at '/svc => [a]'"} {
		c.Dtab = dtab
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", dtab, err)
		}
	}
	c = DefaultConfig()
	c.PodIP, c.Namespace, c.ServiceAccount, c.ControllerCA = "10.0.0.1", "default", "default", "pem"
	c.Dtab, c.FsRoot = "/svc => /a", "/etc"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "dtab is set") || !strings.Contains(err.Error(), "fs-root is set") {
		t.Error(err)
	}
}

func TestHandoverConfig(t *testing.T) {
	c := DefaultConfig()
	c.PodIP, c.Namespace, c.ServiceAccount, c.ControllerCA, c.Node = "10.0.0.1", "default", "default", "pem", "n1"
	for name, test := range map[string]struct{ mode, socket, want string }{
		"host":       {"host", "@tulle/host", ""},
		"sidecar":    {"sidecar", "@tulle/host", "a pod has one proxy"},
		"a file":     {"host", "/run/tulle.sock", "must begin with @"},
		"a long one": {"host", "@" + strings.Repeat("x", 107), "107 bytes at most"},
	} {
		c.Mode, c.Handover = test.mode, test.socket
		err := c.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
