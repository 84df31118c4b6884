package admin_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/admin"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	cart = "/#/io.l5d.k8s/shop/http/cart"
	idle = "/#/io.l5d.k8s/shop/http/idle"
	slow = "/#/io.l5d.k8s/shop/http/slow"
)

// source knows a Service, one that is not read yet, and hosts.
type source struct{}

func (source) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	now := naming.Replicas{State: naming.StateNeg}
	switch {
	case id == cart:
		now = naming.Of(naming.Endpoint{Address: "10.0.0.1:80", Node: "node-1", Weight: 1}, naming.Endpoint{Address: "[fd00::1]:80", Weight: 1})
	case id == idle:
		now = naming.Of()
	case id == slow:
		now = naming.Replicas{}
	case strings.HasPrefix(id, "/$/inet/"):
		now = naming.Of(naming.Endpoint{Address: "127.0.0.1:8080", Weight: 1})
	}
	return watch.New(now), func() {}
}

// world is pages on which everything can be told apart, and what they show.
type world struct {
	config admin.Config
	store  *namer.Memory
	names  *registry.Registry
}

func newWorld(t *testing.T, dtabs map[string]string) *world {
	t.Helper()
	store, err := namer.NewMemory(dtabs)
	if err != nil {
		t.Fatal(err)
	}
	ledger := &registry.Ledger{}
	names, err := registry.New(registry.Config{Namers: registry.Default(), Distinct: true, Ledger: ledger, Source: source{}})
	if err != nil {
		t.Fatal(err)
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "test_total", Help: "A test."}))
	return &world{store: store, names: names, config: admin.Config{
		Store: store, Registry: names, Followed: ledger.Followed, Metrics: metrics, Level: &slog.LevelVar{},
		BoundNames:    func() []string { return []string{"/#/io.l5d.k8s/shop/http/web", cart} },
		Configuration: func() any { return map[string]string{"dtab-store": "memory => <b>"} },
		Names: func(namespace string) []api.Name {
			if namespace != "default" {
				return nil
			}
			return []api.Name{{Path: "/svc/cart", Namespace: "shop"}, {Path: "/svc/<script>alert(1)</script>"}}
		},
	}}
}

const rules = "/srv => /#/io.l5d.k8s/shop/http ; /svc => /srv ; /svc => /srv/canary"

func seeded(t *testing.T) *world {
	return newWorld(t, map[string]string{"default": rules, "internal": "/svc => /$/inet/127.1/80", "nothing": ""})
}

// ask asks for a page without a network.
func ask(h http.Handler, method, target, media, body string, edit ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host, r.RemoteAddr = "localhost:9991", "127.0.0.1:12345"
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestPages(t *testing.T) {
	w := seeded(t)
	h := admin.Handler(w.config)
	_, release := w.names.Replicas(cart)
	defer release()
	_, releaseSite := w.names.Replicas("/#/nobody/x")
	defer releaseSite()
	for _, c := range []struct {
		path   string
		status int
		wants  []string
	}{
		{"/", 200, []string{`<a href="dtab/default">default</a></td><td>3</td><td>2</td>`, `internal</a></td><td>1</td><td>0</td>`, `nothing</a></td><td>0</td>`, `href="namer_state"`, `href="logging"`}},
		{"/dtab/default", 200, []string{"<h1>default</h1>", "/srv =&gt; /#/io.l5d.k8s/shop/http ;\n/svc =&gt; /srv ;\n/svc =&gt; /srv/canary</textarea>", "version AAAAAAAAAAE=", "3 rules", `data-path="/svc/cart" data-caller="shop"`, "&lt;script&gt;alert(1)"}},
		{"/dtab/nothing", 200, []string{"0 rules", `data-name="nothing">` + "\n</textarea>"}},
		{"/dtab/nobody", 404, []string{`There is no dtab &#34;nobody&#34;.`, `href="../dtab/default"`, `href="../dtab/delegator.css"`}},
		{"/dtab/%3Cscript%3E", 404, []string{`There is no dtab &#34;&lt;script&gt;&#34;.`}},
		{"/dtab/delegator.css", 200, []string{"--wash"}},
		{"/dtab/delegator.js", 200, []string{"use strict"}},
		{"/dtab/delegator.json?path=/svc/cart", 200, []string{`{"type":"neg","path":"/svc/cart"}` + "\n"}},
		{"/dtab/delegator.json?namespace=default&path=/svc/cart", 200, []string{`{"type":"neg","path":"/svc/cart"}`}}, // only the given rules count
		{"/dtab/delegator.json?path=/svc/cart&dtab=" + url.QueryEscape(rules), 200, []string{`"type":"alt"`, `"ip":"10.0.0.1"`, `"ip":"fd00::1"`, `"dst":"/srv/canary"`}},
		{"/dtab/delegator.json?path=/svc/cart&caller=shop&dtab=" + url.QueryEscape("/svc=>/caller"), 200, []string{`"prefix":"/caller"`}},
		{"/dtab/delegator.json?path=/svc/cart&caller=%3Cb%3E", 400, []string{`Invalid caller: "<b>"`}},
		{"/dtab/delegator.json?path=cart", 400, []string{"Invalid path: "}},
		{"/dtab/delegator.json?path=/a&dtab=a", 400, []string{"Invalid dtab: "}},
		{"/dtab/delegator.json", 400, []string{"Invalid path: there is none"}},
		{"/storage/dtabs.json", 200, []string{`"known": true`, `"name": "default"`, `"version": "AAAAAAAAAAE="`, `"prefix": "/svc"`, `"dst": "/srv/canary"`, "\"name\": \"nothing\",\n      \"version\": \"AAAAAAAAAAE=\",\n      \"dtab\": []"}},
		{"/bound-names.json", 200, []string{"[\n  \"" + cart + "\",\n  \"/#/io.l5d.k8s/shop/http/web\"\n]\n"}},
		{"/namer_state", 200, []string{cart, `"address": "10.0.0.1:80"`, "/#/nobody/x", `"updated": "20`}},
		{"/namer_state/nobody.json", 200, []string{"\"id\": \"/#/nobody/x\",", `"state": "neg"`}},
		{"/namer_state/io.l5d.fs.json", 200, []string{`"names": []`}},
		{"/namer_state/io.l5d.k8s", 404, nil},
		{"/config.json", 200, []string{`"dtab-store": "memory => <b>"`}},
		{"/logging", 200, []string{"<b>INFO</b>", `value="DEBUG">`, `value="INFO" disabled`}},
		{"/logging.json", 200, []string{"\"name\": \"root\",\n    \"level\": \"INFO\""}},
		{"/admin/ping", 200, []string{"pong"}},
		{"/admin/ready", 200, []string{"ready\n"}},
		{"/metrics", 200, []string{"test_total 0"}},
		{"/admin/metrics/prometheus", 200, []string{"test_total 0"}},
		{"/admin/metrics.json", 404, nil},
		{"/dtab/", 302, nil},
		{"/nonsense", 404, nil},
	} {
		got := ask(h, "GET", c.path, "", "")
		if got.Code != c.status {
			t.Errorf("%s: %d %s", c.path, got.Code, got.Body)
		}
		for _, want := range c.wants {
			if !strings.Contains(got.Body.String(), want) {
				t.Errorf("%s lacks %q:\n%s", c.path, want, got.Body)
			}
		}
		if c.status != 302 && strings.Contains(got.Header().Get("Content-Type"), "html") {
			for _, word := range []string{"<script>", "http://", "https://", "style=", "onclick"} {
				if strings.Contains(got.Body.String(), word) {
					t.Errorf("%s has %s in it", c.path, word)
				}
			}
			if policy := got.Header().Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") {
				t.Errorf("%s has the policy %q", c.path, policy)
			}
		}
		if head := ask(h, "HEAD", c.path, "", ""); head.Code != c.status {
			t.Errorf("HEAD %s: %d", c.path, head.Code)
		}
	}
	if got := ask(h, "GET", "/namer_state/io.l5d.k8s.json", "", ""); strings.Contains(got.Body.String(), "nobody") {
		t.Errorf("the names of one namer are %s", got.Body)
	}
}

// The page tells what the rules were, and by whom.
func TestDtabOfThePast(t *testing.T) {
	w := seeded(t)
	dtab, err := naming.ParseDtab("/svc => /$/fail")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Put(t.Context(), "default", namer.Change{Dtab: dtab, By: "<i>alice"}); err != nil {
		t.Fatal(err)
	}
	body := ask(admin.Handler(w.config), "GET", "/dtab/default", "", "").Body.String()
	for _, want := range []string{"by &lt;i&gt;alice", "version AAAAAAAAAAI=", "<td>somebody</td>", "href=\"?dtab=%2Fsrv+%3D%3E+%2F%23%2Fio.l5d.k8s"} {
		if !strings.Contains(body, want) {
			t.Errorf("it lacks %q:\n%s", want, body)
		}
	}
}

func TestDelegatorJSON(t *testing.T) {
	h := admin.Handler(seeded(t).config)
	const object = "application/json"
	for _, c := range []struct {
		method, media, body string
		status              int
		want                string
	}{
		{"POST", object, `{"namespace":"default","path":"/svc/cart","dtab":"/svc=>/#/io.l5d.k8s/shop/http"}`, 200, `"id":"` + cart + `"`},
		{"POST", object, `{"path":"/svc/cart","dtab":""}`, 200, `{"type":"neg"`},
		{"POST", object, `{"path":"/svc/cart"}`, 400, `Malformed delegation request: {"path":"/svc/cart"}`},
		{"POST", object, `nonsense`, 400, "Malformed delegation request: nonsense"},
		{"POST", "text/plain", `{}`, 415, ""},
		{"PUT", object, `{}`, 405, ""},
	} {
		if got := ask(h, c.method, "/dtab/delegator.json", c.media, c.body); got.Code != c.status || !strings.Contains(got.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.body, got.Code, got.Body)
		}
	}
}

// A namer that does not answer holds up nobody for ever.
func TestDelegatorTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := ask(admin.Handler(seeded(t).config), "GET", "/dtab/delegator.json?path="+url.QueryEscape(slow), "", "")
		if got.Code != 503 || got.Body.String() != "Request timed out.\n" {
			t.Errorf("%d %s", got.Code, got.Body)
		}
	})
}

func TestNothingThere(t *testing.T) {
	w := newWorld(t, nil)
	if got := ask(admin.Handler(w.config), "GET", "/", "", ""); got.Code != 200 || !strings.Contains(got.Body.String(), "No namespaces found") {
		t.Errorf("without dtabs: %d %s", got.Code, got.Body)
	}
	bare := admin.Handler(admin.Config{Store: w.store})
	for path, want := range map[string]int{
		"/": 200, "/dtab/delegator.json?path=/svc/a": 501, "/namer_state": 200, "/bound-names.json": 200, "/admin/ready": 200,
		"/config.json": 404, "/logging": 404, "/logging.json": 404, "/metrics": 404,
	} {
		if got := ask(bare, "GET", path, "", ""); got.Code != want {
			t.Errorf("%s without anything: %d %s", path, got.Code, got.Body)
		}
	}
	if body := ask(bare, "GET", "/", "", "").Body.String(); strings.Contains(body, "logging") || strings.Contains(body, "config.json") {
		t.Errorf("it leads to pages that are not there:\n%s", body)
	}
}

// broken is a storage that fails.
type broken struct{ namer.Store }

func (broken) Names() *watch.Value[[]string] { return &watch.Value[[]string]{} }
func (broken) Get(context.Context, string) (*namer.Versioned, error) {
	return nil, errors.New("the disk is <gone>")
}

func TestNotReady(t *testing.T) {
	w := seeded(t)
	w.config.Store, w.config.Ready = broken{w.store}, func() []string { return []string{"dtabs are not read yet", "<b>"} }
	h := admin.Handler(w.config)
	for path, want := range map[string]struct {
		status int
		text   string
	}{
		"/":                   {503, "not known yet"},
		"/dtab/default":       {500, "The dtab &#34;default&#34; cannot be read: the disk is &lt;gone&gt;"},
		"/storage/dtabs.json": {200, `"known": false`},
		"/admin/ready":        {503, "not ready: dtabs are not read yet; <b>\n"},
	} {
		got := ask(h, "GET", path, "", "")
		if got.Code != want.status || !strings.Contains(got.Body.String(), want.text) {
			t.Errorf("%s: %d %s", path, got.Code, got.Body)
		}
	}
	if body := ask(h, "GET", "/", "", "").Body.String(); !strings.Contains(body, "The namer is not ready: dtabs are not read yet; &lt;b&gt;.") {
		t.Errorf("the page says\n%s", body)
	}
}

func TestLogging(t *testing.T) {
	const form = "application/x-www-form-urlencoded"
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
		level              slog.Level
	}{
		{"POST", "/logging.json", "logger=root&level=DEBUG", 204, "", slog.LevelDebug},
		{"POST", "/logging.json?logger=root&level=debug", "", 204, "", slog.LevelDebug},
		{"POST", "/logging.json", "level=error", 204, "", slog.LevelError},
		{"POST", "/logging.json", "logger=root&level=WARNING", 204, "", slog.LevelWarn},
		{"POST", "/logging.json", "logger=root&level=loud", 400, "the level is \"loud\", allowed: DEBUG, INFO, WARN, ERROR\n", slog.LevelInfo},
		{"POST", "/logging.json", "logger=com.example&level=DEBUG", 400, "there is no logger \"com.example\"; there is one: root\n", slog.LevelInfo},
		{"POST", "/logging.json", "", 400, "the level is \"\"", slog.LevelInfo},
		{"POST", "/logging.json", strings.Repeat("x", 1<<20), 400, "the form cannot be read: ", slog.LevelInfo},
		{"PUT", "/logging.json", "logger=root&level=DEBUG", 405, "", slog.LevelInfo},
		{"DELETE", "/logging.json", "", 405, "", slog.LevelInfo},
		{"POST", "/logging", "logger=root&level=DEBUG", 303, "", slog.LevelDebug},
		{"POST", "/logging", "logger=root&level=x", 400, "allowed: ", slog.LevelInfo},
	} {
		w := seeded(t)
		var lines strings.Builder
		w.config.Logger = slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: w.config.Level}))
		got := ask(admin.Handler(w.config), c.method, c.path, form, c.body)
		if got.Code != c.status || !strings.Contains(got.Body.String(), c.want) || w.config.Level.Level() != c.level {
			t.Errorf("%s %s %.99s: %d %s, level %s", c.method, c.path, c.body, got.Code, got.Body, w.config.Level)
		}
		if said := strings.Contains(lines.String(), "after="+c.level.String()); said != (c.level != slog.LevelInfo) {
			t.Errorf("%s %s %.99s: the log says %q", c.method, c.path, c.body, lines.String())
		}
	}
}

// A browser beside a port-forward shows other sites, too.
func TestOtherSites(t *testing.T) {
	w := seeded(t)
	h := admin.Handler(w.config)
	for _, c := range []struct {
		name, method, path, peer, host, origin string
		status                                 int
	}{
		{"by name", "GET", "/", "127.0.0.1:9", "evil.test:9991", "", 403},
		{"by name over IPv6", "GET", "/storage/dtabs.json", "[::1]:9", "evil.test", "", 403},
		{"by address", "GET", "/", "127.0.0.1:9", "127.0.0.1:9991", "", 200},
		{"by IPv6 address", "GET", "/", "[::1]:9", "[::1]:9991", "", 200},
		{"localhost", "GET", "/", "127.0.0.1:9", "LocalHost:1234", "", 200},
		{"from another machine", "GET", "/", "10.0.0.9:9", "namerd.example.test:9991", "", 200},
		{"by name from this machine's other address", "POST", "/logging.json?level=ERROR", "192.0.2.2:9", "evil.test:9991", "http://evil.test:9991", 403},
		{"by address from another machine", "POST", "/logging.json?level=WARN", "192.0.2.9:9", "192.0.2.2:9991", "", 204},
		{"another site posts", "POST", "/logging.json?level=DEBUG", "127.0.0.1:9", "localhost:9991", "https://evil.test", 403},
		{"this one does", "POST", "/logging.json?level=DEBUG", "127.0.0.1:9", "localhost:9991", "http://localhost:9991", 204},
		{"another port does", "POST", "/logging?level=DEBUG", "127.0.0.1:9", "localhost:9991", "http://localhost:8080", 403},
		{"by name from another machine, about long rules", "POST", "/dtab/delegator.json", "192.0.2.9:9", "namerd.example.test:9991", "", 415},
		{"another site asks", "POST", "/dtab/delegator.json", "127.0.0.1:9", "localhost:9991", "https://evil.test", 403},
	} {
		got := ask(h, c.method, c.path, "", "", func(r *http.Request) {
			r.RemoteAddr, r.Host = c.peer, c.host
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
		})
		if got.Code != c.status {
			t.Errorf("%s: %d %s", c.name, got.Code, got.Body)
		}
	}
	if w.config.Level.Level() != slog.LevelDebug {
		t.Error("what was allowed had no effect")
	}
}

// Over a real connection, as people come by a port-forward.
func TestServed(t *testing.T) {
	s := httptest.NewServer(admin.Handler(seeded(t).config))
	defer s.Close()
	res, err := s.Client().PostForm(s.URL+"/logging", url.Values{"level": {"DEBUG"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != 200 || !strings.Contains(string(body), "<b>DEBUG</b>") {
		t.Errorf("after the form it shows %d %s", res.StatusCode, body)
	}
}
