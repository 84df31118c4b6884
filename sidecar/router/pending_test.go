package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// pending is a bound name of a host whose addresses are not known yet.
const pending = "/$/inet/slow.test/80"

func whilePending(t *testing.T, words string, test func(*testing.T, *mesh)) {
	t.Helper()
	whilePendingWith(t, bind.Config{Timeout: 4 * time.Second}, words, test)
}

func whilePendingWith(t *testing.T, limits bind.Config, words string, test func(*testing.T, *mesh)) {
	t.Helper()
	inVirtual(t, router.OutgoingConfig{Grace: 5 * time.Second}, limits, func(t *testing.T, m *mesh) {
		rules, err := naming.ParseDtab("/svc => " + pending)
		if err != nil {
			t.Fatal(err)
		}
		m.dtab.Set(&rules)
		m.table.value(pending).Set(naming.Replicas{})
		test(t, m)
	}, words)
}

// A bound name's addresses are waited for as long as names are, whatever a connection may
// take.
func TestAddressesThatComeLate(t *testing.T) {
	whilePending(t, "client: {connectTimeoutMs: 100}", func(t *testing.T, m *mesh) {
		at, c := m.backend(t, func(http.ResponseWriter, *http.Request) {}), m.client(t)
		time.AfterFunc(3*time.Second, func() { m.table.value(pending).Set(naming.Of(naming.Endpoint{Address: at, Weight: 1})) })
		began := time.Now()
		if res, body := get(t, c, "http://world/"); res.StatusCode != 200 || time.Since(began) != 3*time.Second {
			t.Errorf("after %s: %d %s", time.Since(began), res.StatusCode, body)
		}
	})
}

// They are waited for even if the name is otherwise idle, or one too many.
func TestAddressesThatComeToAnIdleName(t *testing.T) {
	for name, limits := range map[string]bind.Config{
		"idle":         {Timeout: 10 * time.Second, IdleTTL: time.Second},
		"one too many": {Timeout: 10 * time.Second, Paths: 1},
	} {
		whilePendingWith(t, limits, "", func(t *testing.T, m *mesh) {
			at, c := m.backend(t, func(http.ResponseWriter, *http.Request) {}), m.client(t)
			m.table.service("other", at)
			rules := naming.Dtab{}.Concat(*m.dtab.Get()...)
			rules = rules.Concat(naming.Dentry{Prefix: naming.Prefix{"svc", "other"}, Dst: naming.Leaf{"#", "io.l5d.k8s", "ns", "http", "other"}})
			m.dtab.Set(&rules)
			time.AfterFunc(time.Second, func() {
				if res, _, err := try(m.client(t), "GET", "http://other/", nil); err != nil || res.StatusCode != 200 {
					t.Error(res, err)
				}
			})
			time.AfterFunc(5*time.Second, func() { m.table.value(pending).Set(naming.Of(naming.Endpoint{Address: at, Weight: 1})) })
			began := time.Now()
			if res, body := get(t, c, "http://world/"); res.StatusCode != 200 || time.Since(began) != 5*time.Second {
				t.Errorf("%s: after %s: %d %s", name, time.Since(began), res.StatusCode, body)
			}
		})
	}
}

// asks are the ways to ask for a name whose addresses are needed.
var asks = map[string]func(*testing.T, *mesh) (*http.Response, string){
	"a request": func(t *testing.T, m *mesh) (*http.Response, string) { return get(t, m.client(t), "http://world/") },
	"a TRACE that ends here": func(t *testing.T, m *mesh) (*http.Response, string) {
		return do(t, m.client(t), "TRACE", "http://world/", nil, "Max-Forwards", "0", "l5d-add-context", "true")
	},
	"a tunnel": func(t *testing.T, m *mesh) (*http.Response, string) {
		_, res := m.connect(t, "world:80")
		body, _ := io.ReadAll(io.LimitReader(res.Body, res.ContentLength))
		return res, string(body)
	},
}

func TestAddressesThatDoNotCome(t *testing.T) {
	const (
		want = "Exceeded 4.seconds binding timeout while connecting to " + pending + " for name: /svc/world"
		hint = "\n\nT202: check that DNS answers for slow.test: the proxy looks the host up itself\n"
	)
	for name, ask := range asks {
		for _, words := range []string{"client: {connectTimeoutMs: 60000}", "egress: {allow: [192.0.2.0/24]}"} {
			t.Run(name+" "+words, func(t *testing.T) {
				whilePending(t, words, func(t *testing.T, m *mesh) {
					began := time.Now()
					res, body := ask(t, m)
					if time.Since(began) != 4*time.Second {
						t.Errorf("it took %s", time.Since(began))
					}
					complete(t, "T202", res, body, []int{502}, true)
					if n := m.count(t, "tulle_requests_total", "service", "/svc/world"); n != 0 {
						t.Errorf("a name that leads nowhere is counted %v times", n)
					}
					if strings.Replace(body, ":80\n", "\n", 1) != want+hint {
						t.Errorf("it says %q", body)
					}
				})
			})
		}
	}
}

// What it took to find out what the name is bound to is part of the time.
func TestAddressesHaveTheRest(t *testing.T) {
	whilePending(t, "", func(t *testing.T, m *mesh) {
		rules := *m.dtab.Get()
		m.dtab.Set(nil)
		c := m.client(t)
		time.AfterFunc(3*time.Second, func() { m.dtab.Set(&rules) })
		began := time.Now()
		if res, _ := get(t, c, "http://world/"); res.Header.Get("tulle-code") != "T202" || time.Since(began) != 4*time.Second {
			t.Errorf("after %s: %d %v", time.Since(began), res.StatusCode, res.Header)
		}
		began = time.Now()
		if get(t, c, "http://world/"); time.Since(began) != 4*time.Second {
			t.Errorf("once the name is known: after %s", time.Since(began))
		}
	})
}

// What else holds a request up is not.
func TestAddressesAfterTheCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine := make(chan struct{})
		m := startBinding(t, &memory{listeners: map[string]*pipes{}}, router.OutgoingConfig{Identified: mine}, bind.Config{Timeout: 4 * time.Second})
		at := m.backend(t, func(http.ResponseWriter, *http.Request) {})
		m.table.value(pending).Set(naming.Replicas{})
		time.AfterFunc(5*time.Second, func() { close(mine) })
		time.AfterFunc(8*time.Second, func() { m.table.value(pending).Set(naming.Of(naming.Endpoint{Address: at, Weight: 1})) })
		began := time.Now()
		if res, body := get(t, m.client(t), "http://world/", "l5d-dtab", "/svc => "+pending); res.StatusCode != 200 || time.Since(began) != 8*time.Second {
			t.Errorf("after %s: %d %s", time.Since(began), res.StatusCode, body)
		}
	})
}

// A request whose own time is over does not wait on, whether for addresses or for what
// the name is.
func TestAddressesAndTheDeadline(t *testing.T) {
	deadline := []string{"l5d-ctx-deadline", at("000") + " 946684801000000000"}
	for name, ask := range asks {
		for _, words := range []string{"service: {totalTimeoutMs: 1000}", "server: {timeoutMs: 1000}"} {
			whilePending(t, words, func(t *testing.T, m *mesh) {
				soon := func(what string) {
					began := time.Now()
					res, body := ask(t, m)
					if res.Header.Get("tulle-code") != "T304" || time.Since(began) != time.Second || !strings.HasPrefix(body, "exceeded 1000.milliseconds to /svc/world") {
						t.Errorf("%s, %s: after %s: %d %s", name, what, time.Since(began), res.StatusCode, body)
					}
					if n := m.count(t, "tulle_requests_total", "service", "/svc/world"); n != 0 {
						t.Errorf("%s: a name that leads nowhere is counted %v times", name, n)
					}
				}
				soon("a new name")
				soon("a known name")
				m.dtab.Set(nil)
				soon("no rules")
			})
		}
	}
	whilePending(t, "", func(t *testing.T, m *mesh) {
		m.dtab.Set(nil)
		for i, want := range []string{"T304", "T114"} {
			began := time.Now()
			res, body := get(t, m.client(t), "http://world/", deadline...)
			if res.Header.Get("tulle-code") != want || time.Since(began) != time.Duration(1-i)*time.Second {
				t.Errorf("a caller's deadline: after %s: %d %s", time.Since(began), res.StatusCode, body)
			}
		}
	})
}

// A tunnel may outlive the time in which it is to be made, so proxies further on are not
// told of it.
func TestTunnelAndTheDeadline(t *testing.T) {
	virtual(t, "service: {totalTimeoutMs: 100}", func(t *testing.T, m *mesh) {
		ln := m.network.listen(t)
		serveRaw(t, ln, func(conn net.Conn, r *bufio.Reader) {
			if req, err := http.ReadRequest(r); err != nil || req.Header.Get("l5d-ctx-deadline") != "" {
				t.Error(req, err)
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			_, _ = io.Copy(conn, r)
		})
		m.table.value(bound("world:80")).Set(naming.Of(naming.Endpoint{Address: "10.9.9.9:80", Hop: naming.HopHost, Via: ln.Addr().String(), Weight: 1}))
		c := m.opened(t, "world:80")
		time.Sleep(time.Second) // virtual
		c.say("\x00\x01")
		c.expect("\x00\x01")
	})
}

// Where all room for names is taken by those that are waited for, that is said: no rule is
// wrong.
func TestTooManyNames(t *testing.T) {
	const wide = 900
	whilePending(t, "", func(t *testing.T, m *mesh) {
		var rule strings.Builder
		for i := range wide {
			_, _ = fmt.Fprintf(&rule, "& /#/io.l5d.k8s/ns/%d ", 8000+i)
		}
		rules, err := naming.ParseDtab("/wide => " + rule.String()[1:])
		if err != nil {
			t.Fatal(err)
		}
		m.dtab.Set(&rules)
		var last *http.Response
		var text string
		for i := range 20 {
			for k := range wide {
				m.table.value(fmt.Sprintf("/#/io.l5d.k8s/ns/%d/h%d", 8000+k, i)).Set(naming.Replicas{})
			}
			ended := make(chan struct{})
			c, url := m.client(t), fmt.Sprintf("http://h%d/", i)
			go func() {
				defer close(ended)
				res, body, err := try(c, "GET", url, nil, "l5d-dtab", "/svc => /wide")
				if err == nil && res.Header.Get("tulle-code") == "T203" {
					last, text = res, body
				}
			}()
			synctest.Wait()
			select {
			case <-ended:
			default:
				continue
			}
			break
		}
		if last == nil {
			t.Fatal("all names have room")
		}
		complete(t, "T203", last, text, []int{503}, true)
		if !strings.Contains(text, "T203: try again soon") {
			t.Errorf("it says %q", text)
		}
		time.Sleep(4 * time.Second) // virtual: the others have ended
	})
}

// Who has hung up is not waited for long.
func TestWhoHasLeftWaitsForNoName(t *testing.T) {
	m := startBinding(t, newLoopback(t), router.OutgoingConfig{Grace: 5 * time.Second}, bind.Config{Timeout: time.Minute}, "service: {maxConcurrentRequests: 1}")
	rules, err := naming.ParseDtab("/svc/world => " + pending + "; /svc/new => /#/io.l5d.k8s/ns/80/new")
	if err != nil {
		t.Fatal(err)
	}
	m.dtab.Set(&rules)
	m.table.value(pending).Set(naming.Replicas{})
	m.table.value("/#/io.l5d.k8s/ns/80/new").Set(naming.Replicas{})
	var all []*talk
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: world\r\n\r\n",
		"CONNECT world:80 HTTP/1.1\r\nHost: world:80\r\nl5d-dtab: /svc => " + pending + "\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: new\r\nContent-Length: 2\r\n\r\nhi",
	} {
		c := m.talk(t)
		c.say(request)
		if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	for _, c := range all {
		if rest := c.rest(); rest != "" {
			t.Errorf("who has left is told %q", rest)
		}
	}
	m.table.value(pending).Set(naming.Of(naming.Endpoint{Address: backend(t, echo), Weight: 1}))
	if res, body := get(t, m.client(t), "http://world/"); res.StatusCode != 200 {
		t.Errorf("the next: %d %s", res.StatusCode, body)
	}
	if n := m.count(t, "tulle_errors_total"); n != 0 {
		t.Errorf("%v answers are counted", n)
	}
}
