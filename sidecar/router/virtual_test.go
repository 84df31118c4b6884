package router_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// memory is a network without a kernel, for virtual time. A connection to an
// address on which nobody accepts hangs; one to an address that is not there is
// refused.
type memory struct {
	mu        sync.Mutex
	listeners map[string]*pipes
}

// pipes is a listener whose connections are those of net.Pipe.
type pipes struct {
	net     *memory
	address address
	conns   chan net.Conn
	done    chan struct{}
	close   func()
}

type address string

func (address) Network() string  { return "memory" }
func (a address) String() string { return string(a) }

func (n *memory) listen(*testing.T) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	ln := &pipes{net: n, conns: make(chan net.Conn), done: make(chan struct{})}
	ln.address = address(fmt.Sprintf("10.0.0.%d:80", len(n.listeners)+1))
	ln.close = sync.OnceFunc(func() { close(ln.done) })
	n.listeners[ln.address.String()] = ln
	return ln
}

func (n *memory) dial(ctx context.Context, to string) (net.Conn, error) {
	n.mu.Lock()
	ln := n.listeners[to]
	n.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "memory", Addr: address(to), Err: syscall.ECONNREFUSED}
	if ln == nil {
		return nil, refused
	}
	ours, theirs := net.Pipe()
	select {
	case ln.conns <- theirs:
		return ours, nil
	case <-ln.done:
		return nil, refused
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (n *memory) visit(ctx context.Context, to string) (net.Conn, error) { return n.dial(ctx, to) }

func (l *pipes) Addr() net.Addr { return l.address }
func (l *pipes) Close() error   { l.close(); return nil }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// virtual runs a test of an outgoing router in virtual time.
func virtual(t *testing.T, words string, test func(*testing.T, *mesh)) {
	t.Helper()
	virtualWith(t, router.OutgoingConfig{Grace: 5 * time.Second}, words, test)
}

func virtualWith(t *testing.T, cfg router.OutgoingConfig, words string, test func(*testing.T, *mesh)) {
	t.Helper()
	inVirtual(t, cfg, bind.Config{}, test, words)
}

func inVirtual(t *testing.T, cfg router.OutgoingConfig, rules bind.Config, test func(*testing.T, *mesh), words ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(t, startBinding(t, &memory{listeners: map[string]*pipes{}}, cfg, rules, words...))
	})
}

// backend serves h in the mesh's network.
func (m *mesh) backend(t *testing.T, h http.HandlerFunc) string {
	ln := m.network.listen(t)
	s := &http.Server{Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(ln) })
	t.Cleanup(func() { _ = s.Close(); wg.Wait() })
	return ln.Addr().String()
}

// hole is an address in the mesh's network at which connections hang.
func (m *mesh) hole(t *testing.T) string { return m.network.listen(t).Addr().String() }
