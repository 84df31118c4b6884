package router_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/router"
)

// A request under way when the router stops is finished; idle connections end.
func TestDrain(t *testing.T) {
	m := start(t)
	inside, release := make(chan struct{}), make(chan struct{})
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(inside)
			<-release
		}
		_, _ = io.WriteString(w, "done")
	}))
	idle, err := net.Dial("tcp", m.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = idle.Close() }()
	_, _ = io.WriteString(idle, "GET / HTTP/1.1\r\nHost: world\r\n\r\n")
	reader := bufio.NewReader(idle)
	if res, err := http.ReadResponse(reader, nil); err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	answer := make(chan string, 1)
	go func() { answer <- m.raw(t, "GET /slow HTTP/1.1\r\nHost: world\r\n\r\n") }()
	<-inside
	stopped := make(chan struct{})
	go func() { m.stop(); close(stopped) }()
	if _, err := io.Copy(io.Discard, reader); err != nil {
		t.Errorf("the idle connection ended with %v", err)
	}
	close(release)
	if got := <-answer; !strings.Contains(got, "done") || !strings.Contains(got, "HTTP/1.1 200") {
		t.Errorf("the request under way was answered %q", got)
	}
	<-stopped
}

// Connections that have asked nothing yet end at once when the router stops.
func TestDrainOfFreshConnections(t *testing.T) {
	m := start(t)
	var conns []net.Conn
	for range 50 {
		conn, err := net.Dial("tcp", m.address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		conns = append(conns, conn)
	}
	began := time.Now()
	m.stop()
	if d := time.Since(began); d > 3*time.Second { // the grace is 5 s
		t.Errorf("the router took %s to stop with idle connections only", d)
	}
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := bufio.NewReader(conn).ReadByte(); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("a connection was left open: %v", err)
		}
	}
}

// Whoever is being answered when the router stops is told that the connection
// ends, and the router stops as soon as the last one is.
func TestDrainTellsClients(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		s := takes(3000)
		m.table.service("world", m.backend(t, s.ServeHTTP))
		var wg sync.WaitGroup
		for _, request := range []string{
			"GET / HTTP/1.1\r\nHost: world\r\n\r\n",
			"GET / HTTP/1.0\r\nHost: world\r\nConnection: keep-alive\r\n\r\n",
			"GET /1 HTTP/1.1\r\nHost: world\r\n\r\nGET /2 HTTP/1.1\r\nHost: world\r\n\r\n", // the second one is too late
		} {
			c := m.talk(t)
			wg.Go(func() {
				go func() { _, _ = io.WriteString(c, request) }()
				res, err := http.ReadResponse(c.r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				if res.StatusCode != 200 || string(body) != "fine" || err != nil || !res.Close {
					t.Errorf("%q: %d %q %v, close %v", request, res.StatusCode, body, err, res.Close)
				}
				if rest, err := io.ReadAll(c.r); len(rest) > 0 || err != nil {
					t.Errorf("%q: then %q, %v", request, rest, err)
				}
			})
		}
		time.Sleep(2 * time.Second)
		began := time.Now()
		m.stop()
		if took := time.Since(began); took != time.Second {
			t.Errorf("the router took %s to stop", took)
		}
		wg.Wait()
	})
}

// What is not done within the grace is cut, and its backend knows.
func TestGrace(t *testing.T) {
	virtualWith(t, router.OutgoingConfig{Grace: 4 * time.Second}, "", func(t *testing.T, m *mesh) {
		s := takes(60_000)
		m.table.service("world", m.backend(t, s.ServeHTTP))
		c := m.talk(t)
		c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
		synctest.Wait()
		began := time.Now()
		m.stop()
		if took := time.Since(began); took != 4*time.Second {
			t.Errorf("the router took %s to stop", took)
		}
		if rest := c.rest(); rest != "" {
			t.Errorf("the client got %q", rest)
		}
		synctest.Wait()
		if s.ended.Load() != 1 {
			t.Error("the backend works on")
		}
		if _, err := m.network.visit(t.Context(), m.address); err == nil {
			t.Error("the router still accepts")
		}
	})
}

// A request may cross the router's decision to stop: on a connection that was in
// use just now it is answered, for a second.
func TestDrainLeavesFreshConnections(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		m.table.service("world", m.backend(t, echo))
		const request = "GET / HTTP/1.1\r\nHost: world\r\n\r\n"
		idle, fresh, silent := m.talk(t), m.talk(t), m.talk(t)
		idle.say(request)
		idle.answer("GET")
		time.Sleep(2 * time.Second)
		for _, c := range []*talk{fresh, silent} {
			c.say(request)
			if res, _ := c.answer("GET"); res.Close {
				t.Error("a connection ends before its time")
			}
		}
		began := time.Now()
		stopped := make(chan time.Duration)
		go func() { m.stop(); stopped <- time.Since(began) }()
		if rest := idle.rest(); rest != "" || time.Since(began) != 0 {
			t.Errorf("the idle connection ended with %q after %s", rest, time.Since(began))
		}
		time.Sleep(500 * time.Millisecond)
		fresh.say(request)
		if res, _ := fresh.answer("GET"); res.StatusCode != 200 || !res.Close {
			t.Errorf("the request that crossed: %d, close %v", res.StatusCode, res.Close)
		}
		if rest := silent.rest(); rest != "" || time.Since(began) != time.Second {
			t.Errorf("the other connection ended with %q after %s", rest, time.Since(began))
		}
		if took := <-stopped; took != time.Second {
			t.Errorf("the router took %s to stop", took)
		}
	})
}

// While another process accepts already, connections end one by one, after an
// answer each.
func TestLeaving(t *testing.T) {
	leaving := false
	cfg := router.OutgoingConfig{Grace: time.Second, Leaving: func() bool { return leaving }}
	virtualWith(t, cfg, "", func(t *testing.T, m *mesh) {
		m.table.service("world", m.backend(t, echo))
		c := m.talk(t)
		for i := range 3 {
			synctest.Wait()
			leaving = i == 2
			c.say("GET / HTTP/1.1\r\nHost: world\r\n\r\n")
			if res, _ := c.answer("GET"); res.StatusCode != 200 || res.Close != leaving {
				t.Errorf("answer %d: %d, close %v", i, res.StatusCode, res.Close)
			}
		}
		if rest := c.rest(); rest != "" {
			t.Errorf("then %q", rest)
		}
	})
}

// Requests that find their next endpoint once the grace is over do not hold the
// router up.
func TestGraceEndsAttempts(t *testing.T) {
	for range 20 { // whether the first endpoint is the one that hangs is chance
		virtualWith(t, router.OutgoingConfig{Grace: time.Second}, "", func(t *testing.T, m *mesh) {
			s := takes(0, 3600_000)
			good := m.backend(t, s.ServeHTTP)
			m.table.service("world", good)
			c := m.client(t)
			get(t, c, "http://world/") // leaves a connection
			m.table.service("world", m.hole(t), good)
			var wg sync.WaitGroup
			wg.Go(func() { _, _, _ = try(c, "GET", "http://world/", nil) })
			synctest.Wait()
			began := time.Now()
			m.stop()
			if took := time.Since(began); took > time.Second {
				t.Errorf("the router took %s to stop", took)
			}
			wg.Wait()
		})
	}
}
