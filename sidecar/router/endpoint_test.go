package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// An endpoint that is gone finishes what it has, and gets nothing new.
func TestLeavingEndpointsAreDrained(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		var old atomic.Int64
		leaving := m.backend(t, func(w http.ResponseWriter, _ *http.Request) {
			old.Add(1)
			for i := range 4 {
				_, _ = fmt.Fprint(w, i)
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Second)
			}
		})
		m.table.service("world", leaving)
		c := m.client(t)
		var wg sync.WaitGroup
		for _, at := range []time.Duration{0, 2500 * time.Millisecond} {
			wg.Go(func() {
				time.Sleep(at)
				if res, body, err := try(c, "GET", "http://world/", nil); err != nil || res.StatusCode != 200 || body != "0123" {
					t.Errorf("what was under way ended with %v %q %v", res, body, err)
				}
			})
		}
		time.Sleep(3 * time.Second) // one has begun, and the other one has nearly ended
		stays := m.backend(t, echo)
		m.table.service("world", stays)
		for range 10 {
			if res, _ := get(t, c, "http://world/"); res.StatusCode != 200 {
				t.Errorf("got %d", res.StatusCode)
			}
		}
		wg.Wait()
		if old.Load() != 2 {
			t.Errorf("the endpoint that left got %d requests", old.Load())
		}
		// Who comes back soon finds the connections that were there.
		before := m.count(t, "tulle_connects_total")
		m.table.service("world", leaving)
		get(t, c, "http://world/")
		if made := m.count(t, "tulle_connects_total") - before; made != 0 {
			t.Errorf("%v connections were made", made)
		}
		m.table.service("world") // and if none is left, that is said
		if res, _ := get(t, c, "http://world/"); res.StatusCode != 502 || res.Header.Get("tulle-code") != "T201" {
			t.Errorf("without endpoints: %d %v", res.StatusCode, res.Header)
		}
	})
}

// What is sent again goes to the endpoints that are there then, not to those of
// the time when the request came.
func TestRetriesFollowTheEndpoints(t *testing.T) {
	words := "client: {requestAttemptTimeoutMs: 1000}\nservice: {totalTimeoutMs: 5000, responseClassifier: {kind: io.l5d.http.retryableRead5XX}}"
	virtual(t, words, func(t *testing.T, m *mesh) {
		m.table.service("world", m.backend(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		joins := m.backend(t, echo)
		var wg sync.WaitGroup
		wg.Go(func() {
			time.Sleep(500 * time.Millisecond)
			m.table.service("world", joins)
		})
		began := time.Now()
		if res, body := get(t, m.client(t), "http://world/"); res.StatusCode != 200 || time.Since(began) != time.Second {
			t.Errorf("after %s: %d %q", time.Since(began), res.StatusCode, body)
		}
		wg.Wait()
	})
}

// A refused connection costs no time and no budget, whatever the method.
func TestRefusedConnections(t *testing.T) {
	words := "client: {" + inTurn + ", requeueBudget: {minRetriesPerSec: 0, percentCanRetry: 0}}"
	virtual(t, words, func(t *testing.T, m *mesh) {
		gone := []string{"10.9.9.1:80", "10.9.9.2:80", "10.9.9.3:80"}
		m.table.service("world", append(gone, m.backend(t, echo))...)
		c := m.client(t)
		began := time.Now()
		for _, method := range []string{"POST", "GET", "PURGE", "PUT"} {
			for _, body := range []string{"abc", strings.Repeat("x", 100_000)} {
				if res, got := do(t, c, method, "http://world/", strings.NewReader(body)); res.StatusCode != 200 || got != body {
					t.Errorf("%s: %d %.20q", method, res.StatusCode, got)
				}
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %s", took)
		}
		if failed := m.count(t, "tulle_connects_total", "result", "failure"); failed != 3 {
			t.Errorf("%v connections were refused, want each endpoint once", failed)
		}
		// They are passed over for two seconds, and then tried again.
		time.Sleep(3 * time.Second)
		for range 4 {
			get(t, c, "http://world/")
		}
		if failed := m.count(t, "tulle_connects_total", "result", "failure"); failed != 6 {
			t.Errorf("%v connections were refused in the end", failed)
		}
	})
}

// With failFast, an endpoint that goes on refusing is tried less and less often.
func TestFailFast(t *testing.T) {
	virtual(t, "client: {failFast: true, failureAccrual: {kind: none}, "+inTurn+"}", func(t *testing.T, m *mesh) {
		m.table.service("world", "10.9.9.1:80", m.backend(t, echo))
		c := m.client(t)
		began := time.Now()
		var at []time.Duration
		failed := 0.0
		for range 1000 {
			if res, _ := get(t, c, "http://world/"); res.StatusCode != 200 {
				t.Fatalf("got %d", res.StatusCode)
			}
			if n := m.count(t, "tulle_connects_total", "result", "failure"); n > failed {
				failed = n
				at = append(at, time.Since(began).Round(time.Second))
			}
			time.Sleep(100 * time.Millisecond)
		}
		want := []time.Duration{0, 1, 3, 7, 15, 31, 63, 95}
		for i := range want {
			want[i] *= time.Second
		}
		if fmt.Sprint(at) != fmt.Sprint(want) {
			t.Errorf("it was tried at %v, want %v", at, want)
		}
	})
}

// Endpoints that close kept-alive connections whenever they like do not show,
// not even to requests that must not be sent twice.
func TestStaleConnections(t *testing.T) {
	m := start(t, "client: {requeueBudget: {minRetriesPerSec: 0, percentCanRetry: 0}}")
	closed := make(chan struct{}, 100)
	s := httptest.NewUnstartedServer(http.HandlerFunc(echo))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	m.table.service("world", s.Listener.Addr().String())
	c := m.client(t)
	for i := range 50 {
		method := []string{"GET", "POST"}[i%2]
		if res, body := do(t, c, method, "http://world/", strings.NewReader("ok")); res.StatusCode != 200 || body != "ok" {
			t.Fatalf("%s %d: %d %q", method, i, res.StatusCode, body)
		}
		s.CloseClientConnections()
		<-closed
	}
}

// An endpoint that takes a request on a kept-alive connection and closes it
// without a word may not have seen it: what is safe to repeat is repeated.
func TestSilentClose(t *testing.T) {
	m := start(t, "client: {requeueBudget: {minRetriesPerSec: 0, percentCanRetry: 0}}")
	var seen atomic.Int64
	m.table.service("world", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for i := 0; ; i++ {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			if seen.Add(1); i == 1 {
				return // the second request of each connection
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}))
	c := m.client(t)
	for _, test := range []struct {
		method   string
		status   int
		attempts int64
	}{{"GET", 200, 1}, {"GET", 200, 2}, {"PUT", 200, 2}, {"DELETE", 200, 2}, {"POST", 502, 1}, {"PATCH", 200, 1}, {"PURGE", 502, 1}} {
		seen.Store(0)
		res, body := do(t, c, test.method, "http://world/", strings.NewReader("abc"))
		if res.StatusCode != test.status || seen.Load() != test.attempts {
			t.Errorf("%s: %d %q after %d attempts, want %d after %d", test.method, res.StatusCode, body, seen.Load(), test.status, test.attempts)
		}
		if test.status == 502 && (res.Header.Get("tulle-code") != "T302" || res.Header.Get("l5d-retryable") != "") {
			t.Errorf("%s: %v", test.method, res.Header)
		}
	}
}

// An answer that is not read to its end spoils its connection for others.
func TestHalfReadConnectionsAreNotUsedAgain(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		left := make(chan struct{})
		m.table.service("world", m.backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/long" {
				defer close(left)
				for {
					if _, err := w.Write(make([]byte, 10_000)); err != nil {
						return
					}
				}
			}
		}))
		conn := m.talk(t)
		conn.say("GET /long HTTP/1.1\r\nHost: world\r\n\r\n")
		if _, err := io.ReadFull(conn.r, make([]byte, 50_000)); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		<-left
		synctest.Wait()
		if res, body := get(t, m.client(t), "http://world/"); res.StatusCode != 200 || body != "" {
			t.Errorf("%d %.20q", res.StatusCode, body)
		}
		if n := m.count(t, "tulle_connects_total"); n != 2 {
			t.Errorf("%v connections were made, want 2", n)
		}
	})
}

// A connection is used again after answers of any size, those that fill a buffer
// to its last byte among them.
func TestConnectionsAreKept(t *testing.T) {
	m := start(t)
	var size atomic.Int64
	m.table.service("world", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size.Load()))
		_, _ = w.Write(make([]byte, size.Load()))
	}))
	c := m.client(t)
	for _, n := range []int64{0, 1, 512, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10} {
		for _, head := range []int64{0, 128, 200, 256} { // about as long as the head is
			size.Store(max(n-head, 0))
			for range 3 {
				if res, body := get(t, c, "http://world/"); res.StatusCode != 200 || int64(len(body)) != size.Load() {
					t.Fatalf("%d bytes: %d, %d bytes", size.Load(), res.StatusCode, len(body))
				}
			}
		}
	}
	if n := m.count(t, "tulle_connects_total"); n != 1 {
		t.Errorf("%v connections were made, want one", n)
	}
}
