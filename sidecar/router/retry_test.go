package router_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// failing answers the first n requests with a status and a body, and then 200.
type failing struct {
	status int
	n      atomic.Int64 // failures left
	seen   atomic.Int64
	header []string
}

func (f *failing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	f.seen.Add(1)
	if f.n.Add(-1) < 0 {
		_, _ = io.WriteString(w, "fine")
		return
	}
	for i := 0; i < len(f.header); i += 2 {
		w.Header().Set(f.header[i], f.header[i+1])
	}
	w.WriteHeader(f.status)
	_, _ = io.WriteString(w, "failed")
}

func fails(n int64, status int, header ...string) *failing {
	f := &failing{status: status, header: header}
	f.n.Store(n)
	return f
}

// Each classifier sends its methods again, and no others.
func TestClassifiers(t *testing.T) {
	var words strings.Builder
	words.WriteString("service:\n  kind: io.l5d.static\n  configs:\n")
	kinds := map[string]string{
		"nonRetryable5XX":        "",
		"retryableRead5XX":       "GET HEAD OPTIONS TRACE",
		"retryableIdempotent5XX": "GET HEAD OPTIONS TRACE PUT DELETE",
		"retryableAll5XX":        "GET HEAD OPTIONS TRACE PUT DELETE POST PATCH",
		"allSuccessful":          "",
	}
	for kind := range kinds {
		fmt.Fprintf(&words, "  - {prefix: /svc/%s, responseClassifier: {kind: io.l5d.http.%s}}\n", strings.ToLower(kind), kind)
	}
	virtual(t, words.String(), func(t *testing.T, m *mesh) {
		c := m.client(t)
		for kind, methods := range kinds {
			retried, service := " "+methods+" ", strings.ToLower(kind)
			for _, method := range strings.Fields("GET HEAD OPTIONS TRACE PUT DELETE POST PATCH PURGE") {
				for _, status := range []int{500, 502, 503, 599, 404, 429} {
					f := fails(1, status)
					m.table.service(service, m.backend(t, f.ServeHTTP))
					res, _ := do(t, c, method, "http://"+service+"/", nil)
					again := status >= 500 && strings.Contains(retried, " "+method+" ")
					want, attempts, class := status, int64(1), "1.0"
					if again {
						want, attempts = 200, 2
					} else if status >= 500 && kind != "allSuccessful" {
						class = "0.0"
					}
					if res.StatusCode != want || f.seen.Load() != attempts || res.Header.Get("l5d-success-class") != class {
						t.Errorf("%s, %s, %d: got %d after %d attempts with class %s; want %d, %d, %s", kind, method, status,
							res.StatusCode, f.seen.Load(), res.Header.Get("l5d-success-class"), want, attempts, class)
					}
				}
			}
		}
	})
}

// An application may ask for a retry of any method, with any classifier that
// calls its answer a failure.
func TestRetryableByTheApplication(t *testing.T) {
	words := "service:\n  kind: io.l5d.static\n  configs:\n  - {prefix: /svc/all, responseClassifier: {kind: io.l5d.http.allSuccessful}}"
	virtual(t, words, func(t *testing.T, m *mesh) {
		c := m.client(t)
		for _, test := range []struct {
			service, method, header string
			status                  int
			attempts                int64
		}{
			{"world", "GET", "true", 500, 2},
			{"world", "POST", "true", 500, 2},
			{"world", "PURGE", "true", 503, 2},
			{"world", "GET", "false", 500, 1},
			{"world", "GET", "1", 500, 1},
			{"world", "GET", "true", 404, 1},
			{"all", "GET", "true", 500, 1},
		} {
			f := fails(1, test.status, "l5d-retryable", test.header)
			m.table.service(test.service, m.backend(t, f.ServeHTTP))
			do(t, c, test.method, "http://"+test.service+"/", nil)
			if f.seen.Load() != test.attempts {
				t.Errorf("%+v: %d attempts", test, f.seen.Load())
			}
		}
	})
}

const readsAgain = "responseClassifier: {kind: io.l5d.http.retryableRead5XX}"

// With the default budget and no backoff, one request to a service that always
// fails is tried 101 times; then its last answer is passed on.
func TestBudgetIsSpentOnOneRequest(t *testing.T) {
	virtual(t, "service: {"+readsAgain+"}", func(t *testing.T, m *mesh) {
		f := fails(1e6, 500, "X-Own", "kept")
		m.table.service("world", m.backend(t, f.ServeHTTP))
		began := time.Now()
		res, body := get(t, m.client(t), "http://world/")
		if res.StatusCode != 500 || body != "failed" || res.Header.Get("X-Own") != "kept" || res.Header.Get("l5d-err") != "" {
			t.Errorf("got %d %q %v, want the application's last answer", res.StatusCode, body, res.Header)
		}
		if f.seen.Load() != 101 || time.Since(began) != 0 {
			t.Errorf("tried %d times in %s, want 101 times at once", f.seen.Load(), time.Since(began))
		}
		if n := m.count(t, "tulle_retries_total", "service", "/svc/world"); n != 100 {
			t.Errorf("%v retries are counted", n)
		}
		if n := m.count(t, "tulle_retry_budget_exhausted_total", "service", "/svc/world"); n != 1 {
			t.Errorf("the budget was exhausted %v times, want once", n)
		}
		if n := m.count(t, "tulle_requeues_total"); n != 0 {
			t.Errorf("%v requeues are counted", n)
		}
	})
}

// The budget is that of the service, and grows with its requests.
func TestBudget(t *testing.T) {
	for _, test := range []struct {
		budget   string
		failures []int64 // of each request in turn
		attempts []int64
		statuses []int
	}{
		{"minRetriesPerSec: 0, percentCanRetry: 0.5", []int64{0, 1, 1}, []int64{1, 2, 1}, []int{200, 200, 500}},
		{"minRetriesPerSec: 0, percentCanRetry: 1.0", []int64{1, 1, 1, 1}, []int64{2, 2, 2, 2}, []int{200, 200, 200, 200}},
		{"minRetriesPerSec: 0, percentCanRetry: 0", []int64{0, 0, 1}, []int64{1, 1, 1}, []int{200, 200, 500}},
		{"minRetriesPerSec: 1, percentCanRetry: 0, ttlSecs: 3", []int64{2, 2, 1}, []int64{3, 2, 1}, []int{200, 500, 500}},
	} {
		virtual(t, "service: {"+readsAgain+", retries: {budget: {"+test.budget+"}}}", func(t *testing.T, m *mesh) {
			c := m.client(t)
			for i := range test.failures {
				f := fails(test.failures[i], 500)
				m.table.service("world", m.backend(t, f.ServeHTTP))
				res, _ := get(t, c, "http://world/")
				if res.StatusCode != test.statuses[i] || f.seen.Load() != test.attempts[i] {
					t.Errorf("%s: request %d: %d after %d attempts, want %d after %d",
						test.budget, i+1, res.StatusCode, f.seen.Load(), test.statuses[i], test.attempts[i])
				}
			}
		})
	}
}

// Retries pause for as long as the policy says, each a little differently.
func TestBackoff(t *testing.T) {
	for _, test := range []struct {
		backoff  string
		min, max time.Duration // of each pause
		varies   bool
	}{
		{"kind: constant, ms: 70", 70 * time.Millisecond, 70 * time.Millisecond, false},
		{"kind: jittered, minMs: 20, maxMs: 300", 20 * time.Millisecond, 300 * time.Millisecond, true},
	} {
		virtual(t, "service: {"+readsAgain+", retries: {backoff: {"+test.backoff+"}}}", func(t *testing.T, m *mesh) {
			var seen record[time.Time]
			f := fails(20, 500)
			m.table.service("world", m.backend(t, func(w http.ResponseWriter, r *http.Request) {
				seen.add(time.Now())
				f.ServeHTTP(w, r)
			}))
			res, _ := get(t, m.client(t), "http://world/")
			at := seen.get()
			if res.StatusCode != 200 || len(at) != 21 {
				t.Fatalf("%s: %d after %d attempts", test.backoff, res.StatusCode, len(at))
			}
			distinct := map[time.Duration]bool{}
			last := test.min
			for i := range at[1:] {
				d := at[i+1].Sub(at[i])
				distinct[d] = true
				if d < test.min || d > min(test.max, 3*last) {
					t.Errorf("%s: pause %d is %s after one of %s", test.backoff, i+1, d, last)
				}
				last = d
			}
			if (len(distinct) > 5) != test.varies {
				t.Errorf("%s: there are %d different pauses among 20", test.backoff, len(distinct))
			}
		})
	}
}

// A retry that would come too late is not begun: the answer that is there is
// passed on, and no budget is spent.
func TestNoRetryBeyondTheTotalTime(t *testing.T) {
	words := "service: {totalTimeoutMs: 100, " + readsAgain + ", retries: {backoff: {kind: constant, ms: 60}}}"
	virtual(t, words, func(t *testing.T, m *mesh) {
		f := fails(10, 500)
		m.table.service("world", m.backend(t, f.ServeHTTP))
		began := time.Now()
		res, body := get(t, m.client(t), "http://world/")
		if res.StatusCode != 500 || body != "failed" || f.seen.Load() != 2 || time.Since(began) != 60*time.Millisecond {
			t.Errorf("%d %q after %d attempts in %s", res.StatusCode, body, f.seen.Load(), time.Since(began))
		}
		if n := m.count(t, "tulle_retries_total"); n != 1 {
			t.Errorf("%v retries are counted, want 1", n)
		}
	})
}

// Errors are failures too: a retryable classifier sends its methods again after
// an answer that is no HTTP, others do not.
func TestRetryAfterErrors(t *testing.T) {
	for _, test := range []struct {
		words, method string
		attempts      int64
		status        int
	}{
		{"", "GET", 1, 502},
		{"", "POST", 1, 502},
		{"service: {" + readsAgain + "}", "GET", 2, 200},
		{"service: {" + readsAgain + "}", "POST", 1, 502},
		{"service: {responseClassifier: {kind: io.l5d.http.retryableAll5XX}}", "POST", 2, 200},
	} {
		m := start(t, test.words)
		var seen atomic.Int64
		m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
			if seen.Add(1) > 1 {
				return
			}
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = rw.WriteString("SSH-2.0-OpenSSH_9.9\r\n")
			_ = rw.Flush()
			_ = conn.Close()
		}))
		res, body := do(t, m.client(t), test.method, "http://world/", strings.NewReader("abc"))
		if res.StatusCode != test.status || seen.Load() != test.attempts {
			t.Errorf("%+v: %d after %d attempts: %s", test, res.StatusCode, seen.Load(), body)
		}
		if test.status == 502 && (res.Header.Get("tulle-code") != "T302" || res.Header.Get("l5d-retryable") != "") {
			t.Errorf("%+v: %v", test, res.Header)
		}
	}
}
