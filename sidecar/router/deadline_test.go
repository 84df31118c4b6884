package router_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// bubble is when virtual time begins: midnight UTC 2000-01-01, in seconds.
const bubble = "946684800"

// at returns a moment so many milliseconds after the beginning of virtual time,
// as deadlines write it.
func at(ms string) string { return bubble + ms + "000000" }

func TestDeadlines(t *testing.T) {
	total, attempt := "service: {totalTimeoutMs: 500}", "client: {requestAttemptTimeoutMs: 200}"
	for name, test := range map[string]struct {
		words string
		sent  []string
		want  []string
	}{
		"none":                       {"", nil, nil},
		"as it came":                 {"", []string{at("000") + " " + at("900")}, []string{at("000") + " " + at("900")}},
		"of the total":               {total, nil, []string{at("000") + " " + at("500")}},
		"of the attempt":             {attempt, nil, []string{at("000") + " " + at("200")}},
		"of both":                    {total + "\n" + attempt, nil, []string{at("000") + " " + at("200")}},
		"of the server":              {"server: {timeoutMs: 300}", nil, []string{at("000") + " " + at("300")}},
		"tightened":                  {total, []string{at("000") + " " + at("900")}, []string{at("000") + " " + at("500")}},
		"tight enough":               {total, []string{at("000") + " " + at("100")}, []string{at("000") + " " + at("100")}},
		"merged":                     {"", []string{"5 " + at("700"), "7 " + at("900")}, []string{"7 " + at("700")}},
		"merged with what is no one": {"", []string{"5 " + at("700"), "soon"}, []string{"5 " + at("700")}},
		"unparsable":                 {"", []string{"soon", "1 2 3"}, []string{"soon", "1 2 3"}},
		"unparsable, and the total":  {total, []string{"soon"}, []string{at("000") + " " + at("500")}},
		"expired, but not enforced":  {"service: {enforceDeadlines: false}", []string{"1 2"}, []string{"1 2"}},
	} {
		virtual(t, test.words, func(t *testing.T, m *mesh) {
			var got []string
			m.table.service("world", m.backend(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Values("l5d-ctx-deadline") }))
			var header []string
			for _, d := range test.sent {
				header = append(header, "l5d-ctx-deadline", d)
			}
			if res, _ := get(t, m.client(t), "http://world/", header...); res.StatusCode != 200 {
				t.Errorf("%s: %d", name, res.StatusCode)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%s: got %q, want %q", name, got, test.want)
			}
		})
	}
}

// A request whose time is over is answered without a backend.
func TestExpiredDeadline(t *testing.T) {
	virtual(t, "", func(t *testing.T, m *mesh) {
		called := false
		m.table.service("world", m.backend(t, func(http.ResponseWriter, *http.Request) { called = true }))
		c := m.client(t)
		for _, d := range []string{"1 2", at("000") + " " + bubble + "000000000"} {
			res, _ := get(t, c, "http://world/", "l5d-ctx-deadline", d)
			if res.StatusCode != 503 || res.Header.Get("tulle-code") != "T114" || res.Header.Get("l5d-err") == "" || called {
				t.Errorf("%s: %d %v, called %v", d, res.StatusCode, res.Header, called)
			}
		}
		if n := m.count(t, "tulle_connects_total"); n != 0 {
			t.Errorf("%v connections were made", n)
		}
	})
}

// What is left of a deadline is all the time that a backend has.
func TestDeadlineIsEnforced(t *testing.T) {
	virtual(t, "service: {totalTimeoutMs: 500}", func(t *testing.T, m *mesh) {
		s := takes(1000)
		m.table.service("world", m.backend(t, s.ServeHTTP))
		c := m.client(t)
		began := time.Now()
		res, body := get(t, c, "http://world/", "l5d-ctx-deadline", at("000")+" "+at("120"))
		if res.StatusCode != 503 || res.Header.Get("tulle-code") != "T304" || !strings.Contains(body, "exceeded 120.milliseconds") ||
			time.Since(began) != 120*time.Millisecond {
			t.Errorf("%d %v %q after %s", res.StatusCode, res.Header, body, time.Since(began))
		}
	})
	virtual(t, "service: {enforceDeadlines: false}", func(t *testing.T, m *mesh) {
		s := takes(1000)
		m.table.service("world", m.backend(t, s.ServeHTTP))
		if res, _ := get(t, m.client(t), "http://world/", "l5d-ctx-deadline", at("000")+" "+at("120")); res.StatusCode != 200 {
			t.Errorf("where they are not enforced: %d", res.StatusCode)
		}
	})
}

// Each attempt is told its own deadline.
func TestDeadlineOfEachAttempt(t *testing.T) {
	virtual(t, "client: {requestAttemptTimeoutMs: 200}\nservice: {totalTimeoutMs: 500, "+readsAgain+"}", func(t *testing.T, m *mesh) {
		s := takes(1000)
		var seen record[string]
		m.table.service("world", m.backend(t, func(w http.ResponseWriter, r *http.Request) {
			seen.add(r.Header.Get("l5d-ctx-deadline"))
			s.ServeHTTP(w, r)
		}))
		get(t, m.client(t), "http://world/")
		want := []string{at("000") + " " + at("200"), at("200") + " " + at("400"), at("000") + " " + at("500")}
		if got := seen.get(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
