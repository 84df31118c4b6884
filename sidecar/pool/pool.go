// Package pool keeps idle HTTP/1.1 connections to an address for reuse, those of
// each owner for itself.
//
// It does not balance, retry or time out requests. A connection is handed back
// only by whoever knows that its last exchange was read to the end; the pool
// still checks before reuse that the peer has neither closed nor said anything.
//
//	pools := pool.NewSet(dial)
//	go pools.Run(ctx)
//	p := pools.Acquire(pool.Target{Address: "10.0.0.4:7777"})
//	defer pools.Release(p)
//	c := p.Get()
//	if c == nil {
//		c, err = p.Open(ctx)
//	}
//	…
//	p.Put(c, now)
package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/sidecar/http1"
)

// sweepEvery is how precisely idle times are kept.
const sweepEvery = time.Second

// Limits are about the connections of one pool. The zero value has none.
type Limits struct {
	MinIdle int           // idle ones that are kept whatever their age
	MaxOpen int           // 0: no limit
	Waiters int           // requests that may wait for one of MaxOpen; negative: all
	Idle    time.Duration // after which an idle one is closed; 0: never
	Life    time.Duration // after which one is closed once it is idle; 0: never
}

// maxIdle connections are kept for each target.
const maxIdle = 256

// ErrBusy is returned by Open when MaxOpen connections are in use and too many
// requests wait for one.
var ErrBusy = errors.New("all connections that are allowed are in use, and too many requests wait for one")

// Target is where connections lead, and whose they are. Two that are not equal share
// neither connections nor limits.
type Target struct {
	Address  string // ip:port
	Identity string // the SPIFFE ID that the peer must prove by mTLS; "" for plain TCP
	Owner    any    // something to be compared; nil for whoever delivers to the address
}

// Dial opens a connection to a target, with the TLS handshake done.
type Dial func(context.Context, Target) (net.Conn, error)

// transport is a connection of package socket. Others do without: then a peer
// that has left is noticed when the connection is used.
type transport interface {
	Readable() bool
	Expire(t int64)
	SetPatience(read, write time.Duration)
}

// Conn is a connection and its codec. One goroutine uses it at a time.
type Conn struct {
	net.Conn
	R      *http1.Reader
	W      *http1.Writer
	Reused bool // it has carried an exchange before, so the peer may close it any time

	made, since int64 // when it was opened, and idle since; in the time of package clock
	state       transport
	pool        *Pool // nil once it is hijacked
}

// Expire makes reads fail from t on, in the time of package clock; never if it is
// 0. It is SetReadDeadline for those who have no time to lose.
func (c *Conn) Expire(t int64) {
	switch {
	case c.state != nil:
		c.state.Expire(t)
	case t == 0:
		_ = c.SetReadDeadline(time.Time{})
	default:
		_ = c.SetReadDeadline(time.Now().Add(time.Duration(t - clock.Now())))
	}
}

// Hurry makes each read fail that has to wait for as long as d, for good.
func (c *Conn) Hurry(d time.Duration) {
	if c.state != nil {
		c.state.SetPatience(d, writePatience)
	}
}

// writePatience is how long a peer may take nothing of what it is sent.
const writePatience = time.Minute

// Stale reports whether an idle connection is of no use: its peer has closed it,
// or has sent what nobody asked for.
func (c *Conn) Stale() bool { return c.state != nil && c.state.Readable() }

// Pool holds the idle connections of one target. It is safe for concurrent use.
type Pool struct {
	Target Target

	set  *Set
	refs int // guarded by set.mu; at 0 the pool goes with its last connection

	mu      sync.Mutex
	limits  Limits
	idle    []*Conn // the most recently used last
	open    int     // connections in use, idle, and being made
	waiting []chan *Conn
	closed  bool
}

// SetLimits changes the limits. Connections beyond new ones are closed once idle. It is
// for the owner: all that it says of one pool should be the same.
func (p *Pool) SetLimits(l Limits) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits = l
	p.admit()
}

// Get returns an idle connection that still looks alive, or nil. It never blocks.
func (p *Pool) Get() *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.take()
}

// take is Get, with mu held.
func (p *Pool) take() *Conn {
	for n := len(p.idle); n > 0; n-- {
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		if !c.Stale() {
			c.Reused = true
			return c
		}
		_ = c.Conn.Close()
		p.open--
		p.admit()
	}
	return nil
}

// room reports whether one more connection may be made. It is called with mu held.
func (p *Pool) room() bool { return p.limits.MaxOpen == 0 || p.open < p.limits.MaxOpen }

// admit lets those who wait make connections, as far as the limit goes. It is
// called with mu held; the places are theirs at once.
func (p *Pool) admit() {
	for len(p.waiting) > 0 && p.room() {
		p.open++
		p.waiting[0] <- nil
		p.waiting = p.waiting[1:]
	}
}

// Open makes a connection. If MaxOpen are in use it waits for one of them, or for
// a place to make one: the result may be Reused.
func (p *Pool) Open(ctx context.Context) (*Conn, error) {
	p.mu.Lock()
	if !p.room() {
		if c := p.take(); c != nil { // it has come back just now
			p.mu.Unlock()
			return c, nil
		}
	}
	if p.room() { // a stale one may have gone
		p.open++
		p.mu.Unlock()
		return p.make(ctx)
	}
	if p.limits.Waiters >= 0 && len(p.waiting) >= p.limits.Waiters {
		p.mu.Unlock()
		return nil, ErrBusy
	}
	turn := make(chan *Conn, 1)
	p.waiting = append(p.waiting, turn)
	p.mu.Unlock()
	select {
	case c := <-turn:
		if c == nil {
			return p.make(ctx)
		}
		c.Reused = true
		return c, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(p.waiting, turn)
	if i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 { // it came just now
		if c := <-turn; c != nil {
			p.Put(c, clock.Now())
		} else {
			p.left()
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
}

// make makes a connection in a place that is counted already.
func (p *Pool) make(ctx context.Context) (*Conn, error) {
	p.set.note(p)
	nc, err := p.set.dial(ctx, p.Target)
	if err != nil {
		p.left()
		return nil, err
	}
	c := &Conn{Conn: nc, R: http1.NewReader(nc, http1.DefaultLimits), W: http1.NewWriter(nc), made: clock.Now(), pool: p}
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		nc = t.NetConn()
	}
	if t, ok := nc.(transport); ok {
		t.SetPatience(0, writePatience)
		c.state = t
	}
	return c, nil
}

// left notes that a connection is no more.
func (p *Pool) left() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
	p.admit()
}

// Put takes back a connection whose last exchange is complete.
func (p *Pool) Put(c *Conn, now int64) {
	c.since = now
	if c.R.Buffered() > 0 || c.Stale() {
		p.Close(c)
		return
	}
	c.R.Idle()
	p.mu.Lock()
	l := &p.limits
	keep := !p.closed && len(p.idle) < maxIdle && (l.Life == 0 || now-c.made < int64(l.Life)) && (l.MaxOpen == 0 || p.open <= l.MaxOpen)
	switch {
	case keep && len(p.waiting) > 0:
		p.waiting[0] <- c
		p.waiting = p.waiting[1:]
	case keep:
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		p.Close(c)
	}
}

// Close ends a connection that Get or Open has returned.
func (p *Pool) Close(c *Conn) {
	_ = c.Conn.Close()
	p.left()
}

// Hijack takes a connection out of the pool, to be closed by the caller.
func (p *Pool) Hijack(c *Conn) {
	c.pool = nil
	p.left()
}

// Drop closes a connection, hijacked or not, for one who knows no more of it.
func (c *Conn) Drop() {
	if c.pool != nil {
		c.pool.Close(c)
		return
	}
	_ = c.Conn.Close()
}

// expire closes the connections that have been idle or open for too long.
func (p *Pool) expire(now int64) {
	p.mu.Lock()
	l := p.limits
	var old []*Conn
	kept := p.idle[:0]
	for i, c := range p.idle {
		left := len(p.idle) - i // with those that were used later
		switch {
		case c.Stale(), l.Life > 0 && now-c.made >= int64(l.Life), l.Idle > 0 && now-c.since >= int64(l.Idle) && left+len(kept) > l.MinIdle:
			old = append(old, c)
		default:
			kept = append(kept, c)
		}
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	p.open -= len(old)
	p.admit()
	p.mu.Unlock()
	for _, c := range old {
		_ = c.Conn.Close()
	}
}

// empty reports whether there are no connections.
func (p *Pool) empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open == 0
}

// retire closes a pool without connections for good, and reports whether it has
// none. Whoever still has the pool can open connections, which are not kept: no
// sweep would find them.
func (p *Pool) retire() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = p.closed || p.open == 0
	return p.open == 0
}

func (p *Pool) close() {
	p.mu.Lock()
	p.closed = true
	old := p.idle
	p.idle = nil
	p.open -= len(old)
	p.mu.Unlock()
	for _, c := range old {
		_ = c.Conn.Close()
	}
}

// Set has one pool for each target. It is safe for concurrent use.
type Set struct {
	dial Dial

	mu    sync.Mutex
	pools map[Target]*Pool
	// active are those that may have connections: what the sweep looks at, for of those
	// that are only held there can be very many.
	active map[*Pool]struct{}
}

// NewSet returns an empty set whose pools connect by dial.
func NewSet(dial Dial) *Set {
	return &Set{dial: dial, pools: map[Target]*Pool{}, active: map[*Pool]struct{}{}}
}

// Acquire returns the pool of a target. Each Acquire needs one Release.
func (s *Set) Acquire(t Target) *Pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pools[t]
	if p == nil {
		p = &Pool{Target: t, set: s, limits: Limits{Waiters: -1, Idle: 50 * time.Second}}
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
	if p.refs--; p.refs == 0 {
		p.mu.Lock()
		p.limits.MinIdle = 0
		p.mu.Unlock()
		s.forget(p)
	}
}

// note makes the sweep look at a pool that is about to have a connection.
func (s *Set) note(p *Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active[p] = struct{}{}
}

// forget drops a pool that nobody holds, if it has no connections. It is called with mu
// held.
func (s *Set) forget(p *Pool) {
	if p.retire() && s.pools[p.Target] == p { // else it has been forgotten before
		delete(s.pools, p.Target)
	}
}

// Run closes idle connections in time until ctx ends, and then all of them.
func (s *Set) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.sweep(clock.Now())
		case <-ctx.Done():
			s.close()
			return nil
		}
	}
}

// sweep closes what has been idle for long and forgets pools that nobody uses.
func (s *Set) sweep(now int64) {
	s.mu.Lock()
	active := slices.AppendSeq(make([]*Pool, 0, len(s.active)), maps.Keys(s.active))
	s.mu.Unlock()
	for _, p := range active {
		p.expire(now)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range active {
		if p.refs == 0 {
			s.forget(p)
		}
		if p.empty() {
			delete(s.active, p)
		}
	}
}

// close ends all pools, and their idle connections.
func (s *Set) close() {
	s.mu.Lock()
	all := slices.AppendSeq(make([]*Pool, 0, len(s.pools)), maps.Values(s.pools))
	s.mu.Unlock()
	for _, p := range all {
		p.close()
	}
}
