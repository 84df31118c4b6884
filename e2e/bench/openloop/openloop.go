//go:build linux

package openloop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Config says what is sent, where to and how often.
type Config struct {
	Addresses   []netip.AddrPort // connections are spread over them evenly; IPv4
	Host, Path  string           // of the GET that is sent
	Connections int
	Rate        float64 // requests a second over all connections
	Warmup      time.Duration
	Duration    time.Duration // after the warm-up
}

func (c Config) validate() error {
	switch {
	case len(c.Addresses) == 0 || c.Connections < 1:
		return errors.New("an open loop needs an address and a connection")
	case c.Rate <= 0 || c.Duration <= 0 || c.Warmup < 0:
		return fmt.Errorf("an open loop needs a rate and a duration, not %g/s for %s after %s", c.Rate, c.Duration, c.Warmup)
	}
	return nil
}

// Latencies are those of one run, in the order in which the requests were due.
type Latencies []time.Duration

// Quantile returns the latency that the fraction q of the requests did not exceed; 0 if there are none.
func (l Latencies) Quantile(q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	i := int(q*float64(len(l))+0.5) - 1
	return slices.Sorted(slices.Values(l))[min(max(i, 0), len(l)-1)]
}

// patience is how long there may be no answer at all while requests are out.
const patience = 5 * time.Second

// Run sends at the rate until the duration is over and waits for the answers. It keeps one thread busy:
// one that slept would wake too late, by tens of microseconds in a virtual machine; instead it yields the
// processor whenever there is nothing to do. Meanwhile the garbage collector is off. Run fails if an answer
// is anything but 200 with a Content-Length, a connection closes, or answers stay away.
func Run(ctx context.Context, cfg Config) (Latencies, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l := loop{
		interval: float64(time.Second) / cfg.Rate,
		skip:     int(cfg.Rate * cfg.Warmup.Seconds()),
		total:    int(cfg.Rate * (cfg.Warmup + cfg.Duration).Seconds()),
		request:  fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", cfg.Path, cfg.Host),
	}
	l.latencies = make(Latencies, l.total)
	defer l.close()
	if err := l.open(cfg); err != nil {
		return nil, err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	if err := l.run(ctx); err != nil {
		return nil, err
	}
	return l.latencies[l.skip:], nil
}

type loop struct {
	interval  float64 // nanoseconds
	skip      int     // requests of the warm-up
	total     int
	request   []byte
	latencies Latencies

	epoll int
	conns []conn
	free  []int32 // a ring of the connections that no request is on
	head  int
	idle  int
	start time.Time
}

// conn is a connection. due and number are those of the request on it.
type conn struct {
	fd     int
	due    time.Duration
	number int
	busy   bool
	answer answer
}

func (l *loop) open(cfg Config) (err error) {
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	l.conns = make([]conn, 0, cfg.Connections)
	for i := range cfg.Connections {
		to := cfg.Addresses[i%len(cfg.Addresses)]
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open socket: %w", err)
		}
		l.conns = append(l.conns, conn{fd: fd})
		l.free = append(l.free, int32(i))
		if err := errors.Join(
			unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}),
			unix.SetNonblock(fd, true),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
			unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}),
		); err != nil {
			return fmt.Errorf("connect to %s: %w", to, err)
		}
	}
	l.idle = len(l.free)
	return nil
}

func (l *loop) close() {
	for _, c := range l.conns {
		_ = unix.Close(c.fd)
	}
	if l.epoll > 0 {
		_ = unix.Close(l.epoll)
	}
}

// due is when request n is to be sent, from the start.
func (l *loop) due(n int) time.Duration { return time.Duration(float64(n) * l.interval) }

func (l *loop) run(ctx context.Context) error {
	events := make([]unix.EpollEvent, len(l.conns))
	buf := make([]byte, 64<<10)
	l.start = time.Now()
	sent, got := 0, 0
	last := time.Duration(0) // when an answer came, from the start
	for got < l.total {
		now := time.Since(l.start)
		for sent < l.total && l.idle > 0 && l.due(sent) <= now {
			if err := l.send(sent); err != nil {
				return err
			}
			sent++
		}
		n, err := unix.EpollWait(l.epoll, events, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for answers: %w", err)
		case n > 0:
			last = now
		case ctx.Err() != nil:
			return ctx.Err()
		case sent > got && now-last > patience:
			return fmt.Errorf("%d of %d requests had no answer within %s", sent-got, l.total, patience)
		default:
			// Other threads of this processor, backends may be among them, come first.
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
		for _, e := range events[:n] {
			done, err := l.receive(int(e.Fd), buf)
			if err != nil {
				return err
			}
			if done {
				got++
			}
		}
	}
	return nil
}

func (l *loop) send(n int) error {
	i := l.free[l.head]
	l.head = (l.head + 1) % len(l.free)
	l.idle--
	c := &l.conns[i]
	c.due, c.number, c.busy = l.due(n), n, true
	// The socket is empty, so a short write cannot be.
	if _, err := unix.Write(c.fd, l.request); err != nil {
		return fmt.Errorf("send request %d: %w", n, err)
	}
	return nil
}

// receive reads what there is on a connection, and reports whether that ended an answer.
func (l *loop) receive(i int, buf []byte) (bool, error) {
	c := &l.conns[i]
	n, err := unix.Read(c.fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("receive an answer: %w", err)
	case n == 0:
		return false, errors.New("a connection was closed by the other end")
	case !c.busy:
		return false, errors.New("an answer came that nothing had asked for")
	}
	done, err := c.answer.feed(buf[:n])
	if err != nil || !done {
		return false, err
	}
	l.latencies[c.number] = time.Since(l.start) - c.due
	c.busy = false
	l.free[(l.head+l.idle)%len(l.free)] = int32(i)
	l.idle++
	return true, nil
}
