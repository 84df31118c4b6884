package handover

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"time"
)

// offer serves one process that connected to take the listeners over.
func (s *Set) offer(ctx context.Context, raw *net.UnixConn) {
	if !s.enter(raw) {
		_ = raw.Close()
		return
	}
	defer s.leave(raw)
	l, err := accept(ctx, raw, s.cfg.Server)
	defer l.close()
	if err != nil {
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			s.log.Warn("refused to hand over the listeners", "socket", s.cfg.Socket, "error", err)
		}
		return
	}
	ask, err := l.receive()
	if err != nil {
		return // it has ended, or another one was faster
	}
	if !s.give(l, ask) {
		return
	}
	// In reserve: until the other one ends, has handed on, or this one is to stop.
	if m, err := l.receive(); err == nil && m.Release {
		s.release()
		return
	}
	if ctx.Err() == nil {
		s.resume()
	}
}

// enter notes a process that could take over.
func (s *Set) enter(raw *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.waiting) >= maxWaiting {
		return false
	}
	s.waiting[raw] = struct{}{}
	return true
}

func (s *Set) leave(raw *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, raw)
}

// give hands the listeners over. It reports whether the other process has them.
func (s *Set) give(l *link, ask message) bool {
	s.handing.Lock()
	defer s.handing.Unlock()
	if s.Leaving() {
		return false // the socket leads to another process now
	}
	fail := func(why string, err error) bool {
		s.log.Warn("the listeners were not handed over", "socket", s.cfg.Socket, "why", why, "error", err)
		// If the other one still lives it must not take this for our end.
		l.step(time.Second)
		_ = l.send(message{Error: why})
		return false
	}
	l.step(stepFor)
	if ask.Version != version {
		return fail("this process speaks another version of the handover", nil)
	}
	var addresses []string
	var given []*listener
	for i, a := range s.addresses {
		if slices.Contains(ask.Addresses, a) {
			addresses, given = append(addresses, a), append(given, s.listeners[i])
		}
	}
	given = append(given, s.control)
	opened, err := files(given...)
	if err != nil {
		return fail("its descriptors cannot be copied", err)
	}
	err = l.send(message{Version: version, Addresses: addresses}, opened...)
	closeAll(opened)
	if err != nil {
		return fail("the other process cannot be reached", err)
	}
	if m, err := l.receive(); err != nil || !m.Take {
		return fail("the other process did not take them in time", err)
	}
	now := s.pause(given, l.raw)
	s.given = given
	if err := l.send(message{Yours: true}); err != nil {
		// It has the listeners or has ended, and then so has the connection.
		s.log.Debug("the handover was not confirmed", "error", err)
	}
	l.step(0)
	s.log.Info("handed over the listeners, finishing the connections", "socket", s.cfg.Socket, "addresses", addresses)
	if before := s.predecessor(); before != nil {
		before.step(time.Second)
		_ = before.send(message{Release: true})
		s.forget(before)
	}
	if s.cfg.Exit {
		time.AfterFunc(s.cfg.Linger, func() {
			if s.left.Load() == now {
				s.stop(ErrReplaced)
			}
		})
	}
	return true
}

// pause stops accepting from listeners that another process has too, and returns
// when that was. Those that wait here, but for one, are to wait there.
func (s *Set) pause(all []*listener, but *net.UnixConn) int64 {
	now := time.Now().UnixNano()
	s.left.Store(now)
	for _, ln := range all {
		ln.pause()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.waiting {
		if c != but {
			_ = c.Close()
		}
	}
	return now
}

// giveBack lets the process that the listeners came from accept again, if it
// still lives.
func (s *Set) giveBack() {
	s.handing.Lock()
	defer s.handing.Unlock()
	before := s.predecessor()
	if before == nil || s.Leaving() {
		return
	}
	s.pause(s.took, nil)
	s.forget(before)
	s.log.Info("gave the listeners back, finishing the connections", "socket", s.cfg.Socket)
}

// resume accepts again: the process that took over has ended.
func (s *Set) resume() {
	s.handing.Lock()
	defer s.handing.Unlock()
	s.log.Warn("the process that took over has ended; serving again", "socket", s.cfg.Socket)
	for _, ln := range s.given {
		ln.resume()
	}
	s.left.Store(0)
}

// release gives the reserve up: the listeners live on elsewhere.
func (s *Set) release() {
	s.handing.Lock()
	defer s.handing.Unlock()
	for _, ln := range s.given {
		ln.drop()
	}
}
