//go:build linux

package openloop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t *testing.T, handler http.HandlerFunc) netip.AddrPort {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).AddrPort()
}

func TestEveryRequestIsSentAndCounted(t *testing.T) {
	var served atomic.Int64
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "bench" || r.URL.Path != "/x" {
			t.Errorf("got %s for %s", r.URL, r.Host)
		}
		served.Add(1)
		_, _ = w.Write([]byte("ok"))
	})
	got, err := Run(t.Context(), Config{
		Addresses: []netip.AddrPort{address, address}, Host: "bench", Path: "/x",
		Connections: 3, Rate: 1000, Warmup: 50 * time.Millisecond, Duration: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 100 || served.Load() != 150 {
		t.Errorf("%d latencies of %d requests, want 100 of 150", len(got), served.Load())
	}
}

// One stall makes late what was due meanwhile, though there is only one connection.
func TestStallCountsForAllItDelays(t *testing.T) {
	var served atomic.Int64
	const stall = 100 * time.Millisecond
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if served.Add(1) == 1 {
			<-time.After(stall)
		}
	})
	got, err := Run(t.Context(), Config{
		Addresses: []netip.AddrPort{address}, Host: "bench", Path: "/", Connections: 1, Rate: 1000, Duration: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	// A closed loop would have seen one slow answer of 200.
	if q := got.Quantile(0.75); q < stall/4 {
		t.Errorf("a quarter of the answers should be late by the stall's rest, the 75th percentile is %s", q)
	}
}

func TestRunFails(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	good := Config{Host: "bench", Path: "/", Connections: 1, Rate: 100, Duration: 20 * time.Millisecond}
	for name, test := range map[string]struct {
		ctx     context.Context
		handler http.HandlerFunc
		change  func(*Config)
		want    string
	}{
		"status":     {handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, want: "want HTTP/1.1 200"},
		"close":      {handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: "closed by the other end"},
		"no address": {change: func(c *Config) { c.Addresses = nil }, want: "needs an address"},
		"no rate":    {change: func(c *Config) { c.Rate = 0 }, want: "needs a rate"},
		"cancelled":  {ctx: cancelled, handler: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, want: context.Canceled.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			cfg.Addresses = []netip.AddrPort{serve(t, test.handler)}
			if test.change != nil {
				test.change(&cfg)
			}
			ctx := test.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			_, err := Run(ctx, cfg)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
			if name == "cancelled" && !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want context.Canceled", err)
			}
		})
	}
}

func TestQuantile(t *testing.T) {
	var l Latencies
	if l.Quantile(0.99) != 0 {
		t.Error("nothing has a latency")
	}
	for i := range 200 {
		l = append(l, time.Duration(i+1))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 100, 0.99: 198, 1: 200} {
		if got := l.Quantile(q); got != want {
			t.Errorf("Quantile(%g) = %d, want %d", q, got, want)
		}
	}
}

func TestAnswer(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nServer: x\r\ncontent-LENGTH: 3\r\n\r\nabc"
	for name, test := range map[string]struct {
		in   string
		want string // of the error
	}{
		"whole":     {in: ok},
		"no body":   {in: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		"too long":  {in: ok + "d", want: "1 bytes longer"},
		"status":    {in: "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", want: "503"},
		"chunked":   {in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", want: "no Content-Length"},
		"signed":    {in: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", want: "Content-Length \" -1\""},
		"long head": {in: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHead), want: "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			// In one piece and byte by byte, twice on one connection.
			for _, size := range []int{len(test.in), 1} {
				if name == "too long" && size == 1 {
					continue // a byte more is then the next answer's
				}
				var a answer
				for range 2 {
					err := feedAll(&a, []byte(test.in), size)
					if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
						t.Fatalf("in pieces of %d: got error %v, want %q", size, err, test.want)
					}
					if err != nil {
						break
					}
				}
			}
		})
	}
}

// feedAll feeds b in pieces, of which just the last may end the answer.
func feedAll(a *answer, b []byte, size int) error {
	for piece := range slices.Chunk(b, size) {
		done, err := a.feed(piece)
		if err != nil {
			return err
		}
		b = b[len(piece):]
		if done != (len(b) == 0) {
			return fmt.Errorf("done is %t with %d bytes to come", done, len(b))
		}
	}
	return nil
}

// How an answer is cut into pieces makes no difference.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), uint8(5))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		var whole, parts answer
		done, err := whole.feed(in)
		if !done || err != nil || size == 0 {
			return
		}
		if err := feedAll(&parts, in, int(size)); err != nil {
			t.Errorf("in one piece it ends, in pieces of %d: %v", size, err)
		}
		if parts.body != 0 || len(parts.head) != 0 {
			t.Errorf("left over: %+v", parts)
		}
	})
}
