package handover

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("HANDOVER_CHILD") != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

// socketName returns a name that no other test uses.
func socketName(t *testing.T) string {
	return fmt.Sprintf("@tulle-test/%d/%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "."))
}

// freePort returns an address that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// authority signs certificates for tests.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	a.key, a.cert = sign(t, nil, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.pool.AddCert(a.cert)
	return a
}

func sign(t *testing.T, by *authority, template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// identify sets the TLS of a process that is name and expects the same.
func (a *authority) identify(t *testing.T, cfg *Config, name string) {
	t.Helper()
	key, cert := sign(t, a, &x509.Certificate{DNSNames: []string{name}})
	own := []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
	cfg.Client = &tls.Config{Certificates: own, RootCAs: a.pool, ServerName: name}
	cfg.Server = &tls.Config{Certificates: own, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert,
		VerifyConnection: func(state tls.ConnectionState) error { return state.PeerCertificates[0].VerifyHostname(name) }}
}

// process is one generation: a Set and an HTTP server on each of its listeners.
type process struct {
	t      *testing.T
	name   string
	set    *Set
	stop   context.CancelFunc
	ended  chan struct{} // when Run has returned
	err    error
	open   atomic.Int64 // connections
	quiet  chan struct{}
	served atomic.Int64
	wg     sync.WaitGroup
}

// start runs a process that answers requests with its name.
func start(t *testing.T, name string, cfg Config, addresses ...string) *process {
	t.Helper()
	p, err := tryStart(t, t.Context(), name, cfg, addresses...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryStart(t *testing.T, ctx context.Context, name string, cfg Config, addresses ...string) (*process, error) {
	cfg.Patience = 10 * time.Second
	cfg.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})).With("process", name)
	set, err := Listen(ctx, cfg, addresses...)
	if err != nil {
		return nil, err
	}
	p := &process{t: t, name: name, set: set, ended: make(chan struct{}), quiet: make(chan struct{}, 1)}
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.wg.Go(func() {
		defer close(p.ended)
		p.err = set.Run(ctx)
	})
	for _, ln := range set.Listeners() {
		p.serve(ctx, ln)
	}
	t.Cleanup(p.end)
	return p, nil
}

func (p *process) serve(ctx context.Context, ln net.Listener) {
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.served.Add(1)
		if p.set.Leaving() {
			w.Header().Set("Connection", "close")
		}
		fmt.Fprint(w, p.name)
	}), ConnState: func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			p.open.Add(1)
		case http.StateClosed:
			if p.open.Add(-1) == 0 {
				select {
				case p.quiet <- struct{}{}:
				default:
				}
			}
		}
	}}
	p.wg.Go(func() {
		if err := server.Serve(ln); err != nil && !errors.Is(err, net.ErrClosed) {
			p.t.Errorf("%s: %v", p.name, err)
		}
	})
	p.wg.Go(func() {
		<-ctx.Done()
		_ = ln.Close()
	})
	p.t.Cleanup(func() { _ = server.Close() })
}

// drained waits until the process has no connections.
func (p *process) drained() {
	for p.open.Load() > 0 {
		select {
		case <-p.quiet:
		case <-time.After(10 * time.Second):
			p.t.Errorf("%s still has %d connections", p.name, p.open.Load())
			return
		}
	}
}

func (p *process) end() {
	p.stop()
	p.wg.Wait()
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// await polls what can only be looked at.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// load sends requests without a pause, and repeats none: half of its clients
// make a connection for each, the others keep theirs until they are told to
// close it.
type load struct {
	answers atomic.Int64
	dials   atomic.Int64
	stop    func()

	mu   sync.Mutex
	from map[string]int // answers by name
	errs []error
}

func startLoad(t *testing.T, address string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{from: map[string]int{}}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := l.connection(ctx, address, i%2 == 0); err != nil {
					l.mu.Lock()
					l.errs = append(l.errs, err)
					l.mu.Unlock()
				}
			}
		})
	}
	l.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(l.stop)
	return l
}

// connection sends requests on one connection, as long as it may.
func (l *load) connection(ctx context.Context, address string, keep bool) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	l.dials.Add(1)
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	for first := true; first || keep && ctx.Err() == nil; first = false {
		if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
			return err
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		name, err := bufio.NewReader(res.Body).ReadString(0)
		if name == "" {
			return fmt.Errorf("no answer: %w", err)
		}
		l.answers.Add(1)
		l.mu.Lock()
		l.from[name]++
		l.mu.Unlock()
		if res.Close {
			return nil
		}
	}
	return nil
}

// advance waits for n more answers.
func (l *load) advance(t *testing.T, n int64) {
	t.Helper()
	from := l.answers.Load()
	await(t, "answers", func() bool { return l.answers.Load() >= from+n })
}

func (l *load) check(t *testing.T) {
	t.Helper()
	l.stop()
	t.Logf("%d answers on %d connections", l.answers.Load(), l.dials.Load())
	for _, err := range l.errs {
		t.Errorf("a request failed: %v", err)
	}
}

// Twenty generations follow each other under load, and no request fails.
func TestHandoversUnderLoad(t *testing.T) {
	for _, proof := range []string{"by TLS", "by user"} {
		t.Run(proof, func(t *testing.T) {
			cfg := Config{Socket: socketName(t), Ready: func(context.Context) error { return nil }}
			if proof == "by TLS" {
				newAuthority(t).identify(t, &cfg, "host")
			}
			address := freePort(t)
			p := start(t, "0", cfg, address)
			l := startLoad(t, address)
			for i := range 20 {
				l.advance(t, 100)
				next := start(t, fmt.Sprint(i+1), cfg, address)
				if !p.set.Leaving() || next.set.Leaving() {
					t.Fatalf("after handover %d the old process leaves: %v, the new one: %v", i, p.set.Leaving(), next.set.Leaving())
				}
				p.drained()
				p.end()
				p = next
			}
			l.advance(t, 100)
			l.check(t)
			if len(l.from) != 21 {
				t.Errorf("answers came from %v", l.from)
			}
		})
	}
}

// While the new process is not ready, the old one serves; when the old one ends
// meanwhile, the new one listens at once.
func TestNewProcessWaitsUntilReady(t *testing.T) {
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprintf("old one dies=%v", dies), func(t *testing.T) {
			address, socket := freePort(t), socketName(t)
			old := start(t, "old", Config{Socket: socket}, address)
			asked, ready := make(chan struct{}), make(chan struct{})
			started := make(chan *process, 1)
			go func() {
				p, err := tryStart(t, t.Context(), "new", Config{Socket: socket, Ready: func(ctx context.Context) error {
					close(asked)
					select {
					case <-ready:
					case <-ctx.Done():
					}
					return ctx.Err()
				}}, address)
				if err != nil {
					t.Error(err)
				}
				started <- p
			}()
			<-asked
			if old.set.Leaving() {
				t.Error("the old process left before the new one was ready")
			}
			if dies {
				old.end()
			} else {
				close(ready)
			}
			if p := <-started; p == nil || p.set.Leaving() || !dies && !old.set.Leaving() {
				t.Errorf("the new process does not serve: %+v", p)
			}
		})
	}
}

// When the process that took over is told to stop before the old one is, the old
// one serves again.
func TestGivesBack(t *testing.T) {
	address, cfg := freePort(t), Config{Socket: socketName(t), Linger: 20 * time.Millisecond}
	old := start(t, "old", cfg, address)
	l := startLoad(t, address)
	for i := range 5 {
		l.advance(t, 50)
		next := start(t, fmt.Sprint("new ", i), cfg, address)
		l.advance(t, 50)
		ctx, stop := context.WithCancel(t.Context())
		lingering, done := next.set.Linger(ctx)
		stop()
		<-lingering.Done()
		await(t, "the old process to serve again", func() bool { return !old.set.Leaving() && next.set.Leaving() })
		next.drained()
		next.end()
		done()
	}
	l.advance(t, 50)
	l.check(t)
	if len(l.from) != 6 {
		t.Errorf("answers came from %v", l.from)
	}
	// With nobody to give them back to, it does not linger.
	next := start(t, "last", cfg, address)
	old.end()
	await(t, "the end of the old one to be noticed", func() bool { return next.set.predecessor() == nil })
	ctx, stop := context.WithCancel(t.Context())
	lingering, done := next.set.Linger(ctx)
	defer done()
	stop()
	<-lingering.Done()
	if next.set.Leaving() {
		t.Error("it gave the listeners back to nobody")
	}
}

// The first process of three holds no reserve for the third.
func TestReserveIsReleased(t *testing.T) {
	address, socket := freePort(t), socketName(t)
	first := start(t, "first", Config{Socket: socket}, address)
	second := start(t, "second", Config{Socket: socket}, address)
	third := start(t, "third", Config{Socket: socket}, address)
	l := startLoad(t, address)
	l.advance(t, 50)
	second.end() // it was in reserve, and this is no reason for the first to serve
	l.advance(t, 50)
	l.check(t)
	if !first.set.Leaving() || l.from["third"] == 0 || len(l.from) != 1 {
		t.Errorf("the first leaves: %v, answers from %v", first.set.Leaving(), l.from)
	}
	third.end()
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("the address is still listened on")
	}
	start(t, "fourth", Config{Socket: socket}, address)
}

// Many processes start at once: one listens, the others follow in some order,
// and in the end one of them accepts.
func TestManyAtOnce(t *testing.T) {
	address, socket := freePort(t), socketName(t)
	var all [8]*process
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			p, err := tryStart(t, t.Context(), fmt.Sprint(i), Config{Socket: socket}, address)
			if err != nil {
				t.Errorf("process %d: %v", i, err)
				return
			}
			all[i] = p
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	var serving []string
	await(t, "one to serve", func() bool {
		serving = nil
		for _, p := range all {
			if !p.set.Leaving() {
				serving = append(serving, p.name)
			}
		}
		return len(serving) == 1
	})
	l := startLoad(t, address)
	l.advance(t, 50)
	l.check(t)
	if l.from[serving[0]] == 0 || len(l.from) != 1 {
		t.Errorf("%v serves, answers came from %v", serving, l.from)
	}
}

// A process that cannot prove to be one of us gets nothing, and takes nothing
// from the one that serves.
func TestStrangersAreRefused(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	address := freePort(t)
	cfg := Config{Socket: socketName(t)}
	ours.identify(t, &cfg, "host")
	old := start(t, "old", cfg, address)
	for what, identify := range map[string]func(*Config){
		"another identity": func(c *Config) { ours.identify(t, c, "pod") },
		"another identity that expects ours": func(c *Config) {
			ours.identify(t, c, "pod")
			c.Client.ServerName = "host"
		},
		"another mesh": func(c *Config) { theirs.identify(t, c, "host") },
		"no proof":     func(*Config) {},
	} {
		t.Run(what, func(t *testing.T) {
			stranger := Config{Socket: cfg.Socket}
			identify(&stranger)
			s := &Set{cfg: stranger, log: slog.New(slog.DiscardHandler), addresses: []string{address}}
			if err := s.attempt(t.Context()); !errors.Is(err, errRefused) {
				t.Errorf("got %v, want that it is refused", err)
			} else {
				t.Log(err)
			}
			if s.listeners != nil || old.set.Leaving() {
				t.Error("it got the listeners")
			}
		})
	}
	start(t, "new", cfg, address)
}

// Anything can go wrong between the two; the old process goes on.
func TestNewProcessFails(t *testing.T) {
	address := freePort(t)
	cfg := Config{Socket: socketName(t)}
	old := start(t, "old", cfg, address)
	l := startLoad(t, address)
	dial := func() *link {
		c, err := net.Dial("unix", cfg.Socket)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := connect(t.Context(), c.(*net.UnixConn), nil)
		if err != nil {
			t.Fatal(err)
		}
		return peer
	}
	for what, fail := range map[string]func(*link){
		"it says nothing":           func(*link) {},
		"it speaks another version": func(l *link) { _ = l.send(message{Version: 99}); _, _ = l.receive() },
		"it speaks nonsense":        func(l *link) { _, _ = l.conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")) },
		"it asks and ends":          func(l *link) { _ = l.send(message{Version: version, Addresses: []string{address}}) },
		"it takes the files and ends": func(l *link) {
			_ = l.send(message{Version: version, Addresses: []string{address}})
			if _, err := l.receive(); err != nil || len(l.files.received) != 2 {
				t.Errorf("got %d files, %v", len(l.files.received), err)
			}
		},
		"it takes the files and says something else": func(l *link) {
			_ = l.send(message{Version: version, Addresses: []string{address}})
			_, _ = l.receive()
			_ = l.send(message{Release: true})
			if _, err := l.receive(); err == nil {
				t.Error("the old process confirmed")
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			peer := dial()
			fail(peer)
			peer.close()
			l.advance(t, 20)
			if old.set.Leaving() {
				t.Error("the old process has left")
			}
		})
	}
	start(t, "new", cfg, address)
	l.advance(t, 20)
	l.check(t)
}

// The old process can end at any moment; the new one listens all the same.
func TestOldProcessFails(t *testing.T) {
	for what, fail := range map[string]func(*link, *Set){
		"before the question": func(*link, *Set) {},
		"before the files":    func(l *link, _ *Set) { _, _ = l.receive() },
		"after the files": func(l *link, s *Set) {
			_, _ = l.receive()
			give(l, s)
		},
		"before it confirms": func(l *link, s *Set) {
			_, _ = l.receive()
			give(l, s)
			_, _ = l.receive()
		},
	} {
		t.Run(what, func(t *testing.T) {
			address := freePort(t)
			cfg := Config{Socket: socketName(t)}
			old, err := Listen(t.Context(), cfg, address)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				c, err := old.control.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				l, err := accept(t.Context(), c.(*net.UnixConn), nil)
				if err != nil {
					t.Error(err)
				}
				fail(l, old)
				old.close()
				_ = old.listeners[0].Close()
				l.close()
			}()
			p := start(t, "new", cfg, address)
			<-done
			l := startLoad(t, address)
			l.advance(t, 20)
			l.check(t)
			p.end()
		})
	}
}

func give(l *link, s *Set) {
	opened, _ := files(s.listeners[0], s.control)
	_ = l.send(message{Version: version, Addresses: s.addresses}, opened...)
	closeAll(opened)
}

// An address that changes with the new process is listened on anew, and the old
// one goes on with those that are not wanted.
func TestAddressesChange(t *testing.T) {
	stays, goes, comes := freePort(t), freePort(t), freePort(t)
	cfg := Config{Socket: socketName(t)}
	start(t, "old", cfg, stays, goes)
	next := start(t, "new", cfg, comes, stays)
	for address, want := range map[string]string{stays: "new", comes: "new", goes: "old"} {
		l := startLoad(t, address)
		l.advance(t, 20)
		l.check(t)
		if l.from[want] == 0 || len(l.from) != 1 {
			t.Errorf("%s is answered by %v, want %s", address, l.from, want)
		}
	}
	next.end()
	l := startLoad(t, stays)
	l.advance(t, 20)
	l.check(t)
	if l.from["old"] == 0 {
		t.Errorf("answers came from %v", l.from)
	}
}

// A port of all interfaces is one listener, however it is spelled. (What a process was about to accept may be its last.)
func TestSpellingChanges(t *testing.T) {
	address, cfg := freePort(t), Config{Socket: socketName(t)}
	_, port, _ := strings.Cut(address, "127.0.0.1")
	start(t, "old", cfg, "0.0.0.0"+port)
	next := start(t, "new", cfg, port)
	for _, want := range []string{"new", "old"} {
		l := startLoad(t, address)
		l.advance(t, 20)
		if l.check(t); l.from[want] < 10 {
			t.Errorf("answers came from %v, want %s", l.from, want)
		}
		next.end()
	}
}

func TestAddressInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := Listen(t.Context(), Config{}, ln.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("without a socket: %v", err)
	}
	s := &Set{cfg: Config{Socket: socketName(t)}, log: slog.New(slog.DiscardHandler), addresses: []string{freePort(t), ln.Addr().String()}}
	err = s.attempt(t.Context())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "no process hands it over at @tulle-test/") {
		t.Errorf("with a socket: %v", err)
	}
	if _, err := Listen(t.Context(), Config{Socket: socketName(t)}, "256.0.0.1:1"); err == nil || errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("no address: %v", err)
	}
	// A process that stops gives up at once.
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := Listen(ctx, Config{Socket: socketName(t), Patience: time.Minute}, ln.Addr().String()); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}

func TestServing(t *testing.T) {
	cfg := Config{Socket: socketName(t), Name: "one"}
	if err := Serving(t.Context(), cfg.Socket, "one"); err == nil {
		t.Error("a process that does not run serves")
	}
	one := start(t, "one", cfg, freePort(t))
	for range 3 {
		if err := Serving(t.Context(), cfg.Socket, "one"); err != nil {
			t.Error(err)
		}
	}
	if err := Serving(t.Context(), cfg.Socket, "two"); err == nil {
		t.Error("one is taken for two")
	}
	one.end()
	if err := Serving(t.Context(), cfg.Socket, "one"); err == nil {
		t.Error("a process that has ended serves")
	}
}

func TestLingerAndExit(t *testing.T) {
	address := freePort(t)
	cfg := Config{Socket: socketName(t), Linger: 50 * time.Millisecond, Exit: true}
	old := start(t, "old", cfg, address)
	ctx, cancel := context.WithCancel(t.Context())
	lingering, done := old.set.Linger(ctx)
	defer done()
	began := time.Now()
	next := start(t, "new", cfg, address)
	cancel()
	<-lingering.Done()
	if d := time.Since(began); d < cfg.Linger {
		t.Errorf("it lingered for %v, want %v", d, cfg.Linger)
	}
	<-old.ended
	if !errors.Is(old.err, ErrReplaced) {
		t.Errorf("the old process ended with %v", old.err)
	}
	// One that has not handed over does not linger.
	ctx, cancel = context.WithCancel(t.Context())
	lingering, done = next.set.Linger(ctx)
	defer done()
	cancel()
	<-lingering.Done()
	next.end()
	if next.err != nil {
		t.Errorf("the new process ended with %v", next.err)
	}
}

// child is a process of its own: it takes over, says so, and serves until it is
// killed, or fails in the middle as HANDOVER_CHILD says.
func child() {
	socket, address := os.Getenv("HANDOVER_SOCKET"), os.Getenv("HANDOVER_ADDRESS")
	cfg := Config{Socket: socket}
	if os.Getenv("HANDOVER_CHILD") == "die in between" {
		c, err := net.Dial("unix", socket)
		if err == nil {
			l, _ := connect(context.Background(), c.(*net.UnixConn), nil)
			_ = l.send(message{Version: version, Addresses: []string{address}})
			_, err = l.receive()
		}
		fmt.Println("serving", err)
		select {}
	}
	set, err := Listen(context.Background(), cfg, address)
	if err != nil {
		fmt.Println("failed", err)
		return
	}
	go func() { _ = set.Run(context.Background()) }()
	fmt.Println("serving")
	_ = http.Serve(set.Listeners()[0], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, "child")
	}))
}

// Real processes, the new one killed without a word: after it took over, and in
// the middle of the handover.
func TestKilledProcess(t *testing.T) {
	for _, how := range []string{"serve", "die in between"} {
		t.Run(how, func(t *testing.T) {
			address, socket := freePort(t), socketName(t)
			old := start(t, "old", Config{Socket: socket}, address)
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "HANDOVER_CHILD="+how, "HANDOVER_SOCKET="+socket, "HANDOVER_ADDRESS="+address)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, _ := bufio.NewReader(out).ReadString('\n')
			if !strings.HasPrefix(line, "serving") {
				t.Fatalf("the child says %q", line)
			}
			if how == "serve" {
				l := startLoad(t, address)
				l.advance(t, 20)
				l.check(t)
				if l.from["child"] == 0 || len(l.from) != 1 || !old.set.Leaving() {
					t.Errorf("answers came from %v", l.from)
				}
			}
			// One that is in the queue when the process is killed is served by the old one.
			if err := syscall.Kill(cmd.Process.Pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			answered := make(chan error, 1)
			l := &load{from: map[string]int{}}
			go func() { answered <- l.connection(t.Context(), address, false) }()
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if err := <-answered; err != nil && how != "serve" {
				t.Error(err)
			}
			await(t, "the old process to serve", func() bool { return !old.set.Leaving() })
			l = startLoad(t, address)
			l.advance(t, 20)
			l.check(t)
			if l.from["old"] == 0 || len(l.from) != 1 {
				t.Errorf("answers came from %v", l.from)
			}
		})
	}
}
