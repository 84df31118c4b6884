package router_test

import (
	"io"
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

func TestAddressesThatDoNotCome(t *testing.T) {
	const want = "Exceeded 4.seconds binding timeout while connecting to " + pending + " for name: /svc/world"
	for name, ask := range map[string]func(*testing.T, *mesh) (*http.Response, string){
		"a request": func(t *testing.T, m *mesh) (*http.Response, string) { return get(t, m.client(t), "http://world/") },
		"a TRACE that ends here": func(t *testing.T, m *mesh) (*http.Response, string) {
			return do(t, m.client(t), "TRACE", "http://world/", nil, "Max-Forwards", "0", "l5d-add-context", "true")
		},
		"a tunnel": func(t *testing.T, m *mesh) (*http.Response, string) {
			_, res := m.connect(t, "world:80")
			body, _ := io.ReadAll(io.LimitReader(res.Body, res.ContentLength))
			return res, string(body)
		},
	} {
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
					if !strings.HasPrefix(strings.Replace(body, ":80\n", "\n", 1), want+"\n") {
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

// A request whose own time is over does not wait on.
func TestAddressesAndTheDeadline(t *testing.T) {
	whilePending(t, "service: {totalTimeoutMs: 1000}", func(t *testing.T, m *mesh) {
		began := time.Now()
		res, body := get(t, m.client(t), "http://world/")
		if res.Header.Get("tulle-code") != "T304" || time.Since(began) != time.Second {
			t.Errorf("after %s: %d %s", time.Since(began), res.StatusCode, body)
		}
		if n := m.count(t, "tulle_requests_total", "service", "/svc/world"); n != 0 {
			t.Errorf("a name that leads nowhere is counted %v times", n)
		}
	})
}
