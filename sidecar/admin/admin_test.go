package admin_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/sidecar/admin"
)

func TestPages(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "test_total", Help: "A test."}))
	waiting := []string{"a certificate", "the dtab"}
	s := httptest.NewServer(admin.Handler(admin.Config{
		Metrics: reg, Ready: func() []string { return waiting }, Dtab: func() string { return "/svc=>/host" },
		Policy: func(client, service string) any { return []string{client, service} },
	}))
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
	if status, body := page("/admin/ready"); status != 503 || body != "not ready: waiting for a certificate and the dtab\n" {
		t.Errorf("not ready: %d %q", status, body)
	}
	waiting = nil
	for path, want := range map[string]string{
		"/admin/ping": "pong", "/admin/ready": "ready\n", "/admin/dtab": "/svc=>/host\n", "/metrics": "test_total 0", "/": "/admin/dtab",
		"/admin/policy?service=/svc/a&client=/%23/b": `"/#/b",`,
	} {
		if status, body := page(path); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	if status, _ := page("/nonsense"); status != 404 {
		t.Errorf("an unknown page: %d", status)
	}
}
