package telemetry

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestRoutesAreBounded(t *testing.T) {
	m := New(prometheus.NewRegistry())
	for i := range maxSeries + 500 {
		m.Route("outgoing", fmt.Sprintf("/svc/%d", i), "/c").Observe(true, time.Millisecond)
	}
	m.Route("incoming", "/svc/\xff", strings.Repeat("x", 10_000)).Observe(false, time.Second)
	// Two results for each route and the two that share "other".
	if n := testutil.CollectAndCount(m.requests); n > 2*(maxSeries+2) {
		t.Errorf("%d series, want at most %d", n, 2*(maxSeries+2))
	}
	if got := testutil.ToFloat64(m.requests.WithLabelValues("outgoing", "other", "other", "success")); got != 500 {
		t.Errorf("%v requests count as other, want 500", got)
	}
	if got := testutil.ToFloat64(m.requests.WithLabelValues("incoming", "other", "other", "failure")); got != 1 {
		t.Errorf("%v requests with labels that cannot be are counted, want 1", got)
	}
}

// The same goes for what is counted by service and by client, and asking twice
// for a handle makes no second one.
func TestHandlesAreBounded(t *testing.T) {
	m := New(prometheus.NewRegistry())
	for i := range maxSeries + 500 {
		name := fmt.Sprintf("/%d", i)
		m.Service(name).Retries.Inc()
		m.Client(name).Requeues.Inc()
	}
	service, client, route := m.Service("/1"), m.Client("/1"), m.Route("outgoing", "/1", "/1")
	if m.Service("/1") != service || m.Client("/1") != client || m.Route("outgoing", "/1", "/1") != route {
		t.Error("a second handle was made")
	}
	for _, c := range []*prometheus.CounterVec{m.retries, m.requeues} {
		if n := testutil.CollectAndCount(c); n != maxSeries+1 {
			t.Errorf("%d series, want %d", n, maxSeries+1)
		}
		if got := testutil.ToFloat64(c.WithLabelValues("other")); got != 500 {
			t.Errorf("%v are counted as other, want 500", got)
		}
	}
}

// What is given back as often as it was asked for is exported no more, and makes room.
func TestForgotten(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := New(reg)
	empty := testutil.CollectAndCount(m.requests)
	for range 3 * maxSeries {
		route, service, client := m.Route("outgoing", "/s", "/c"), m.Service("/s"), m.Client("/c")
		again, at := m.Route("outgoing", "/s", "/c"), m.Service("/s")
		route.Observe(true, time.Second)
		m.ForgetRoute(route)
		m.ForgetService(service)
		if got := testutil.ToFloat64(m.requests.WithLabelValues("outgoing", "/s", "/c", "success")); got != 1 {
			t.Fatalf("in use by somebody else: %v requests are counted, want 1", got)
		}
		m.ForgetRoute(again)
		m.ForgetService(at)
		m.ForgetClient(client)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, series := range f.GetMetric() {
			t.Errorf("%s is left: %v", f.GetName(), series)
		}
	}
	if n := testutil.CollectAndCount(m.requests); n != empty {
		t.Errorf("%d series", n)
	}
	// Those who share a series cannot take it away.
	for i := range maxSeries + 1 {
		m.Route("outgoing", fmt.Sprint(i), "/c")
	}
	shared := m.Route("outgoing", "late", "/c")
	m.ForgetRoute(shared)
	m.ForgetRoute(shared)
	shared.Observe(true, time.Second)
	if got := testutil.ToFloat64(m.requests.WithLabelValues("outgoing", other, other, "success")); got != 1 {
		t.Errorf("%v are counted as other, want 1", got)
	}
}

func TestConventions(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := New(reg)
	m.Route("outgoing", "/svc/a", "/c").Observe(true, time.Millisecond)
	m.Error("outgoing", "T201")
	m.Connections("outgoing").Inc()
	m.OverridesDropped("outgoing").Inc()
	service, client := m.Service("/svc/a"), m.Client("/c")
	service.Retries.Inc()
	service.Exhausted.Inc()
	for _, c := range []prometheus.Counter{client.Requeues, client.Connected, client.Failed, client.Ejected, client.Probed, client.Revived} {
		c.Inc()
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("the metrics break the conventions: %v %v", problems, err)
	}
}
