package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// take waits until this process could serve, and takes the listeners over from
// the one at the other end of raw.
func (s *Set) take(ctx context.Context, raw *net.UnixConn) error {
	if err := s.ready(ctx, raw); err != nil {
		_ = raw.Close()
		return err
	}
	proving, cancel := context.WithTimeout(ctx, stepFor)
	defer cancel()
	l, err := connect(proving, raw, s.cfg.Client)
	if err == nil {
		defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
		err = s.receive(l)
	}
	if err != nil {
		l.close()
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	s.before = l // before Run, so nobody else looks at it yet
	s.log.Info("took over the listeners", "socket", s.cfg.Socket)
	return nil
}

// ready waits for Config.Ready, as long as the other process lives.
func (s *Set) ready(ctx context.Context, raw *net.UnixConn) error {
	if s.cfg.Ready == nil {
		return nil
	}
	s.log.Info("another process serves; taking over when ready", "socket", s.cfg.Socket)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready := make(chan error, 1)
	go func() {
		ready <- s.cfg.Ready(ctx)
		_ = raw.SetReadDeadline(long)
	}()
	// The other process does not speak first, so this waits for its end.
	_, err := raw.Read(make([]byte, 1))
	if err == nil {
		err = errors.New("it spoke out of turn")
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		cancel()
		<-ready
		if errors.Is(err, io.EOF) {
			return errGone
		}
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if err := <-ready; err != nil {
		return err
	}
	return raw.SetReadDeadline(time.Time{})
}

// receive takes the new process's part of the protocol.
func (s *Set) receive(l *link) error {
	l.step(3 * stepFor) // the other process may be busy with another one
	asked := slices.Clone(s.addresses)
	for _, a := range s.addresses {
		asked = append(asked, everywhere(a)...)
	}
	if err := l.send(message{Version: version, Addresses: asked}); err != nil {
		return err
	}
	answer, err := l.receive()
	if err != nil {
		return err
	}
	if answer.Version != version || len(l.files.received) != len(answer.Addresses)+1 {
		return fmt.Errorf("it answers in version %d with %d files for %d addresses", answer.Version, len(l.files.received), len(answer.Addresses))
	}
	sockets, err := listeners(l.files.received)
	if err != nil {
		return err
	}
	given := map[string]*net.TCPListener{}
	var control *net.UnixListener
	for i, ln := range sockets {
		switch ln := ln.(type) {
		case *net.TCPListener:
			if i < len(answer.Addresses) {
				given[answer.Addresses[i]] = ln
			}
		case *net.UnixListener:
			control = ln
		}
	}
	fail := func(err error) error {
		for _, ln := range sockets {
			_ = ln.Close()
		}
		return err
	}
	if len(given) != len(answer.Addresses) || control == nil {
		return fail(errors.New("its files are not the listeners that were asked for"))
	}
	s.settle(given)
	if err := s.open(given); err != nil {
		return fail(err)
	}
	s.control = newListener(control)
	s.took = []*listener{s.control}
	for i, a := range s.addresses {
		if given[a] != nil {
			s.took = append(s.took, s.listeners[i])
		}
	}
	if err := s.confirm(l); err != nil {
		s.control = nil
		for _, ln := range s.listeners {
			_ = ln.Close()
		}
		return fail(err)
	}
	l.step(0)
	return nil
}

// everywhere returns how else a process may have called the address: a port on all interfaces has three spellings, which
// cannot be listened on beside each other.
func everywhere(address string) []string {
	host, port, err := net.SplitHostPort(address)
	spellings := []string{"", "0.0.0.0", "::"}
	if err != nil || !slices.Contains(spellings, host) {
		return nil
	}
	var others []string
	for _, other := range spellings {
		if other != host {
			others = append(others, net.JoinHostPort(other, port))
		}
	}
	return others
}

// settle files the listeners under the addresses that they are to serve.
func (s *Set) settle(given map[string]*net.TCPListener) {
	for _, a := range s.addresses {
		for _, other := range everywhere(a) {
			if ln := given[other]; ln != nil && given[a] == nil && !slices.Contains(s.addresses, other) {
				given[a] = ln
			}
		}
		if ln := given[a]; ln != nil && strings.HasPrefix(a, ":") {
			if ip := ln.Addr().(*net.TCPAddr).IP; ip.To4() != nil {
				s.log.Warn("the listener that was handed over is for IPv4 only; a proxy that starts alone on its node listens at IPv6 as well",
					"address", a, "listener", ln.Addr().String())
			}
		}
	}
	maps.DeleteFunc(given, func(a string, _ *net.TCPListener) bool { return !slices.Contains(s.addresses, a) })
}

// confirm makes the listeners this process's own. If the other process ends
// before it can say so, they are: nobody else accepts then.
func (s *Set) confirm(l *link) error {
	l.step(2 * stepFor)
	sent := l.send(message{Take: true})
	m, err := l.receive()
	var kept *keptError
	switch {
	case err == nil && !m.Yours:
		return errors.New("it confirms something else")
	case errors.As(err, &kept), errors.Is(err, os.ErrDeadlineExceeded):
		return errors.Join(sent, err)
	}
	return nil
}

// listeners makes listeners of received files, which it closes. All is well or
// nothing is left open.
func listeners(received []*os.File) ([]net.Listener, error) {
	defer closeAll(received)
	var all []net.Listener
	for _, f := range received {
		ln, err := net.FileListener(f)
		if err != nil {
			for _, ln := range all {
				_ = ln.Close()
			}
			return nil, fmt.Errorf("it sent something that is no listener: %w", err)
		}
		all = append(all, ln)
	}
	return all, nil
}
