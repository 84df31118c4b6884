package socket

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
)

// Conn is a TCP connection. Like any net.Conn it may be read by one goroutine
// and written by another; its other methods may be called at any time.
type Conn struct {
	poller *Poller
	fd     int
	token  uint32 // tells this connection from others that had the same fd
	remote netip.AddrPort

	// refs counts the calls that use fd; shut is added when it is to be closed.
	refs atomic.Int64

	mu      sync.Mutex
	hup     bool // the peer sends no more, or the connection failed
	closed  bool
	in, out side
	parked  func()
	hangup  func()

	readPatience, writePatience time.Duration
}

// side is one direction of a connection. It is guarded by Conn.mu.
type side struct {
	ready    bool // the kernel has reported something, and no call has found the opposite since
	waiting  bool
	expired  bool  // the deadline has passed
	deadline int64 // in the time of package clock; 0: none
	armed    int64 // when the timer will look; 0: it is not running
	timer    *time.Timer
	wake     chan struct{} // made when somebody waits for the first time
}

const shut = 1 << 32

var _ net.Conn = (*Conn)(nil)

// report notes what the kernel says, wakes those who wait for it, and returns
// the task that was parked until now, if any.
func (c *Conn) report(events uint32) (task func()) {
	var left func()
	c.mu.Lock()
	if events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		c.hup = true
		left, c.hangup = c.hangup, nil
	}
	if events&syscall.EPOLLIN != 0 || c.hup {
		c.in.signal()
		task, c.parked = c.parked, nil
	}
	if events&(syscall.EPOLLOUT|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		c.out.signal()
	}
	c.mu.Unlock()
	if left != nil {
		left()
	}
	return task
}

func (s *side) signal() {
	s.ready = true
	s.wakeUp()
}

func (s *side) wakeUp() {
	if s.waiting {
		s.waiting = false
		s.wake <- struct{}{}
	}
}

// acquire makes fd usable until release. Once the connection is to be closed it
// leaves refs alone: whoever brings them down to shut closes fd, which by then may
// be the number of another connection.
func (c *Conn) acquire() bool {
	for {
		n := c.refs.Load()
		if n >= shut {
			return false
		}
		if c.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// take is acquire for one who is about to look for what has arrived.
func (c *Conn) take() bool {
	c.mu.Lock()
	c.in.ready = false
	c.mu.Unlock()
	return c.acquire()
}

func (c *Conn) release() {
	if c.refs.Add(-1) == shut {
		c.poller.forget(c)
	}
}

// wait blocks until ready is true of the side. It is called, and returns, with
// mu held.
func (c *Conn) wait(s *side, ready func(*Conn) bool, patience *time.Duration) error {
	var limit int64 // by patience, if that has set the deadline
	for {
		switch {
		case c.closed:
			return net.ErrClosed
		case s.expired:
			return os.ErrDeadlineExceeded
		case ready(c):
			if limit != 0 && s.deadline == limit { // and nobody else since
				c.set(s, 0)
			}
			return nil
		}
		if *patience > 0 && s.deadline == 0 {
			limit = clock.Now() + int64(*patience)
			c.set(s, limit)
			continue
		}
		if s.wake == nil {
			s.wake = make(chan struct{}, 1)
		}
		s.waiting = true
		c.mu.Unlock()
		<-s.wake
		c.mu.Lock()
	}
}

// waitIn waits for bytes or the end, after which nothing more is reported.
func (c *Conn) waitIn() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wait(&c.in, func(c *Conn) bool { return c.in.ready || c.hup }, &c.readPatience)
}

// waitOut waits for room. The end of what the peer sends says nothing of that.
func (c *Conn) waitOut() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.wait(&c.out, func(c *Conn) bool { return c.out.ready }, &c.writePatience)
	c.out.ready = false // whoever waited looks now
	return err
}

// ended notes that the peer sends no more, which may be found out before the
// kernel's report is heard.
func (c *Conn) ended() {
	c.mu.Lock()
	c.hup = true
	c.mu.Unlock()
}

// again notes that there may be more to read.
func (c *Conn) again() {
	c.mu.Lock()
	c.in.ready = true
	c.mu.Unlock()
}

// Read reads what has arrived, up to len(b) bytes, or waits for it.
func (c *Conn) Read(b []byte) (int, error) {
	for len(b) > 0 {
		if err := c.WaitReadable(); err != nil {
			return 0, err
		}
		if n, err := c.TryRead(b); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// WaitReadable blocks until Read would return at once.
func (c *Conn) WaitReadable() error {
	if err := c.waitIn(); err != nil {
		return c.fail("read", err)
	}
	return nil
}

// Readable reports whether something has arrived that was not read: bytes, the
// end, or a failure. Nobody may be reading meanwhile.
func (c *Conn) Readable() bool {
	c.mu.Lock()
	ready, over := c.in.ready, c.hup || c.closed
	c.in.ready = ready && over // looked at below, as by TryRead
	c.mu.Unlock()
	switch {
	case over:
		return true
	case !ready:
		return false
	case !c.acquire():
		return true
	}
	// News may be of what was read together with what came before.
	there := arrived(c.fd)
	c.release()
	if there {
		c.again()
	}
	return there
}

// Write writes all of b unless it fails.
func (c *Conn) Write(b []byte) (int, error) {
	for done := 0; ; {
		if done == len(b) {
			return done, nil
		}
		if !c.acquire() {
			return done, c.fail("write", net.ErrClosed)
		}
		n, err := send(c.fd, b[done:])
		c.release()
		switch err {
		case nil:
			done += n
		case syscall.EINTR:
		case syscall.EAGAIN:
			if err := c.waitOut(); err != nil {
				return done, c.fail("write", err)
			}
		default:
			return done, c.fail("write", os.NewSyscallError("send", err))
		}
	}
}

// SetPatience sets how long Read and Write may wait each time while no deadline
// is set; 0 is for ever. Unlike a deadline it costs nothing while nobody waits.
func (c *Conn) SetPatience(read, write time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readPatience, c.writePatience = read, write
	c.in.wakeUp() // who waits already is to know
	c.out.wakeUp()
}

// Park makes task run, on a goroutine of the poller's, once Read would not wait
// (a read deadline counts), and returns true. If that is so already it returns false and task does not
// run. A parked connection must not be read; Close runs the task, too. Nothing
// else costs less while a connection is idle.
func (c *Conn) Park(task func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in.ready || c.hup || c.closed || c.in.expired {
		return false
	}
	c.parked = task
	return true
}

// OnHangup makes f run once when the peer closes its side or the connection
// fails, on the poller's goroutine, which f must not hold up; at once if that has
// happened. Only one f is kept; nil takes it back, though one that has just begun
// may still be running.
func (c *Conn) OnHangup(f func()) {
	c.mu.Lock()
	happened := c.hup
	c.hangup = nil
	if !happened {
		c.hangup = f
	}
	c.mu.Unlock()
	if happened && f != nil {
		f()
	}
}

// Close ends the connection and wakes all who wait for it.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	task := c.parked
	c.parked, c.hangup = nil, nil
	for _, s := range []*side{&c.in, &c.out} {
		if s.timer != nil {
			s.timer.Stop()
		}
		s.wakeUp()
	}
	c.mu.Unlock()
	if task != nil {
		c.poller.tasks.run(task)
	}
	if c.refs.Add(shut) == shut {
		c.poller.forget(c)
	}
	return nil
}

// CloseWrite tells the peer that nothing more comes.
func (c *Conn) CloseWrite() error {
	if !c.acquire() {
		return c.fail("close", net.ErrClosed)
	}
	defer c.release()
	return os.NewSyscallError("shutdown", syscall.Shutdown(c.fd, syscall.SHUT_WR))
}

// SetLinger is as that of net.TCPConn: with 0, Close resets the connection.
func (c *Conn) SetLinger(sec int) error {
	if !c.acquire() {
		return c.fail("set", net.ErrClosed)
	}
	defer c.release()
	l := syscall.Linger{Linger: int32(sec)}
	if sec >= 0 {
		l.Onoff = 1
	}
	return os.NewSyscallError("setsockopt", syscall.SetsockoptLinger(c.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &l))
}

// Control lends the file descriptor to f, which must not keep it.
func (c *Conn) Control(f func(fd uintptr)) error {
	if !c.acquire() {
		return c.fail("control", net.ErrClosed)
	}
	defer c.release()
	f(uintptr(c.fd))
	return nil
}

// connected waits for the end of a connect that is under way.
func (c *Conn) connected(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.waitOut(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return err
	}
	if !c.acquire() {
		return net.ErrClosed
	}
	defer c.release()
	code, err := syscall.GetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_ERROR)
	if err == nil && code != 0 {
		err = syscall.Errno(code)
	}
	if err != nil {
		return os.NewSyscallError("connect", err)
	}
	if !stop() {
		return context.Cause(ctx) // its deadline may have been set on c
	}
	return nil
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline makes Read and WaitReadable fail from t on; never if t is zero.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.in, t) }

// SetWriteDeadline makes a Write that waits for room fail from t on; never if t
// is zero. A Write that need not wait succeeds all the same.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.out, t) }

func (c *Conn) setDeadline(s *side, t time.Time) error {
	at := int64(0)
	if !t.IsZero() {
		at = max(clock.Now()+int64(time.Until(t)), 1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	c.set(s, at)
	return nil
}

// Expire is SetReadDeadline for a moment in the time of package clock, and for
// none if it is 0. It costs next to nothing.
func (c *Conn) Expire(at int64) {
	c.mu.Lock()
	c.set(&c.in, at)
	c.mu.Unlock()
}

// set changes a deadline, with mu held. A timer that runs already and will look
// early enough is left alone, also when there is no deadline any more: those of
// requests come and go much faster than they pass.
func (c *Conn) set(s *side, at int64) {
	s.deadline, s.expired = at, false
	if at != 0 && (s.armed == 0 || s.armed > at) && !c.closed {
		c.arm(s)
	}
}

// arm makes the timer look at the deadline when it comes, with mu held.
func (c *Conn) arm(s *side) {
	left := s.deadline - clock.Now()
	switch {
	case left <= 0:
		c.expired(s)
		return
	case s.timer == nil:
		s.timer = time.AfterFunc(time.Duration(left), func() { c.look(s) })
	default:
		s.timer.Reset(time.Duration(left))
	}
	s.armed = s.deadline
}

// look is what the timer does.
func (c *Conn) look(s *side) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.armed = 0
	if s.deadline != 0 && !s.expired && !c.closed {
		c.arm(s)
	}
}

// expired wakes who waits for the side, with mu held.
func (c *Conn) expired(s *side) {
	s.expired = true
	s.wakeUp()
	if s == &c.in && c.parked != nil {
		c.poller.tasks.run(c.parked)
		c.parked = nil
	}
}

// LocalAddr returns this end's address.
func (c *Conn) LocalAddr() net.Addr {
	if !c.acquire() {
		return &net.TCPAddr{}
	}
	defer c.release()
	sa, err := syscall.Getsockname(c.fd)
	if err != nil {
		return &net.TCPAddr{}
	}
	return net.TCPAddrFromAddrPort(addrPort(sa))
}

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// fail puts an error into the form that package net gives its own.
func (c *Conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: c.RemoteAddr(), Err: err}
}

func addrPort(sa syscall.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr).Unmap()
		if a.ZoneId != 0 && ip.Is6() {
			ip = ip.WithZone(strconv.Itoa(int(a.ZoneId)))
		}
		return netip.AddrPortFrom(ip, uint16(a.Port))
	}
	return netip.AddrPort{}
}

// sockaddr reads ip:port.
func sockaddr(address string) (family int, sa syscall.Sockaddr, err error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return 0, nil, err
	}
	ip := a.Addr().Unmap()
	if ip.Is4() {
		return syscall.AF_INET, &syscall.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}, nil
	}
	sa6 := &syscall.SockaddrInet6{Port: int(a.Port()), Addr: ip.As16()}
	if zone := ip.Zone(); zone != "" {
		nic, err := net.InterfaceByName(zone)
		if err != nil {
			return 0, nil, err
		}
		sa6.ZoneId = uint32(nic.Index)
	}
	return syscall.AF_INET6, sa6, nil
}

// text is an address in an error.
type text string

func (text) Network() string  { return "tcp" }
func (t text) String() string { return string(t) }
