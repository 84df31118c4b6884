//go:build linux

// Package admission is what the injector is measured with: reviews as an API server writes them, a client that sends them as
// an API server does, and pods that are created all at once.
//
// Invariant: an answer counts only if it is 200, belongs to its review, allows the pod and has a patch; anything else ends a
// measurement. What is measured never answers the same review twice, for each has its own uid.
//
//	world, err := admission.NewWorld(ctx, config)
//	review, err := world.Capture(ctx, certificate, roots, "host")
//	client, err := admission.Dial(ctx, address, roots, admission.Connections, review)
//	admitted, took, err := client.Full(ctx, 3*time.Second)
//	latencies, err := client.Open(ctx, 500, 3*time.Second)
package admission

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Connections is how many an API server keeps to a webhook.
const Connections = 25

// patience is how long an answer may take, which is as long as API servers wait by the chart.
const patience = 5 * time.Second

// Client sends one review over and over, on connections that are kept: HTTP/1.1 over TLS 1.3, as API servers do. Its
// methods are not to be called concurrently.
type Client struct {
	conns []*conn
	next  atomic.Int64 // the number in the next uid
}

// Dial opens the connections.
func Dial(ctx context.Context, address string, roots *x509.CertPool, connections int, review []byte) (*Client, error) {
	c := &Client{}
	for range connections {
		conn, err := dial(ctx, address, roots, review)
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("connect to the webhook: %w", err)
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

// Close closes the connections.
func (c *Client) Close() {
	for _, conn := range c.conns {
		_ = conn.tls.Close() // the other end's complaint about how it was closed is of no interest
	}
	c.conns = nil
}

// Full keeps every connection busy for a while and returns how many pods were admitted, and in how long.
func (c *Client) Full(ctx context.Context, d time.Duration) (admitted int, took time.Duration, err error) {
	begin := time.Now()
	counts := make([]int, len(c.conns))
	var g errgroup.Group
	for i, conn := range c.conns {
		g.Go(func() error {
			for time.Since(begin) < d && ctx.Err() == nil {
				if err := conn.ask(c.next.Add(1)); err != nil {
					return err
				}
				counts[i]++
			}
			return ctx.Err()
		})
	}
	err = g.Wait()
	took = time.Since(begin)
	for _, n := range counts {
		admitted += n
	}
	return admitted, took, err
}

// Open sends so many reviews a second, whatever the answers take, and returns what each took from the moment that it was
// due, in no order. A review that finds no connection free waits, and that counts.
func (c *Client) Open(ctx context.Context, rate int, d time.Duration) ([]time.Duration, error) {
	total := int(d.Seconds() * float64(rate))
	due := make(chan time.Time, total)
	latencies := make([][]time.Duration, len(c.conns))
	var g errgroup.Group
	for i, conn := range c.conns {
		g.Go(func() error {
			for at := range due {
				if err := conn.ask(c.next.Add(1)); err != nil {
					return err
				}
				latencies[i] = append(latencies[i], time.Since(at))
			}
			return nil
		})
	}
	begin := time.Now()
	for n := range total {
		at := begin.Add(time.Second * time.Duration(n) / time.Duration(rate))
		// The runtime's own timers are late by up to a millisecond.
		if wait := time.Until(at); wait > 0 {
			_ = unix.Nanosleep(&unix.Timespec{Sec: int64(wait / time.Second), Nsec: int64(wait % time.Second)}, nil)
		}
		if ctx.Err() != nil {
			break
		}
		due <- at
	}
	close(due)
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return nil, err
	}
	return slices.Concat(latencies...), nil
}

// conn is one connection, with its own copy of the request.
type conn struct {
	tls     *tls.Conn
	in      *bufio.Reader
	request []byte
	uid     [][]byte // where the uid is in the request
	answer  bytes.Buffer
}

func dial(ctx context.Context, address string, roots *x509.CertPool, review []byte) (*conn, error) {
	uid, err := uidOf(review)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}}
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &conn{tls: raw.(*tls.Conn), in: bufio.NewReaderSize(raw, 16<<10)}
	c.request = fmt.Appendf(nil, "POST /inject?timeout=5s HTTP/1.1\r\nHost: %s\r\nUser-Agent: kube-apiserver-admission\r\nContent-Length: %d\r\nAccept: application/json, */*\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n%s",
		address, len(review), review)
	for from := 0; ; {
		i := bytes.Index(c.request[from:], uid)
		if i < 0 {
			return c, nil
		}
		c.uid = append(c.uid, c.request[from+i:][:len(uid)])
		from += i + len(uid)
	}
}

// ask sends the review as the n-th one and reads the answer.
func (c *conn) ask(n int64) error {
	digits := fmt.Appendf(nil, "%012d", n)
	for _, at := range c.uid {
		copy(at[len(at)-len(digits):], digits)
	}
	if err := c.tls.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.tls.Write(c.request); err != nil {
		return fmt.Errorf("send a review: %w", err)
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	c.answer.Reset()
	_, err = c.answer.ReadFrom(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	answer := c.answer.Bytes()
	switch {
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("the answer is %s: %s", res.Status, answer)
	case res.Close:
		return errors.New("the webhook closes its connection")
	case !bytes.Contains(answer, c.uid[0]):
		return fmt.Errorf("the answer is not to review %s: %s", c.uid[0], answer)
	case !bytes.Contains(answer, []byte(`"allowed":true`)) || !bytes.Contains(answer, []byte(`"patch":"`)):
		return fmt.Errorf("the pod is not injected: %s", answer)
	}
	return nil
}
