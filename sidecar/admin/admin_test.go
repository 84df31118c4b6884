package admin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/admin"
)

// config returns pages on which everything can be told apart.
func config() admin.Config {
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "test_total", Help: "A test."}))
	return admin.Config{
		Metrics: reg,
		Ready:   func() []string { return nil }, Note: func() string { return "" },
		Dtab:   func(router string) string { return router + ": /svc=>/host" },
		Policy: func(router, client, service string) any { return []string{router, client, service} },
		Delegate: func(ctx context.Context, q admin.Question) ([]byte, error) {
			switch q.Router {
			case "elsewhere":
				return nil, &admin.Elsewhere{Who: "the namerd at namerd.test:4180", Err: errors.New("namerd answered 501 Not Implemented")}
			case "nobody":
				return nil, &admin.NoRouter{Label: q.Router, Routers: []string{"in", "out"}}
			case "slow":
				return nil, context.DeadlineExceeded
			case "broken":
				return nil, errors.New("it does not work")
			}
			dtab := "none"
			if q.Dtab != nil {
				dtab = q.Dtab.String()
			}
			return fmt.Appendf(nil, "{%q}", []string{q.Router, q.Caller, q.Path.String(), dtab}), nil
		},
		NamerState: func() admin.NamerState {
			endpoints := naming.Of(naming.Endpoint{Address: "10.0.0.1:80", Weight: 1})
			return admin.NamerState{Namers: []admin.Namer{}, Names: []admin.Followed{
				{ID: "/#/edge/shop/http/cart", Replicas: endpoints},
				{ID: "/#/io.l5d.k8s/shop/http/cart", Replicas: endpoints},
				{ID: "/#/io.l5d.k8s/shop/http/nope", Replicas: naming.Replicas{State: naming.StateNeg}},
				{ID: "/$/inet/site.test/80", Replicas: endpoints},
				{ID: "/%/io.l5d.port/4141/#/edge/shop/http/cart", Routers: []string{"out"}, Replicas: endpoints},
			}}
		},
		Configuration: func() any { return map[string]string{"mode": "sidecar"} },
	}
}

func TestPages(t *testing.T) {
	c := config()
	var waiting []string
	note := ""
	c.Ready, c.Note = func() []string { return waiting }, func() string { return note }
	s := httptest.NewServer(admin.Handler(c))
	defer s.Close()
	page := func(path string) (int, string) {
		t.Helper()
		res, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		body, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(body)
	}
	for path, want := range map[string]string{
		"/admin/ping": "pong", "/admin/ready": "ready\n", "/metrics": "test_total 0", "/": "/admin/dtab",
		"/admin/dtab": ": /svc=>/host\n", "/admin/dtab?router=out": "out: /svc=>/host\n", "/config.json": `"mode": "sidecar"`,
		"/admin/policy?service=/svc/a&client=/%23/b&router=out": "[\n  \"out\",\n  \"/#/b\",\n  \"/svc/a\"\n]\n",
		"/bound-names.json":                 "[\n  \"/#/edge/shop/http/cart\",\n  \"/#/io.l5d.k8s/shop/http/cart\",\n  \"/$/inet/site.test/80\",\n  \"/%/io.l5d.port/4141/#/edge/shop/http/cart\"\n]\n",
		"/namer_state":                      `"state": "neg"`,
		"/namer_state/io.l5d.k8s.json":      "\"id\": \"/#/io.l5d.k8s/shop/http/nope\",\n      \"state\": \"neg\"",
		"/namer_state/edge.json":            `"out"`,
		"/namer_state/$/inet.json":          "site.test",
		"/namer_state/%25/io.l5d.port.json": "4141",
		"/namer_state/nobody.json":          `"names": []`,
		"/delegator.json?path=/svc/a":       `{["" "" "/svc/a" "none"]}`,
		"/delegator.json?path=/svc/a&dtab=": `{["" "" "/svc/a" ""]}`,
		"/delegator.json?path=/a&caller=shop&namespace=out&dtab=/a%3D>/b": `{["out" "shop" "/a" "/a=>/b"]}`,
	} {
		if status, body := page(path); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	if _, body := page("/namer_state/edge.json"); strings.Contains(body, "io.l5d.k8s") || strings.Count(body, `"id"`) != 2 {
		t.Errorf("the names of one namer are %s", body)
	}
	note = "the namer has not been heard for 12s"
	if status, body := page("/admin/ready"); status != 200 || body != "ready; the namer has not been heard for 12s\n" {
		t.Errorf("ready, but: %d %q", status, body)
	}
	waiting = []string{"a certificate", "the dtab"}
	if status, body := page("/admin/ready"); status != 503 || body != "not ready: waiting for a certificate and the dtab\n" {
		t.Errorf("not ready: %d %q", status, body)
	}
	for _, path := range []string{"/nonsense", "/namer_state/io.l5d.k8s"} {
		if status, _ := page(path); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

func TestDelegatorAnswersAsLinkerd(t *testing.T) {
	s := httptest.NewServer(admin.Handler(config()))
	defer s.Close()
	const object = "application/json"
	for _, c := range []struct {
		method, query, media, body string
		status                     int
		want                       string
	}{
		{"GET", "", "", "", 400, "Invalid path: "},
		{"GET", "?path=cart", "", "", 400, "Invalid path: '/' expected but 'c' found at '[c]art'\n"},
		{"GET", "?path=/a&dtab=a", "", "", 400, "Invalid dtab: "},
		{"GET", "?path=/a&dtab=/a=>/b;/b=>/c", "", "", 400, "Invalid query: invalid semicolon separator in query; write % as %25 and ; as %3B\n"},
		{"GET", "?path=/a%zz", "", "", 400, "Invalid query: "},
		{"GET", "?path=/a&router=out&dtab=/a=>/b%3B/b=>/c", "", "", 200, `{["out" "" "/a" "/a=>/b;/b=>/c"]}`},
		{"GET", "?path=/a&namespace=elsewhere", "", "", 502, "names are bound by the namerd at namerd.test:4180: namerd answered 501 Not Implemented\n"},
		{"GET", "?path=/a&router=nobody", "", "", 400, "no router has the label \"nobody\"; there are: in, out\n"},
		{"GET", "?path=/a&router=out", "", "", 200, `{["out" "" "/a" "none"]}`},
		{"GET", "?path=/a&router=out&namespace=out", "", "", 200, `{["out" "" "/a" "none"]}`},
		{"GET", "?path=/a&router=out&namespace=in", "", "", 400, "two routers, \"out\" and \"in\": namespace is another word for router\n"},
		{"POST", "", object, `{"router":"out","path":"/a","dtab":""}`, 200, `{["out" "" "/a" ""]}`},
		{"GET", "?path=/a&namespace=slow", "", "", 503, "Request timed out.\n"},
		{"GET", "?path=/a&namespace=broken", "", "", 500, "it does not work\n"},
		{"POST", "", object, `{"namespace":"out","path":"/a","dtab":"/a=>/b"}`, 200, `{["out" "" "/a" "/a=>/b"]}`},
		{"POST", "", object + ";charset=utf-8", `{"path":"/a","dtab":""}`, 200, `{["" "" "/a" ""]}`},
		{"POST", "", object, `{"path":"/a"}`, 400, `Malformed delegation request: {"path":"/a"}`},
		{"POST", "", object, `{"dtab":"/a=>/b"}`, 400, "Malformed delegation request: "},
		{"POST", "", object, `nonsense`, 400, "Malformed delegation request: nonsense"},
		{"POST", "", "text/plain", `{}`, 415, ""},
		{"POST", "", "", `{}`, 415, ""},
		{"PUT", "", object, `{}`, 405, ""},
	} {
		req, err := http.NewRequest(c.method, s.URL+"/delegator.json"+c.query, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.media != "" {
			req.Header.Set("Content-Type", c.media)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != c.status || !strings.HasPrefix(string(body), c.want) {
			t.Errorf("%s %s %s: %d %q", c.method, c.query, c.body, res.StatusCode, body)
		}
	}
}

func TestPlayground(t *testing.T) {
	h := admin.Handler(config())
	for path, media := range map[string]string{"/delegator": "text/html", "/delegator.css": "text/css", "/delegator.js": "text/javascript"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path+"?path=/svc/%3Cscript%3E", nil))
		policy := w.Header().Get("Content-Security-Policy")
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), media) || w.Body.Len() == 0 ||
			!strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
		for _, word := range []string{"http://", "https://", "innerHTML", "style=", "onclick"} {
			if strings.Contains(w.Body.String(), word) {
				t.Errorf("%s has %s in it", path, word)
			}
		}
	}
}
