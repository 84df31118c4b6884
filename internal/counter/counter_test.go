package counter

import (
	"strings"
	"testing"
)

const page = `# TYPE requests_total counter
requests_total{router="out",result="success"} 3
requests_total{router="out",result="failure"} 2
requests_total{router="in",result="success"} 1
# TYPE open gauge
open 7
`

func TestSum(t *testing.T) {
	for _, test := range []struct {
		name   string
		labels map[string]string
		want   int
	}{
		{"requests_total", nil, 6},
		{"requests_total", map[string]string{"router": "out"}, 5},
		{"requests_total", map[string]string{"router": "out", "result": "success"}, 3},
		{"requests_total", map[string]string{"router": "up"}, 0},
		{"requests_total", map[string]string{"color": ""}, 0},
		{"answers_total", nil, 0},
	} {
		got, err := Sum(strings.NewReader(page), test.name, test.labels)
		if err != nil || got != test.want {
			t.Errorf("Sum(%s, %v) = %d, %v, want %d", test.name, test.labels, got, err, test.want)
		}
	}
}

func TestSumFails(t *testing.T) {
	if _, err := Sum(strings.NewReader(page), "open", nil); err == nil || !strings.Contains(err.Error(), "open is a GAUGE") {
		t.Errorf("a gauge was taken for a counter: %v", err)
	}
	if _, err := Sum(strings.NewReader("<html>"), "open", nil); err == nil {
		t.Error("a page of something else was read")
	}
}
