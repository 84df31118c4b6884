package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// edges is what is asked of the kernel for each connection. It reports changes
// only, so a connection that is left alone costs nothing.
const edges = syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | epollET

const epollET = 1 << 31 // syscall.EPOLLET is negative, which no uint32 takes

// batch is how many events are taken from the kernel at once.
const batch = 128

// Poller hears from the kernel what happens to connections and wakes those who
// wait. All methods may be called concurrently.
type Poller struct {
	fd      int
	file    *os.File // keeps fd, and lets the runtime's own poller wait for it
	raw     syscall.RawConn
	dialing func(fd uintptr) error // nil for none

	mu     sync.Mutex
	conns  []*Conn // by file descriptor
	tokens uint32  // the last one given out
	closed bool

	tasks workers
}

// Open returns a Poller. Run makes it work; nothing is woken before.
func Open() (*Poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an epoll instance: %w", err)
	}
	// An epoll instance can be polled itself: the runtime waits for it as for
	// any file, and no thread is held.
	if err := syscall.SetNonblock(fd, true); err != nil {
		_ = syscall.Close(fd)
		return nil, fmt.Errorf("set the epoll instance non-blocking: %w", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("poll the epoll instance: %w", err)
	}
	return &Poller{fd: fd, file: file, raw: raw}, nil
}

// Run wakes those who wait until ctx ends; then it closes every connection that
// is still open, which wakes its waiters too, and returns when no parked task
// runs any more.
func (p *Poller) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.file.Close() })
	defer stop()
	events := make([]syscall.EpollEvent, batch)
	var n int
	var failure error
	// Given to raw.Read below, which waits when it returns false.
	look := func(uintptr) bool {
		n, failure = epollWait(p.fd, events)
		return n != 0 || failure != nil
	}
	for {
		err := p.raw.Read(look)
		if err == nil {
			err = failure
		}
		if err != nil {
			p.close()
			if ctx.Err() != nil || errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("wait for events: %w", err)
		}
		p.dispatch(events[:n])
		// Those just woken make new events; looking before them finds nothing.
		runtime.Gosched()
	}
}

// dispatch wakes those whom the events are for. It runs on Run's goroutine.
func (p *Poller) dispatch(events []syscall.EpollEvent) {
	var conns [batch]*Conn
	p.mu.Lock()
	for i := range events {
		c := p.conns[events[i].Fd]
		if c != nil && c.token == uint32(events[i].Pad) { // else it was closed since
			conns[i] = c
		}
	}
	p.mu.Unlock()
	for i, c := range conns[:len(events)] {
		if c == nil {
			continue
		}
		if task := c.report(events[i].Events); task != nil {
			p.tasks.run(task)
		}
	}
}

func (p *Poller) close() {
	p.mu.Lock()
	p.closed = true
	var open []*Conn
	for _, c := range p.conns {
		if c != nil {
			open = append(open, c)
		}
	}
	p.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
	p.tasks.stop()
}

// add makes a Conn of fd, which becomes its own, also in case of an error.
func (p *Poller) add(fd int, remote syscall.Sockaddr) (*Conn, error) {
	c := &Conn{poller: p, fd: fd, remote: addrPort(remote)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = syscall.Close(fd)
		return nil, net.ErrClosed
	}
	p.tokens++
	c.token = p.tokens
	for len(p.conns) <= fd {
		p.conns = append(p.conns, make([]*Conn, max(64, fd+1-len(p.conns)))...)
	}
	p.conns[fd] = c
	if err := syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: edges, Fd: int32(fd), Pad: int32(c.token)}); err != nil {
		p.conns[fd] = nil
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return c, nil
}

// forget closes c's file descriptor. It is called once, when nobody uses it.
func (p *Poller) forget(c *Conn) {
	p.mu.Lock()
	p.conns[c.fd] = nil
	p.mu.Unlock()
	_ = syscall.Close(c.fd) // which takes it out of the epoll instance too
}

// Listener returns a listener whose connections, if ln is one of TCP, are each a
// *Conn; any other ln is handed back. It takes ln over: its Close closes both.
func (p *Poller) Listener(ln net.Listener) (net.Listener, error) {
	tcp, ok := ln.(interface {
		net.Listener
		File() (*os.File, error)
	})
	if !ok || ln.Addr().Network() != "tcp" {
		return ln, nil
	}
	file, err := tcp.File()
	if err != nil {
		return nil, fmt.Errorf("duplicate the listener: %w", err)
	}
	defer func() { _ = file.Close() }()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("duplicate the listener: %w", err)
	}
	var fd int
	if ctlErr := raw.Control(func(f uintptr) { fd, err = fcntl(int(f), syscall.F_DUPFD_CLOEXEC) }); ctlErr != nil {
		err = ctlErr
	}
	if err != nil {
		return nil, fmt.Errorf("duplicate the listener: %w", err)
	}
	conn, err := p.add(fd, nil)
	if err != nil {
		return nil, err
	}
	return &listener{Listener: ln, conn: conn}, nil
}

// listener accepts by way of a second descriptor of the same socket.
type listener struct {
	net.Listener
	conn *Conn
}

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	for {
		if err := l.conn.waitIn(); err != nil {
			return nil, l.fail(err)
		}
		if !l.conn.take() {
			return nil, l.fail(net.ErrClosed)
		}
		fd, remote, err := syscall.Accept4(l.conn.fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		l.conn.release()
		switch err {
		case nil:
			l.conn.again()
			prepare(fd)
			return l.conn.poller.add(fd, remote)
		case syscall.EAGAIN:
		case syscall.EINTR, syscall.ECONNABORTED:
			l.conn.again()
		default: // out of descriptors, most likely: those waiting can be had later
			l.conn.again()
			return nil, l.fail(os.NewSyscallError("accept4", err))
		}
	}
}

// SetDeadline makes Accept fail from t on; never if t is zero.
func (l *listener) SetDeadline(t time.Time) error { return l.conn.SetReadDeadline(t) }

func (l *listener) fail(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: err}
}

// Close ends Accept and the listener that it was made of.
func (l *listener) Close() error { return errors.Join(l.conn.Close(), l.Listener.Close()) }

// File is that of the listener that it was made of.
func (l *listener) File() (*os.File, error) {
	return l.Listener.(interface{ File() (*os.File, error) }).File()
}

// OnDial makes f see each socket of Dial before it connects; an error ends the Dial.
// It is called before anything is dialed.
func (p *Poller) OnDial(f func(fd uintptr) error) { p.dialing = f }

// Dial connects to an address of the form ip:port.
func (p *Poller) Dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := p.dial(ctx, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: text(address), Err: err}
	}
	return c, nil
}

func (p *Poller) dial(ctx context.Context, address string) (*Conn, error) {
	family, remote, err := sockaddr(address)
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	prepare(fd)
	if p.dialing != nil {
		if err := p.dialing(uintptr(fd)); err != nil {
			_ = syscall.Close(fd)
			return nil, err
		}
	}
	err = syscall.Connect(fd, remote)
	if err != nil && err != syscall.EINPROGRESS && err != syscall.EINTR {
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	c, addErr := p.add(fd, remote)
	if addErr != nil || err == nil {
		return c, addErr
	}
	if err := c.connected(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// prepare sets what package net sets too: small messages go out at once, and a
// peer that has vanished is noticed some day.
func prepare(fd int) {
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 15)
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 15)
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 9)
}

// The calls below never block, so they need not tell the scheduler of
// themselves, which is what RawSyscall leaves out.

func epollWait(fd int, events []syscall.EpollEvent) (int, error) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if e != 0 && e != syscall.EINTR {
		return 0, os.NewSyscallError("epoll_wait", e)
	}
	return int(n) * boolInt(e == 0), nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func recv(fd int, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// arrived reports whether there is anything to be read, a failure included.
func arrived(fd int) bool {
	var b [1]byte
	_, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), 1, syscall.MSG_PEEK, 0, 0)
	return e != syscall.EAGAIN
}

func send(fd int, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), syscall.MSG_NOSIGNAL, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func fcntl(fd, cmd int) (int, error) {
	n, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), uintptr(cmd), 0)
	if e != 0 {
		return 0, os.NewSyscallError("fcntl", e)
	}
	return int(n), nil
}
