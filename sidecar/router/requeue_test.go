package router_test

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// nacking answers everything with a 503 of these header fields and a body.
func nacking(seen *atomic.Int64, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen.Add(1)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(503)
		_, _ = io.WriteString(w, "of the nack")
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	_, _ = w.Write(b)
}

// What an endpoint says that it did not process is sent to another one at once,
// whatever the method and the classifier.
func TestNacksGoElsewhere(t *testing.T) {
	for _, header := range [][]string{{"finagle-http-nack", "true"}, {"Finagle-Http-Nack", ""}, {"Retry-After", "0"}} {
		virtual(t, "", func(t *testing.T, m *mesh) {
			var nacks atomic.Int64
			m.table.service("world", m.backend(t, nacking(&nacks, header...)), m.backend(t, echo))
			c := m.client(t)
			began := time.Now()
			for _, method := range strings.Fields("GET POST PUT DELETE PATCH PURGE") {
				for range 3 {
					var body io.Reader
					if method != "GET" {
						body = strings.NewReader("abc")
					}
					if res, text := do(t, c, method, "http://world/", body); res.StatusCode != 200 || body != nil && text != "abc" {
						t.Errorf("%v: %s: %d %q", header, method, res.StatusCode, text)
					}
				}
				time.Sleep(3 * time.Second) // the endpoint gets another chance
			}
			if took := time.Since(began); took != 18*time.Second {
				t.Errorf("the requests took %s", took-18*time.Second)
			}
			if n := m.count(t, "tulle_requeues_total", "client", bound("world")); n == 0 || n != float64(nacks.Load()) {
				t.Errorf("%v requeues are counted after %d nacks", n, nacks.Load())
			}
			if n := m.count(t, "tulle_retries_total"); n != 0 {
				t.Errorf("%v retries are counted", n)
			}
		})
	}
}

// If nobody takes the request, the caller learns that it is safe to repeat: there
// are at most a fifth of the budget of requeues for one request.
func TestNacksOnly(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		var nacks atomic.Int64
		m.table.service("world", m.backend(t, nacking(&nacks, "Retry-After", "0")), m.backend(t, nacking(&nacks, "Retry-After", "0")))
		res, body := get(t, m.client(t), "http://world/")
		if res.StatusCode != 502 || res.Header.Get("tulle-code") != "T306" || res.Header.Get("l5d-retryable") != "true" || strings.Contains(body, "of the nack") {
			t.Errorf("got %d %v %q", res.StatusCode, res.Header, body)
		}
		if n := m.count(t, "tulle_requeues_total"); n < 15 || n > 20 || nacks.Load() != int64(n)+1 {
			t.Errorf("%v requeues are counted after %d nacks", n, nacks.Load())
		}
	})
	virtual(t, "client: {requeueBudget: {minRetriesPerSec: 0, percentCanRetry: 0}}", func(t *testing.T, m *mesh) {
		var nacks atomic.Int64
		m.table.service("world", m.backend(t, nacking(&nacks, "Retry-After", "0")))
		if res, _ := get(t, m.client(t), "http://world/"); res.StatusCode != 502 || nacks.Load() != 1 {
			t.Errorf("without a budget: %d after %d nacks", res.StatusCode, nacks.Load())
		}
	})
}

// Only successes pay for requeues.
func TestRequeueBudget(t *testing.T) {
	virtual(t, "client: {requeueBudget: {minRetriesPerSec: 0, percentCanRetry: 0.5}}", func(t *testing.T, m *mesh) {
		c := m.client(t)
		send := func(f *failing, want int) {
			t.Helper()
			m.table.service("world", m.backend(t, f.ServeHTTP))
			if res, _ := get(t, c, "http://world/"); res.StatusCode != want {
				t.Errorf("got %d, want %d", res.StatusCode, want)
			}
		}
		send(fails(1, 500), 500)
		send(fails(1, 500), 500)
		send(fails(1, 503, "Retry-After", "0"), 502)
		send(fails(0, 500), 200)
		send(fails(0, 500), 200)
		send(fails(1, 503, "Retry-After", "0"), 200)
		send(fails(1, 503, "Retry-After", "0"), 502)
	})
}

// What may have been processed is not sent again, and a plain 503 is an answer
// like any other.
func TestWhatIsNoNack(t *testing.T) {
	for _, test := range []struct {
		status int
		header []string
		want   int
		code   string
	}{
		{503, []string{"finagle-http-nonretryable-nack", "true"}, 502, "T306"},
		{503, []string{"finagle-http-nonretryable-nack", "", "Retry-After", "0"}, 502, "T306"},
		{503, nil, 503, ""},
		{503, []string{"Retry-After", "1"}, 503, ""},
		{503, []string{"Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT"}, 503, ""},
		{500, []string{"finagle-http-nack", "true"}, 500, ""},
		{429, []string{"Retry-After", "0"}, 429, ""},
		{200, []string{"Retry-After", "0"}, 200, ""},
	} {
		virtual(t, "", func(t *testing.T, m *mesh) {
			f := fails(10, test.status, test.header...)
			m.table.service("world", m.backend(t, f.ServeHTTP))
			res, body := get(t, m.client(t), "http://world/")
			if res.StatusCode != test.want || res.Header.Get("tulle-code") != test.code || f.seen.Load() != 1 || res.Header.Get("l5d-retryable") != "" {
				t.Errorf("%+v: %d %v after %d attempts", test, res.StatusCode, res.Header, f.seen.Load())
			}
			if test.code == "" && body != "failed" {
				t.Errorf("%+v: the body is %q", test, body)
			}
		})
	}
}

// A body too large to be kept cannot be sent again, even if nobody has seen it.
func TestNackOfLargeBody(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		var nacks atomic.Int64
		m.table.service("world", m.backend(t, nacking(&nacks, "finagle-http-nack", "true")), m.backend(t, nacking(&nacks, "finagle-http-nack", "true")))
		for _, body := range []io.Reader{bytes.NewReader(random(100_000)), io.MultiReader(bytes.NewReader(random(100_000)))} {
			nacks.Store(0)
			res, _ := do(t, m.client(t), "POST", "http://world/", body)
			if res.StatusCode != 502 || res.Header.Get("tulle-code") != "T306" || nacks.Load() != 1 {
				t.Errorf("%d %v after %d attempts", res.StatusCode, res.Header, nacks.Load())
			}
		}
	})
}

// The connection of a nack is used again: it was an answer in order.
func TestNackKeepsTheConnection(t *testing.T) {
	m := start(t)
	var from record[string]
	var seen atomic.Int64
	m.table.service("world", backend(t, func(w http.ResponseWriter, r *http.Request) {
		from.add(r.RemoteAddr)
		if seen.Add(1)%2 == 1 {
			nacking(new(atomic.Int64), "Retry-After", "0")(w, r)
		}
	}))
	c := m.client(t)
	for range 5 {
		if res, _ := get(t, c, "http://world/"); res.StatusCode != 200 {
			t.Errorf("got %d", res.StatusCode)
		}
	}
	if all := from.get(); len(slices.Compact(all)) != 1 {
		t.Errorf("several connections were made: %v", all)
	}
}

// What an application has seen of a retry takes the claim away that it is safe to
// repeat.
func TestNackAfterRetry(t *testing.T) {
	virtual(t, "service: {"+allAgain+"}", func(t *testing.T, m *mesh) {
		var seen atomic.Int64
		m.table.service("world", m.backend(t, func(w http.ResponseWriter, r *http.Request) {
			if seen.Add(1) == 1 {
				w.WriteHeader(500)
				return
			}
			nacking(&seen, "finagle-http-nack", "true")(w, r)
		}))
		res, _ := do(t, m.client(t), "POST", "http://world/", strings.NewReader("abc"))
		if res.StatusCode != 502 || res.Header.Get("tulle-code") != "T306" || res.Header.Get("l5d-retryable") != "" {
			t.Errorf("got %d %v", res.StatusCode, res.Header)
		}
	})
}
