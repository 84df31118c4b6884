//go:build linux

package main

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/cli"
	"github.com/tulle-mesh/tulle/sidecar/capture/capturetest"
)

func TestRedirectRefuses(t *testing.T) {
	for want, args := range map[string][]string{
		`skip-ports: "http" is no port`:      {"--skip-ports=80,http"},
		`opaque-ports: the range of ports`:   {"--opaque-ports=9-8"},
		"there is no port to redirect to":    {"--outgoing-port=0"},
		"the proxy cannot run as root":       {"--proxy-uid=0"},
		"invalid argument \"70000\"":         {"--outgoing-port=70000"},
		"unknown command":                    {"now"},
		"unknown flag: --skip-port":          {"--skip-port=1"},
		"invalid argument \"-1\" for \"--pr": {"--proxy-uid=-1"},
	} {
		_, err := start(t, append([]string{"redirect"}, args...)...)
		if err == nil || !strings.Contains(err.Error(), want) || want != "unknown command" && cli.ExitCode(err) != cli.ExitUsage {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestRedirectWrites(t *testing.T) {
	pod, _ := capturetest.New(t)
	for range 2 { // an init container may be restarted
		var printed string
		var err error
		pod.Do(func() {
			printed, err = start(t, "redirect", "--outgoing-port=4145", "--proxy-uid=65531", "--skip-ports=25,8000-8099", "--opaque-ports=3306")
		})
		if err != nil || strings.Count(printed, "\n") != 1 || !strings.Contains(printed, "go to port 4145;") || !strings.Contains(printed, "25,8000-8099,53") {
			t.Fatalf("%v %q", err, printed)
		}
	}
}
