package router_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

// verbatim is an endpoint that keeps the heads it gets as they are, and answers
// with what it is told.
func verbatim(t *testing.T, heads *record[string], answer string) string {
	return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			head := ""
			for !strings.HasSuffix(head, "\r\n\r\n") {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				head += line
			}
			heads.add(head)
			if _, err := io.WriteString(conn, answer); err != nil {
				return
			}
		}
	})
}

// names returns the names of a head's fields, in order, without those of a trace.
func names(head string) []string {
	var all []string
	lines := strings.Split(strings.TrimSpace(head), "\r\n")
	for _, line := range lines[1:] {
		name, _, _ := strings.Cut(line, ":")
		all = append(all, name)
	}
	return all
}

// The fields of a request and of an answer go on in their order and case, with
// their values as they are.
func TestOrderAndCase(t *testing.T) {
	m := start(t)
	var heads record[string]
	m.table.service("world", verbatim(t, &heads, "HTTP/1.1 299 Really Fine\r\nset-Cookie: a=1\r\nX-b:  two  words \r\nSET-COOKIE: b=2\r\n"+
		"Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nx-EMPTY:\r\nProxy-Authenticate: Basic\r\nx-ob: \xe4\r\nContent-LENGTH: 2\r\n\r\nok"))
	c := m.talk(t)
	c.say("GET //a/%2e%2E/b?x=%20&&y=;=/../ HTTP/1.1\r\nx-First: 1\r\nAccept: */*\r\nhOst: world\r\ncookie: a=1\r\nX-first:  two  words \r\n" +
		"COOKIE: b=2\r\nConnection: x-hop\r\nX-Hop: 1\r\nTE: trailers\r\nProxy-Authorization: secret\r\nx-empty:\r\nx-ob: \xe4\r\n\r\n")
	var got string
	for !strings.HasSuffix(got, "\r\n\r\n") {
		line, err := c.r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		got += line
	}
	want := "HTTP/1.1 299 Really Fine\r\nset-Cookie: a=1\r\nX-b: two  words\r\nSET-COOKIE: b=2\r\nx-EMPTY: \r\nx-ob: \xe4\r\n" +
		"Via: 1.1 linkerd\r\nl5d-success-class: 1.0\r\nContent-Length: 2\r\n\r\n"
	if got != want {
		t.Errorf("the client got\n%q, want\n%q", got, want)
	}
	head := heads.get()[0]
	if !strings.HasPrefix(head, "GET //a/%2e%2E/b?x=%20&&y=;=/../ HTTP/1.1\r\nHost: world\r\nx-First: 1\r\nAccept: */*\r\ncookie: a=1\r\nX-first: two  words\r\n"+
		"COOKIE: b=2\r\nx-empty: \r\nx-ob: \xe4\r\nVia: 1.1 linkerd\r\n") {
		t.Errorf("the backend got %q", head)
	}
	rest := []string{"Via", "l5d-dst-service", "l5d-dst-client", "l5d-reqid", "l5d-ctx-trace"}
	if all := names(head); !slices.Equal(all[slices.Index(all, "Via"):], rest) {
		t.Errorf("the router added %v, want %v", all, rest)
	}
}

// What an edge lets in and out of the mesh's own header fields.
func TestClearContext(t *testing.T) {
	const context = "l5d-ctx-deadline: 1 2\r\nl5d-ctx-dtab: /host/world => /srv/evil\r\nL5D-Dtab: /host/world => /srv/evil\r\nl5d-ctx-tenant: 7\r\n" +
		"l5d-sample: 1\r\nl5d-foo: 1\r\nl5d-dst-service: forged\r\nl5d-dst-residual: /x\r\nl5d-success-class: 1.0\r\nx-b3-sampled: 1\r\n"
	const answer = "l5d-success-class: 1.0\r\nL5D-Foo: 1\r\nl5d-retryable: false\r\nx-own: 1\r\nVia: 1.1 else\r\nContent-Length: 2\r\n\r\nok"
	request := []string{"Host", "x-b3-sampled", "Via", "l5d-dst-service", "l5d-dst-client", "l5d-reqid", "l5d-ctx-trace"}
	reply := []string{"x-own", "Via", "Content-Length"}
	for _, test := range []struct {
		status, err string
		body        string
	}{
		{"200 OK", "", "ok"},
		{"500 Failed", "", "ok"},
		{"502 Bad Gateway", "l5d-err: no+route+here\r\n", ""}, // of a proxy further on
	} {
		m := start(t, "server: {clearContext: true}")
		var heads record[string]
		m.table.service("world", verbatim(t, &heads, "HTTP/1.1 "+test.status+"\r\n"+test.err+answer))
		c := m.talk(t)
		c.say("GET / HTTP/1.1\r\nHost: world\r\n" + context + "\r\n")
		head, err := c.r.ReadString('\n')
		if err != nil || head != "HTTP/1.1 "+test.status+"\r\n" {
			t.Fatalf("got %q, %v", head, err)
		}
		for !strings.HasSuffix(head, "\r\n\r\n") {
			line, err := c.r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			head += line
		}
		if got := names(head); !slices.Equal(got, reply) {
			t.Errorf("%s: the client got %v, want %v", test.status, got, reply)
		}
		if got := names(heads.get()[0]); !slices.Equal(got, request) {
			t.Errorf("%s: the backend got %v, want %v", test.status, got, request)
		}
		c.say("GET / HTTP/1.0\r\nHost: world\r\n\r\n") // whatever is left of the body comes before this answer
		if rest := c.rest(); !strings.HasPrefix(rest, test.body+"HTTP/1.1 "+test.status) {
			t.Errorf("the body and what follows: %q", rest)
		}
	}
}

// An edge says no more of what is wrong than the status.
func TestClearContextOfProblems(t *testing.T) {
	m := start(t, "server: {clearContext: true, maxInitialLineKB: 1}")
	m.table.service("void", refusing(t))
	for _, test := range []struct{ request, status string }{
		{"GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n", "502 Bad Gateway"},
		{"GET / HTTP/1.1\r\nHost: void\r\n\r\n", "502 Bad Gateway"},
		{"GET / HTTP/1.0\r\n\r\n", "400 Bad Request"},
		{"GET /\x00 HTTP/1.1\r\nHost: world\r\n\r\n", "400 Bad Request"},
		{"GET /" + strings.Repeat("x", 2000) + " HTTP/1.1\r\nHost: world\r\n\r\n", "414 URI Too Long"},
	} {
		request := test.request
		if strings.Contains(request, "void") || strings.Contains(request, "nowhere") {
			request = strings.Replace(request, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
		}
		got := m.raw(t, request)
		r := textproto.NewReader(bufio.NewReader(strings.NewReader(got)))
		line, err := r.ReadLine()
		if err != nil || line != "HTTP/1.1 "+test.status {
			t.Errorf("%.40q: %q, %v", test.request, line, err)
		}
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		if all := names(head); !slices.Equal(all, []string{"Via", "Content-Length", "Connection"}) || body != "" {
			t.Errorf("%.40q: %v %q", test.request, all, body)
		}
	}
}

// Answers before the answer, and those that switch protocols, say no more of the mesh
// at an edge than others do; and elsewhere no application's claims to be a proxy.
func TestEarlyAnswers(t *testing.T) {
	const said = "L5D-Foo: 1\r\nl5d-ctx-x: y\r\nl5d-: z\r\nl5d-err: boo\r\ntulle-code: T201\r\nX-Own: 1\r\n"
	for _, test := range []struct{ words, early, switched string }{
		{"", "L5D-Foo l5d-ctx-x l5d- l5d-err X-Own", "Upgrade L5D-Foo l5d-ctx-x l5d- l5d-err X-Own Via l5d-success-class Connection"},
		{"server: {clearContext: true}", "X-Own", "Upgrade X-Own Via Connection"},
	} {
		m := start(t, test.words)
		var heads record[string]
		m.table.service("early", verbatim(t, &heads, "HTTP/1.1 103 Early Hints\r\n"+said+"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
		m.table.service("world", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nl5d-success-class: 0.0\r\n"+said+"\r\nhello")
			}
		}))
		c := m.talk(t)
		c.say("GET / HTTP/1.1\r\nHost: early\r\n\r\n")
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 103 Early Hints\r\n") || strings.Join(names(head), " ") != test.early {
			t.Errorf("%q: the early answer is %q, want %s", test.words, head, test.early)
		}
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") {
			t.Fatalf("after it: %q", head)
		}
		c.say(handshake)
		head := c.head()
		if got := names(head); !strings.HasPrefix(head, "HTTP/1.1 101 Switching Protocols\r\n") || strings.Join(got, " ") != test.switched {
			t.Errorf("%q: in the switching answer the client got %v, want %s", test.words, got, test.switched)
		}
		if class := "l5d-success-class: 1.0\r\n"; strings.Contains(head, class) != (test.words == "") {
			t.Errorf("%q: the class in %q", test.words, head)
		}
		c.expect("hello")
	}
}

// The class that the router found replaces what came; the application's claims of
// being a proxy do not get out.
func TestSuccessClass(t *testing.T) {
	m := start(t)
	for _, test := range []struct{ status, came, want string }{
		{"200 OK", "0.0", "1.0"}, {"404 No", "", "1.0"}, {"500 Bad", "1.0", "0.0"}, {"204 Nothing", "", "1.0"}, {"304 Same", "x", "1.0"},
	} {
		var heads record[string]
		answer := "HTTP/1.1 " + test.status + "\r\ntulle-code: T201\r\n"
		if test.came != "" {
			answer += "l5d-success-class: " + test.came + "\r\n"
		}
		if test.status[0] != '3' && test.status != "204 Nothing" {
			answer += "Content-Length: 0\r\n"
		}
		m.table.service("world", verbatim(t, &heads, answer+"\r\n"))
		res, _ := get(t, m.client(t), "http://world/")
		if got := res.Header.Values("l5d-success-class"); !slices.Equal(got, []string{test.want}) || res.Header.Get("tulle-code") != "" {
			t.Errorf("%s: %q, and tulle-code %q", test.status, got, res.Header.Get("tulle-code"))
		}
	}
	if res, _ := get(t, m.client(t), "http://nowhere/"); res.Header.Get("l5d-success-class") != "" {
		t.Error("what was not routed has a class")
	}
}
