package router_test

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	inTurn = "loadBalancer: {kind: roundRobin}"
	// ejects makes the time of an ejection exact.
	ejects = "failureAccrual: {kind: io.l5d.consecutiveFailures, failures: 5, backoff: {kind: constant, ms: 10000}}"
)

// patient is an endpoint whose health and speed a test sets.
type patient struct {
	sick  atomic.Bool
	seen  atomic.Int64
	delay atomic.Int64
}

func (p *patient) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	p.seen.Add(1)
	time.Sleep(time.Duration(p.delay.Load())) // virtual
	if p.sick.Load() {
		w.WriteHeader(500)
	}
}

// transitions returns what has become of the endpoints of world.
func (m *mesh) transitions(t *testing.T) [3]float64 {
	t.Helper()
	var n [3]float64
	for i, transition := range []string{"ejected", "probed", "revived"} {
		n[i] = m.count(t, "tulle_endpoint_transitions_total", "client", bound("world"), "transition", transition)
	}
	return n
}

// An endpoint that fails five times in a row gets nothing more until its time is
// over, and then exactly one request, which decides.
func TestEjection(t *testing.T) {
	virtual(t, "client: {"+inTurn+", "+ejects+"}", func(t *testing.T, m *mesh) {
		var bad, good patient
		bad.sick.Store(true)
		m.table.service("world", m.backend(t, bad.ServeHTTP), m.backend(t, good.ServeHTTP))
		c := m.client(t)
		send := func(n int) {
			t.Helper()
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					if _, _, err := try(c, "GET", "http://world/", nil); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		for range 50 {
			send(1)
		}
		if bad.seen.Load() != 5 || good.seen.Load() != 45 {
			t.Fatalf("the bad endpoint got %d requests of 50, want 5", bad.seen.Load())
		}
		if got := m.transitions(t); got != [3]float64{1, 0, 0} {
			t.Errorf("transitions: %v", got)
		}
		time.Sleep(9 * time.Second)
		send(20)
		if bad.seen.Load() != 5 {
			t.Fatal("it got one too early")
		}
		// All at once: one is the probe, the others do not wait for it.
		time.Sleep(time.Second)
		bad.delay.Store(int64(time.Second))
		var wg sync.WaitGroup
		wg.Go(func() { send(20) })
		synctest.Wait()
		if bad.seen.Load() != 6 || good.seen.Load() != 45+20+19 {
			t.Errorf("the bad endpoint got %d probes", bad.seen.Load()-5)
		}
		send(20) // the probe is still under way
		wg.Wait()
		if got := m.transitions(t); bad.seen.Load() != 6 || got != [3]float64{2, 1, 0} {
			t.Errorf("after the failed probe: %d requests, transitions %v", bad.seen.Load(), got)
		}
		bad.sick.Store(false)
		bad.delay.Store(0)
		send(20)
		if bad.seen.Load() != 6 {
			t.Error("it got one too early after the failed probe")
		}
		time.Sleep(10 * time.Second)
		for range 20 {
			send(1)
		}
		if got := m.transitions(t); bad.seen.Load() < 15 || got != [3]float64{2, 2, 1} {
			t.Errorf("after its recovery it got %d requests of 20, transitions %v", bad.seen.Load()-6, got)
		}
	})
}

// If all are ejected, one of them is asked nevertheless; ten good answers bring
// it back before its time.
func TestAllEjected(t *testing.T) {
	virtual(t, "client: {"+ejects+"}", func(t *testing.T, m *mesh) {
		var a, b patient
		a.sick.Store(true)
		b.sick.Store(true)
		m.table.service("world", m.backend(t, a.ServeHTTP), m.backend(t, b.ServeHTTP))
		c := m.client(t)
		for i := range 30 {
			if res, _ := get(t, c, "http://world/"); res.StatusCode != 500 || res.Header.Get("tulle-code") != "" {
				t.Fatalf("request %d: %d %v", i+1, res.StatusCode, res.Header)
			}
		}
		if got := m.transitions(t); got[0] != 2 {
			t.Errorf("transitions: %v", got)
		}
		a.sick.Store(false)
		b.sick.Store(false)
		for range 40 {
			if res, _ := get(t, c, "http://world/"); res.StatusCode != 200 {
				t.Errorf("got %d", res.StatusCode)
			}
		}
		if got := m.transitions(t); got[2] == 0 {
			t.Errorf("nothing was revived: %v", got)
		}
	})
}

// What counts as a failure: by the classifier, of the connection, or a timeout;
// not that a client has left.
func TestWhatEjects(t *testing.T) {
	for name, test := range map[string]struct {
		words   string
		status  int
		delay   time.Duration
		refuses bool
		ejected float64
	}{
		"a 500":                        {"", 500, 0, false, 1},
		"a 404":                        {"", 404, 0, false, 0},
		"a 500 that counts as success": {"service: {responseClassifier: {kind: io.l5d.http.allSuccessful}}", 500, 0, false, 0},
		"a timeout":                    {"service: {totalTimeoutMs: 100}", 200, time.Second, false, 1},
		"nobody there":                 {"", 200, 0, true, 1},
	} {
		virtual(t, "client: {"+ejects+"}\n"+test.words, func(t *testing.T, m *mesh) {
			address := m.backend(t, func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(test.delay):
				case <-r.Context().Done():
				}
				w.WriteHeader(test.status)
			})
			if test.refuses {
				address = "10.9.9.9:80"
			}
			m.table.service("world", address)
			c := m.client(t)
			for range 5 {
				get(t, c, "http://world/")
			}
			if got := m.transitions(t); got[0] != test.ejected {
				t.Errorf("%s: transitions %v", name, got)
			}
		})
	}
}

// Clients that leave say nothing of the endpoint, nor does a probe whose client
// leaves: the next request is the probe then.
func TestClientsThatLeaveEjectNobody(t *testing.T) {
	m := start(t, "client: {failureAccrual: {kind: io.l5d.consecutiveFailures, failures: 2, backoff: {kind: constant, ms: 0}}}")
	var sick atomic.Bool
	left := make(chan struct{}, 1)
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stay" {
			if sick.Load() {
				w.WriteHeader(500)
			}
			return
		}
		<-r.Context().Done()
		left <- struct{}{}
	}))
	leave := func() {
		c := m.talk(t)
		c.say("GET /leave HTTP/1.1\r\nHost: world\r\n\r\n")
		_ = c.Close()
		<-left
	}
	for range 2 {
		leave()
	}
	if got := m.transitions(t); got != [3]float64{} {
		t.Errorf("transitions: %v", got)
	}
	c := m.client(t)
	sick.Store(true)
	for range 2 {
		get(t, c, "http://world/stay")
	}
	if got := m.transitions(t); got != [3]float64{1, 0, 0} {
		t.Errorf("after two failures: %v", got)
	}
	leave()
	sick.Store(false)
	for m.transitions(t)[2] == 0 { // the verdict on who left may not be there yet
		get(t, c, "http://world/stay")
	}
	if got := m.transitions(t); got[0] != 1 || got[1] < 2 {
		t.Errorf("at the end: %v", got)
	}
}
