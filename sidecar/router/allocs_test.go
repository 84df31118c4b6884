//go:build !race

package router_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/router"
)

// A request that is one of many costs no memory, whatever of these is switched on.
func TestRequestsAllocateNothing(t *testing.T) {
	for _, test := range []struct {
		words       string
		identifiers []router.Identifier
	}{
		{},
		{words: "server: {addForwardedHeader: {for: {kind: ip}}, timestampHeader: x-request-start}"},
		{words: "server: {tracePropagator: {kind: io.l5d.zipkin}}"},
		{words: "client: {requestAttemptTimeoutMs: 10000}\nservice: {totalTimeoutMs: 20000}"},
		{identifiers: []router.Identifier{{Kind: router.IdentifyHeaderToken, Header: "host"}}},
		{identifiers: []router.Identifier{{Kind: router.IdentifyHeaderToken, Header: "x-to"}}},
		{identifiers: []router.Identifier{{Kind: router.IdentifyHeader}, {Kind: router.IdentifyHeaderToken}}},
		{identifiers: []router.Identifier{{Kind: router.IdentifyPath, Consume: true}}},
	} {
		words := fmt.Sprintf("%s %v", test.words, test.identifiers)
		m := startOn(t, newLoopback(t), router.OutgoingConfig{Grace: 5 * time.Second, Identifiers: test.identifiers}, test.words)
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
		request, buf := []byte("GET /world HTTP/1.1\r\nHost: world\r\nUser-Agent: test\r\nX-To: world\r\nl5d-name: /world\r\n\r\n"), make([]byte, 4096)
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
