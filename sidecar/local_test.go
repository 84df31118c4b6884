package sidecar

import (
	"net"
	"testing"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

func TestWhoIsLocal(t *testing.T) {
	mine := "192.0.2.1" // an address of this machine, if it has any
	if interfaces, err := net.InterfaceAddrs(); err == nil {
		for _, a := range interfaces {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				mine = n.IP.String()
			}
		}
	}
	pods := newNode(watch.New([]api.Pod{{IP: "192.0.2.7", Namespace: "shop"}, {IP: "2001:db8::7", Namespace: "shop"}}), "192.0.2.1", "default")
	for mode, c := range map[string]struct {
		pods  *node
		local map[string]bool
	}{
		"sidecar":    {nil, map[string]bool{"192.0.2.1": true, "192.0.2.7": false}},
		"host":       {pods, map[string]bool{"192.0.2.1": true, "192.0.2.7": true, "::ffff:192.0.2.7": true, "2001:db8::7": true, "192.0.2.8": false}},
		"standalone": {nil, map[string]bool{"192.0.2.7": false}},
	} {
		cfg := DefaultConfig()
		cfg.Mode, cfg.PodIP = mode, "192.0.2.1"
		local := cfg.local(c.pods)
		for ip, want := range map[string]bool{"127.0.0.1": true, "127.9.9.9": true, "::1": true, mine: true, "198.51.100.1": false, "nonsense": false, "": false} {
			if ip != "192.0.2.1" && local(ip) != want {
				t.Errorf("%s: a caller at %q is local: %v", mode, ip, !want)
			}
		}
		for ip, want := range c.local {
			if local(ip) != want {
				t.Errorf("%s: a caller at %s is local: %v", mode, ip, !want)
			}
		}
	}
}
