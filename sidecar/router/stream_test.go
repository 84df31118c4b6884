package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// An answer goes on while the request is still coming, piece by piece both ways,
// and either end may be done first.
func TestBothWaysAtOnce(t *testing.T) {
	m := start(t)
	m.table.service("world", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if req, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for p := make([]byte, 100); ; {
				n, err := req.Body.Read(p)
				if n > 0 {
					_, _ = fmt.Fprintf(conn, "%x\r\n%s\r\n", n, p[:n])
				}
				if err != nil {
					break
				}
			}
			_, _ = io.WriteString(conn, "0\r\n\r\n")
		}
	}))
	c := m.talk(t)
	c.say("POST / HTTP/1.1\r\nHost: world\r\nTransfer-Encoding: chunked\r\n\r\n")
	res, err := http.ReadResponse(c.r, nil) // before there is anything of the body
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	for range 50 {
		c.say("4\r\nping\r\n")
		got := make([]byte, 4)
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != "ping" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	c.say("0\r\n\r\n")
	if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
		t.Errorf("at the end: %q, %v", rest, err)
	}
	c.say("GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n") // the connection is still good
	if res, _ := c.answer("GET"); res.StatusCode != 502 || res.Header.Get("tulle-code") != "T201" {
		t.Errorf("after that: %d", res.StatusCode)
	}
}

// A client that leaves a stream in which nothing happens is noticed.
func TestClientLeavesSilentStream(t *testing.T) {
	m := start(t)
	gone := make(chan struct{})
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	}))
	c := m.talk(t)
	c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
	if res, err := http.ReadResponse(c.r, nil); err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	_ = c.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the backend still works for a client that has left")
	}
}

// An endpoint whose answers break off in the middle has failed, and is ejected
// like any other that does.
func TestBrokenAnswersEject(t *testing.T) {
	m := start(t, "client: {"+inTurn+", "+ejects+"}")
	var seen atomic.Int64
	broken := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			seen.Add(1)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
		}
	})
	m.table.service("world", broken, backend(t, echo))
	cut := 0
	for range 40 {
		c := m.talk(t)
		c.say("GET / HTTP/1.1\r\nHost: world\r\nConnection: close\r\n\r\n")
		if _, err := io.ReadAll(c.r); err != nil {
			cut++
		}
	}
	// The client may be quicker than the verdict.
	if cut < 5 || cut > 10 || seen.Load() != int64(cut) {
		t.Errorf("%d of 40 answers were cut, by %d requests to the broken endpoint, want about 5", cut, seen.Load())
	}
	if got := m.transitions(t); got != [3]float64{1, 0, 0} {
		t.Errorf("transitions: %v", got)
	}
	m.stop()
	if n := m.count(t, "tulle_requests_total", "client", bound("world"), "result", "failure"); n != float64(cut) {
		t.Errorf("%v requests count as failures, want %d", n, cut)
	}
}

// Callers with too little time say nothing of the endpoint; the policy's own
// limits do.
func TestHasteEjectsNobody(t *testing.T) {
	virtual(t, "client: {"+ejects+"}\nservice: {totalTimeoutMs: 1000}", func(t *testing.T, m *mesh) {
		s := takes(5000)
		m.table.service("world", m.backend(t, s.ServeHTTP))
		c := m.client(t)
		for range 10 {
			deadline := fmt.Sprint("1 ", time.Now().Add(10*time.Millisecond).UnixNano())
			if res, _ := get(t, c, "http://world/", "l5d-ctx-deadline", deadline); res.Header.Get("tulle-code") != "T304" {
				t.Errorf("got %d %v", res.StatusCode, res.Header)
			}
		}
		if got := m.transitions(t); got != [3]float64{} {
			t.Errorf("after hasty callers: %v", got)
		}
		for range 5 {
			get(t, c, "http://world/")
		}
		if got := m.transitions(t); got != [3]float64{1, 0, 0} {
			t.Errorf("after those who had time: %v", got)
		}
	})
}

// An endpoint is busy until its answer has ended, not only until it has begun.
func TestStreamsCount(t *testing.T) {
	virtual(t, "client: {maxConcurrentRequestsPerEndpoint: 1}", func(t *testing.T, m *mesh) {
		m.table.service("world", m.backend(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat("x", 5000))
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Second)
		}))
		c := m.talk(t)
		c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
		res, err := http.ReadResponse(c.r, nil)
		if err != nil || res.StatusCode != 200 {
			t.Fatal(res, err)
		}
		synctest.Wait()
		if res, _ := get(t, m.client(t), "http://world/"); res.Header.Get("tulle-code") != "T305" {
			t.Errorf("while the answer goes on: %d %v", res.StatusCode, res.Header)
		}
		if body, err := io.ReadAll(res.Body); len(body) != 5000 || err != nil {
			t.Errorf("got %d bytes, %v", len(body), err)
		}
		synctest.Wait()
		if res, _ := get(t, m.client(t), "http://world/"); res.StatusCode != 200 {
			t.Errorf("when it has ended: %d %v", res.StatusCode, res.Header)
		}
	})
}

// A client that takes nothing of its answer is cut off, and its endpoint freed.
func TestClientThatTakesNothing(t *testing.T) {
	m := start(t, "server: {writeTimeoutMs: 200}")
	freed := make(chan struct{})
	m.table.service("world", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		defer close(freed)
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}))
	c := m.talk(t)
	c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
	select {
	case <-freed:
	case <-time.After(10 * time.Second):
		t.Error("the endpoint still writes for a client that does not read")
	}
}

// New limits hold for connections that are there already.
func TestReloadOfSessions(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		m.table.service("world", m.backend(t, echo))
		c := m.talk(t)
		ask := func(fields int) (int, bool) {
			c.say("GET / HTTP/1.1\r\nHost: world\r\n" + strings.Repeat("a: b\r\n", fields) + "\r\n")
			res, _ := c.answer("GET")
			return res.StatusCode, res.Close
		}
		if status, ends := ask(30); status != 200 || ends {
			t.Errorf("at first: %d, %v", status, ends)
		}
		m.policy.Set(says(t, "server: {serverSession: {lifeTimeMs: 10000}}"))
		if status, ends := ask(30); status != 200 || ends {
			t.Errorf("within its time: %d, %v", status, ends)
		}
		time.Sleep(5 * time.Second)
		m.policy.Set(says(t, "server: {maxHeaderFields: 20}"))
		if status, ends := ask(20); status != 431 || !ends {
			t.Errorf("with more fields than may be: %d, %v", status, ends)
		}
	})
}
