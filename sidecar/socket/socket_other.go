//go:build !linux

package socket

import (
	"context"
	"net"
)

// Poller hands out the connections of package net on this system.
type Poller struct{}

// Open returns a Poller.
func Open() (*Poller, error) { return &Poller{}, nil }

// Run waits for the end of ctx.
func (p *Poller) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Listener hands ln back.
func (p *Poller) Listener(ln net.Listener) (net.Listener, error) { return ln, nil }

// OnDial does nothing on this system.
func (p *Poller) OnDial(func(fd uintptr) error) {}

// Dial connects to an address of the form ip:port.
func (p *Poller) Dial(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}
