//go:build e2e

package soak

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// clients is how many requests are under way at a time.
	clients = 32
	// patience is how long a client waits for anything; nothing may take as long.
	patience = 60 * time.Second
)

// load sends the requests from first up to end, and returns when all have their
// outcome and all connections are closed.
func load(l *ledger, address string, first, end int) {
	next := atomic.Int64{}
	next.Store(int64(first))
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			c := &caller{address: address, scratch: make([]byte, maxBody+1)}
			defer c.hangUp()
			for {
				id := int(next.Add(1) - 1)
				if id >= end {
					return
				}
				r := plan(id)
				o := c.call(&r)
				l.judge(&r, &o)
			}
		})
	}
	wg.Wait()
}

// caller is a client with one connection. Its answers are read strictly: a byte
// too many is found by the next request, one too few at once.
type caller struct {
	address string
	conn    net.Conn
	r       *bufio.Reader
	w       *bufio.Writer
	scratch []byte
}

func (c *caller) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *caller) call(r *request) outcome {
	if r.fresh {
		c.hangUp()
	}
	if c.conn == nil {
		conn, err := net.Dial("tcp", c.address)
		if err != nil {
			return outcome{err: fmt.Errorf("connect to the proxy: %w", err)}
		}
		c.conn, c.r, c.w = conn, bufio.NewReader(conn), bufio.NewWriter(conn)
	}
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	sent := c.send(r) // the answer may be there all the same
	o, reusable := c.receive(r)
	if o.err != nil && sent != nil {
		o.err = fmt.Errorf("%w, after %w", o.err, sent)
	}
	if !reusable || sent != nil {
		c.hangUp()
	}
	return o
}

func (c *caller) send(r *request) error {
	_, _ = fmt.Fprintf(c.w, "%s /%d HTTP/1.1\r\nHost: svc%d\r\n%s: %d\r\n%s: %d\r\n", r.method, r.id, r.service, headerID, r.id, headerSize, r.answer)
	if r.last {
		_, _ = c.w.WriteString("Connection: close\r\n")
	}
	body := question(r.id, r.size)
	switch {
	case r.size == 0:
		_, _ = c.w.WriteString("\r\n")
	case r.chunked:
		_, _ = c.w.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		for piece := 1 + r.id%5000; len(body) > 0; piece = 1 + piece*3%20000 {
			piece = min(piece, len(body))
			_, _ = fmt.Fprintf(c.w, "%x\r\n%s\r\n", piece, body[:piece])
			body = body[piece:]
		}
		_, _ = c.w.WriteString("0\r\n\r\n")
	default:
		_, _ = fmt.Fprintf(c.w, "Content-Length: %d\r\n\r\n%s", r.size, body)
	}
	return c.w.Flush()
}

func (c *caller) receive(r *request) (o outcome, reusable bool) {
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return outcome{err: err}, false
	}
	o.status, o.code = res.StatusCode, res.Header.Get("tulle-code")
	n, err := readAll(res.Body, c.scratch)
	switch body := c.scratch[:n]; {
	case err != nil:
		o.err = err
	case o.status != 200:
		o.text = string(body)
	case !bytes.Equal(body, reply(r.id, r.answer)):
		o.err = fmt.Errorf("the answer has %d bytes, want %d others", n, r.answer)
	}
	return o, o.err == nil && !res.Close
}

var errTooLong = errors.New("the body is longer than any should be")

// readAll reads a body to its end.
func readAll(body io.Reader, into []byte) (n int, err error) {
	for n < len(into) {
		m, err := body.Read(into[n:])
		n += m
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, errTooLong
}
