// Package pool keeps idle HTTP/1.1 connections to an address for reuse.
//
// It does not balance, retry or time out requests. A connection is handed back
// only by whoever knows that its last exchange was read to the end; the pool
// still checks before reuse that the peer has neither closed nor said anything.
//
//	pools := pool.NewSet(dial)
//	go pools.Run(ctx)
//	p := pools.Acquire(pool.Target{Address: "10.0.0.4:7777"})
//	defer pools.Release(p)
//	c, err := p.Get(ctx)
//	…
//	p.Put(c)
package pool

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/http1"
)

const (
	// idleFor is how long an unused connection is kept: less than the 75 s and
	// 60 s after which common servers close theirs.
	idleFor = 50 * time.Second
	// sweepEvery bounds how much longer than idleFor one can live.
	sweepEvery = 10 * time.Second
	// maxIdle connections are kept for each target.
	maxIdle = 256
)

// Target is where connections lead.
type Target struct {
	Address  string // ip:port
	Identity string // the SPIFFE ID that the peer must prove by mTLS; "" for plain TCP
}

// Dial opens a connection to a target, with the TLS handshake done.
type Dial func(context.Context, Target) (net.Conn, error)

// Conn is a connection and its codec. One goroutine uses it at a time.
type Conn struct {
	net.Conn
	R      *http1.Reader
	W      *http1.Writer
	Reused bool // it has carried an exchange before, so the peer may close it any time

	since time.Time // idle since
	quiet func() bool
}

// Pool holds the idle connections of one target. It is safe for concurrent use.
type Pool struct {
	Target Target

	dial Dial
	refs int // guarded by Set.mu; at 0 the pool goes with its last idle connection

	mu     sync.Mutex
	idle   []*Conn // the most recently used last
	closed bool
}

// Get returns an idle connection that still looks alive, or a new one.
func (p *Pool) Get(ctx context.Context) (*Conn, error) {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			break
		}
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if c.quiet() {
			c.Reused = true
			return c, nil
		}
		_ = c.Close()
	}
	nc, err := p.dial(ctx, p.Target)
	if err != nil {
		return nil, err
	}
	return &Conn{
		Conn:  nc,
		R:     http1.NewReader(nc, http1.DefaultLimits),
		W:     http1.NewWriter(nc),
		quiet: quietCheck(nc),
	}, nil
}

// Put takes back a connection whose last exchange is complete.
func (p *Pool) Put(c *Conn) {
	c.since = time.Now()
	p.mu.Lock()
	keep := !p.closed && len(p.idle) < maxIdle && c.R.Buffered() == 0
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		_ = c.Close()
	}
}

// expire closes the connections that have been idle since before t.
func (p *Pool) expire(t time.Time) {
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && p.idle[n].since.Before(t) {
		n++
	}
	old := append([]*Conn(nil), p.idle[:n]...)
	p.idle = append(p.idle[:0], p.idle[n:]...)
	p.mu.Unlock()
	for _, c := range old {
		_ = c.Close()
	}
}

func (p *Pool) empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle) == 0
}

func (p *Pool) close() {
	p.mu.Lock()
	p.closed = true
	old := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, c := range old {
		_ = c.Close()
	}
}

// Set shares pools between all that lead to the same target. It is safe for
// concurrent use.
type Set struct {
	dial Dial

	mu    sync.Mutex
	pools map[Target]*Pool
}

// NewSet returns an empty set whose pools connect by dial.
func NewSet(dial Dial) *Set {
	return &Set{dial: dial, pools: map[Target]*Pool{}}
}

// Acquire returns the pool of a target. Each Acquire needs one Release.
func (s *Set) Acquire(t Target) *Pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pools[t]
	if p == nil {
		p = &Pool{Target: t, dial: s.dial}
		s.pools[t] = p
	}
	p.refs++
	return p
}

// Release gives a pool up. Its idle connections stay for whoever acquires the
// same target soon, and expire otherwise.
func (s *Set) Release(p *Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.refs--
}

// Run closes idle connections in time until ctx ends, and then all of them.
func (s *Set) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			s.sweep(now.Add(-idleFor))
		case <-ctx.Done():
			for _, p := range s.all() {
				p.close()
			}
			return nil
		}
	}
}

// sweep closes what has been idle since t and forgets pools that nobody uses.
func (s *Set) sweep(t time.Time) {
	for _, p := range s.all() {
		p.expire(t)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for target, p := range s.pools {
		if p.refs == 0 && p.empty() {
			delete(s.pools, target)
		}
	}
}

func (s *Set) all() []*Pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Pool, 0, len(s.pools))
	for _, p := range s.pools {
		all = append(all, p)
	}
	return all
}

// quietCheck returns a function that reports whether nothing has arrived on an
// idle connection: no end of input, and no bytes, which nobody asked for.
func quietCheck(nc net.Conn) func() bool {
	raw, ok := rawConn(nc)
	if !ok {
		return func() bool { return true } // an in-memory connection of a test
	}
	quiet := false
	look := func(fd uintptr) bool {
		_, err := peek(fd)
		quiet = err == syscall.EAGAIN
		return true
	}
	return func() bool {
		quiet = false
		return raw.Read(look) == nil && quiet
	}
}

// Closed reports whether the peer of a connection that nobody reads at the
// moment has closed it. On a TLS connection, bytes are the word of it: a proxy
// that waits for an answer has nothing else to say.
func Closed(nc net.Conn) bool {
	raw, ok := rawConn(nc)
	if !ok {
		return false
	}
	_, isTLS := nc.(interface{ NetConn() net.Conn })
	closed := false
	err := raw.Read(func(fd uintptr) bool {
		n, err := peek(fd)
		closed = err == nil && (n == 0 || isTLS) || err != nil && err != syscall.EAGAIN
		return true
	})
	return err != nil || closed
}

func rawConn(nc net.Conn) (syscall.RawConn, bool) {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		nc = t.NetConn()
	}
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, false
	}
	raw, err := sc.SyscallConn()
	return raw, err == nil
}

// peek looks at what has arrived without blocking and without consuming.
func peek(fd uintptr) (int, error) {
	var b [1]byte
	n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return n, err
}
