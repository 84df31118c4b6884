//go:build !race

package router_test

import (
	"bufio"
	"bytes"
	"net"
	"runtime"
	"testing"
)

// A request that is one of many costs no memory, whatever of these is switched on.
func TestRequestsAllocateNothing(t *testing.T) {
	for _, words := range []string{
		"",
		"server: {addForwardedHeader: {for: {kind: ip}}, timestampHeader: x-request-start}",
		"server: {tracePropagator: {kind: io.l5d.zipkin}}",
		"client: {requestAttemptTimeoutMs: 10000}\nservice: {totalTimeoutMs: 20000}",
	} {
		m := start(t, words)
		m.table.service("world", rawBackend(t, func(c net.Conn, _ *bufio.Reader) {
			answer, buf, n := []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), make([]byte, 4096), 0
			for {
				k, err := c.Read(buf[n:])
				if err != nil {
					return
				}
				if n += k; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
					_, _ = c.Write(answer)
					n = 0
				}
			}
		}))
		conn, err := net.Dial("tcp", m.address)
		if err != nil {
			t.Fatal(err)
		}
		request, buf := []byte("GET / HTTP/1.1\r\nHost: world\r\nUser-Agent: test\r\n\r\n"), make([]byte, 4096)
		send := func(n int) {
			for range n {
				_, _ = conn.Write(request)
				for got := 0; !bytes.HasSuffix(buf[:got], []byte("hello")); {
					k, err := conn.Read(buf[got:])
					if err != nil {
						t.Fatalf("%q, %v", buf[:got], err)
					}
					got += k
				}
			}
		}
		send(200)
		const n = 2000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		send(n)
		runtime.ReadMemStats(&after)
		// Tickers and the garbage collector do a little.
		if each := float64(after.Mallocs-before.Mallocs) / n; each > 0.1 {
			t.Errorf("%q: %v allocations for each request", words, each)
		}
		_ = conn.Close()
		m.stop()
	}
}
