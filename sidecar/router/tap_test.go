//go:build linux

package router_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/router"
	"github.com/tulle-mesh/tulle/sidecar/socket"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// line is an outgoing router that sends all names to one backend, with a tap on
// the connections between the two. It serves one test case after the other.
type line struct {
	address string
	policy  *policy.Policy

	mu   sync.Mutex
	taps []*tap
	seen []message // by the backend, in order

	// answer is what the backend says to a request, the nth since reset, and
	// whether it ends the connection then.
	answer atomic.Pointer[func(n int, m *message) (text []byte, last bool)]
}

// tap is a connection to the backend and what the router has written to it since
// the last reset.
type tap struct {
	*socket.Conn
	line   *line
	wrote  []byte
	closed bool
}

func (t *tap) Write(p []byte) (int, error) {
	t.line.note(t, p)
	return t.Conn.Write(p)
}

func (t *tap) WriteParts(parts [][]byte) error {
	t.line.note(t, parts...)
	return t.Conn.WriteParts(parts)
}

func (t *tap) Close() error {
	t.line.mu.Lock()
	t.closed = true
	t.line.mu.Unlock()
	return t.Conn.Close()
}

func (l *line) note(t *tap, parts ...[]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range parts {
		t.wrote = append(t.wrote, p...)
	}
}

// reset forgets what the last case wrote, and closed connections.
func (l *line) reset(answer func(n int, m *message) (text []byte, last bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	open := l.taps[:0]
	for _, t := range l.taps {
		if t.wrote = nil; !t.closed {
			open = append(open, t)
		}
	}
	clear(l.taps[len(open):])
	l.taps, l.seen = open, nil
	l.answer.Store(&answer)
}

// everywhere is a namer that knows one backend by all names.
type everywhere struct {
	value *watch.Value[naming.Replicas]
}

func (e everywhere) Resolver(state func(id naming.Path) naming.Replicas) naming.Resolver {
	r, err := registry.New(registry.Config{Namers: registry.Default(), Source: e})
	if err != nil {
		return func(naming.Path) naming.Resolution { return naming.Resolution{Err: err} }
	}
	return r.Resolver(state)
}

func (e everywhere) Replicas(string) (*watch.Value[naming.Replicas], func()) {
	return e.value, func() {}
}

// newLine starts the router and its backend, on sockets of the real kind.
func newLine(tb testing.TB, words ...string) *line {
	l := &line{}
	l.start(tb, l.serve(tb), words...)
	return l
}

// start starts the router to a backend at this address.
func (l *line) start(tb testing.TB, backend string, words ...string) {
	tb.Helper()
	p, err := policy.Parse("policy.yaml", []byte(strings.Join(words, "\n")))
	if err != nil {
		tb.Fatal(err)
	}
	l.policy = p
	base, err := naming.ParseDtab("/svc/* => /#/io.l5d.fs/backend")
	if err != nil {
		tb.Fatal(err)
	}
	poller, err := socket.Open()
	if err != nil {
		tb.Fatal(err)
	}
	pools := pool.NewSet(func(ctx context.Context, _ pool.Target) (net.Conn, error) {
		conn, err := poller.Dial(ctx, backend)
		if err != nil {
			return nil, err
		}
		t := &tap{Conn: conn.(*socket.Conn), line: l}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.taps = append(l.taps, t)
		return t, nil
	})
	source := everywhere{watch.New(naming.Of(naming.Endpoint{Address: backend, Weight: 1}))}
	behaviour, metrics := watch.New(p), telemetry.New(prometheus.NewRegistry())
	binder := bind.New(bind.Config{Dtab: watch.New(&base), Names: watch.New[bind.Names](source)})
	clients := client.NewSet(client.Config{Source: source, Pools: pools, Policy: behaviour, Metrics: metrics})
	identified := make(chan struct{})
	close(identified)
	out := router.NewOutgoing(router.OutgoingConfig{
		Binder: binder, Clients: clients, Metrics: metrics, Policy: behaviour, Identified: identified,
		Namespace: func(context.Context, string) (string, error) { return "ns", nil },
		Logger:    slog.New(slog.DiscardHandler),
	})
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := poller.Listener(tcp)
	if err != nil {
		tb.Fatal(err)
	}
	l.address = ln.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	support, stopSupport := context.WithCancel(context.Background())
	var wg, serving sync.WaitGroup
	for _, run := range []func(context.Context) error{poller.Run, binder.Run, clients.Run, pools.Run} {
		wg.Go(func() { _ = run(support) })
	}
	serving.Go(func() { _ = out.Serve(ctx, ln) })
	tb.Cleanup(func() {
		stop()
		serving.Wait()
		stopSupport()
		wg.Wait()
	})
}

// serve runs the backend and returns its address.
func (l *line) serve(tb testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			open[conn] = true
			l.mu.Unlock()
			wg.Go(func() {
				l.converse(conn)
				_ = conn.Close()
				l.mu.Lock()
				delete(open, conn)
				l.mu.Unlock()
			})
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		l.mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		l.mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// converse answers the requests of a connection until one is not as it should be;
// what the tap has of it then shows the fault.
func (l *line) converse(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		m, err := readMessage(r)
		if err != nil {
			return
		}
		l.mu.Lock()
		n := len(l.seen)
		l.seen = append(l.seen, *m)
		l.mu.Unlock()
		text, last := (*l.answer.Load())(n, m)
		if _, err := conn.Write(text); err != nil {
			return
		}
		if last {
			return
		}
		if bytes.HasPrefix(text, []byte("HTTP/1.1 101 ")) {
			_, _ = io.Copy(io.Discard, r) // it is on the tap
			return
		}
	}
}

// message is a request as it went over the wire.
type message struct {
	method, target, host string
	fields               []string // other than those of the connection, framing and host: "name: value"
	upgrade              string
	body                 []byte
}

func (m *message) String() string {
	return fmt.Sprintf("%s %s %s %q %q", m.method, m.host, m.target, m.fields, m.body)
}

// readMessage is the second parser. It repairs nothing and takes only the one
// form in which the router is to write a request, so that whatever it accepts
// leaves no parser a choice. io.EOF means that there is no further request.
func readMessage(r *bufio.Reader) (*message, error) {
	start, err := readLine(r)
	if err != nil {
		return nil, err
	}
	m := &message{}
	words := strings.Split(start, " ")
	if len(words) != 3 || words[2] != "HTTP/1.1" || !isToken(words[0]) || words[1] == "" {
		return nil, fmt.Errorf("request line %q", start)
	}
	m.method, m.target = words[0], words[1]
	if m.target[0] != '/' && (m.target != "*" || m.method != "OPTIONS") {
		return nil, fmt.Errorf("target %q", m.target)
	}
	hosts, length, chunked := 0, -1, false
	for {
		line, err := readLine(r)
		if err != nil {
			return nil, noEnd(err)
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ": ")
		if !ok || !isToken(name) || strings.Trim(value, " \t") != value {
			return nil, fmt.Errorf("field %q", line)
		}
		switch strings.ReplaceAll(strings.ToLower(name), "_", "-") {
		case "host":
			hosts++
			m.host = value
		case "content-length":
			n, err := strconv.Atoi(value)
			if err != nil || strconv.Itoa(n) != value || length >= 0 || n < 0 {
				return nil, fmt.Errorf("length %q", line)
			}
			length = n
		case "transfer-encoding":
			if value != "chunked" || chunked {
				return nil, fmt.Errorf("coding %q", line)
			}
			chunked = true
		case "connection":
			if value != "Upgrade" {
				return nil, fmt.Errorf("field of the connection %q", line)
			}
		case "upgrade":
			m.upgrade = value
		case "keep-alive", "proxy-connection", "te", "trailer", "http2-settings", "proxy-authorization":
			return nil, fmt.Errorf("field of the connection %q", line)
		default:
			m.fields = append(m.fields, line)
		}
	}
	if hosts != 1 || m.host == "" || chunked && length >= 0 {
		return nil, fmt.Errorf("%d hosts, length %d, chunked: %v", hosts, length, chunked)
	}
	if chunked {
		m.body, err = readChunks(r)
	} else if length > 0 {
		m.body = make([]byte, min(length, 1<<20))
		if length > len(m.body) {
			_, err = io.Copy(io.Discard, r) // more than any case sends
			return nil, errors.Join(io.ErrUnexpectedEOF, err)
		}
		_, err = io.ReadFull(r, m.body)
	}
	return m, noEnd(err)
}

func readChunks(r *bufio.Reader) (body []byte, err error) {
	for {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(line, 16, 24)
		if err != nil || strconv.FormatUint(n, 16) != line {
			return nil, fmt.Errorf("chunk size %q", line)
		}
		if n == 0 {
			break
		}
		chunk := make([]byte, n+2)
		if _, err := io.ReadFull(r, chunk); err != nil {
			return nil, err
		}
		if string(chunk[n:]) != "\r\n" {
			return nil, fmt.Errorf("chunk ends in %q", chunk[n:])
		}
		body = append(body, chunk[:n]...)
	}
	for {
		line, err := readLine(r)
		if err != nil || line == "" {
			return body, err
		}
		name, _, ok := strings.Cut(line, ": ")
		if !ok || !isToken(name) || policyOfTrailers[strings.ToLower(name)] {
			return nil, fmt.Errorf("trailer %q", line)
		}
	}
}

// policyOfTrailers names fields that must not come after a body, some of those
// that do most harm.
var policyOfTrailers = map[string]bool{
	"host": true, "content-length": true, "transfer-encoding": true, "connection": true, "upgrade": true,
	"authorization": true, "cookie": true, "l5d-dtab": true, "l5d-ctx-dtab": true, "tulle-dst-endpoint": true, "trailer": true,
}

// readLine reads a line that ends in CRLF and holds no control characters but
// tabs.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		if line != "" {
			err = noEnd(err)
		}
		return "", err
	}
	text, ok := strings.CutSuffix(line, "\r\n")
	for i := range len(text) {
		if c := text[i]; c < ' ' && c != '\t' || c == 0x7f {
			ok = false
		}
	}
	if !ok {
		return "", fmt.Errorf("line %q", line)
	}
	return text, nil
}

func noEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func isToken(s string) bool {
	for _, c := range s {
		if !strings.ContainsRune("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", c) {
			return false
		}
	}
	return s != ""
}
