package capture

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"
)

// originalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST alike, of
// linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h.
const originalDst = 80

// Mark marks a socket as the proxy's own. It is called before connect(2), whose
// first packet decides.
func Mark(fd uintptr) error {
	if err := syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PRIORITY, Priority); err != nil {
		return fmt.Errorf("mark the socket: %w", err)
	}
	return nil
}

// controller is a connection that lends its file descriptor.
type controller interface{ Control(func(fd uintptr)) error }

// Original returns where an accepted connection was going when it was redirected.
// It is false for one that was made to this address, and for what is no TCP.
func Original(conn net.Conn) (to netip.AddrPort, ok bool) {
	raw, ok := conn.(controller)
	if !ok {
		c, isTCP := conn.(*net.TCPConn)
		if !isTCP {
			return netip.AddrPort{}, false
		}
		var err error
		if raw, err = c.SyscallConn(); err != nil {
			return netip.AddrPort{}, false
		}
	}
	var err error
	if ctlErr := raw.Control(func(fd uintptr) { to, ok, err = original(int(fd)) }); ctlErr != nil || err != nil {
		return netip.AddrPort{}, false
	}
	return to, ok
}

func original(fd int) (to netip.AddrPort, redirected bool, err error) {
	local, err := syscall.Getsockname(fd)
	if err != nil {
		return to, false, err
	}
	var here netip.AddrPort
	switch a := local.(type) {
	case *syscall.SockaddrInet4:
		here = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		here = netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	default:
		return to, false, nil
	}
	if here.Addr().Is4() { // of a socket of IPv6 too
		var sa syscall.RawSockaddrInet4
		if err := getsockopt(fd, syscall.SOL_IP, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); err != nil {
			return to, false, err
		}
		to = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), port16(sa.Port))
	} else {
		var sa syscall.RawSockaddrInet6
		if err := getsockopt(fd, syscall.SOL_IPV6, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); err != nil {
			return to, false, err
		}
		to = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), port16(sa.Port))
	}
	return to, to != here, nil
}

// port16 reads a port as the kernel keeps it, in the network's order.
func port16(p uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], p)
	return binary.BigEndian.Uint16(b[:])
}

func getsockopt(fd, level int, value unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, e := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), originalDst, uintptr(value), uintptr(unsafe.Pointer(&length)), 0)
	if e != 0 {
		return e
	}
	return nil
}
