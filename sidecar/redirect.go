package sidecar

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/sidecar/capture"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// How a proxy gets what applications send.
const (
	CaptureEnv      = "env"      // they are told of it by their environment
	CaptureRedirect = "redirect" // their connections are redirected to it, see package capture
)

func (c *Config) redirected() bool { return c.Capture == CaptureRedirect }

func (c *Config) validateCapture(bad func(format string, args ...any)) {
	switch {
	case c.Capture != "" && c.Capture != CaptureEnv && !c.redirected():
		bad("capture is %q, allowed: %s, %s", c.Capture, CaptureEnv, CaptureRedirect)
	case c.redirected() && (c.Mode == api.ModeHost || c.Config != ""):
		bad("capture is %s, which only a proxy in a pod can do, in mode %s or %s and without config", c.Capture, api.ModeSidecar, ModeStandalone)
	}
	if _, err := capture.ParsePorts(c.OpaquePorts); err != nil {
		bad("opaque-ports: %w", err)
	}
}

// capture returns what becomes of connections that are redirected here; nil if none
// are.
func (p *Proxy) capture() *router.Capture {
	if !p.cfg.redirected() {
		return nil
	}
	opaque, _ := capture.ParsePorts(p.cfg.OpaquePorts) // Validate has looked
	return &router.Capture{
		Original: capture.Original, Opaque: opaque.Has, Allow: p.egress(),
		Dial: func(ctx context.Context, address string) (net.Conn, error) { return p.poller.Dial(ctx, address) },
	}
}

// dial returns how the controller is connected to, nil for the usual way: a
// connection that is not marked would be redirected to this proxy itself.
func (c *Config) dial() func(ctx context.Context, network, address string) (net.Conn, error) {
	if !c.redirected() {
		return nil
	}
	d := &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) { err = capture.Mark(fd) }), err)
	}}
	return d.DialContext
}

// listens returns the addresses for requests of applications: with redirection also
// that on the loopback of the other family, if the machine has one, where the kernel
// brings connections of that family.
func (c *Config) listens() []string {
	own, err := netip.ParseAddrPort(c.Outgoing)
	if err != nil || !own.Addr().IsLoopback() || !c.redirected() {
		return []string{c.Outgoing}
	}
	other := netip.IPv6Loopback()
	if own.Addr().Is6() {
		other = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil || !slices.ContainsFunc(addresses, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(other.AsSlice())
	}) {
		return []string{c.Outgoing}
	}
	return []string{c.Outgoing, netip.AddrPortFrom(other, own.Port()).String()}
}

// outgoing returns what listens there.
func (p *Proxy) outgoing() []*listener {
	var all []*listener
	for _, address := range p.cfg.listens() {
		all = append(all, &listener{address: address, policy: p.policy.Value()})
	}
	return all
}
