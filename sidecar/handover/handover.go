package handover

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// firstWait is how long Listen waits after its first attempt; it doubles, up
	// to a second.
	firstWait = 10 * time.Millisecond
	// stepFor is how long the other side may take for one step of a handover.
	stepFor = 5 * time.Second
	// maxWaiting is how many processes may be connected to an old one at once.
	maxWaiting = 32
)

// ErrReplaced is what Run returns when Config.Exit is set and another process
// has taken over.
var ErrReplaced = errors.New("another process has taken over")

// Config says how processes find and trust each other.
type Config struct {
	// Socket is the name of the Unix socket at which listeners are offered, with
	// an @ in front: it is abstract (unix(7)), belongs to a network namespace and
	// leaves nothing behind. Empty: listeners are neither taken nor offered.
	Socket string
	// Name, if not empty, names this process among those that use Socket, for
	// [Serving].
	Name string
	// Server and Client authenticate the other process, whichever side it is on;
	// both must ask for the same identity. If they are nil, the other process
	// must run as the same user.
	Server, Client *tls.Config
	// Ready, if not nil, waits until this process could serve. It is called
	// only while another process serves; nothing is taken over before it returns.
	Ready func(context.Context) error
	// Patience is how long Listen tries while an address is in use and nobody
	// hands it over.
	Patience time.Duration
	// Linger is how long connections may take to bring one more request after
	// a handover, see [Set.Linger] and Exit.
	Linger time.Duration
	// Exit ends Run after a handover and Linger. It is for processes that nobody
	// starts again when they end: one that comes back takes the listeners back.
	Exit bool
	// Logger gets transitions. Nil discards them.
	Logger *slog.Logger
}

// Serving reports whether the process that calls itself name has listeners:
// those it took over, or its own.
func Serving(ctx context.Context, socket, name string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", Presence(socket, name))
	if err != nil {
		return fmt.Errorf("%s has no listeners yet: %w", name, err)
	}
	return c.Close()
}

// MaxName is how many bytes the name of a Unix socket may have.
const MaxName = 107

// Presence returns the name of the Unix socket that tells [Serving] of a process.
func Presence(socket, name string) string { return socket + "/" + name }

// Set is the listeners of a process. Its methods may be called concurrently.
type Set struct {
	cfg       Config
	log       *slog.Logger
	addresses []string
	listeners []*listener
	control   *listener         // offers the listeners; nil without Config.Socket
	presence  *net.UnixListener // nil without Config.Name

	handing sync.Mutex   // held while the listeners change hands
	took    []*listener  // those that the process before has in reserve; guarded by handing
	given   []*listener  // those that the process after has; guarded by handing
	left    atomic.Int64 // since when another process accepts, in Unix nanoseconds, or 0

	mu      sync.Mutex
	before  *link                      // to the process that the listeners came from, while it lives
	waiting map[*net.UnixConn]struct{} // who could take over
	closed  bool
	stop    context.CancelCauseFunc // of Run
}

// Listen takes the listeners for the addresses over from the process that has
// them. If there is none it listens itself. An address that cannot be listened
// on is an error, after a while if it is in use: there may be a process that is
// about to offer it.
func Listen(ctx context.Context, cfg Config, addresses ...string) (*Set, error) {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Set{cfg: cfg, log: log, addresses: addresses, waiting: map[*net.UnixConn]struct{}{}}
	if cfg.Socket == "" {
		if err := s.open(nil); err != nil {
			return nil, err
		}
		return s, nil
	}
	if err := supported(); err != nil {
		return nil, err
	}
	until, wait := time.Now().Add(cfg.Patience), firstWait
	var said time.Time
	for {
		began := time.Now()
		err := s.attempt(ctx)
		switch {
		case err == nil:
			if err := s.announce(); err != nil {
				return nil, err
			}
			return s, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, errGone):
			until = time.Now().Add(cfg.Patience)
			if time.Since(began) > time.Second {
				wait = firstWait
			}
		case !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, errRefused) || time.Now().After(until):
			return nil, err
		case wait > time.Second/2 && time.Since(said) > time.Minute:
			log.Warn("there are no listeners yet, will retry", "socket", cfg.Socket, "error", err, "until", until)
			said = time.Now()
		}
		if !sleep(ctx, wait) {
			return nil, ctx.Err()
		}
		wait = min(2*wait, time.Second)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt takes the listeners over, or makes them.
func (s *Set) attempt(ctx context.Context) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", s.cfg.Socket)
	if err == nil {
		return s.take(ctx, c.(*net.UnixConn))
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	// Who has the socket is the one who listens, so that of several processes
	// that start together one makes all listeners.
	control, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.cfg.Socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.cfg.Socket, err)
	}
	if err := s.open(nil); err != nil {
		_ = control.Close()
		return fmt.Errorf("%w, and no process hands it over at %s", err, s.cfg.Socket)
	}
	s.control = newListener(control)
	return nil
}

// open makes the listeners of those addresses that are not among the given ones.
func (s *Set) open(given map[string]*net.TCPListener) error {
	s.listeners = nil
	for _, a := range s.addresses {
		tcp, ok := given[a]
		if !ok {
			ln, err := net.Listen("tcp", a)
			if err != nil {
				for i, ln := range s.listeners {
					if _, ok := given[s.addresses[i]]; !ok {
						_ = ln.Close()
					}
				}
				return err
			}
			tcp = ln.(*net.TCPListener)
		}
		s.listeners = append(s.listeners, newListener(tcp))
	}
	return nil
}

// announce makes [Serving] true.
func (s *Set) announce() error {
	if s.cfg.Name == "" {
		return nil
	}
	name := Presence(s.cfg.Socket, s.cfg.Name)
	var err error
	if s.presence, err = net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"}); err != nil {
		s.close()
		for _, ln := range s.listeners {
			_ = ln.Close()
		}
		return fmt.Errorf("listen on %s: %w", name, err)
	}
	return nil
}

// Listeners returns one listener for each address, in order. Their Accept waits
// while another process accepts. Whoever serves one closes it.
func (s *Set) Listeners() []net.Listener {
	all := make([]net.Listener, len(s.listeners))
	for i, ln := range s.listeners {
		all[i] = ln
	}
	return all
}

// Wrap lets the i-th listener accept by way of another one, which wrap makes of
// it. That one must have the methods File and SetDeadline of [net.TCPListener];
// its Close closes both. Wrap is called before anything is accepted.
func (s *Set) Wrap(i int, wrap func(net.Listener) (net.Listener, error)) error {
	ln, err := wrap(s.listeners[i].inner)
	if err != nil {
		return err
	}
	wrapped, ok := ln.(socket)
	if !ok {
		return fmt.Errorf("a %T cannot be handed over", ln)
	}
	s.listeners[i].inner = wrapped
	return nil
}

// Leaving reports whether another process accepts now. Connections should end
// after their next answer.
func (s *Set) Leaving() bool { return s.left.Load() != 0 }

// Linger returns a context that ends when ctx does, but while another process
// accepts not before it has done so for Config.Linger. If ctx ends while the
// process that the listeners came from lives, that one accepts again. Call
// cancel when the context is not needed any more.
func (s *Set) Linger(ctx context.Context) (lingering context.Context, cancel context.CancelFunc) {
	lingering, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		s.giveBack()
		left := s.left.Load()
		wait := time.Until(time.Unix(0, left).Add(s.cfg.Linger))
		if left == 0 || wait <= 0 {
			end()
			return
		}
		timer := time.AfterFunc(wait, end)
		context.AfterFunc(lingering, func() { timer.Stop() })
	})
	return lingering, func() { stop(); end() }
}

// Run offers the listeners to other processes until ctx ends. Those who serve
// them close them then. It is called once.
func (s *Set) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s.mu.Lock()
	s.stop = stop
	s.mu.Unlock()
	defer context.AfterFunc(ctx, s.close)()
	var wg sync.WaitGroup
	if s.presence != nil {
		wg.Go(func() {
			for {
				c, err := s.presence.Accept()
				if err != nil {
					return // closed
				}
				_ = c.Close()
			}
		})
	}
	if before := s.predecessor(); before != nil {
		wg.Go(func() {
			_, _ = before.receive() // its end; it has no more to say
			s.forget(before)
		})
	}
	for s.control != nil {
		c, err := s.control.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				break
			}
			s.log.Warn("accept failed", "socket", s.cfg.Socket, "error", err)
			if !sleep(ctx, 100*time.Millisecond) {
				break
			}
			continue
		}
		wg.Go(func() { s.offer(ctx, c.(*net.UnixConn)) })
	}
	<-ctx.Done()
	s.close()
	wg.Wait()
	if errors.Is(context.Cause(ctx), ErrReplaced) {
		return ErrReplaced
	}
	return nil
}

func (s *Set) predecessor() *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.before
}

// forget ends the connection to the process that the listeners came from.
func (s *Set) forget(before *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.before == before {
		s.before = nil
	}
	_ = before.raw.Close()
}

// close ends everything. A process that waits or is in reserve learns of it.
func (s *Set) close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.waiting {
		_ = c.Close()
	}
	if s.before != nil {
		_ = s.before.raw.Close()
	}
	s.mu.Unlock()
	if s.presence != nil {
		_ = s.presence.Close()
	}
	if s.control != nil {
		_ = s.control.Close()
	}
}

var (
	// errGone: the process that served has ended before it handed over.
	errGone = errors.New("the process that has the listeners has ended")
	// errRefused: a process has the socket, and did not hand over.
	errRefused = errors.New("the process that has the listeners does not hand them over")
)

// files returns the descriptors of listeners, for sending them.
func files(all ...*listener) (opened []*os.File, err error) {
	for _, ln := range all {
		f, err := ln.inner.File()
		if err != nil {
			closeAll(opened)
			return nil, err
		}
		opened = append(opened, f)
	}
	return opened, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
