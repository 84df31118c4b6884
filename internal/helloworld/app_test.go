package helloworld_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/helloworld"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newApp(t *testing.T, cfg helloworld.Config) *helloworld.App {
	t.Helper()
	app, err := helloworld.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return app
}

func do(h http.Handler, method, target string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w.Code, w.Body.String()
}

// direct makes the calls of an app to other apps in memory, by host.
type direct map[string]http.Handler

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	h, ok := d[r.URL.Host]
	if !ok {
		return nil, errors.New("no such host")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

func status(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
}

func TestAnswers(t *testing.T) {
	mesh := direct{"gone": status(204), "wrong": status(502)}
	mesh["world"] = newApp(t, helloworld.Config{Text: "world", PodIP: "10.1.0.9"})
	mesh["bare"] = newApp(t, helloworld.Config{Text: "world"})
	mesh["hello"] = newApp(t, helloworld.Config{Text: "Hello", PodIP: "10.1.0.5", Target: "world", Transport: mesh})
	for name, c := range map[string]struct {
		cfg    helloworld.Config
		status int
		body   string
	}{
		"text":          {helloworld.Config{Text: "Hello"}, 200, "Hello!"},
		"with pod IP":   {helloworld.Config{Text: "Hello", PodIP: "10.1.0.5"}, 200, "Hello (10.1.0.5)!"},
		"with target":   {helloworld.Config{Text: "Hello", PodIP: "10.1.0.5", Target: "world"}, 200, "Hello (10.1.0.5) world (10.1.0.9)!!"},
		"without IPs":   {helloworld.Config{Text: "Hello", Target: "bare"}, 200, "Hello world!!"},
		"JSON":          {helloworld.Config{Text: "api", PodIP: "10.1.0.4", Target: "hello", JSON: true}, 200, `{"api_result":"api (10.1.0.4) Hello (10.1.0.5) world (10.1.0.9)!!"}`},
		"JSON alone":    {helloworld.Config{Text: "<api>", JSON: true}, 200, `{"api_result":"<api>"}`},
		"failing":       {helloworld.Config{Text: "Hello", FailureRate: 1}, 500, "\n"},
		"target's 502":  {helloworld.Config{Text: "Hello", Target: "wrong"}, 503, "invalid response 502\n"},
		"target's 204":  {helloworld.Config{Text: "Hello", Target: "gone"}, 503, "invalid response 204\n"},
		"target absent": {helloworld.Config{Text: "Hello", Target: "none"}, 503, "Get \"http://none\": no such host\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Transport = mesh
			app := newApp(t, c.cfg)
			for _, request := range []string{"GET /", "POST /a//b/../c?d=e", "DELETE /setLatency/"} {
				method, target, _ := strings.Cut(request, " ")
				if code, body := do(app, method, target); code != c.status || body != c.body {
					t.Errorf("%s: got %d %q, want %d %q", request, code, body, c.status, c.body)
				}
			}
		})
	}
}

func TestControl(t *testing.T) {
	app := newApp(t, helloworld.Config{Text: "Hello"})
	for _, c := range []struct {
		method, target string
		status         int
		body           string
	}{
		{"GET", "/setLatency?latency=1s", 405, "POST required\n"},
		{"POST", "/setLatency", 400, "missing required parameter: latency\n"},
		{"POST", "/setLatency?latency=fast", 400, "latency is not a valid duration\n"},
		{"POST", "/setLatency?latency=11s", 200, "ok"},
		{"POST", "/setLatency?latency=1ns", 200, "ok"},
		{"PUT", "/setFailureRate?failureRate=1", 405, "POST required\n"},
		{"POST", "/setFailureRate", 400, "missing required parameter: failureRate\n"},
		{"POST", "/setFailureRate?failureRate=half", 400, "failureRate is not a valid float\n"},
		{"POST", "/setFailureRate?failureRate=1.5", 400, "failureRate must be between 0.0 and 1.0\n"},
		{"POST", "/setFailureRate?failureRate=NaN", 400, "failureRate must be between 0.0 and 1.0\n"},
		{"GET", "/", 200, "Hello!"},
		{"POST", "/setFailureRate?failureRate=1.0", 200, "ok"},
		{"GET", "/", 500, "\n"},
	} {
		if code, body := do(app, c.method, c.target); code != c.status || body != c.body {
			t.Errorf("%s %s: got %d %q, want %d %q", c.method, c.target, code, body, c.status, c.body)
		}
	}
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newApp(t, helloworld.Config{Text: "Hello", Latency: 10 * time.Second})
		start := time.Now()
		if code, body := do(app, "GET", "/"); code != 200 || body != "Hello!" || time.Since(start) != 10*time.Second {
			t.Errorf("got %d %q after %s", code, body, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		app.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil).WithContext(ctx))
		if time.Since(start) != time.Second {
			t.Errorf("slept %s for a caller who went away", time.Since(start))
		}
	})
}

func TestContextHeaders(t *testing.T) {
	var got http.Header
	mesh := direct{"world": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		_, _ = io.WriteString(w, "world!")
	})}
	app := newApp(t, helloworld.Config{Text: "Hello", Target: "world", Transport: mesh})
	r := httptest.NewRequest("GET", "/", nil)
	r.Header = http.Header{
		"L5d-Ctx-Dtab": {"/host/world => /srv/world-v2", "/a => /b"}, "L5d-Ctx-Trace": {"abc"},
		"L5d-Dtab": {"/c => /d"}, "Cookie": {"a=b"}, "L5d-Sample": {"1.0"},
	}
	app.ServeHTTP(httptest.NewRecorder(), r)
	got.Del("User-Agent")
	if len(got) != 2 || len(got["L5d-Ctx-Dtab"]) != 1 || got.Get("L5d-Ctx-Dtab") != "/host/world => /srv/world-v2" ||
		got.Get("L5d-Ctx-Trace") != "abc" {
		t.Errorf("got %v", got)
	}
}

// TestProxy has a server stand where http_proxy points, as the proxy of the mesh would.
func TestProxy(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "asked for "+r.RequestURI)
	}))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(at)}
	defer transport.CloseIdleConnections()
	app := newApp(t, helloworld.Config{Text: "Hello", Target: "world", Transport: transport})
	if code, body := do(app, "GET", "/path"); code != 200 || body != "Hello asked for http://world/!" {
		t.Errorf("got %d %q", code, body)
	}
}

func TestDrainClosesConnections(t *testing.T) {
	app := newApp(t, helloworld.Config{Text: "Hello"})
	app.Drain()
	w := httptest.NewRecorder()
	app.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 200 || w.Header().Get("Connection") != "close" {
		t.Errorf("got %d %v", w.Code, w.Header())
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]helloworld.Config{
		"latency":      {Latency: 10*time.Second + 1},
		"failure rate": {FailureRate: math.NaN()},
	} {
		if _, err := helloworld.New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
