package sidecar

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/internal/metadata"
)

func TestEgress(t *testing.T) {
	allow := egress("10.0.0.1", false, "0.0.0.0:4140", ":4141")
	for address, want := range map[string]bool{
		"93.184.216.34:80": true, "10.0.0.1:30080": true, "10.0.0.2:4140": true, "[2001:db8::1]:80": true,
		"10.0.0.1:4140": false, "10.0.0.1:4141": false, "127.0.0.1:10250": false, "127.1.2.3:80": false, "[::1]:80": false,
		"0.0.0.0:80": false, "[::]:80": false, "169.254.169.254:80": false, "[fe80::1]:80": false, "224.0.0.1:80": false,
		"100.100.100.200:80": false, "168.63.129.16:80": false, "[fd00:ec2::254]:80": false,
	} {
		if err := allow(netip.MustParseAddrPort(address)); (err == nil) != want {
			t.Errorf("%s: %v, want it allowed: %v", address, err, want)
		}
	}
	for _, address := range []string{"169.254.169.254:80", "[fe80::a9fe:a9fe]:80", "168.63.129.16:32526", "[64:ff9b::a9fe:a9fe]:80", "[fd00:ec2::254]:80"} {
		if err := allow(netip.MustParseAddrPort(address)); !errors.Is(err, metadata.ErrRefused) {
			t.Errorf("%s: %v", address, err)
		}
	}
}
