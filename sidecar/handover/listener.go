package handover

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// socket is what a listener stands on: a [net.TCPListener], a [net.UnixListener]
// or what [Set.Wrap] was given.
type socket interface {
	net.Listener
	SetDeadline(time.Time) error
	File() (*os.File, error)
}

// listener can be paused: then whoever accepts waits. The socket stays open, and
// another process may accept from it.
type listener struct {
	inner  socket
	closed chan struct{} // by Close
	once   sync.Once

	mu      sync.Mutex
	resumed chan struct{} // closed while connections are accepted here

	accepting sync.Mutex // held while one is
}

func newListener(inner socket) *listener {
	l := &listener{inner: inner, closed: make(chan struct{}), resumed: make(chan struct{})}
	close(l.resumed)
	return l
}

// long is a deadline that has passed; it makes accepting fail at once.
var long = time.Unix(1, 0)

// pause has Accept wait. When it returns no connection is accepted here any more, not even by a call that had begun.
func (l *listener) pause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resumed = make(chan struct{})
	_ = l.inner.SetDeadline(long)
	l.accepting.Lock()
	defer l.accepting.Unlock()
}

// resume ends a pause.
func (l *listener) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.inner.SetDeadline(time.Time{})
	close(l.resumed)
}

// drop gives the socket of a paused listener up for good.
func (l *listener) drop() { _ = l.inner.Close() }

// wait is called after accepting failed. It reports whether to try again, and
// waits for the end of a pause before.
func (l *listener) wait(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
		return false
	}
	l.mu.Lock()
	resumed := l.resumed
	l.mu.Unlock()
	select {
	case <-l.closed:
		return false
	default:
	}
	select {
	case <-resumed:
		return true
	case <-l.closed:
		return false
	}
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.accepting.Lock()
		c, err := l.inner.Accept()
		l.accepting.Unlock()
		if err == nil {
			return c, nil
		}
		if !l.wait(err) {
			return nil, l.failure(err)
		}
	}
}

// failure hides the deadline of a pause in which the listener was closed.
func (l *listener) failure(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &net.OpError{Op: "accept", Net: l.inner.Addr().Network(), Addr: l.inner.Addr(), Err: net.ErrClosed}
	}
	return err
}

// Addr implements [net.Listener].
func (l *listener) Addr() net.Addr { return l.inner.Addr() }

// Close implements [net.Listener]. The socket lives on in other processes.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.inner.Close()
}
