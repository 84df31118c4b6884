//go:build linux

package router_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/http1/http1test"
)

// TestCorpusOfRequests sends every published way to smuggle a request through
// the router to a backend that records what it gets: the router refuses it, or
// it arrives as one request that no parser can read otherwise.
func TestCorpusOfRequests(t *testing.T) {
	l := newLine(t)
	for _, c := range http1test.Corpus(t) {
		if c.Response != "" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			for how := range answers {
				l.exchange(t, c.Input, how, how%2 == 0)
			}
			l.exchange(t, c.Input, answerFixed, false)
			if got, want := l.arrived(), forwarded(c.Want); !slices.Equal(got, want) {
				t.Errorf("%s\ninput %.300q\nthe backend gets %q\nwant             %q", c.Note, c.Input, got, want)
			}
		})
	}
}

// arrived says in the words of the corpus what the backend has read.
func (l *line) arrived() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.seen {
		all = append(all, fmt.Sprintf("reads %s %s %s %q", m.method, m.host, m.target, m.body))
	}
	return all
}

// forwarded leaves of what must become of a case what a backend sees: whole
// requests for somebody. CONNECT is the router's own affair.
func forwarded(want []string) (all []string) {
	for _, w := range want {
		words := strings.Split(w, " ")
		if words[0] == "reads" && words[1] != "CONNECT" && words[2] != "" {
			all = append(all, w)
		}
	}
	return all
}

// TestCorpusToNetHTTP does the same with the server of net/http for a backend,
// which reads for itself how many requests there are.
func TestCorpusToNetHTTP(t *testing.T) {
	var mu sync.Mutex
	var got []string
	arrived := 0
	l := &line{}
	l.start(t, backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if err == nil { // else it was cut, and the server knows
			got = append(got, fmt.Sprintf("reads %s %s %s %q", r.Method, r.Host, r.RequestURI, body))
		}
		_, _ = fmt.Fprint(w, len(got))
	}), "client: {failureAccrual: {kind: none}}")
	for _, c := range http1test.Corpus(t) {
		if c.Response != "" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			mu.Lock()
			got = nil
			mu.Unlock()
			conn, err := net.Dial("tcp", l.address)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(stuck))
			go func() {
				_, _ = conn.Write(c.Input)
				_ = conn.(*net.TCPConn).CloseWrite()
			}()
			answers, err := io.ReadAll(conn)
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Fatalf("the connection does not end after %q", answers)
			}
			mu.Lock()
			defer mu.Unlock()
			// The server refuses some names and targets that are well-formed; a request
			// that is cut may have been answered by an error of its own.
			want := forwarded(c.Want)
			arrived += len(got)
			for _, g := range got {
				i := slices.Index(want, g)
				if i < 0 {
					t.Fatalf("%s\ninput %.300q\nthe backend gets %s\nwant of %q", c.Note, c.Input, g, want)
				}
				want = want[i+1:]
			}
			if n := bytes.Count(answers, []byte("HTTP/1.1 200 OK")); n > len(forwarded(c.Want))+strings.Count(strings.Join(c.Want, " "), "CONNECT") {
				t.Errorf("%d answers to %q", n, c.Input)
			}
		})
	}
	if arrived < 40 {
		t.Errorf("only %d requests arrived; the test shows nothing", arrived)
	}
}

// TestCorpusOfAnswers lets a backend answer in every published way to split
// responses.
func TestCorpusOfAnswers(t *testing.T) {
	l := newLine(t, "client:", "  failureAccrual: {kind: none}", "  requeueBudget: {minRetriesPerSec: 0, percentCanRetry: 0}",
		"service:", "  retries: {budget: {minRetriesPerSec: 0, percentCanRetry: 0}}")
	for _, c := range http1test.Corpus(t) {
		if c.Response == "" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			for asking := range askings {
				l.answering(t, c.Input, asking, false)
				l.answering(t, c.Input, asking, true)
			}
		})
	}
}
