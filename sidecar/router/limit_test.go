package router_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// gate holds every request until it is opened.
type gate struct {
	seen   atomic.Int64
	inside atomic.Int64
	most   atomic.Int64 // at a time
	open   chan struct{}
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.seen.Add(1)
	n := g.inside.Add(1)
	defer g.inside.Add(-1)
	for {
		most := g.most.Load()
		if n <= most || g.most.CompareAndSwap(most, n) {
			break
		}
	}
	select {
	case <-g.open:
		_, _ = io.WriteString(w, "fine")
	case <-r.Context().Done():
	}
}

// occupy sends n requests that stay under way until the function it returns is
// called, and all have to succeed.
func occupy(t *testing.T, c *http.Client, g *gate, n int) (release func()) {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if res, body, err := try(c, "GET", "http://world/", nil); err != nil || res.StatusCode != 200 || body != "fine" {
				t.Errorf("a request within the limit: %v %v %q", err, res, body)
			}
		})
	}
	synctest.Wait()
	return func() { close(g.open); wg.Wait() }
}

// What is too much is refused at once, in a way that says that it may be tried
// elsewhere.
func TestConcurrencyLimits(t *testing.T) {
	for code, test := range map[string]struct {
		words     string
		endpoints int
		limit     int
	}{
		"T111": {"server: {maxConcurrentRequests: 3}", 1, 3},
		"T113": {"service: {maxConcurrentRequests: 3}", 1, 3},
		"T305": {"client: {maxConcurrentRequestsPerEndpoint: 2}", 3, 6},
	} {
		virtual(t, test.words, func(t *testing.T, m *mesh) {
			g := newGate()
			var endpoints []string
			for range test.endpoints {
				endpoints = append(endpoints, m.backend(t, g.ServeHTTP))
			}
			m.table.service("world", endpoints...)
			c := m.client(t)
			release := occupy(t, c, g, test.limit)
			if g.inside.Load() != int64(test.limit) {
				t.Fatalf("%s: %d requests are under way, want %d", code, g.inside.Load(), test.limit)
			}
			began := time.Now()
			for _, method := range []string{"GET", "HEAD", "POST"} {
				res, body := do(t, c, method, "http://world/", nil)
				if res.StatusCode != 503 || res.Close {
					t.Errorf("%s: %s: %d, close %v", code, method, res.StatusCode, res.Close)
				}
				for name, want := range map[string]string{
					"tulle-code": code, "Retry-After": "0", "finagle-http-nack": "true", "l5d-retryable": "true", "Via": "1.1 linkerd",
				} {
					if got := res.Header.Get(name); got != want {
						t.Errorf("%s: %s: %s is %q, want %q", code, method, name, got, want)
					}
				}
				if res.Header.Get("l5d-err") == "" || (method == "HEAD") != (body == "") || method != "HEAD" && !strings.Contains(body, code) {
					t.Errorf("%s: %s: %v %q", code, method, res.Header, body)
				}
			}
			if time.Since(began) != 0 || g.seen.Load() != int64(test.limit) {
				t.Errorf("%s: refusing took %s, %d requests were let through", code, time.Since(began), g.seen.Load())
			}
			if n := m.count(t, "tulle_errors_total", "code", code); n != 3 {
				t.Errorf("%s is counted %v times, want 3", code, n)
			}
			release()
			if res, _ := get(t, c, "http://world/"); res.StatusCode != 200 {
				t.Errorf("%s: after the others were done: %d", code, res.StatusCode)
			}
		})
	}
}

// Requests for one service do not take the places of another's.
func TestServicesHaveTheirOwnLimits(t *testing.T) {
	virtual(t, "service: {maxConcurrentRequests: 1}", func(t *testing.T, m *mesh) {
		g := newGate()
		m.table.service("world", m.backend(t, g.ServeHTTP))
		m.table.service("other", m.backend(t, echo))
		c := m.client(t)
		release := occupy(t, c, g, 1)
		if res, _ := get(t, c, "http://other/"); res.StatusCode != 200 {
			t.Errorf("got %d", res.StatusCode)
		}
		release()
	})
}

// A connection too many gets its answer without being asked for a request.
func TestConnectionLimit(t *testing.T) {
	m := start(t, "server: {maxConnections: 2}")
	m.table.service("world", backend(t, echo))
	a, b := m.talk(t), m.talk(t)
	for _, c := range []*talk{a, b} {
		c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
		if res, _ := c.answer("GET"); res.StatusCode != 200 {
			t.Fatalf("within the limit: %d", res.StatusCode)
		}
	}
	refused := m.talk(t)
	res, body := refused.answer("GET")
	if res.StatusCode != 503 || res.Header.Get("tulle-code") != "T112" || res.Header.Get("l5d-err") == "" || res.Header.Get("l5d-retryable") != "true" ||
		res.Header.Get("Retry-After") == "" || !res.Close || body != "" {
		t.Errorf("got %d %v %q", res.StatusCode, res.Header, body)
	}
	if rest := refused.rest(); rest != "" {
		t.Errorf("after the answer: %q", rest)
	}
	_ = a.Close()
	for { // until the router has noticed that there is room
		c := m.talk(t)
		c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
		if res, _ := c.answer("GET"); res.StatusCode == 200 {
			break
		}
	}
	if n := m.count(t, "tulle_errors_total", "code", "T112"); n == 0 {
		t.Error("T112 is not counted")
	}
}

// At an edge it does not say what it is that has no room.
func TestConnectionLimitAtAnEdge(t *testing.T) {
	m := start(t, "server: {maxConnections: 1, clearContext: true}")
	m.table.service("world", backend(t, echo))
	first := m.talk(t)
	first.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
	first.answer("GET")
	want := "HTTP/1.1 503 Service Unavailable\r\nVia: 1.1 linkerd\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	if got := m.talk(t).rest(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// With maxSize, requests wait for a connection in their order; with maxWaiters
// the rest goes elsewhere or is refused.
func TestPoolLimits(t *testing.T) {
	virtual(t, "client: {hostConnectionPool: {maxSize: 2}}", func(t *testing.T, m *mesh) {
		s := takes(100)
		m.table.service("world", m.backend(t, s.ServeHTTP))
		c := m.client(t)
		began := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if res, _, err := try(c, "POST", "http://world/", nil); err != nil || res.StatusCode != 200 {
					t.Error(res, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took != 500*time.Millisecond {
			t.Errorf("ten requests of 100 ms over two connections took %s", took)
		}
		if n := m.count(t, "tulle_connects_total"); n != 2 {
			t.Errorf("%v connections were made", n)
		}
	})
	virtual(t, "client: {hostConnectionPool: {maxSize: 1, maxWaiters: 1}}", func(t *testing.T, m *mesh) {
		g := newGate()
		m.table.service("world", m.backend(t, g.ServeHTTP))
		c := m.client(t)
		release := occupy(t, c, g, 2) // one of them waits
		res, body := get(t, c, "http://world/")
		if res.StatusCode != 503 || res.Header.Get("tulle-code") != "T305" || res.Header.Get("l5d-retryable") != "true" {
			t.Errorf("without a place to wait: %d %v %q", res.StatusCode, res.Header, body)
		}
		if got := m.transitions(t); got != [3]float64{} {
			t.Errorf("a full pool says nothing of the endpoint: %v", got)
		}
		other := newGate()
		close(other.open)
		m.table.service("world", m.backend(t, g.ServeHTTP), m.backend(t, other.ServeHTTP))
		release()
	})
	virtual(t, "client: {connectTimeoutMs: 300, hostConnectionPool: {maxSize: 1}}", func(t *testing.T, m *mesh) {
		g := newGate()
		m.table.service("world", m.backend(t, g.ServeHTTP))
		c := m.client(t)
		release := occupy(t, c, g, 1)
		began := time.Now()
		if res, _ := get(t, c, "http://world/"); res.StatusCode != 503 || time.Since(began) != 300*time.Millisecond {
			t.Errorf("who waits for too long: %d after %s", res.StatusCode, time.Since(began))
		}
		release()
	})
}

// What may be done with the connections of one name says nothing about those of
// another that leads to the same place.
func TestNamesHaveTheirOwnConnections(t *testing.T) {
	const words = `client:
  kind: io.l5d.static
  configs:
  - prefix: /#/io.l5d.k8s/ns/http/tight
    hostConnectionPool: {maxSize: 1, maxWaiters: 0}`
	virtual(t, words, func(t *testing.T, m *mesh) {
		g := newGate()
		place := m.backend(t, g.ServeHTTP)
		m.table.service("world", place)
		m.table.service("tight", place)
		c := m.client(t)
		release := occupy(t, c, g, 3) // of world
		var wg sync.WaitGroup
		wg.Go(func() {
			if res, _ := get(t, c, "http://tight/"); res.StatusCode != 200 {
				t.Errorf("within its own limit: %d %v", res.StatusCode, res.Header)
			}
		})
		synctest.Wait()
		if g.inside.Load() != 4 {
			t.Errorf("%d requests are under way, want 4", g.inside.Load())
		}
		if res, _ := get(t, c, "http://tight/"); res.StatusCode != 503 || res.Header.Get("tulle-code") != "T305" {
			t.Errorf("beyond its limit: %d %v", res.StatusCode, res.Header)
		}
		release()
		wg.Wait()
		if n := m.count(t, "tulle_connects_total"); n != 4 {
			t.Errorf("%v connections were made, want 4", n)
		}
		// The one of tight is idle, and not for world to take.
		get(t, c, "http://tight/")
		if n := m.count(t, "tulle_connects_total", "client", bound("tight")); n != 1 {
			t.Errorf("tight made %v connections, want 1", n)
		}
	})
}

// Connections go when they have been idle, or are open, for long.
func TestConnectionsExpire(t *testing.T) {
	for name, test := range map[string]struct {
		words string
		pause time.Duration
		made  float64
	}{
		"idle":            {"client: {hostConnectionPool: {idleTimeMs: 2000}}", 4 * time.Second, 5},
		"not idle enough": {"client: {hostConnectionPool: {idleTimeMs: 9000}}", 4 * time.Second, 1},
		"a minimum stays": {"client: {hostConnectionPool: {minSize: 1, idleTimeMs: 2000}}", 4 * time.Second, 1},
		"the session's":   {"client: {clientSession: {idleTimeMs: 2000}}", 4 * time.Second, 5},
		"life":            {"client: {clientSession: {lifeTimeMs: 9000}}", 4 * time.Second, 2},
		"default":         {"", 49 * time.Second, 1},
		"default, longer": {"", 52 * time.Second, 5},
	} {
		virtual(t, test.words, func(t *testing.T, m *mesh) {
			m.table.service("world", m.backend(t, echo))
			c := m.client(t)
			for range 5 {
				if res, _ := get(t, c, "http://world/"); res.StatusCode != 200 {
					t.Errorf("%s: %d", name, res.StatusCode)
				}
				time.Sleep(test.pause)
			}
			if n := m.count(t, "tulle_connects_total"); n != test.made {
				t.Errorf("%s: %v connections were made, want %v", name, n, test.made)
			}
		})
	}
}

// Whoever waits for one of the connections that we allow ourselves waits in vain
// without anything being the endpoint's fault.
func TestWaitingForConnectionsEjectsNobody(t *testing.T) {
	virtual(t, "client: {connectTimeoutMs: 100, "+ejects+", hostConnectionPool: {maxSize: 1}}", func(t *testing.T, m *mesh) {
		g := newGate()
		m.table.service("world", m.backend(t, g.ServeHTTP))
		c := m.client(t)
		release := occupy(t, c, g, 1)
		for range 7 {
			if res, _ := get(t, c, "http://world/"); res.StatusCode != 503 || res.Header.Get("tulle-code") != "T305" {
				t.Errorf("got %d %v", res.StatusCode, res.Header)
			}
		}
		release()
		if got := m.transitions(t); got != [3]float64{} {
			t.Errorf("transitions: %v", got)
		}
		if n := m.count(t, "tulle_connects_total", "result", "failure"); n != 0 {
			t.Errorf("%v failed connects are counted", n)
		}
	})
}
