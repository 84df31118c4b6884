package tunnel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/sidecar/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// conn is what the tests need of a connection.
type conn interface {
	net.Conn
	CloseWrite() error
}

// plain hides that a connection can have the kernel move bytes.
type plain struct{ conn }

func (p plain) SetLinger(sec int) error { return p.conn.(*net.TCPConn).SetLinger(sec) }

// tcpPair returns both ends of a TCP connection.
func tcpPair(t testing.TB) (ours, peer *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	dialed, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = dialed.Close(), accepted.Close() })
	return accepted.(*net.TCPConn), dialed.(*net.TCPConn)
}

// kinds of connections that a tunnel may have to join.
var kinds = map[string]func(t testing.TB) (ours, peer conn){
	"splice": func(t testing.TB) (conn, conn) { a, b := tcpPair(t); return a, b },
	"copy":   func(t testing.TB) (conn, conn) { a, b := tcpPair(t); return plain{a}, b },
	"socket": socketPair,
	"TLS":    func(t testing.TB) (conn, conn) { a, b := tlsPair(t); return a, b },
}

// socketPair returns a connection of the proxy's own kind and its peer.
func socketPair(t testing.TB) (ours, peer conn) {
	t.Helper()
	poller, err := socket.Open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- poller.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	dialed, err := poller.Dial(ctx, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return dialed.(conn), accepted.(*net.TCPConn)
}

// tlsPair returns both ends of a TLS connection, with the handshake done.
func tlsPair(t testing.TB) (ours, peer *tls.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a, b := tcpPair(t)
	ours = tls.Server(a, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	peer = tls.Client(b, &tls.Config{InsecureSkipVerify: true})
	failed := make(chan error, 1)
	go func() { failed <- ours.Handshake() }()
	if err := errors.Join(peer.Handshake(), <-failed); err != nil {
		t.Fatal(err)
	}
	return ours, peer
}

// result is what Copy returned.
type result struct {
	stats Stats
	err   error
}

func start(ctx context.Context, a, b net.Conn, aHead, bHead string, idle time.Duration) chan result {
	done := make(chan result, 1)
	go func() {
		stats, err := Copy(ctx, a, b, []byte(aHead), []byte(bHead), Config{Idle: idle})
		done <- result{stats, err}
	}()
	return done
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := mathrand.New(mathrand.NewPCG(uint64(n), 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Everything arrives in both directions at once, in any pieces, the heads first,
// and each end of input arrives at its own time.
func TestEverythingArrives(t *testing.T) {
	for name, pair := range kinds {
		t.Run(name, func(t *testing.T) {
			a, aPeer := pair(t)
			b, bPeer := pair(t)
			done := start(t.Context(), a, b, "from a ", "from b ", time.Minute)
			up, down := noise(3<<20+17), noise(5<<20+1)
			var wg sync.WaitGroup
			wg.Go(func() {
				for rest := up; len(rest) > 0; {
					n := min(len(rest), 1+len(rest)*7%70_000)
					if _, err := aPeer.Write(rest[:n]); err != nil {
						t.Error(err)
						return
					}
					rest = rest[n:]
				}
				_ = aPeer.CloseWrite()
			})
			wg.Go(func() {
				got, err := io.ReadAll(bPeer)
				if want := "from a " + string(up); err != nil || string(got) != want {
					t.Errorf("b got %d bytes, want %d; %v", len(got), len(want), err)
				}
				// a sends no more, but b does.
				if _, err := bPeer.Write(down); err != nil {
					t.Error(err)
				}
				_ = bPeer.CloseWrite()
			})
			got, err := io.ReadAll(aPeer)
			if want := "from b " + string(down); err != nil || string(got) != want {
				t.Errorf("a got %d bytes, want %d; %v", len(got), len(want), err)
			}
			wg.Wait()
			res := <-done
			if want := (Stats{int64(len(up)) + 7, int64(len(down)) + 7}); res.err != nil || res.stats != want {
				t.Errorf("Copy returned %+v, %v; want %+v", res.stats, res.err, want)
			}
		})
	}
}

// Small messages are handed on one by one, nobody waits for more.
func TestPingPong(t *testing.T) {
	for name, pair := range kinds {
		t.Run(name, func(t *testing.T) {
			a, aPeer := pair(t)
			b, bPeer := pair(t)
			done := start(t.Context(), a, b, "", "", 0)
			for size := 1; size < 200_000; size = size*3 + 1 {
				message := noise(size)
				for _, ends := range [][2]conn{{aPeer, bPeer}, {bPeer, aPeer}} {
					sent := make(chan error, 1)
					go func() { _, err := ends[0].Write(message); sent <- err }()
					got := make([]byte, size)
					if _, err := io.ReadFull(ends[1], got); err != nil || !bytes.Equal(got, message) {
						t.Fatalf("a message of %d bytes: %v", size, err)
					}
					if err := <-sent; err != nil {
						t.Fatal(err)
					}
				}
			}
			_, _ = aPeer.Close(), bPeer.Close()
			if res := <-done; res.err != nil {
				t.Error(res.err)
			}
		})
	}
}

// A peer that fails must not look to the other like one that is done.
func TestResetReachesTheOtherSide(t *testing.T) {
	for _, bulk := range []bool{false, true} {
		for _, name := range []string{"splice", "copy", "socket"} {
			t.Run(fmt.Sprint(name, bulk), func(t *testing.T) {
				a, aPeer := kinds[name](t)
				b, bPeer := kinds[name](t)
				done := start(t.Context(), a, b, "", "", 0)
				size := 10
				if bulk {
					size = 100_000
				}
				if _, err := aPeer.Write(noise(size)); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(bPeer, make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				_ = aPeer.(*net.TCPConn).SetLinger(0)
				_ = aPeer.Close()
				if _, err := bPeer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the other side saw %v, want a reset", err)
				}
				if res := <-done; !errors.Is(res.err, syscall.ECONNRESET) || res.stats.AToB != int64(size) {
					t.Errorf("Copy returned %+v, want a reset", res)
				}
			})
		}
	}
}

func TestResetReachesTheOtherSideOfTLS(t *testing.T) {
	a, aPeer := tlsPair(t)
	b, bPeer := tlsPair(t)
	done := start(t.Context(), a, b, "", "", 0)
	_ = aPeer.NetConn().(*net.TCPConn).SetLinger(0)
	_ = aPeer.NetConn().Close()
	// No close_notify may come either.
	if _, err := bPeer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other side saw %v, want a reset", err)
	}
	if res := <-done; !errors.Is(res.err, syscall.ECONNRESET) {
		t.Errorf("Copy returned %v, want a reset", res.err)
	}
}

// A server that has said all it has to and hangs up, while the client still
// sends: the client gets every byte of the answer, and an orderly end.
func TestEarlyAnswerArrives(t *testing.T) {
	for name, pair := range kinds {
		t.Run(name, func(t *testing.T) {
			a, aPeer := pair(t)
			b, bPeer := pair(t)
			done := start(t.Context(), a, b, "", "", 0)
			answer := noise(1 << 20)
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := bPeer.Write(answer); err != nil {
					t.Error(err)
				}
				_ = bPeer.Close()
			})
			got := make([]byte, len(answer))
			if _, err := io.ReadFull(aPeer, got); err != nil || !bytes.Equal(got, answer) {
				t.Fatalf("the answer is damaged: %v", err)
			}
			wg.Wait()
			wg.Go(func() {
				for {
					if _, err := aPeer.Write(noise(10_000)); err != nil {
						return
					}
				}
			})
			if n, err := aPeer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("after the answer came %d bytes, %v; want the end", n, err)
			}
			_ = aPeer.Close()
			wg.Wait()
			if res := <-done; res.stats.BToA != int64(len(answer)) {
				t.Errorf("Copy returned %+v", res)
			}
		})
	}
}

// halfClosable is an in-memory connection with half-close, for virtual time.
type halfClosable struct {
	net.Conn          // in
	out      net.Conn // what is written to it arrives at the other's in
}

func (h *halfClosable) Write(p []byte) (int, error) { return h.out.Write(p) }
func (h *halfClosable) CloseWrite() error           { return h.out.Close() }
func (h *halfClosable) Close() error                { return errors.Join(h.Conn.Close(), h.out.Close()) }
func (h *halfClosable) SetDeadline(t time.Time) error {
	return errors.Join(h.Conn.SetReadDeadline(t), h.out.SetWriteDeadline(t))
}
func (h *halfClosable) SetWriteDeadline(t time.Time) error { return h.out.SetWriteDeadline(t) }

func memoryPair() (ours, peer conn) {
	in1, out1 := net.Pipe()
	in2, out2 := net.Pipe()
	return &halfClosable{Conn: in1, out: out2}, &halfClosable{Conn: in2, out: out1}
}

func TestIdle(t *testing.T) {
	const idle = time.Minute
	for _, test := range []struct {
		name string
		act  func(a, b conn) // the peers
		want time.Duration   // until the tunnel ends
	}{
		{"nothing passes", func(a, b conn) {}, idle},
		{"each direction keeps the other alive", func(a, b conn) {
			for range 5 {
				time.Sleep(40 * time.Second) // virtual
				exchange(a, b, 1)
				time.Sleep(40 * time.Second)
				exchange(b, a, 1)
			}
		}, 400*time.Second + idle},
		{"a flow that pauses", func(a, b conn) {
			for range 5 {
				exchange(a, b, 100_000)
				time.Sleep(50 * time.Second)
			}
		}, 200*time.Second + idle},
		{"one half is closed", func(a, b conn) {
			time.Sleep(30 * time.Second)
			_ = a.CloseWrite()
			time.Sleep(20 * time.Second)
			exchange(b, a, 1)
		}, 50*time.Second + idle},
		{"one does not read", func(a, b conn) {
			time.Sleep(30 * time.Second)
			_, _ = a.Write(noise(10)) // a pipe holds nothing: handed over, but not taken
		}, 30*time.Second + idle},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, aPeer := memoryPair()
				b, bPeer := memoryPair()
				began := time.Now()
				done := start(t.Context(), a, b, "", "", idle)
				test.act(aPeer, bPeer)
				if res := <-done; res.err != ErrIdle {
					t.Errorf("Copy returned %v, want ErrIdle", res.err)
				}
				if took := time.Since(began); took != test.want {
					t.Errorf("the tunnel lasted %s, want %s", took, test.want)
				}
			})
		})
	}
}

// exchange sends n bytes from one peer to the other.
func exchange(from, to net.Conn, n int) {
	go func() { _, _ = from.Write(make([]byte, n)) }()
	_, _ = io.ReadFull(to, make([]byte, n))
}

func TestNoIdleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, aPeer := memoryPair()
		b, bPeer := memoryPair()
		done := start(t.Context(), a, b, "", "", 0)
		time.Sleep(1000 * time.Hour) // virtual
		exchange(aPeer, bPeer, 5)
		_, _ = aPeer.Close(), bPeer.Close()
		if res := <-done; res.err != nil || res.stats.AToB != 5 {
			t.Errorf("Copy returned %+v", res)
		}
	})
}

func TestIdleOfRealConnections(t *testing.T) {
	for name, pair := range kinds {
		t.Run(name, func(t *testing.T) {
			a, aPeer := pair(t)
			b, bPeer := pair(t)
			// The head is large: the peer that does not read it blocks the tunnel.
			done := start(t.Context(), a, b, "", string(noise(32<<20)), 50*time.Millisecond)
			if res := <-done; res.err != ErrIdle {
				t.Errorf("Copy returned %v, want ErrIdle", res.err)
			}
			_, _ = aPeer.Close(), bPeer.Close()
		})
	}
}

func TestContextCutsAtOnce(t *testing.T) {
	cause := errors.New("the grace is over")
	for _, test := range []struct {
		name string
		act  func(a, b conn)
	}{
		{"idle", func(a, b conn) {}},
		{"flowing", func(a, b conn) { exchange(a, b, 100_000) }},
		{"blocked", func(a, b conn) { _, _ = a.Write(noise(100)) }},
		{"half-closed", func(a, b conn) { _ = a.CloseWrite() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				a, aPeer := memoryPair()
				b, bPeer := memoryPair()
				done := start(ctx, a, b, "", "", time.Hour)
				test.act(aPeer, bPeer)
				synctest.Wait()
				began := time.Now()
				cancel(cause)
				if res := <-done; res.err != cause {
					t.Errorf("Copy returned %v, want %v", res.err, cause)
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

func TestContextThatHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a, _ := tcpPair(t)
	b, _ := tcpPair(t)
	if _, err := Copy(ctx, a, b, nil, nil, Config{}); err != context.Canceled {
		t.Errorf("Copy returned %v, want %v", err, context.Canceled)
	}
}

// The end of a connection that cannot be half-closed ends the tunnel.
func TestNoHalfClose(t *testing.T) {
	a, aPeer := net.Pipe()
	b, bPeer := net.Pipe()
	done := start(t.Context(), a, b, "head", "", 0)
	got := make([]byte, 4)
	if _, err := io.ReadFull(bPeer, got); err != nil || string(got) != "head" {
		t.Errorf("b got %q, %v", got, err)
	}
	_ = aPeer.Close()
	if _, err := bPeer.Read(got); err != io.EOF {
		t.Errorf("b sees %v, want the end", err)
	}
	if res := <-done; res.err != nil || res.stats != (Stats{AToB: 4}) {
		t.Errorf("Copy returned %+v", res)
	}
}

// discard reads everything and counts it.
func discard(c net.Conn) chan int64 {
	done := make(chan int64, 1)
	go func() { n, _ := io.Copy(io.Discard, c); done <- n }()
	return done
}

// BenchmarkBulk is the cost of a byte on its way from a socket to a socket,
// both ends' own work included.
func BenchmarkBulk(b *testing.B) {
	for _, name := range []string{"splice", "copy", "socket", "TLS"} {
		b.Run(name, func(b *testing.B) {
			const size = 64 << 10
			from, fromPeer := kinds[name](b)
			to, toPeer := kinds[name](b)
			done := start(b.Context(), from, to, "", "", time.Minute)
			received := discard(toPeer)
			block := make([]byte, size)
			var before, after syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			b.SetBytes(size)
			for b.Loop() {
				if _, err := fromPeer.Write(block); err != nil {
					b.Fatal(err)
				}
			}
			_ = fromPeer.CloseWrite()
			_, _ = <-received, toPeer.Close()
			<-done
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			spent := func(u syscall.Rusage) int64 { return u.Utime.Nano() + u.Stime.Nano() }
			b.ReportMetric(float64(spent(after)-spent(before))/float64(b.N), "cpu-ns/op")
			_ = fromPeer.Close()
		})
	}
}

// BenchmarkMessage is a message of 100 bytes there and one back.
func BenchmarkMessage(b *testing.B) {
	for _, name := range []string{"splice", "socket", "TLS"} {
		b.Run(name, func(b *testing.B) {
			from, fromPeer := kinds[name](b)
			to, toPeer := kinds[name](b)
			done := start(b.Context(), from, to, "", "", time.Minute)
			go func() {
				_, _ = io.Copy(struct{ io.Writer }{toPeer}, struct{ io.Reader }{toPeer})
				_ = toPeer.CloseWrite()
			}()
			message := make([]byte, 100)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := fromPeer.Write(message); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(fromPeer, message); err != nil {
					b.Fatal(err)
				}
			}
			_ = fromPeer.CloseWrite()
			<-done
		})
	}
}
