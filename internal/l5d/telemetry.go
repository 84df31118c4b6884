package l5d

import (
	"cmp"
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
)

// Telemetry is the key telemetry. Telemeters are known and come with telemetry; what they
// ask for harms nobody if it is not there. idle says why one has no effect, by its kind,
// where that is not what holds of a proxy.
func Telemetry[T any](idle map[string]string) schema.Field[T] {
	kinds := telemeters(idle)
	return schema.Field[T]{
		Key: "telemetry",
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*T) {
			for i, item := range schema.Items(r, path, n, "telemeters") {
				kinds.Read(r, fmt.Sprintf("%s[%d]", path, i), item)
			}
			return nil
		},
		Leaves: func(path string) []schema.Leaf { return kinds.Leaves(path + "[]") },
	}
}

func telemeters(idle map[string]string) schema.Kinds[struct{}] {
	type none = struct{}
	rate := func(unset float64) schema.Field[none] {
		return Quiet(schema.Number("sampleRate", 0, 1, unset, schema.Nowhere[none, float64]))
	}
	word := func(key string) schema.Field[none] {
		return Quiet(schema.Text(key, "", schema.Nowhere[none, string], nil))
	}
	count := func(key string, lo, hi int64) schema.Field[none] {
		return Quiet(schema.Integer(key, 1, lo, hi, 0, schema.Nowhere[none, int]))
	}
	kind := func(name, why string, fields ...schema.Field[none]) schema.Kind[none] {
		return schema.Kind[none]{Name: name, Idle: cmp.Or(idle[name], why), Fields: fields}
	}
	recent := kind("io.l5d.recentRequests", "requests are not kept yet", rate(0), count("capacity", 1, 1<<20))
	recent.Required = []string{"sampleRate"}
	statsd := kind("io.l5d.statsd", "metrics are not sent to StatsD; they are at /metrics of the administration port",
		word("prefix"), word("hostname"), count("port", 1, 65535), count("gaugeIntervalMs", 1, 1<<31), rate(0.01))
	statsd.Experimental = true
	return schema.Kinds[none]{
		NameOf: func(none) string { return "" },
		Unset:  "required",
		Kinds: []schema.Kind[none]{
			kind("io.l5d.prometheus", "metrics are at /metrics of the administration port, by names of Tulle's own", word("path"), word("prefix")),
			recent,
			kind("io.l5d.zipkin", "spans are not sent yet; the headers of a trace are read and passed on", word("host"), count("port", 1, 65535), rate(0.001)),
			kind("io.l5d.tracelog", "traces are not logged; the headers of a trace are read and passed on", rate(1), word("level")),
			kind("io.l5d.influxdb", "there is no page for InfluxDB; metrics are at /metrics of the administration port"),
			statsd,
		},
	}
}
