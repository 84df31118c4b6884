//go:build linux

package socket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a poller that runs until the test ends.
func open(t testing.TB) *Poller {
	t.Helper()
	p, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return p
}

func listen(t testing.TB, p *Poller) net.Listener {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := p.Listener(tcp)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// pair returns both ends of a connection, ours and one of package net.
func pair(t testing.TB, p *Poller) (*Conn, *net.TCPConn) {
	t.Helper()
	ln := listen(t, p)
	defer func() { _ = ln.Close() }()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close(); _ = c.Close() })
	return c.(*Conn), peer.(*net.TCPConn)
}

// gone reports whether the peer is known to send nothing more.
func gone(c *Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hup
}

func TestEverythingArrives(t *testing.T) {
	p := open(t)
	for range 20 {
		c, peer := pair(t, p)
		sent := make([]byte, 3<<20)
		for i := range sent {
			sent[i] = byte(rand.Uint32())
		}
		var wg sync.WaitGroup
		wg.Go(func() { // and the end right behind the last byte
			_, _ = peer.Write(sent)
			_ = peer.CloseWrite()
		})
		wg.Go(func() {
			back, err := io.ReadAll(peer)
			if err != nil || !bytes.Equal(back, sent) {
				t.Errorf("came back: %d bytes, %v", len(back), err)
			}
		})
		buf := make([]byte, 1+rand.IntN(64<<10))
		for {
			n, err := c.Read(buf)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(buf[:n]); err != nil {
				t.Fatal(err)
			}
		}
		if !gone(c) {
			t.Error("the peer has ended and is not gone")
		}
		_ = c.Close()
		wg.Wait()
	}
}

func TestReadable(t *testing.T) {
	p := open(t)
	c, peer := pair(t, p)
	if c.Readable() {
		t.Error("readable before anything was sent")
	}
	_, _ = peer.Write([]byte("ab"))
	if err := c.WaitReadable(); err != nil || !c.Readable() || gone(c) {
		t.Errorf("WaitReadable: %v, readable %v, gone %v", err, c.Readable(), gone(c))
	}
	buf := make([]byte, 8)
	if n, err := c.Read(buf); n != 2 || err != nil {
		t.Errorf("Read: %d, %v", n, err)
	}
	if c.Readable() {
		t.Error("readable after all was read")
	}
	_ = peer.Close()
	if err := c.WaitReadable(); err != nil || !gone(c) {
		t.Errorf("WaitReadable: %v, gone %v", err, gone(c))
	}
	for range 2 {
		if _, err := c.Read(buf); err != io.EOF {
			t.Errorf("Read after the end: %v", err)
		}
	}
}

func TestDeadlines(t *testing.T) {
	p := open(t)
	c, peer := pair(t, p)
	buf := make([]byte, 1)
	for _, d := range []time.Duration{-time.Second, time.Millisecond} {
		_ = c.SetReadDeadline(time.Now().Add(d))
		if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %v", err)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_ = c.SetReadDeadline(time.Time{})
	go func() { _, _ = peer.Write([]byte("x")) }()
	if _, err := c.Read(buf); err != nil {
		t.Errorf("Read after the deadline was lifted: %v", err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	var err error
	for err == nil { // until the buffers are full
		_, err = c.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %v", err)
	}
}

func TestPatience(t *testing.T) {
	p := open(t)
	c, peer := pair(t, p)
	c.SetPatience(time.Millisecond, time.Millisecond)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	c.SetPatience(time.Minute, time.Minute)
	_ = c.SetReadDeadline(time.Time{})
	go func() { _, _ = peer.Write([]byte("x")) }()
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Errorf("Read: %v", err)
	}
	if n, err := c.TryRead(make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("TryRead: %d, %v", n, err)
	}
}

func TestDeadlineEndsPark(t *testing.T) {
	p := open(t)
	c, _ := pair(t, p)
	ran := make(chan bool)
	if !c.Park(func() { ran <- true }) {
		t.Fatal("not parked")
	}
	_ = c.SetReadDeadline(time.Unix(1, 0))
	<-ran
}

func BenchmarkEcho(b *testing.B) {
	p := open(b)
	c, peer := pair(b, p)
	go func() { _, _ = io.Copy(peer, peer) }()
	buf := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func TestPark(t *testing.T) {
	p := open(t)
	c, peer := pair(t, p)
	ran := make(chan string, 4)
	if !c.Park(func() { ran <- "first" }) {
		t.Fatal("an idle connection was not parked")
	}
	_, _ = peer.Write([]byte("x"))
	if got := <-ran; got != "first" {
		t.Error(got)
	}
	if c.Park(func() { ran <- "wrong" }) {
		t.Error("parked though a byte is there")
	}
	if _, err := c.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if !c.Park(func() { ran <- "closed" }) {
		t.Fatal("not parked")
	}
	_ = c.Close()
	if got := <-ran; got != "closed" {
		t.Error(got)
	}
}

func TestHangup(t *testing.T) {
	p := open(t)
	c, peer := pair(t, p)
	gone := make(chan bool, 1)
	c.OnHangup(func() { gone <- true })
	_, _ = peer.Write([]byte("pipelined"))
	_ = c.WaitReadable()
	select {
	case <-gone:
		t.Error("bytes are taken for a hangup")
	default:
	}
	_ = peer.CloseWrite()
	<-gone
	c.OnHangup(func() { gone <- true })
	<-gone
}

func TestCloseWakesAll(t *testing.T) {
	p := open(t)
	c, _ := pair(t, p)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read: %v", err)
		}
	})
	wg.Go(func() {
		for {
			if _, err := c.Write(make([]byte, 1<<20)); err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("Write: %v", err)
				}
				return
			}
		}
	})
	_ = c.Close()
	wg.Wait()
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
}

func TestDial(t *testing.T) {
	p := open(t)
	for _, network := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", network)
		if err != nil {
			t.Logf("no %s here: %v", network, err)
			continue
		}
		c, err := p.Dial(context.Background(), ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if c.LocalAddr().String() != peer.RemoteAddr().String() || c.RemoteAddr().String() != peer.LocalAddr().String() {
			t.Errorf("%v-%v is not %v-%v", c.LocalAddr(), c.RemoteAddr(), peer.RemoteAddr(), peer.LocalAddr())
		}
		_, _ = peer.Write([]byte("x"))
		if n, err := c.Read(make([]byte, 9)); n != 1 || err != nil {
			t.Errorf("Read: %d, %v", n, err)
		}
		_ = c.Close()
		_ = peer.Close()
		_ = ln.Close()
		if _, err := p.Dial(context.Background(), ln.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial to nobody: %v", err)
		}
	}
	if _, err := p.Dial(context.Background(), "example:80"); err == nil {
		t.Error("a name was taken for an address")
	}
}

// A listener whose queue is full leaves connections waiting.
func TestDialEndsWithItsContext(t *testing.T) {
	p := open(t)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(context.Background(), 50*time.Millisecond, cause)
	defer cancel()
	for {
		c, err := p.Dial(ctx, addrPort(sa).String())
		if err != nil {
			if !errors.Is(err, cause) {
				t.Errorf("Dial: %v", err)
			}
			return
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

// Connections come and go while others, which get their descriptors, carry data
// that tells whose it is.
func TestNoMixUp(t *testing.T) {
	p := open(t)
	ln := listen(t, p)
	var served sync.WaitGroup
	served.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			c := nc.(*Conn)
			var task func()
			task = func() {
				buf := make([]byte, 64)
				for {
					n, err := c.Read(buf)
					if err != nil {
						_ = c.Close()
						return
					}
					_, _ = c.Write(buf[:n])
					if c.Park(task) {
						return
					}
				}
			}
			if !c.Park(task) {
				served.Go(task)
			}
		}
	})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 100 {
				c, err := p.Dial(context.Background(), ln.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				for k := range 5 {
					sent := []byte{byte(i), byte(j), byte(k)}
					_, _ = c.Write(sent)
					got := make([]byte, 3)
					if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(sent, got) {
						t.Errorf("sent %v, got %v, %v", sent, got, err)
					}
				}
				go func() { _ = c.Close() }()
			}
		})
	}
	wg.Wait()
	_ = ln.Close()
	served.Wait()
}

// The number of a closed connection's descriptor soon belongs to another one,
// which whoever still has the first must not touch.
func TestClosedConnectionIsLeftAlone(t *testing.T) {
	p := open(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	dial := func() *Conn {
		c, err := p.Dial(context.Background(), tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c.(*Conn)
	}
	first := dial()
	_ = first.Close()
	second := dial()
	for first.fd != second.fd { // the lowest number that is free is used next
		second = dial()
	}
	var peer net.Conn
	for peer == nil || peer.RemoteAddr().String() != second.LocalAddr().String() {
		if peer, err = tcp.Accept(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = peer.Close() }()
	}
	buf := make([]byte, 5)
	for name, use := range map[string]func() error{
		"Read":       func() error { _, err := first.Read(buf); return err },
		"TryRead":    func() error { _, err := first.TryRead(buf); return err },
		"Write":      func() error { _, err := first.Write([]byte("stray")); return err },
		"WriteParts": func() error { return first.WriteParts([][]byte{[]byte("stray")}) },
		"CloseWrite": first.CloseWrite,
		"SetLinger":  func() error { return first.SetLinger(0) },
		"Close":      first.Close,
	} {
		if err := use(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s of a closed connection: %v", name, err)
		}
		_ = first.LocalAddr()
		if _, err := second.Write([]byte("hello")); err != nil {
			t.Fatalf("after %s of another: %v", name, err)
		}
		if _, err := io.ReadFull(peer, buf); err != nil || string(buf) != "hello" {
			t.Fatalf("after %s of another: %q, %v", name, buf, err)
		}
	}
}
