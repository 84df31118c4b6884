//go:build !linux

package capture

import (
	"errors"
	"net"
	"net/netip"
)

var errLinux = errors.New("connections are redirected on Linux only")

// Apply fails: there is no nftables on this system.
func Apply(Rules) error { return errLinux }

// Remove does nothing.
func Remove() error { return nil }

// Mark does nothing.
func Mark(uintptr) error { return nil }

// Original is false.
func Original(net.Conn) (netip.AddrPort, bool) { return netip.AddrPort{}, false }
