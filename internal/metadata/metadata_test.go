package metadata_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/internal/metadata"
)

func TestAddress(t *testing.T) {
	for text, want := range map[string]bool{
		"169.254.169.254": true, "169.254.170.2": true, "169.254.170.23": true, "168.63.129.16": true, "100.100.100.200": true,
		"192.0.0.192": true, "fd00:ec2::254": true, "fd20:ce::254": true, "fe80::a9fe:a9fe": true, "fe80::a9fe:a9fe%eth0": true,
		"::ffff:169.254.169.254": true, "::ffff:a83f:8110": true, "64:ff9b::a9fe:a9fe": true, "2002:a9fe:a9fe::1": true,
		"::a9fe:a9fe": true, "::ffff:0:a9fe:a9fe": true,
		"169.253.169.254": false, "10.0.0.1": false, "168.63.129.17": false, "fd00::1": false, "64:ff9b::a00:1": false,
		"2002:a00:1::": false, "::1": false, "::": false, "127.0.0.1": false,
	} {
		if got := metadata.Address(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if metadata.Address(netip.Addr{}) {
		t.Error("no address is one of metadata")
	}
}

func TestRefuse(t *testing.T) {
	err := metadata.Refuse(netip.MustParseAddr("::ffff:169.254.169.254"))
	if !errors.Is(err, metadata.ErrRefused) || !metadata.Refused(err.Error()) {
		t.Error(err)
	}
	if err := metadata.Refuse(netip.MustParseAddr("192.0.2.1")); err != nil || metadata.Refused("connection refused") {
		t.Error(err)
	}
}

func TestHost(t *testing.T) {
	for host, want := range map[string]bool{
		"169.254.169.254": true, "169.254.169.254.": true, "[::ffff:169.254.169.254]": true, "[fe80::a9fe:a9fe%25eth0]": true,
		"fd00:ec2::254": true, "2852039166": true, "0xa9fea9fe": true, "0xA9.0xFE.0xA9.0xFE": true, "0251.0376.0251.0376": true,
		"169.254.43518": true, "169.16689662": true, "Metadata.Google.Internal": true, "metadata.google.internal.": true,
		"metadata": false, "metadata.shop": false, "": false, ".": false, "[": false, "example.org": false, "1.2.3.4.5": false,
		"4294967296": false, "256.1.1.1": false, "0o251.0376.0251.0376": false, "169.254.1_1": false, "10.0.0.1": false, "0b1": false,
	} {
		if got := metadata.Host(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

// Whatever is an address of metadata stays one in every form.
func FuzzHost(f *testing.F) {
	f.Add("169.254.169.254")
	f.Add("0xa9fea9fe")
	f.Add("[fd00:ec2::254]")
	f.Fuzz(func(t *testing.T, host string) {
		got := metadata.Host(host)
		a, err := netip.ParseAddr(host)
		if err != nil {
			return
		}
		if got != metadata.Address(a) || got && a.Is4() && !metadata.Host("::ffff:"+a.String()) {
			t.Errorf("%q: %v", host, got)
		}
	})
}
