package pool

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/sidecar/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server accepts connections and hands them to the test.
func server(t *testing.T) (string, chan net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String(), accepted
}

// dialer returns a Dial whose connections know when their peer leaves.
func dialer(t *testing.T) Dial {
	poller, err := socket.Open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = poller.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func(ctx context.Context, t Target) (net.Conn, error) { return poller.Dial(ctx, t.Address) }
}

// piped is a Dial without a network: nobody is at the other end.
func piped(context.Context, Target) (net.Conn, error) {
	a, _ := net.Pipe()
	return a, nil
}

func open(t *testing.T, p *Pool) *Conn {
	t.Helper()
	c, err := p.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// size returns how many connections count as open.
func (p *Pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

// size returns how many pools there are.
func (s *Set) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pools)
}

func TestReuse(t *testing.T) {
	address, accepted := server(t)
	s := NewSet(dialer(t))
	p := s.Acquire(Target{Address: address})
	if s.Acquire(Target{Address: address}) != p {
		t.Fatal("one target has two pools")
	}
	if p.Get() != nil {
		t.Fatal("an empty pool has a connection")
	}
	first := open(t, p)
	if first.Reused {
		t.Fatal("a new connection counts as used before")
	}
	p.Put(first, clock.Now())
	if second := p.Get(); second != first || !second.Reused {
		t.Fatal("the idle connection was not reused")
	}
	p.Put(first, clock.Now())

	// A peer that closed, or that said something nobody asked for, is noticed.
	for _, act := range []func(net.Conn){
		func(c net.Conn) { _ = c.Close() },
		func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 408 Request Timeout\r\n\r\n")) },
	} {
		peer := <-accepted
		act(peer)
		for !p.idle[0].Stale() { // until it has arrived
			runtime.Gosched()
		}
		if p.Get() != nil {
			t.Fatal("a spoilt connection was reused")
		}
		if p.size() != 0 {
			t.Fatalf("%d connections count as open", p.size())
		}
		p.Put(open(t, p), clock.Now())
		_ = peer.Close()
	}
	p.close()
	_ = (<-accepted).Close()
}

// What one owner may do with a target says nothing about another's connections to
// it, and idle ones are nobody else's.
func TestOwnersShareNothing(t *testing.T) {
	s := NewSet(piped)
	type owner struct{ name string }
	of := func(name string) *Pool { return s.Acquire(Target{Address: "a", Identity: "i", Owner: owner{name}}) }
	mine, theirs := of("mine"), of("theirs")
	if mine == theirs || of("mine") != mine {
		t.Fatal("pools are not one for each owner")
	}
	mine.SetLimits(Limits{MaxOpen: 1})
	held := open(t, mine)
	if _, err := mine.Open(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("beyond the limit: %v", err)
	}
	for range 3 {
		theirs.Put(open(t, theirs), clock.Now())
	}
	if mine.Get() != nil || s.Acquire(Target{Address: "a", Identity: "i"}).Get() != nil {
		t.Error("another owner's idle connection is taken")
	}
	// Who comes back soon finds what was left.
	mine.Put(held, clock.Now())
	s.Release(mine)
	s.Release(mine)
	s.sweep(clock.Now())
	if again := of("mine"); again != mine || again.Get() != held {
		t.Error("the owner's idle connection is gone")
	}
	s.close()
}

func TestUnreadInputIsNotPooled(t *testing.T) {
	address, accepted := server(t)
	p := NewSet(dialer(t)).Acquire(Target{Address: address})
	c := open(t, p)
	peer := <-accepted
	_, _ = peer.Write([]byte("x"))
	if err := c.R.Wait(); err != nil {
		t.Fatal(err)
	}
	p.Put(c, clock.Now())
	if !p.empty() {
		t.Error("a connection with unread input was kept")
	}
	_ = peer.Close()
}

func TestIdleConnectionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSet(piped)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Run(ctx) }()
		p := s.Acquire(Target{Address: "a"})
		idleFor := p.limits.Idle
		used := []*Conn{open(t, p), open(t, p)}
		p.Put(open(t, p), clock.Now())
		s.Release(p)
		time.Sleep(idleFor - sweepEvery) // virtual
		if p.size() != 3 {
			t.Error("the connection went early")
		}
		time.Sleep(2 * sweepEvery)
		synctest.Wait()
		if p.size() != 2 || s.size() != 1 {
			t.Errorf("after %s there are %d connections in %d pools, want the two in use", idleFor+sweepEvery, p.size(), s.size())
		}
		for _, c := range used {
			p.Put(c, clock.Now())
		}
		time.Sleep(idleFor + sweepEvery)
		synctest.Wait()
		if !p.empty() || s.size() != 0 {
			t.Errorf("at the end the pool is empty: %v, pools: %d", p.empty(), s.size())
		}
		cancel()
		<-done
	})
}

// An endpoint that has left may still get a request from whoever chose it before.
func TestReleasedPoolKeepsNothing(t *testing.T) {
	s := NewSet(piped)
	p := s.Acquire(Target{Address: "a"})
	p.SetLimits(Limits{Waiters: -1, MinIdle: 1, Idle: time.Second})
	p.Put(open(t, p), clock.Now())
	s.Release(p)
	s.sweep(clock.Now() + int64(time.Second))
	if s.size() != 0 {
		t.Fatal("the pool is kept, and nobody uses it")
	}
	c := open(t, p)
	p.Put(c, clock.Now())
	if !p.empty() {
		t.Error("a connection is kept where no sweep finds it")
	}
	if next := s.Acquire(Target{Address: "a"}); next == p {
		t.Error("the target has the old pool")
	}
}

// A sweep costs nothing for pools without connections, and one that nobody holds is
// gone with its last one.
func TestEmptyPools(t *testing.T) {
	s := NewSet(piped)
	held, p := s.Acquire(Target{Address: "held"}), s.Acquire(Target{Address: "a"})
	s.Release(s.Acquire(Target{Address: "unused"}))
	if s.size() != 2 || len(s.active) != 0 {
		t.Fatalf("there are %d pools, %d of them with connections; want 2 and none", s.size(), len(s.active))
	}
	c, kept := open(t, p), open(t, held)
	s.Release(p)
	s.sweep(clock.Now())
	if s.size() != 2 || len(s.active) != 2 {
		t.Errorf("there are %d pools, %d of them with connections; want both", s.size(), len(s.active))
	}
	p.Close(c)
	held.Close(kept)
	s.sweep(clock.Now())
	if s.size() != 1 || s.Acquire(Target{Address: "held"}) != held || len(s.active) != 0 {
		t.Errorf("at the end there are %d pools, %d of them with connections", s.size(), len(s.active))
	}
	// One that has been forgotten takes nothing from its successor.
	next := s.Acquire(Target{Address: "a"})
	p.Put(open(t, p), clock.Now())
	s.sweep(clock.Now())
	if s.Acquire(Target{Address: "a"}) != next || !p.empty() || len(s.active) != 0 {
		t.Error("the old pool is in the way of the new one")
	}
}

// Connections that are too old go once they are idle, and so do all but MinIdle
// of those that have been idle for long.
func TestLifeAndMinIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewSet(piped).Acquire(Target{Address: "a"})
		p.SetLimits(Limits{Waiters: -1, MinIdle: 1, Idle: 10 * time.Second, Life: time.Minute})
		a, b := open(t, p), open(t, p)
		p.Put(a, clock.Now())
		p.Put(b, clock.Now())
		time.Sleep(11 * time.Second)
		p.expire(clock.Now())
		if p.size() != 1 || p.Get() != b {
			t.Errorf("%d connections are open, want the one that was used last", p.size())
		}
		time.Sleep(50 * time.Second)
		p.Put(b, clock.Now())
		if !p.empty() {
			t.Error("a connection outlives its time")
		}
		p.Put(open(t, p), clock.Now())
		time.Sleep(time.Minute)
		p.expire(clock.Now())
		if !p.empty() {
			t.Error("an idle connection outlives its time")
		}
	})
}

// No more than MaxOpen at a time; those who wait come in their order, and no
// more than Waiters of them.
func TestMaxOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewSet(piped).Acquire(Target{Address: "a"})
		p.SetLimits(Limits{MaxOpen: 2, Waiters: 2})
		a, b := open(t, p), open(t, p)
		got := make(chan *Conn, 2)
		for range 2 {
			go func() {
				c, err := p.Open(t.Context())
				if err != nil {
					t.Error(err)
				}
				got <- c
			}()
			synctest.Wait()
		}
		if _, err := p.Open(t.Context()); !errors.Is(err, ErrBusy) {
			t.Errorf("a third waiter: %v", err)
		}
		p.Put(a, clock.Now())
		if c := <-got; c != a || !c.Reused {
			t.Error("the first who waits does not get the connection")
		}
		p.Close(b)
		c := <-got
		if c == nil || c == b || c.Reused {
			t.Error("the second who waits does not make a connection")
		}
		if p.size() != 2 {
			t.Errorf("%d connections are open", p.size())
		}

		// Who stops waiting is passed over, and takes nothing away.
		short, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("no time"))
		defer cancel()
		if _, err := p.Open(short); err == nil || !errors.Is(err, ErrBusy) || !strings.HasSuffix(err.Error(), ": no time") {
			t.Errorf("got %v", err)
		}
		if len(p.waiting) != 0 {
			t.Error("it still waits")
		}
		// A tunnel takes its connection out of the count.
		p.Hijack(a)
		_ = a.Conn.Close()
		d := open(t, p)
		p.Close(c)
		p.Close(d)
		if !p.empty() {
			t.Errorf("%d connections are open", p.size())
		}
	})
}

// A failed dial makes room for the next who waits.
func TestFailedDialMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		calls := 0
		p := NewSet(func(ctx context.Context, target Target) (net.Conn, error) {
			if calls++; calls == 1 {
				<-release
				return nil, errors.New("refused")
			}
			return piped(ctx, target)
		}).Acquire(Target{Address: "a"})
		p.SetLimits(Limits{MaxOpen: 1, Waiters: -1})
		failed := make(chan error)
		go func() {
			_, err := p.Open(t.Context())
			failed <- err
		}()
		synctest.Wait()
		got := make(chan *Conn)
		go func() {
			c, err := p.Open(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
		synctest.Wait()
		close(release)
		if err := <-failed; err == nil {
			t.Error("the dial did not fail")
		}
		p.Close(<-got)
	})
}

// Tighter limits hold for what is there already, and looser ones for who waits.
func TestLimitsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewSet(piped).Acquire(Target{Address: "a"})
		a, b := open(t, p), open(t, p)
		p.SetLimits(Limits{MaxOpen: 1, Waiters: -1})
		p.Put(a, clock.Now())
		if p.size() != 1 || p.Get() != nil {
			t.Error("a connection beyond the limit was kept")
		}
		got := make(chan *Conn)
		go func() {
			c, err := p.Open(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
		synctest.Wait()
		p.SetLimits(Limits{MaxOpen: 2, Waiters: -1})
		c := <-got
		p.Close(b)
		p.Close(c)
		if !p.empty() {
			t.Errorf("at the end %d connections count as open", p.size())
		}
	})
}

// Who finds none idle, and finds all in use a moment later, gets the one that has
// come back in between.
func TestIdleConnectionsAreNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewSet(piped).Acquire(Target{Address: "a"})
		p.SetLimits(Limits{MaxOpen: 1, Waiters: -1})
		a := open(t, p)
		if p.Get() != nil {
			t.Fatal("the connection is in use, and idle")
		}
		p.Put(a, clock.Now())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if c, err := p.Open(ctx); c != a || !c.Reused {
			t.Errorf("got %v, %v", c, err)
		}
		// One that its peer has closed is as good as none.
		a.state = left{}
		p.mu.Lock()
		p.idle = append(p.idle, a)
		p.mu.Unlock()
		if c, err := p.Open(ctx); err != nil || c == a || c.Reused || p.size() != 1 {
			t.Errorf("instead of a stale one: %v, %v, %d open", c, err, p.size())
		}
	})
}

// left is the transport of a connection whose peer has closed it.
type left struct{}

func (left) Readable() bool                           { return true }
func (left) Expire(int64)                             {}
func (left) SetPatience(time.Duration, time.Duration) {}

// A connection that is of no use when it comes back, or that is dropped, makes room
// for who waits.
func TestLostConnectionsMakeRoom(t *testing.T) {
	for name, lose := range map[string]func(*Pool, *Conn){
		"stale":    func(p *Pool, c *Conn) { c.state = left{}; p.Put(c, clock.Now()) },
		"dropped":  func(_ *Pool, c *Conn) { c.Drop() },
		"hijacked": func(p *Pool, c *Conn) { p.Hijack(c); c.Drop() },
	} {
		synctest.Test(t, func(t *testing.T) {
			p := NewSet(piped).Acquire(Target{Address: "a"})
			p.SetLimits(Limits{MaxOpen: 1, Waiters: -1})
			a := open(t, p)
			go func() {
				synctest.Wait() // until the test waits
				lose(p, a)
			}()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := p.Open(ctx); err != nil || p.size() != 1 {
				t.Errorf("%s: %v, and %d connections count as open", name, err, p.size())
			}
		})
	}
}
