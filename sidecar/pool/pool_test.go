package pool

import (
	"context"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
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

func dial(ctx context.Context, t Target) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", t.Address)
}

func TestReuse(t *testing.T) {
	address, accepted := server(t)
	s := NewSet(dial)
	p := s.Acquire(Target{Address: address})
	if s.Acquire(Target{Address: address}) != p {
		t.Fatal("one target has two pools")
	}
	first, err := p.Get(t.Context())
	if err != nil || first.Reused {
		t.Fatal(first, err)
	}
	p.Put(first)
	second, err := p.Get(t.Context())
	if err != nil || second != first || !second.Reused {
		t.Fatalf("the idle connection was not reused: %v", err)
	}
	p.Put(second)

	// A peer that closed, or that said something nobody asked for, is noticed.
	for _, act := range []func(net.Conn){
		func(c net.Conn) { _ = c.Close() },
		func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 408 Request Timeout\r\n\r\n")) },
	} {
		peer := <-accepted
		act(peer)
		for p.idle[0].quiet() { // until it has arrived
			runtime.Gosched()
		}
		c, err := p.Get(t.Context())
		if err != nil || c.Reused {
			t.Fatalf("a spoilt connection was reused: %v", err)
		}
		p.Put(c)
		_ = peer.Close()
	}
	p.close()
	_ = (<-accepted).Close()
}

func TestUnreadInputIsNotPooled(t *testing.T) {
	address, accepted := server(t)
	p := NewSet(dial).Acquire(Target{Address: address})
	c, err := p.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	peer := <-accepted
	_, _ = peer.Write([]byte("x"))
	if err := c.R.Wait(); err != nil {
		t.Fatal(err)
	}
	p.Put(c)
	if !p.empty() {
		t.Error("a connection with unread input was kept")
	}
	_ = peer.Close()
}

func TestIdleConnectionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSet(func(context.Context, Target) (net.Conn, error) {
			a, _ := net.Pipe()
			return a, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Run(ctx) }()
		p := s.Acquire(Target{Address: "a"})
		for range 2 {
			c, err := p.Get(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Put(c)
		}
		c, _ := p.Get(ctx)
		p.Put(c)
		s.Release(p)
		time.Sleep(idleFor - time.Second) // virtual
		if p.empty() {
			t.Error("the connection went early")
		}
		time.Sleep(sweepEvery + 2*time.Second)
		synctest.Wait()
		if !p.empty() || len(s.all()) != 0 {
			t.Errorf("after %s the pool is empty: %v, pools: %d", idleFor+sweepEvery, p.empty(), len(s.all()))
		}
		cancel()
		<-done
		p.close()
	})
}
