package router_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

// times are different each time.
var times = regexp.MustCompile(`request duration: \d+ ms`)

func TestDiagnosis(t *testing.T) {
	m := start(t)
	var forwards atomic.Value
	var asked atomic.Int64
	address := backend(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		forwards.Store(strings.Join(r.Header["Max-Forwards"], ","))
		switch r.URL.Path {
		case "/stream":
			w.(http.Flusher).Flush()
		case "/large":
			w.Header().Set("Content-Length", "100000")
			_, _ = io.WriteString(w, strings.Repeat("x", 100000))
			return
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
		case "/empty":
			return
		}
		w.Header().Set("X-Own", "1")
		_, _ = io.WriteString(w, " seen \n\n")
	})
	m.table.service("world", address)
	c := m.client(t)
	report := func(selected string) string {
		return "\n--- Router: outgoing ---\nrequest duration: T\nservice name: /svc/world\nclient name: " + bound("world") +
			"\naddresses: [" + address + "]\nselected address: " + selected + "\ndtab resolution:\n  /svc/world\n  /host/world (/svc=>/host)\n" +
			"  /srv/world (/host=>/srv)\n  /caller/world (/srv=>/caller)\n  /$/dev.tulle.service/ns/world (/caller=>/$/dev.tulle.service/ns)\n" +
			"  " + bound("world") + "\n"
	}
	const yes = "l5d-add-context"
	for _, test := range []struct {
		name, method, path string
		header             []string
		forwards           string // that the backend sees, - if it is not asked
		status             int
		body               string
	}{
		{"ordinary", "TRACE", "/", nil, "", 200, " seen \n\n"},
		{"a report", "TRACE", "/", []string{yes, "True"}, "", 200, "seen\n" + report(address)},
		{"of an empty body", "TRACE", "/empty", []string{yes, "true"}, "", 200, report(address)},
		{"a report that is not wanted", "TRACE", "/", []string{yes, "false"}, "", 200, " seen \n\n"},
		{"counted", "TRACE", "/", []string{"Max-Forwards", "7"}, "6", 200, " seen \n\n"},
		{"the last hop", "TRACE", "/", []string{"Max-Forwards", "1", yes, "true"}, "0", 200, "seen\n" + report(address)},
		{"none", "TRACE", "/", []string{"Max-Forwards", "0"}, "-", 200, ""},
		{"none, with a report", "TRACE", "/", []string{"Max-Forwards", "0", yes, "true"}, "-", 200, report("none")},
		{"no number", "TRACE", "/", []string{"Max-Forwards", "x"}, "-", 400, "Invalid value for Max-Forwards header\n\nT115: "},
		{"nothing", "TRACE", "/", []string{"Max-Forwards", ""}, "-", 400, "Invalid value"},
		{"less than none", "TRACE", "/", []string{"Max-Forwards", "-1"}, "-", 400, "Invalid value"},
		{"more than a number", "TRACE", "/", []string{"Max-Forwards", "99999999999"}, "-", 400, "Invalid value"},
		{"of a GET", "GET", "/", []string{"Max-Forwards", "0", yes, "true"}, "0", 200, " seen \n\n"},
		{"a wrong one of a GET", "GET", "/", []string{"Max-Forwards", "x"}, "x", 200, " seen \n\n"},
	} {
		before := asked.Load()
		forwards.Store("-")
		res, body := do(t, c, test.method, "http://world"+test.path, nil, test.header...)
		body = times.ReplaceAllString(body, "request duration: T")
		if res.StatusCode != test.status || test.status == 200 && body != test.body || !strings.HasPrefix(body, test.body) {
			t.Errorf("%s: %d %q, want %q", test.name, res.StatusCode, body, test.body)
		}
		if f := forwards.Load(); f != test.forwards || (f == "-") != (asked.Load() == before) {
			t.Errorf("%s: the backend saw Max-Forwards %q", test.name, f)
		}
		if res.Header.Get("Via") != "1.1 linkerd" {
			t.Errorf("%s: Via %q", test.name, res.Header.Get("Via"))
		}
	}
	for path, kind := range map[string]string{"/stream": "chunked", "/large": "large or compressed", "/gzip": "large or compressed"} {
		res, body := do(t, c, "TRACE", "http://world"+path, nil, yes, "true")
		body = times.ReplaceAllString(body, "request duration: T")
		want := "Diagnostic trace encountered " + kind + " response. Response content discarded.\n" + report(address)
		if res.StatusCode != 200 || !strings.HasPrefix(body, "HTTP/1.1 200 OK\n") || !strings.HasSuffix(body, want) || res.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %d %q, want %q at the end", path, res.StatusCode, body, want)
		}
	}
	res, body := do(t, c, "TRACE", "http://nobody/", nil, yes, "true", "Max-Forwards", "0")
	if res.StatusCode != 502 || res.Header.Get("tulle-code") != "T201" {
		t.Errorf("a name that leads nowhere: %d %q", res.StatusCode, body)
	}
}

func TestDiagnosisRepeated(t *testing.T) {
	m := start(t)
	m.table.service("world", backend(t, func(http.ResponseWriter, *http.Request) { t.Error("it was forwarded") }))
	conn, err := net.Dial("tcp", m.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "TRACE / HTTP/1.1\r\nHost: world\r\nMax-Forwards: 1\r\nMax-Forwards: 1\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 400 || res.Header.Get("tulle-code") != "T115" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}

func TestDiagnosisOfDelivery(t *testing.T) {
	address, c := startIncoming(t, "127.0.0.1")
	app := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "seen "+r.Header.Get("Max-Forwards"))
	})
	report := func(selected string) string {
		return "\n--- Router: incoming ---\nrequest duration: T\nservice name: /svc/world\nclient name: " + bound("world") +
			"\naddresses: [" + app + "]\nselected address: " + selected + "\n"
	}
	for forwards, want := range map[string]string{"0": report("none"), "3": "seen 2\n" + report(app)} {
		res, body := do(t, c, "TRACE", address+"/", nil, "tulle-dst-endpoint", app, "l5d-dst-service", "/svc/world",
			"l5d-dst-client", bound("world"), "l5d-add-context", "true", "Max-Forwards", forwards)
		if body = times.ReplaceAllString(body, "request duration: T"); res.StatusCode != 200 || body != want {
			t.Errorf("Max-Forwards %s: %d %q, want %q", forwards, res.StatusCode, body, want)
		}
	}
}
