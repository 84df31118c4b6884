package policy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
)

// Egress is where requests may go that leave by a host of DNS or by an address. It
// is immutable and safe for concurrent use. Its zero value allows nothing.
type Egress struct {
	// Allow is the list as the file has it.
	Allow []string

	hosts    []host
	networks []network
}

// host is a name, or all names below one.
type host struct {
	name  string // in lower case; begins with a dot for those below
	port  uint16 // 0: all
	below bool
}

// network is a range of addresses, or a single one.
type network struct {
	prefix netip.Prefix
	port   uint16 // 0: all
}

// Host reports whether a host may be gone to by the name it is asked for,
// whatever addresses that has. An address is no name.
func (e *Egress) Host(name string, port uint16) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return slices.ContainsFunc(e.hosts, func(h host) bool {
		named := !h.below && h.name == name || h.below && len(name) > len(h.name) && strings.HasSuffix(name, h.name)
		return named && (h.port == 0 || h.port == port)
	})
}

// Address reports whether an address may be gone to by whatever name.
func (e *Egress) Address(a netip.AddrPort) bool {
	ip := a.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(e.networks, func(n network) bool {
		return n.prefix.Contains(ip) && (n.port == 0 || n.port == a.Port())
	})
}

// Addresses reports whether Address is true of any.
func (e *Egress) Addresses() bool { return len(e.networks) > 0 }

// add takes an entry of the list.
func (e *Egress) add(entry string) error {
	const allowed = `an entry is a host (api.example.com), all below one ("*.example.org"), an address or a network (10.0.0.0/8), and all but a network may have a port (api.example.com:443)`
	switch {
	case strings.Contains(entry, "://"):
		return fmt.Errorf("%q is a URL; %s", entry, allowed)
	case strings.Contains(entry, "/"):
		p, err := netip.ParsePrefix(entry)
		if err != nil {
			return fmt.Errorf("%q is no network; %s", entry, allowed)
		}
		if p.Addr().Is4In6() {
			return fmt.Errorf("%q is a network of IPv4 in IPv6; write it as one of IPv4", entry)
		}
		if p != p.Masked() {
			return fmt.Errorf("%q has bits behind its first %d; write %s", entry, p.Bits(), p.Masked())
		}
		e.networks = append(e.networks, network{prefix: p})
		e.Allow = append(e.Allow, entry)
		return nil
	}
	name, port := entry, uint16(0)
	if _, err := netip.ParseAddr(entry); err != nil && strings.Contains(entry, ":") {
		before, number, err := net.SplitHostPort(entry)
		if err != nil {
			return fmt.Errorf("%q is no host and no address; %s", entry, allowed)
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q has the port %q, and ports are 1 to 65535", entry, number)
		}
		name, port = before, uint16(n)
	}
	if a, err := netip.ParseAddr(name); err == nil && a.Zone() != "" {
		return fmt.Errorf("%q has a zone, which addresses outside do not have", entry)
	}
	if a, err := netip.ParseAddr(name); err == nil {
		a = a.Unmap()
		e.networks = append(e.networks, network{netip.PrefixFrom(a, a.BitLen()), port})
		e.Allow = append(e.Allow, entry)
		return nil
	}
	h := host{name: strings.ToLower(strings.TrimSuffix(name, ".")), port: port}
	if below, ok := strings.CutPrefix(h.name, "*"); ok {
		h.name, h.below = below, true
	}
	plain := strings.TrimPrefix(h.name, ".")
	labels := strings.Split(plain, ".")
	last := labels[len(labels)-1]
	switch {
	case entry == "*":
		return fmt.Errorf("%q is every name; leave egress out to allow all, or write 0.0.0.0/0 and ::/0", entry)
	case h.below && !strings.HasPrefix(h.name, "."), !h.below && plain != h.name,
		slices.ContainsFunc(labels, func(label string) bool { return !made(label, "-_") }):
		return fmt.Errorf("%q is no host; %s", entry, allowed)
	case strings.Trim(last, "0123456789") == "":
		return fmt.Errorf("%q ends like an address and is none; write four numbers, such as 10.0.0.1", entry)
	}
	e.hosts = append(e.hosts, h)
	e.Allow = append(e.Allow, entry)
	return nil
}

// egress is the key of that name.
func egress() schema.Field[Policy] {
	const key = "allow"
	list := schema.Field[Egress]{
		Key: key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*Egress) {
			var all Egress
			entry := schema.Text("", "", schema.Nowhere[Egress, string], func(s string) (string, error) { return s, all.add(s) })
			for i, n := range schema.Items(r, path, n, "hosts, addresses and networks") {
				entry.Read(r, fmt.Sprintf("%s[%d]", path, i), n)
			}
			return func(e *Egress) { *e = all }
		},
		Leaves: func(path string) []schema.Leaf { return []schema.Leaf{{Path: path, Default: "none"}} },
	}
	fields := []schema.Field[Egress]{list}
	return schema.Field[Policy]{
		Key: "egress",
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*Policy) {
			settings, ok := schema.Read(r, path, n, fields, nil)
			if ok && schema.Child(n, key) == nil {
				r.Fault(n, "%s.%s is not set; [] allows nothing outside, and all is allowed without %s", path, key, path)
			}
			return func(p *Policy) {
				e := schema.Apply(Egress{}, settings)
				p.Egress = &e
			}
		},
		Leaves: func(path string) []schema.Leaf { return schema.Leaves(path, fields) },
	}
}
