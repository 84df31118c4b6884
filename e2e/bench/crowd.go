//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// crowd are connections that have nothing to say.
type crowd struct {
	mu    sync.Mutex
	conns []net.Conn
}

// idle is how many connections the memory of a connection is measured with.
const idle = 10_000

// spareFiles are the descriptors that a proxy needs besides its idle connections.
const spareFiles = 1_000

// gather opens connections to a port, has each do one request and keeps them open. They come from several
// loopback addresses, because one has too few ports for many crowds in a row.
func gather(ctx context.Context, port, n int) (*crowd, error) {
	c := &crowd{}
	g, ctx := errgroup.WithContext(ctx)
	const workers, sources = 16, 8
	for w := range workers {
		g.Go(func() error {
			for i := w; i < n; i += workers {
				if err := c.join(ctx, byte(i%sources), port); err != nil {
					return fmt.Errorf("open idle connection %d of %d: %w", i+1, n, err)
				}
			}
			return nil
		})
	}
	return c, g.Wait()
}

func (c *crowd) join(ctx context.Context, source byte, port int) error {
	d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, 1+source)}}
	conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.conns = append(c.conns, conn)
	c.mu.Unlock()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET /100b HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK || res.Close {
		return fmt.Errorf("the answer is %s, and the connection is to close: %t", res.Status, res.Close)
	}
	return nil
}

// leave closes all connections.
func (c *crowd) leave() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}
