package webhook

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Causes for which a request is not answered as an admission review.
const (
	causeMethod      = "method"
	causeContentType = "content_type"
	causeTooLarge    = "too_large"
	causeMalformed   = "malformed"
	causeVersion     = "version"
)

func causes() []string {
	return []string{causeMethod, causeContentType, causeTooLarge, causeMalformed, causeVersion}
}

// modeLabel is the mode as a label value, which cannot be empty.
func modeLabel(m Mode) string {
	if m == "" {
		return "none"
	}
	return string(m)
}

// metrics counts answers. Every label is one of a closed list, so what users write into annotations cannot
// make series. All series exist from the start, so that rates over them work from the first event.
type metrics struct {
	requests *prometheus.CounterVec
	refused  *prometheus.CounterVec
	dtabs    *prometheus.CounterVec
	duration prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_inject_requests_total",
			Help: "Pods that the injector was asked about, by the mode they got and the reason.",
		}, []string{"mode", "reason"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_inject_refused_total",
			Help: "Requests to the webhooks that were no admission review of version v1, by cause.",
		}, []string{"cause"}),
		dtabs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_dtab_admissions_total",
			Help: "DTabs that the webhook was asked about, by its answer.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tulle_inject_duration_seconds",
			Help: "Time from a complete review to its answer.",
			// The path is computation only, tens of microseconds; the webhook's timeout is 5 s.
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .05, .25, 1, 5},
		}),
	}
	for _, r := range Reasons() {
		for _, mode := range modesOf(r) {
			m.requests.WithLabelValues(modeLabel(mode), r.String())
		}
	}
	for _, c := range causes() {
		m.refused.WithLabelValues(c)
	}
	for _, r := range dtabResults() {
		m.dtabs.WithLabelValues(r)
	}
	return m, errors.Join(reg.Register(m.requests), reg.Register(m.refused), reg.Register(m.dtabs), reg.Register(m.duration))
}

// modesOf returns the modes that a result with reason r can have.
func modesOf(r Reason) []Mode {
	switch r {
	case InjectedHost, AppDefinesProxy:
		return []Mode{ModeHost}
	case InjectedSidecar:
		return []Mode{ModeSidecar}
	case AlreadyInjected:
		return modes()
	}
	return []Mode{""}
}

func (m *metrics) observe(res Result, took time.Duration) {
	m.requests.WithLabelValues(modeLabel(res.Mode), res.Reason.String()).Inc()
	m.duration.Observe(took.Seconds())
}
