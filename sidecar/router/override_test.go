package router_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/bind"
	"github.com/tulle-mesh/tulle/sidecar/router"
)

// overridable runs a router with two versions of a service. What each got is in its
// answer: who it is, then the rules.
func overridable(t *testing.T, cfg router.OutgoingConfig, words ...string) *mesh {
	t.Helper()
	cfg.Grace = 5 * time.Second
	m := startOn(t, newLoopback(t), cfg, words...)
	for _, name := range []string{"world", "v2", "v3"} {
		m.table.service(name, backend(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, name+" "+strings.Join(r.Header["L5d-Ctx-Dtab"], "|")+strings.Join(r.Header["L5d-Dtab"], "!"))
		}))
	}
	return m
}

// Rules that a request brings along are one list: those of the context first, then the
// user's, each in the order of their lines.
func TestOverridesAreMerged(t *testing.T) {
	var asked record[string]
	m := overridable(t, router.OutgoingConfig{Local: func(source string) bool { asked.add(source); return true }})
	c := m.client(t)
	for _, test := range []struct {
		header []string
		want   string
	}{
		{nil, "world "},
		{[]string{"l5d-dtab", "/host/world => /srv/v2"}, "v2 /host/world=>/srv/v2"},
		{[]string{"l5d-ctx-dtab", "/host/world=>/srv/v2"}, "v2 /host/world=>/srv/v2"},
		{[]string{"l5d-dtab", "/host/world => /srv/v2", "l5d-ctx-dtab", "/host/world => /srv/v3"}, "v2 /host/world=>/srv/v3;/host/world=>/srv/v2"},
		{[]string{"l5d-dtab", "/a => /b; /host/world => /srv/v3;", "l5d-ctx-dtab", "/c=>/d", "l5d-dtab", "/host/world=>/srv/v2", "l5d-ctx-dtab", "/e => 2 * /f & /g"},
			"v2 /c=>/d;/e=>2.00*/f & /g;/a=>/b;/host/world=>/srv/v3;/host/world=>/srv/v2"},
		{[]string{"l5d-dtab", "/nobody => /nowhere"}, "world /nobody=>/nowhere"},
		{[]string{"l5d-dtab", "", "l5d-ctx-dtab", " "}, "world "},
	} {
		if res, body := get(t, c, "http://world/", test.header...); res.StatusCode != 200 || body != test.want {
			t.Errorf("%q: %d %q, want %q", test.header, res.StatusCode, body, test.want)
		}
	}
	if all := asked.get(); len(all) != 6 || all[0] != "127.0.0.1" {
		t.Errorf("it was asked about %q, want six times about 127.0.0.1", all)
	}
	if n := m.count(t, "tulle_overrides_dropped_total", "router", "outgoing"); n != 0 {
		t.Errorf("%v were dropped", n)
	}
}

// The rules of strangers do not count, whatever they say, and go nowhere.
func TestOverridesOfStrangers(t *testing.T) {
	m := overridable(t, router.OutgoingConfig{Label: "edge", Local: func(string) bool { return false }})
	c := m.client(t)
	for _, header := range [][]string{
		{"l5d-dtab", "/host/world => /srv/v2"},
		{"l5d-ctx-dtab", "/host/world => /srv/v2"},
		{"L5D-DTAB", "/host/world => /srv/v2", "l5d-ctx-dtab", "/host/world => /srv/v3", "l5d-dtab", "/a=>/b"},
		{"l5d-dtab", "what is this"},
	} {
		if res, body := get(t, c, "http://world/", header...); res.StatusCode != 200 || body != "world " {
			t.Errorf("%q: %d %q", header, res.StatusCode, body)
		}
	}
	get(t, c, "http://world/", "l5d-ctx-tenant", "7")
	if n := m.count(t, "tulle_overrides_dropped_total", "router", "edge"); n != 4 {
		t.Errorf("%v are counted, want 4", n)
	}
}

func TestMalformedOverrides(t *testing.T) {
	m := overridable(t, router.OutgoingConfig{})
	m.table.service("world", backend(t, func(http.ResponseWriter, *http.Request) { t.Error("it was forwarded") }))
	c := m.client(t)
	for _, test := range []struct {
		header []string
		want   string // how the message begins
	}{
		{[]string{"l5d-dtab", "/a = /b"}, "l5d-dtab: '>' expected but ' ' found at '/a =[ ]/b'"},
		{[]string{"l5d-ctx-dtab", "/a => /b &"}, "l5d-ctx-dtab: "},
		{[]string{"l5d-dtab", "/a => /b", "l5d-dtab", "a => /b"}, "l5d-dtab: '/' expected but 'a' found at '[a] => /b'"},
		{[]string{"l5d-dtab", "/a => /b", "l5d-ctx-dtab", "/a =>"}, "l5d-ctx-dtab: "},
		{[]string{"l5d-dtab", strings.Repeat("/=>/a&/b;", 5000)}, "l5d-dtab: read rules of the request: "},
		{[]string{"l5d-dtab", strings.Repeat("/a=>/b;", 101)}, "l5d-dtab: read rules of the request: they are 101, "},
	} {
		res, body := get(t, c, "http://world/", test.header...)
		if res.StatusCode != 400 || !strings.HasPrefix(body, test.want) || res.Header.Get("tulle-code") != "T102" || res.Header.Get("l5d-err") == "" {
			t.Errorf("%q: %d %q", test.header, res.StatusCode, body)
		}
		advice := "T102: write rules as /prefix"
		if strings.Contains(test.want, "read rules") {
			advice = "T102: send no more than 100 rules and 8192 bytes "
		}
		if !strings.Contains(body, advice) {
			t.Errorf("%q: %q does not say %q", test.header, body, advice)
		}
	}
}

// What clearContext makes of the header fields of a request at an edge.
func TestOverridesAtAnEdge(t *testing.T) {
	m := overridable(t, router.OutgoingConfig{Local: func(string) bool { t.Error("there is nothing to ask about"); return true }}, "server: {clearContext: true}")
	c := m.client(t)
	for _, header := range [][]string{{"l5d-dtab", "/host/world => /srv/v2"}, {"l5d-dtab", "what is this"}, {"l5d-ctx-dtab", "/"}} {
		if res, body := get(t, c, "http://world/", header...); res.StatusCode != 200 || body != "world " {
			t.Errorf("%q: %d %q", header, res.StatusCode, body)
		}
	}
	res, body := get(t, c, "http://nowhere/", "l5d-dtab", "/a=>/b")
	if res.StatusCode != 502 || body != "" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	for name := range res.Header {
		if strings.HasPrefix(strings.ToLower(name), "l5d-") {
			t.Errorf("the client got %s", name)
		}
	}
	if n := m.count(t, "tulle_overrides_dropped_total"); n != 0 {
		t.Errorf("%v are counted as dropped", n)
	}
}

// All rules in question are shown under three headings, which are there without
// any, too.
func TestNoRouteShowsAllRules(t *testing.T) {
	kept, err := naming.ParseDtab("/host => /k; /x/* => ~")
	if err != nil {
		t.Fatal(err)
	}
	stored := watch.New(&kept)
	m := startBinding(t, newLoopback(t), router.OutgoingConfig{Grace: 5 * time.Second}, bind.Config{Stored: stored})
	c := m.client(t)
	res, body := get(t, c, "http://cartt/", "l5d-dtab", "/k => /other | !")
	const want = "Unable to route request!\n\nservice name: /svc/cartt\n" +
		"dtab:\n  /host => /k\n  /x/* => ~\n" +
		"base dtab:\n  /srv => /caller\n  /host => /srv\n  /svc => /host\n" +
		"override dtab:\n  /k => /other | !\n\nT201: "
	if res.StatusCode != 502 || !strings.HasPrefix(body, want) {
		t.Errorf("%d %s\nwant\n%s", res.StatusCode, body, want)
	}
	elsewhere := startBinding(t, newLoopback(t), router.OutgoingConfig{Advice: router.Advice{NoRoute: "ask somebody else"}}, bind.Config{})
	if _, body := get(t, elsewhere.client(t), "http://cartt/"); !strings.HasSuffix(body, "\n\nT201: ask somebody else\n") {
		t.Errorf("with advice: %s", body)
	}
	stored.Set(&naming.Dtab{})
	m.dtab.Set(&naming.Dtab{})
	res, body = get(t, c, "http://cartt/")
	if res.StatusCode != 502 || !strings.HasPrefix(body, "Unable to route request!\n\nservice name: /svc/cartt\ndtab:\nbase dtab:\noverride dtab:\n\nT201: ") {
		t.Errorf("without rules: %d %s", res.StatusCode, body)
	}
}

// A router's label is in its metrics. What nobody asked for in a while leaves them,
// and what comes back counts from nothing.
func TestIdleServicesLeaveTheMetrics(t *testing.T) {
	inVirtual(t, router.OutgoingConfig{Label: "edge", Grace: 5 * time.Second}, bind.Config{IdleTTL: time.Minute}, func(t *testing.T, m *mesh) {
		m.table.service("world", m.backend(t, echo))
		m.table.service("busy", m.backend(t, echo))
		c := m.client(t)
		series := func(service string) float64 {
			synctest.Wait() // a request is counted when its answer has been sent
			return m.count(t, "tulle_requests_total", "router", "edge", "service", "/svc/"+service, "result", "success")
		}
		get(t, c, "http://world/")
		for range 12 {
			get(t, c, "http://busy/")
			time.Sleep(15 * time.Second) // virtual
		}
		if idle, busy := series("world"), series("busy"); idle != 0 || busy != 12 {
			t.Errorf("after three minutes %v and %v requests are counted", idle, busy)
		}
		families, err := m.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, s := range f.GetMetric() {
				if matches(s.GetLabel(), []string{"service", "/svc/world"}) {
					t.Errorf("%s still has %v", f.GetName(), s.GetLabel())
				}
			}
		}
		get(t, c, "http://world/")
		get(t, c, "http://world/")
		if n := series("world"); n != 2 {
			t.Errorf("back again, %v requests are counted", n)
		}
	})
}
