//go:build e2e

package soak

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// take reads a request that a backend has got, and counts it if it is whole.
func (l *ledger) take(req *http.Request, scratch []byte) (id, answer int, err error) {
	id, err = strconv.Atoi(req.Header.Get(headerID))
	if err != nil {
		return 0, 0, err
	}
	if answer, err = strconv.Atoi(req.Header.Get(headerSize)); err != nil {
		return 0, 0, err
	}
	want := plan(id)
	n, err := readAll(req.Body, scratch)
	if err != nil {
		return 0, 0, err
	}
	if req.Method != want.method || n != want.size || !bytes.Equal(scratch[:n], question(id, n)) {
		l.violate("%s %d of %d bytes arrived as %s of %d other ones", want.method, id, want.size, req.Method, n)
	}
	l.effects[id].Add(1)
	return id, answer, nil
}

var scratches = sync.Pool{New: func() any { b := make([]byte, maxBody+1); return &b }}

// healthy is a backend that does what it should, on the server of net/http.
type healthy struct {
	address string
	ledger  *ledger
	server  *http.Server
	served  chan struct{}

	asked chan struct{} // closed by the first request
	once  sync.Once
	conns atomic.Int64
	idle  chan struct{} // gets one each time that no connection is left

	held    atomic.Int64  // requests for /hold
	release chan struct{} // closed to answer them
}

func newHealthy(t *testing.T, l *ledger) *healthy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &healthy{
		address: ln.Addr().String(), ledger: l, served: make(chan struct{}),
		asked: make(chan struct{}), idle: make(chan struct{}, 1), release: make(chan struct{}),
	}
	h.server = &http.Server{Handler: h, ConnState: func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			h.conns.Add(1)
		case http.StateClosed:
			if h.conns.Add(-1) == 0 {
				select {
				case h.idle <- struct{}{}:
				default:
				}
			}
		}
	}}
	go func() {
		defer close(h.served)
		_ = h.server.Serve(ln)
	}()
	return h
}

func (h *healthy) close() {
	_ = h.server.Close()
	<-h.served
}

func (h *healthy) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/hold" {
		h.held.Add(1)
		<-h.release
		return
	}
	h.once.Do(func() { close(h.asked) })
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	id, answer, err := h.ledger.take(req, *scratch)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if id%2 == 0 { // else by chunks, if it is large
		w.Header().Set("Content-Length", strconv.Itoa(answer))
	}
	_, _ = w.Write(reply(id, answer))
}

// failing is a backend that fails at random.
type failing struct {
	address string
	ledger  *ledger
	well    atomic.Bool // it does no more harm

	mu      sync.Mutex
	ln      net.Listener
	conns   map[net.Conn]bool
	running sync.WaitGroup
	refused atomic.Int64 // how often it stopped listening
}

func newFailing(t *testing.T, l *ledger) *failing {
	t.Helper()
	f := &failing{address: "127.0.0.1:0", ledger: l, conns: map[net.Conn]bool{}}
	if err := f.listen(); err != nil {
		t.Fatal(err)
	}
	f.address = f.ln.Addr().String()
	l.failing = f.address
	return f
}

// listen begins to accept connections.
func (f *failing) listen() error {
	ln, err := net.Listen("tcp", f.address)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.ln = ln
	f.mu.Unlock()
	f.running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[conn] = true
			f.mu.Unlock()
			f.running.Go(func() {
				f.serve(conn)
				_ = conn.Close()
				f.mu.Lock()
				delete(f.conns, conn)
				f.mu.Unlock()
			})
		}
	})
	return nil
}

// refuse ends that; connections that are open go on.
func (f *failing) refuse() {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.ln.Close()
	f.refused.Add(1)
}

func (f *failing) close() {
	f.refuse()
	f.mu.Lock()
	for conn := range f.conns {
		_ = conn.Close()
	}
	f.mu.Unlock()
	f.running.Wait()
}

// serve answers requests until it does one of them a harm that ends the
// connection.
func (f *failing) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	scratch := make([]byte, maxBody+1)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		harm := f.choose()
		if harm == early {
			f.harm(req, early)
			_, _ = io.WriteString(conn, "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly")
			return
		}
		id, answer, err := f.ledger.take(req, scratch)
		if err != nil {
			return
		}
		if harm != 0 {
			f.harm(req, harm)
		}
		if !f.do(conn, harm, id, answer) {
			return
		}
	}
}

func (f *failing) harm(req *http.Request, harm fault) {
	if id, err := strconv.Atoi(req.Header.Get(headerID)); err == nil {
		f.ledger.faults[id].Or(harm)
	}
}

// choose picks what to do to a request, nothing in half of the cases.
func (f *failing) choose() fault {
	n := rand.IntN(1000)
	if f.well.Load() || n >= 500 {
		return 0
	}
	for _, c := range []struct {
		harm  fault
		below int
	}{{serverError, 150}, {hangUp, 250}, {reset, 300}, {brokenHead, 350}, {brokenBody, 400}, {garbage, 460}, {early, 499}} {
		if n < c.below {
			return c.harm
		}
	}
	return stall
}

// do answers a request, and reports whether the connection can go on.
func (f *failing) do(conn net.Conn, harm fault, id, answer int) bool {
	var text []byte
	switch harm {
	case 0, serverError:
		status := "200 OK"
		if harm == serverError {
			status = "500 Internal Server Error"
		}
		text = fmt.Appendf(nil, "HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n", status, answer)
		_, err := conn.Write(append(text, reply(id, answer)...))
		return err == nil
	case reset:
		_ = conn.(*net.TCPConn).SetLinger(0)
	case brokenHead:
		text = []byte("HTTP/1.1 200 OK\r\nContent-Le")
	case brokenBody:
		if id%2 == 0 {
			text = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", answer+1, reply(id, answer))
		} else {
			text = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s", answer+1, reply(id, answer))
		}
	case garbage:
		text = append([]byte("\x16\x03\x01"), noise[id%1000:][:1+id%3000]...)
	case stall:
		_, _ = conn.Read(make([]byte, 1)) // until the proxy hangs up
	}
	_, _ = conn.Write(text)
	return false
}
