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
	for i := range maxRoutes + 500 {
		m.Route("outgoing", fmt.Sprintf("/svc/%d", i), "/c").Observe(true, time.Millisecond)
	}
	m.Route("incoming", "/svc/\xff", strings.Repeat("x", 10_000)).Observe(false, time.Second)
	// Two results for each route and the two that share "other".
	if n := testutil.CollectAndCount(m.requests); n > 2*(maxRoutes+2) {
		t.Errorf("%d series, want at most %d", n, 2*(maxRoutes+2))
	}
	if got := testutil.ToFloat64(m.requests.WithLabelValues("outgoing", "other", "other", "success")); got != 500 {
		t.Errorf("%v requests count as other, want 500", got)
	}
	if got := testutil.ToFloat64(m.requests.WithLabelValues("incoming", "other", "other", "failure")); got != 1 {
		t.Errorf("%v requests with labels that cannot be are counted, want 1", got)
	}
}

func TestConventions(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := New(reg)
	m.Route("outgoing", "/svc/a", "/c").Observe(true, time.Millisecond)
	m.Error("outgoing", "T201")
	m.Connections("outgoing").Inc()
	m.Retry()
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("the metrics break the conventions: %v %v", problems, err)
	}
}
