package http1

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/socket"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// The heads of the benchmarks: of a load generator, a tool and a browser, and
// what nginx answers.
const (
	wrkHead  = "GET /index.html HTTP/1.1\r\nHost: world\r\n\r\n"
	curlHead = "GET http://world/greet?name=a%20b HTTP/1.1\r\nHost: world\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n" +
		"Proxy-Connection: Keep-Alive\r\nl5d-ctx-trace: AAAAAAAAAKoAAAAAAAAAuwAAAAAAAADMAAAAAAAAAAY=\r\n\r\n"
	browserHead = "GET /shop/cart/items?page=2&sort=price HTTP/1.1\r\nHost: shop.example:8080\r\nConnection: keep-alive\r\n" +
		"sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n" +
		"Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n" +
		"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n" +
		"Referer: http://shop.example:8080/shop/cart\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n" +
		"Cookie: session=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08; theme=dark; consent=yes\r\n\r\n"
	nginxHead = "HTTP/1.1 200 OK\r\nServer: nginx/1.26.3\r\nDate: Mon, 23 Nov 2026 06:36:54 GMT\r\nContent-Type: text/plain\r\n" +
		"Content-Length: 100\r\nLast-Modified: Mon, 23 Nov 2026 05:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"69228a10-64\"\r\nAccept-Ranges: bytes\r\n\r\n"
)

// again yields the same bytes at each read.
type again []byte

func (a again) Read(p []byte) (int, error) { return copy(p, a), nil }

func BenchmarkRequestHead(b *testing.B) {
	for _, c := range []struct{ name, head string }{{"wrk", wrkHead}, {"curl", curlHead}, {"browser", browserHead}} {
		b.Run(c.name, func(b *testing.B) {
			r := NewReader(again(c.head), DefaultLimits)
			var req wire.Request
			b.ReportAllocs()
			b.SetBytes(int64(len(c.head)))
			for b.Loop() {
				if err := r.Request(&req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkResponseHead(b *testing.B) {
	r := NewReader(again(nginxHead), DefaultLimits)
	var res wire.Response
	get := []byte("GET")
	b.ReportAllocs()
	b.SetBytes(int64(len(nginxHead)))
	for b.Loop() {
		if err := r.Response(&res, get); err != nil {
			b.Fatal(err)
		}
		r.Discard(r.Buffered())
	}
}

// BenchmarkExchange is all that a request and its answer cost here: both heads
// read and written, the body handed on. The connections cost nothing.
func BenchmarkExchange(b *testing.B) {
	for _, c := range []struct {
		name, request string
		answer        []byte
	}{
		{"wrk-100B", wrkHead, append([]byte(nginxHead), bytes.Repeat([]byte("x"), 100)...)},
		{"browser-100B", browserHead, append([]byte(nginxHead), bytes.Repeat([]byte("x"), 100)...)},
		{"wrk-64KiB", wrkHead, answer(64 << 10)},
		{"wrk-64KiB-chunked", wrkHead, chunkedAnswer(64<<10, 8<<10)},
	} {
		b.Run(c.name, func(b *testing.B) {
			client, backend := &exchange{in: []byte(c.request)}, &exchange{in: c.answer}
			cr, cw := NewReader(client, DefaultLimits), NewWriter(client)
			br, bw := NewReader(backend, DefaultLimits), NewWriter(backend)
			var req wire.Request
			var res wire.Response
			b.ReportAllocs()
			for b.Loop() {
				if err := cr.Request(&req); err != nil {
					b.Fatal(err)
				}
				forward(bw, &req)
				if err := bw.Flush(); err != nil {
					b.Fatal(err)
				}
				if err := relayOne(br, cw, &res); err != nil {
					b.Fatal(err)
				}
				cr.Idle()
				br.Idle()
			}
		})
	}
}

// BenchmarkRelay relays answers over real connections: from a backend that sends
// one for each byte it gets, to a client that reads it whole. The costs of both
// are in the result, and they are most of it.
func BenchmarkRelay(b *testing.B) {
	for _, c := range []struct {
		name   string
		answer []byte
	}{
		{"100B", answer(100)},
		{"64KiB", answer(64 << 10)},
		{"1MiB", answer(1 << 20)},
		{"64KiB-chunked", chunkedAnswer(64<<10, 8<<10)},
		{"64KiB-small-chunks", chunkedAnswer(64<<10, 100)},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkRelay(b, c.answer) })
	}
}

func answer(n int) []byte {
	return append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: %d\r\n\r\n", n), bytes.Repeat([]byte("x"), n)...)
}

func chunkedAnswer(n, size int) []byte {
	out := []byte("HTTP/1.1 200 OK\r\nServer: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	for ; n > 0; n -= size {
		out = fmt.Appendf(out, "%x\r\n%s\r\n", min(n, size), bytes.Repeat([]byte("x"), min(n, size)))
	}
	return append(out, "0\r\n\r\n"...)
}

func benchmarkRelay(b *testing.B, answer []byte) {
	up, backend := connect(b)
	down, client := connect(b)
	go func() {
		var one [1]byte
		for {
			if _, err := backend.Read(one[:]); err != nil {
				return
			}
			if _, err := backend.Write(answer); err != nil {
				return
			}
		}
	}()
	var want int
	{ // what the client will see
		var out bytes.Buffer
		_ = relayOne(NewReader(bytes.NewReader(answer), DefaultLimits), NewWriter(&out), &wire.Response{})
		want = out.Len()
	}
	got := make(chan error)
	go func() {
		buf := make([]byte, 256<<10)
		for left := want; ; {
			n, err := client.Read(buf)
			if left -= n; left == 0 || err != nil {
				got <- err
				left = want
			}
			if err != nil {
				return
			}
		}
	}()
	r, w := NewReader(up, DefaultLimits), NewWriter(down)
	var res wire.Response
	b.ReportAllocs()
	b.SetBytes(int64(len(answer)))
	before := processorTime(b)
	for b.Loop() {
		if _, err := up.Write([]byte("x")); err != nil {
			b.Fatal(err)
		}
		if err := relayOne(r, w, &res); err != nil {
			b.Fatal(err)
		}
		if err := <-got; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
	_ = down.Close()
	_ = up.Close()
	<-got
}

// processorTime returns what this process has used so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func relayOne(r *Reader, w *Writer, res *wire.Response) error {
	if err := r.Response(res, []byte("GET")); err != nil {
		return err
	}
	w.StatusLine(res.Status, res.Reason)
	for _, f := range res.Header.Fields {
		if !wire.EqualFold(f.Name, "content-length") && !wire.EqualFold(f.Name, "transfer-encoding") {
			w.Field(f.Name, f.Value)
		}
	}
	w.Framing(res.Body, res.Length)
	w.EndHead()
	body := r.Body(res.Body, res.Length)
	readErr, writeErr := Relay(w, &body, res.Body == wire.Chunked)
	if readErr == nil {
		readErr = writeErr
	}
	return readErr
}

// connect returns both ends of a connection, the near one as the proxy has it.
func connect(b *testing.B) (near, far net.Conn) {
	poller, err := socket.Open()
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- poller.Run(ctx) }()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	near, err = poller.Dial(ctx, ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	far, err = ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = far.Close(); cancel(); <-done })
	return near, far
}
