package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// A head that comes too slowly, byte by byte or not at all, is not waited for.
func TestSlowHead(t *testing.T) {
	const head = "GET / HTTP/1.1\r\nHost: world\r\nX-Long: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
	for name, drop := range map[string]string{"stops": "\x00", "drips": ""} { // "" is after each byte
		virtual(t, "server: {headTimeoutMs: 2000}", func(t *testing.T, m *mesh) {
			c := m.talk(t)
			time.Sleep(30 * time.Second) // nothing has begun
			began := time.Now()
			var writer sync.WaitGroup
			writer.Go(func() {
				for _, piece := range strings.SplitAfter(head, drop) {
					if _, err := io.WriteString(c, piece); err != nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
			res, body := c.answer("GET")
			if res.StatusCode != 408 || res.Header.Get("tulle-code") != "T107" || !res.Close || !strings.Contains(body, "T107") || res.Header.Get("l5d-retryable") != "true" {
				t.Errorf("%s: %d %v", name, res.StatusCode, res.Header)
			}
			if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
				t.Errorf("%s: it took %s", name, took)
			}
			_ = c.Close()
			writer.Wait()
		})
	}
}

// Connections that are idle, or as old as they may be, end without a word.
func TestServerSession(t *testing.T) {
	for name, test := range map[string]struct {
		words string
		pause time.Duration // between requests, of which there are three
		lasts time.Duration
		close int // the request after which the client is told, 0: none
	}{
		"idle":     {"server: {serverSession: {idleTimeMs: 5000}}", 4 * time.Second, 13 * time.Second, 0},
		"default":  {"", time.Minute, 4 * time.Minute, 0},
		"lifetime": {"server: {serverSession: {lifeTimeMs: 7000}}", 4 * time.Second, 8 * time.Second, 3},
		"old":      {"server: {serverSession: {lifeTimeMs: 9000}}", 4 * time.Second, 9 * time.Second, 0},
	} {
		virtual(t, test.words, func(t *testing.T, m *mesh) {
			m.table.service("world", m.backend(t, echo))
			c := m.talk(t)
			began := time.Now()
			for i := range 3 {
				if i > 0 {
					time.Sleep(test.pause)
				}
				if name == "lifetime" && i == 2 {
					break // it ended by then
				}
				c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
				if res, _ := c.answer("GET"); res.StatusCode != 200 || res.Close {
					t.Errorf("%s: answer %d: %d, close %v", name, i+1, res.StatusCode, res.Close)
				}
			}
			rest, err := io.ReadAll(c.r)
			if took := time.Since(began); len(rest) > 0 || err != nil || took < test.lasts || took > test.lasts+2*time.Second {
				t.Errorf("%s: the connection ended with %q, %v after %s, want %s", name, rest, err, took, test.lasts)
			}
		})
	}
}

// A body that stops arriving is given up, whether it is held or passed on.
func TestSlowBody(t *testing.T) {
	m := start(t, "server: {headTimeoutMs: 200}")
	cut := make(chan error, 1)
	m.table.service("world", backend(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		cut <- err
	}))
	for name, head := range map[string]string{
		"held":    "Content-Length: 10\r\n\r\nabc",
		"chunked": "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"large":   "Content-Length: 100000\r\n\r\nabc",
	} {
		c := m.talk(t)
		c.say("POST / HTTP/1.1\r\nHost: world\r\n" + head)
		res, _ := c.answer("POST")
		if res.StatusCode != 408 || res.Header.Get("tulle-code") != "T108" || !res.Close {
			t.Errorf("%s: %d %v", name, res.StatusCode, res.Header)
		}
		if name != "held" {
			if err := <-cut; err == nil {
				t.Errorf("%s: the backend took it for a whole", name)
			}
		}
	}
}

// Heads that are too large are refused, each with its status and code.
func TestLargeHeads(t *testing.T) {
	m := start(t, "server: {maxInitialLineKB: 1, maxHeadersKB: 2, maxHeaderFields: 20}")
	m.table.service("world", backend(t, echo))
	line := func(n int) string { // a request line of n bytes with its CRLF
		return "GET /" + strings.Repeat("x", n-len("GET / HTTP/1.1\r\n")) + " HTTP/1.1\r\n"
	}
	const host = "Host: world\r\nConnection: close\r\n"
	fields := func(n int) string { // as many bytes of fields
		return host + "X: " + strings.Repeat("x", n-len(host)-len("X: \r\n")) + "\r\n"
	}
	for _, test := range []struct {
		name, request string
		status        int
		code          string
	}{
		{"a line as long as may be", line(1024) + host + "\r\n", 200, ""},
		{"one byte longer", line(1025) + host + "\r\n", 414, "T109"},
		{"without an end", strings.Repeat("x", 1<<16), 414, "T109"},
		{"fields as large as may be", line(100) + fields(2048) + "\r\n", 200, ""},
		{"one byte larger", line(100) + fields(2049) + "\r\n", 431, "T110"},
		{"without an end", line(100) + "X: " + strings.Repeat("x", 1<<16), 431, "T110"},
		{"as many fields as may be", line(100) + host + strings.Repeat("a: b\r\n", 18) + "\r\n", 200, ""},
		{"one more", line(100) + host + strings.Repeat("a: b\r\n", 19) + "\r\n", 431, "T110"},
	} {
		c := m.talk(t)
		go func() { _, _ = io.WriteString(c, test.request) }() // it may be cut
		res, body := c.answer("GET")
		if res.StatusCode != test.status || res.Header.Get("tulle-code") != test.code || !res.Close || test.code != "" && res.Header.Get("l5d-err") == "" {
			t.Errorf("%s: %d %v %.80q", test.name, res.StatusCode, res.Header, body)
		}
		_ = c.Close()
	}
}

// Requests that come together are answered in their order, with bodies and
// failures among them, and up to one that is broken.
func TestPipelining(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/chunked" {
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = fmt.Fprint(w, r.Method, r.URL.Path, len(b))
	}))
	m.table.service("void", refusing(t))
	large := strings.Repeat("x", 50_000)
	var all strings.Builder
	want := []string{}
	for range 5 {
		all.WriteString("GET /a HTTP/1.1\r\nHost: world\r\n\r\n" +
			"POST /b HTTP/1.1\r\nHost: world\r\nContent-Length: 3\r\n\r\nabc" +
			"HEAD /c HTTP/1.1\r\nHost: world\r\n\r\n\r\n" +
			"GET / HTTP/1.1\r\nHost: void\r\n\r\n" +
			"POST /chunked HTTP/1.1\r\nHost: world\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\nX-T: 1\r\n\r\n" +
			"PUT /d HTTP/1.1\r\nHost: world\r\nContent-Length: 50000\r\n\r\n" + large)
		want = append(want, "200 GET/a0", "200 POST/b3", "200 ", "502", "200 POST/chunked5", "200 PUT/d50000")
	}
	all.WriteString("GET / HTTP/1.1\r\nHost: world\r\nHost: world\r\n\r\nGET /never HTTP/1.1\r\nHost: world\r\n\r\n")
	c := m.talk(t)
	go func() { _, _ = io.WriteString(c, all.String()) }()
	for i, w := range want {
		method := "GET"
		if i%6 == 2 {
			method = "HEAD"
		}
		res, body := c.answer(method)
		if got := fmt.Sprint(res.StatusCode, " ", body); !strings.HasPrefix(got, w) {
			t.Fatalf("answer %d: %q, want %q", i, got, w)
		}
	}
	if res, _ := c.answer("GET"); res.StatusCode != 400 || !res.Close {
		t.Errorf("the broken one: %d, close %v", res.StatusCode, res.Close)
	}
	if rest := c.rest(); rest != "" {
		t.Errorf("then %q", rest)
	}
}

// HTTP/1.0: its connections end unless it asks, bodies are never chunked, and
// there is no answer before the answer.
func TestHTTP10Connections(t *testing.T) {
	m := start(t)
	m.table.service("world", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			answer := "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
			if req.URL.Path == "/chunked" {
				answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n"
			}
			_, _ = io.WriteString(conn, answer)
		}
	}))
	for _, test := range []struct{ request, want string }{
		{"GET / HTTP/1.0\r\nHost: world\r\n\r\n", "close"},
		{"GET / HTTP/1.0\r\nHost: world\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\nHost: world\r\n\r\n", "keep-alive close"},
		{"GET http://world/ HTTP/1.0\r\n\r\n", "close"},
		{"POST / HTTP/1.0\r\nHost: world\r\nContent-Length: 2\r\n\r\nhi", "close"},
		{"GET /chunked HTTP/1.0\r\nHost: world\r\nConnection: keep-alive\r\n\r\n", "close"},
	} {
		c := m.talk(t)
		c.say(test.request)
		for _, want := range strings.Fields(test.want) {
			res, body := c.answer("GET")
			if res.StatusCode != 200 || body != "fine" || res.Close != (want == "close") || len(res.TransferEncoding) > 0 {
				t.Errorf("%q: %d %v %q", test.request, res.StatusCode, res.Header, body)
			}
		}
		if rest := c.rest(); rest != "" {
			t.Errorf("%q: then %q", test.request, rest)
		}
	}
	c := m.talk(t)
	c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
	c.expect("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n")
}

// A client that says that it has no more to ask gets its answers all the same, if
// they are quick.
func TestHalfClose(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprint(w, r.URL.Path, string(b))
	}))
	for request, want := range map[string]string{
		"GET /1 HTTP/1.1\r\nHost: world\r\n\r\n":                                                              "/1",
		"POST /2 HTTP/1.1\r\nHost: world\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n":            "/2a",
		"GET /1 HTTP/1.1\r\nHost: world\r\n\r\nGET /3 HTTP/1.1\r\nHost: world\r\n\r\n":                        "/1/3",
		"POST /2 HTTP/1.1\r\nHost: world\r\nContent-Length: 1\r\n\r\naGET /4 HTTP/1.1\r\nHost: world\r\n\r\n": "/2a/4",
	} {
		c := m.talk(t)
		c.say(request)
		if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got := ""
		for r := bufio.NewReader(strings.NewReader(c.rest())); ; {
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				break
			}
			b, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != 200 {
				t.Errorf("%q: %d %v", request, res.StatusCode, err)
			}
			got += string(b)
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", request, got, want)
		}
	}
}
