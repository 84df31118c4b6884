// Package counter reads counters off a page in Prometheus' text format, as the /metrics of a proxy is:
// for programs and tests that show by a proxy's own counters what has crossed it.
//
// It is no client of a Prometheus server, and it knows no name of a metric.
//
//	n, err := counter.Sum(page, "tulle_requests_total", map[string]string{"router": "incoming"})
package counter

import (
	"fmt"
	"io"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Sum adds up all series of a counter that have the given labels, whatever others they have. It is 0 if
// there is none: a counter need not be there before it has counted. It fails if the page cannot be read,
// or the metric is no counter.
func Sum(page io.Reader, name string, labels map[string]string) (int, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(page)
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	family, ok := families[name]
	if !ok {
		return 0, nil
	}
	if family.GetType() != dto.MetricType_COUNTER {
		return 0, fmt.Errorf("read metrics: %s is a %s, want a counter", name, family.GetType())
	}
	sum := 0.0
	for _, m := range family.GetMetric() {
		if has(m, labels) {
			sum += m.GetCounter().GetValue()
		}
	}
	return int(sum), nil
}

func has(m *dto.Metric, labels map[string]string) bool {
	found := 0
	for _, l := range m.GetLabel() {
		if want, ok := labels[l.GetName()]; ok && want == l.GetValue() {
			found++
		}
	}
	return found == len(labels)
}
