package capture

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Apply makes r the rules of this network namespace, in place of any it wrote
// before, each family's at once. It needs CAP_NET_ADMIN. A kernel without rules for
// IPv6 is an error only if the namespace has an address of it. Connections that are
// there already stay as they are.
func Apply(r Rules) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if err := r.apply(false); err != nil {
		return fmt.Errorf("write the rules for IPv4: %w", explain(err))
	}
	if err := r.apply(true); err != nil && hasIPv6() {
		return fmt.Errorf("write the rules for IPv6: %w", explain(err))
	}
	return nil
}

// Remove takes the rules away. It is no error if there are none.
func Remove() error {
	var errs []error
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		c, err := nftables.New()
		if err != nil {
			return explain(err)
		}
		table := &nftables.Table{Family: family, Name: Table}
		c.AddTable(table) // so that there is one to delete
		c.DelTable(table)
		if err := c.Flush(); err != nil && (family == nftables.TableFamilyIPv4 || hasIPv6()) {
			errs = append(errs, explain(err))
		}
	}
	return errors.Join(errs...)
}

func explain(err error) error {
	switch {
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w: this container needs the capability NET_ADMIN", err)
	case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.EPROTONOSUPPORT), errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w: the kernel of this node has no nftables with NAT (modules nf_tables, nft_chain_nat, nft_redir)", err)
	}
	return err
}

// hasIPv6 reports whether there is an address of IPv6 by which the pod could leave it.
func hasIPv6() bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsGlobalUnicast() {
			return true
		}
	}
	return false
}

func (r Rules) apply(v6 bool) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	family := nftables.TableFamilyIPv4
	if v6 {
		family = nftables.TableFamilyIPv6
	}
	// One transaction: added so that it can be deleted, and made anew.
	table := &nftables.Table{Family: family, Name: Table}
	c.AddTable(table)
	c.DelTable(table)
	table = c.AddTable(table)
	accept := nftables.ChainPolicyAccept
	chain := c.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest, Policy: &accept,
	})
	for _, exprs := range r.exprs(v6) {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	return c.Flush()
}

// exprs returns the rules in order: those that let a connection pass, and the one
// that redirects it.
func (r Rules) exprs(v6 bool) [][]expr.Any {
	native := binaryutil.NativeEndian
	pass := &expr.Verdict{Kind: expr.VerdictReturn}
	rules := [][]expr.Any{
		// Whatever is not TCP.
		{meta(expr.MetaKeyL4PROTO), differs([]byte{unix.IPPROTO_TCP}), pass},
		// What does not leave the pod: also to its own address.
		{meta(expr.MetaKeyOIFNAME), equals([]byte("lo\x00")), pass},
		// The proxy's own.
		{
			meta(expr.MetaKeySKUID), equals(native.PutUint32(r.UID)),
			meta(expr.MetaKeyPRIORITY), equals(native.PutUint32(Priority)), pass,
		},
	}
	for _, p := range near(v6) {
		rules = append(rules, append(towards(p), pass))
	}
	for _, s := range r.Skip.merged() {
		port := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
		first, last := binaryutil.BigEndian.PutUint16(s.First), binaryutil.BigEndian.PutUint16(s.Last)
		var is expr.Any = &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: first, ToData: last}
		if s.First == s.Last {
			is = equals(first)
		}
		rules = append(rules, []expr.Any{port, is, pass})
	}
	return append(rules, []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(r.Port)},
		&expr.Redir{RegisterProtoMin: 1},
	})
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }

func equals(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func differs(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data} }

// towards matches what goes to an address in p.
func towards(p netip.Prefix) []expr.Any {
	p = p.Masked()
	address := p.Addr().AsSlice()
	offset := uint32(16)
	if p.Addr().Is6() {
		offset = 24
	}
	size := uint32(len(address))
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: size,
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, size),
		},
		equals(address),
	}
}
