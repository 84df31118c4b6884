// Package metadata knows the addresses and names at which clouds tell a machine
// about itself: its identity, its credentials, its start-up scripts. Whoever may
// ask there as the node can do what the node can, so a proxy that stands on the
// node must not ask for others, and traffic to it is never captured.
//
// It looks nothing up. Invariant: an address that Address accepts is accepted in
// every other form in which it can be written or embedded.
//
//	metadata.Address(netip.MustParseAddr("::ffff:169.254.169.254")) // true
//	metadata.Host("0xa9fea9fe")                                     // true
package metadata

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// prefixes are all that is held to be metadata. The whole of 169.254.0.0/16 is:
// clouds keep adding addresses there, and nothing in it is a service of the network.
var prefixes = [...]netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),     // nearly all: .169.254; ECS .170.2, EKS .170.23, Tencent .0.23, Scaleway .42.42
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure's wire server
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle, of old
	netip.MustParsePrefix("fe80::/10"),          // link-local: OpenStack's fe80::a9fe:a9fe
	netip.MustParsePrefix("fd00:ec2::/32"),      // AWS: ::254, EKS ::23
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("fd00:42::42/128"),    // Scaleway
}

// embedding are the IPv6 prefixes that hold an IPv4 address, and at which byte.
var embedding = [...]struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("::/96"), 12},           // compatible, RFC 4291, section 2.5.5.1
	{netip.MustParsePrefix("64:ff9b::/96"), 12},    // NAT64, RFC 6052
	{netip.MustParsePrefix("2002::/16"), 2},        // 6to4, RFC 3056
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12}, // translated, RFC 2765
}

// names lead to such addresses on the clouds that have them.
var names = [...]string{
	"metadata.google.internal", "metadata.goog", "instance-data.ec2.internal", "metadata.azure.internal",
	"metadata.tencentyun.com", "metadata.platformequinix.com",
}

// ErrRefused is why a proxy does not go to such an address for others.
var ErrRefused = errors.New("a proxy does not ask for a machine's metadata")

// Refuse returns the error for an address of metadata, which is an ErrRefused and begins
// with its words, and nil for any other.
func Refuse(a netip.Addr) error {
	if Address(a) {
		return fmt.Errorf("%w: %s belongs to the machine that asks", ErrRefused, a)
	}
	return nil
}

// Refused reports whether the text is that of an error of Refuse.
func Refused(text string) bool { return strings.HasPrefix(text, ErrRefused.Error()) }

// Prefixes returns what is held to be metadata, of both families.
func Prefixes() []netip.Prefix { return slices.Clone(prefixes[:]) }

// Address reports whether a is an address of metadata, mapped or embedded in IPv6
// too, with whatever zone.
func Address(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for i := range prefixes {
		if prefixes[i].Contains(a) {
			return true
		}
	}
	if !a.Is6() {
		return false
	}
	for i := range embedding {
		if embedding[i].prefix.Contains(a) {
			all := a.As16()
			if v4, ok := netip.AddrFromSlice(all[embedding[i].at : embedding[i].at+4]); ok && Address(v4) {
				return true
			}
		}
	}
	return false
}

// Host reports whether host, without a port, is a name of metadata or an address
// of it in any form that some resolver takes: in brackets, with a final dot, or as
// inet_aton(3) reads IPv4, such as 0xa9.0376.43518. Names of one label are none: those
// may be Services.
func Host(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return Address(a)
	}
	if a, ok := aton(host); ok {
		return Address(a)
	}
	return slices.Contains(names[:], host)
}

// aton reads an IPv4 address as inet_aton(3) does: one to four numbers, decimal,
// octal or hexadecimal, of which the last one fills what is left.
func aton(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var all uint64
	for i, p := range parts {
		if p == "" || strings.ContainsAny(p, "_+-ob") && !strings.HasPrefix(p, "0x") {
			return netip.Addr{}, false // which ParseUint takes and inet_aton does not
		}
		n, err := strconv.ParseUint(p, 0, 32)
		if err != nil {
			return netip.Addr{}, false
		}
		left := 8
		if i == len(parts)-1 {
			left = 8 * (4 - i)
		}
		if n >= 1<<left {
			return netip.Addr{}, false
		}
		all = all<<left | n
	}
	return netip.AddrFrom4([4]byte{byte(all >> 24), byte(all >> 16), byte(all >> 8), byte(all)}), true
}
