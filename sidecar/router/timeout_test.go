package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slow takes each of these times to answer, the last one again and again, or
// less if its caller leaves.
type slow struct {
	times       []time.Duration
	seen, ended atomic.Int64 // ended: the caller left before the answer
}

func (s *slow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(s.seen.Add(1)) - 1
	select {
	case <-time.After(s.times[min(n, len(s.times)-1)]):
		_, _ = io.WriteString(w, "fine")
	case <-r.Context().Done():
		s.ended.Add(1)
	}
}

// takes makes a slow of milliseconds.
func takes(ms ...time.Duration) *slow {
	s := &slow{}
	for _, n := range ms {
		s.times = append(s.times, n*time.Millisecond)
	}
	return s
}

func TestTimeouts(t *testing.T) {
	const attempt = "while waiting for a response for an individual request, excluding retries"
	const total = "while waiting for a response for the request, including retries (if applicable)"
	for name, test := range map[string]struct {
		words    string
		method   string
		times    []time.Duration
		status   int
		code     string
		message  string
		took     time.Duration
		attempts int64
	}{
		"an attempt": {
			"client: {requestAttemptTimeoutMs: 100}", "GET", []time.Duration{1000},
			503, "T303", "exceeded 100.milliseconds to /svc/world " + attempt, 100, 1,
		},
		"an attempt that is repeated": {
			"client: {requestAttemptTimeoutMs: 100}\nservice: {" + readsAgain + "}", "GET", []time.Duration{1000, 1000, 50},
			200, "", "", 250, 3,
		},
		"an attempt that must not be repeated": {
			"client: {requestAttemptTimeoutMs: 100}\nservice: {" + readsAgain + "}", "POST", []time.Duration{1000, 10},
			503, "T303", attempt, 100, 1,
		},
		"the total": {
			"service: {totalTimeoutMs: 250}", "GET", []time.Duration{1000},
			503, "T304", "exceeded 250.milliseconds to /svc/world " + total, 250, 1,
		},
		"the total with retries": {
			"client: {requestAttemptTimeoutMs: 100}\nservice: {totalTimeoutMs: 250, " + readsAgain + "}", "GET", []time.Duration{1000},
			503, "T304", "exceeded 250.milliseconds to /svc/world " + total, 250, 3,
		},
		"the total with backoff": { // the third attempt would begin too late
			"client: {requestAttemptTimeoutMs: 100}\nservice: {totalTimeoutMs: 250, " + readsAgain + ", retries: {backoff: {kind: constant, ms: 40}}}",
			"GET", []time.Duration{1000}, 503, "T303", attempt, 240, 2,
		},
		"the server's": {
			"server: {timeoutMs: 70}\nservice: {totalTimeoutMs: 250}", "GET", []time.Duration{1000},
			503, "T304", "exceeded 70.milliseconds to /svc/world " + total, 70, 1,
		},
		"none": {"", "GET", []time.Duration{3600_000}, 200, "", "", 3600_000, 1},
	} {
		virtual(t, test.words, func(t *testing.T, m *mesh) {
			s := takes(test.times...)
			m.table.service("world", m.backend(t, s.ServeHTTP))
			began := time.Now()
			res, body := do(t, m.client(t), test.method, "http://world/", nil)
			if res.StatusCode != test.status || res.Header.Get("tulle-code") != test.code || !strings.Contains(body, test.message) {
				t.Errorf("%s: %d %v %q", name, res.StatusCode, res.Header, body)
			}
			if res.Header.Get("l5d-retryable") != "" {
				t.Errorf("%s: it claims that no application has seen it", name)
			}
			if took := time.Since(began); took != test.took*time.Millisecond || s.seen.Load() != test.attempts {
				t.Errorf("%s: %d attempts in %s, want %d in %d ms", name, s.seen.Load(), took, test.attempts, test.took)
			}
			time.Sleep(time.Millisecond) // for the backend to notice
			if late := s.seen.Load() - s.ended.Load(); late != 0 && test.status != 200 {
				t.Errorf("%s: %d attempts go on though nobody waits", name, late)
			}
		})
	}
}

// The limits are for the head of an answer; its body may take as long as it likes.
func TestTimeoutsSpareTheBody(t *testing.T) {
	virtual(t, "client: {requestAttemptTimeoutMs: 100}\nservice: {totalTimeoutMs: 150}", func(t *testing.T, m *mesh) {
		m.table.service("world", m.backend(t, func(w http.ResponseWriter, _ *http.Request) {
			for i := range 5 {
				time.Sleep(80 * time.Millisecond)
				_, _ = fmt.Fprint(w, i)
				_ = http.NewResponseController(w).Flush()
			}
		}))
		if res, body := get(t, m.client(t), "http://world/"); res.StatusCode != 200 || body != "01234" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
	})
}

// A connection that had a timeout is closed, one whose time was not used up is
// used again, and its next request has all the time it may.
func TestTimeoutsLeaveNothingBehind(t *testing.T) {
	virtual(t, "client: {requestAttemptTimeoutMs: 100}", func(t *testing.T, m *mesh) {
		s := takes(90, 90, 1000, 90)
		m.table.service("world", m.backend(t, s.ServeHTTP))
		c := m.client(t)
		for i, want := range []int{200, 200, 503, 200} {
			time.Sleep(50 * time.Millisecond)
			if res, _ := get(t, c, "http://world/"); res.StatusCode != want {
				t.Errorf("request %d: %d, want %d", i+1, res.StatusCode, want)
			}
		}
		if n := m.count(t, "tulle_connects_total", "result", "success"); n != 2 {
			t.Errorf("%v connections were made, want 2", n)
		}
	})
}

func TestConnectTimeout(t *testing.T) {
	virtual(t, "client: {connectTimeoutMs: 300}", func(t *testing.T, m *mesh) {
		c := m.client(t)
		hole := m.hole(t)
		m.table.service("world", hole)
		began := time.Now()
		res, body := get(t, c, "http://world/")
		if res.StatusCode != 502 || res.Header.Get("tulle-code") != "T301" || res.Header.Get("l5d-retryable") != "true" ||
			!strings.Contains(body, "Unable to establish connection to "+hole) || time.Since(began) != 300*time.Millisecond {
			t.Errorf("%d %v %q after %s", res.StatusCode, res.Header, body, time.Since(began))
		}
		// With another endpoint it takes no more than that, and then no time at all.
		m.table.service("world", hole, m.backend(t, echo))
		for i := range 20 {
			began := time.Now()
			if res, _ := get(t, c, "http://world/"); res.StatusCode != 200 {
				t.Errorf("request %d: %d", i+1, res.StatusCode)
			}
			if took := time.Since(began); took != 0 && (took != 300*time.Millisecond || i > 1) {
				t.Errorf("request %d took %s", i+1, took)
			}
		}
	})
	virtual(t, "service: {totalTimeoutMs: 100}", func(t *testing.T, m *mesh) {
		m.table.service("world", m.hole(t), m.hole(t))
		began := time.Now()
		res, _ := get(t, m.client(t), "http://world/")
		if res.StatusCode != 503 || res.Header.Get("tulle-code") != "T304" || time.Since(began) != 100*time.Millisecond {
			t.Errorf("within the total: %d %v after %s", res.StatusCode, res.Header, time.Since(began))
		}
	})
}

// An endpoint that takes nothing of a request has no more time than one that does
// not answer, whether the request's body is held or streams.
func TestTimeoutsEndBlockedWrites(t *testing.T) {
	for _, size := range []int{16 << 10, 1 << 20} {
		virtual(t, "client: {requestAttemptTimeoutMs: 200}", func(t *testing.T, m *mesh) {
			ln := m.network.listen(t)
			done := make(chan struct{})
			defer close(done)
			serveRaw(t, ln, func(net.Conn, *bufio.Reader) { <-done })
			m.table.service("world", ln.Addr().String())
			began := time.Now()
			c := m.talk(t)
			go func() {
				_, _ = fmt.Fprintf(c, "POST http://world/ HTTP/1.1\r\nHost: world\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size))
			}()
			res, _ := c.answer("POST")
			if res.StatusCode != 503 || res.Header.Get("tulle-code") != "T303" || time.Since(began) != 200*time.Millisecond {
				t.Errorf("%d bytes: %d %v after %s", size, res.StatusCode, res.Header, time.Since(began))
			}
		})
	}
}

// A body that is held so that it can be sent again has headTimeoutMs in all, however
// it comes.
func TestHeldBodyTimeout(t *testing.T) {
	virtual(t, "server: {headTimeoutMs: 1000}", func(t *testing.T, m *mesh) {
		m.table.service("world", m.backend(t, echo))
		c := m.talk(t)
		c.say("POST http://world/ HTTP/1.1\r\nHost: world\r\nContent-Length: 1000\r\n\r\n")
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			for time.Since(began) < 5*time.Second {
				time.Sleep(400 * time.Millisecond) // virtual
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
			}
		})
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if res, _ := c.answer("POST"); res.StatusCode != 408 || res.Header.Get("tulle-code") != "T108" || !res.Close {
			t.Errorf("got %d %v", res.StatusCode, res.Header)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %s", took)
		}
		_ = c.Close()
		wg.Wait()
	})
}
