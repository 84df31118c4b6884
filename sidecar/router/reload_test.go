package router_test

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/client"
)

// endpoints returns those that requests for world are balanced over.
func (m *mesh) endpoints() []*client.Endpoint {
	return m.clients.Get(bound("world"), false).Current(clock.Now()).All()
}

// A change of the policy under load loses no request and no connection, and
// leaves every endpoint what it is.
func TestReloadUnderLoad(t *testing.T) {
	policies := []string{
		"client: {loadBalancer: {kind: p2c}}",
		"client: {loadBalancer: {kind: roundRobin}, hostConnectionPool: {idleTimeMs: 10000}}",
		"client: {loadBalancer: {kind: aperture}, requestAttemptTimeoutMs: 60000}",
		"client: {requeueBudget: {minRetriesPerSec: 1}}\nservice: {" + readsAgain + ", totalTimeoutMs: 60000}",
		"server: {maxHeadersKB: 100, headTimeoutMs: 60000}\nclient: {failureAccrual: {kind: none}}",
	}
	m := start(t)
	var from sync.Map
	handler := func(_ http.ResponseWriter, r *http.Request) { from.Store(r.RemoteAddr, true) }
	m.table.service("world", backend(t, handler), backend(t, handler), backend(t, handler))
	c := m.client(t)
	const callers = 8
	c.Transport.(*http.Transport).MaxIdleConnsPerHost = callers
	var wg sync.WaitGroup
	var stop atomic.Bool
	var done atomic.Int64
	for range callers {
		wg.Go(func() {
			for !stop.Load() {
				if res, _, err := try(c, "GET", "http://world/", nil); err != nil || res.StatusCode != 200 {
					t.Errorf("%v %v", res, err)
					return
				}
				done.Add(1)
			}
		})
	}
	for done.Load() < 100 && !t.Failed() {
		runtime.Gosched()
	}
	before := m.endpoints()
	for i := range 50 {
		m.policy.Set(says(t, policies[i%len(policies)]))
		for n := done.Load(); done.Load() < n+20 && !t.Failed(); {
			runtime.Gosched()
		}
	}
	stop.Store(true)
	wg.Wait()
	if after := m.endpoints(); !slices.Equal(before, after) {
		t.Error("there are other endpoints than before")
	}
	made := 0
	from.Range(func(any, any) bool { made++; return true })
	// Each caller may have found all connections of each endpoint in use once.
	if made > 3*callers {
		t.Errorf("%d requests took %d connections", done.Load(), made)
	}
	t.Logf("%d requests over %d connections", done.Load(), made)
}

// What was learnt under one policy holds under the next: who is ejected stays
// so until its time, and latencies are remembered.
func TestReloadKeepsWhatWasLearnt(t *testing.T) {
	virtual(t, "client: {"+inTurn+", "+ejects+"}", func(t *testing.T, m *mesh) {
		var bad, good patient
		bad.sick.Store(true)
		good.delay.Store(int64(50 * time.Millisecond))
		m.table.service("world", m.backend(t, bad.ServeHTTP), m.backend(t, good.ServeHTTP))
		c := m.client(t)
		for range 40 {
			get(t, c, "http://world/")
		}
		if bad.seen.Load() != 5 {
			t.Fatalf("the bad endpoint got %d requests", bad.seen.Load())
		}
		latency := m.endpoints()[1].Latency(clock.Now())
		if latency < 10*time.Millisecond {
			t.Fatalf("the good endpoint's latency is %s", latency)
		}
		for _, words := range []string{
			"client: {failureAccrual: {kind: io.l5d.consecutiveFailures, failures: 50, backoff: {kind: constant, ms: 60000}}}",
			"client: {loadBalancer: {kind: p2c}}",
			"client: {requestAttemptTimeoutMs: 1000}",
		} {
			m.policy.Set(says(t, words))
			synctest.Wait()
			if got := m.endpoints()[1].Latency(clock.Now()); got != latency {
				t.Errorf("%s: the latency is %s, and was %s", words, got, latency)
			}
			get(t, c, "http://world/")
			latency = m.endpoints()[1].Latency(clock.Now())
		}
		if bad.seen.Load() != 5 {
			t.Error("the bad endpoint came back with a policy")
		}
		// No failure accrual brings it back at once.
		m.policy.Set(says(t, "client: {failureAccrual: {kind: none}, "+inTurn+"}"))
		synctest.Wait()
		for range 4 {
			get(t, c, "http://world/")
		}
		if bad.seen.Load() != 7 {
			t.Errorf("without failure accrual the bad endpoint got %d of 4 requests", bad.seen.Load()-5)
		}
	})
}

// A new policy holds from the next request on, for services and clients that
// are known and for those that are not.
func TestReloadHolds(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		s := takes(200)
		f := fails(1e6, 500)
		slow, failing := m.backend(t, s.ServeHTTP), m.backend(t, f.ServeHTTP)
		m.table.service("slow", slow)
		m.table.service("failing", failing)
		m.table.service("slow2", slow)
		c := m.client(t)
		code := func(service string, header ...string) string {
			t.Helper()
			res, _ := get(t, c, "http://"+service+"/", header...)
			return strings.TrimSpace(res.Status[:3] + " " + res.Header.Get("tulle-code"))
		}
		if got := code("slow"); got != "200" {
			t.Errorf("at first: %s", got)
		}
		code("failing")
		for _, step := range []struct {
			words, service, want string
			attempts             int64 // at the failing service
		}{
			{"client: {requestAttemptTimeoutMs: 100}", "slow", "503 T303", 0},
			{"client: {requestAttemptTimeoutMs: 100}", "slow2", "503 T303", 0},
			{"service: {totalTimeoutMs: 100}", "slow", "503 T304", 0},
			{"server: {timeoutMs: 100}", "slow", "503 T304", 0},
			{"", "slow", "200", 0},
			{"service: {" + readsAgain + ", retries: {budget: {minRetriesPerSec: 1, ttlSecs: 3, percentCanRetry: 0}}}", "failing", "500", 4},
			{"service: {" + readsAgain + ", retries: {budget: {minRetriesPerSec: 0, percentCanRetry: 0}}}", "failing", "500", 1},
			{"server: {maxCallDepth: 1}", "slow", "400 T104", 0},
			{"service: {enforceDeadlines: false}", "slow", "200", 0},
		} {
			m.policy.Set(says(t, step.words))
			synctest.Wait()
			f.seen.Store(0)
			header := []string{"Via", "1.1 a, 1.1 b"}
			if strings.Contains(step.words, "Deadlines") {
				header = []string{"l5d-ctx-deadline", "1 2"}
			}
			if got := code(step.service, header...); got != step.want || f.seen.Load() != step.attempts {
				t.Errorf("%s: %s after %d attempts, want %s after %d", step.words, got, f.seen.Load(), step.want, step.attempts)
			}
		}
	})
}

// Limits of pools hold for the connections that are there.
func TestReloadOfPools(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		g := newGate()
		m.table.service("world", m.backend(t, g.ServeHTTP))
		c := m.client(t)
		release := occupy(t, c, g, 5)
		m.policy.Set(says(t, "client: {hostConnectionPool: {maxSize: 2}}"))
		synctest.Wait()
		release()
		g.most.Store(0)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if res, _, err := try(c, "GET", "http://world/", nil); err != nil || res.StatusCode != 200 {
					t.Error(res, err)
				}
			})
		}
		wg.Wait()
		// Of two that end at the same time, both may go.
		if n := m.count(t, "tulle_connects_total"); g.most.Load() > 2 || n > 7 {
			t.Errorf("there were %d requests at a time, over %v connections in all", g.most.Load(), n)
		}
	})
}

// Callers may invent names for ever; a service that was forgotten begins anew.
func TestServicesAreBounded(t *testing.T) {
	virtual(t, "service: {"+readsAgain+", retries: {budget: {minRetriesPerSec: 1, ttlSecs: 60, percentCanRetry: 0}}}", func(t *testing.T, m *mesh) {
		all, err := naming.ParseDtab("/srv => /caller; /svc/* => /srv/world")
		if err != nil {
			t.Fatal(err)
		}
		m.dtab.Set(&all)
		f := fails(0, 500)
		m.table.service("world", m.backend(t, f.ServeHTTP))
		c := m.talk(t)
		ask := func(name string, want int) {
			t.Helper()
			c.say("GET / HTTP/1.1\r\nHost: " + name + "\r\n\r\n")
			if res, _ := c.answer("GET"); res.StatusCode != want {
				t.Fatalf("%s: %d %v, want %d", name, res.StatusCode, res.Header, want)
			}
		}
		f.n.Store(61) // one more than there are retries in a minute
		ask("first", 500)
		f.n.Store(1)
		ask("first", 500)
		for i := range 1500 {
			time.Sleep(time.Millisecond)
			ask(fmt.Sprint("name", i), 200)
		}
		f.n.Store(1)
		ask("first", 200)
	})
}
