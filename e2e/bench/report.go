//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// row is a line of the table: one measure and its limits. They are for the ratio to the peer, or for the
// value where there is no peer.
type row struct {
	name, what, unit, peer string
	must, aim              float64
	work                   workload // of the rows about processor time
	apart                  bool     // it is about names or pods, and needs no proxies, no wrk and no backends
}

// atLeast reports whether more is better, and the limits are what there must be at least.
func (r row) atLeast() bool { return r.unit == perSecond }

const perSecond = "/s"

const (
	addedP99    = "added-p99"
	idleRSS     = "idle-rss"
	rssEach     = "rss-per-idle-connection"
	allocations = "allocations-per-request"

	lookup         = "name-lookup"
	lookupAllocs   = "name-lookup-allocations"
	coldBind       = "name-bind"
	endpointChange = "endpoint-change"
	dtabChange     = "dtab-change"
	namerMemory    = "namer-memory"
	namerStart     = "namer-start"

	rateHost       = "admission-rate-host"
	rateSidecar    = "admission-rate-sidecar"
	cpuHost        = "admission-cpu-host"
	cpuSidecar     = "admission-cpu-sidecar"
	cpuPeer        = "admission-cpu-controller-runtime"
	latencyHost    = "admission-p99-host"
	latencySidecar = "admission-p99-sidecar"
	podBurst       = "pod-burst"
)

// rows are all that can be measured.
func rows() []row {
	answers, requests := workload{path: "/64k"}, workload{path: "/post", post: 64 << 10}
	return []row{
		{"cpu-100b", "CPU per request, 100 B answers", "us", haproxy, 1.10, 0.85, small, false},
		{"cpu-64k-answers", "CPU per request, 64 KiB answers", "us", haproxy, 1.25, 1, answers, false},
		{"cpu-64k-requests", "CPU per request, 64 KiB requests", "us", haproxy, 1.25, 1, requests, false},
		{addedP99, "added p99 at half of the lower peak rate", "us", haproxy, 1.25, 1, workload{}, false},
		{"cpu-100b-envoy", "CPU per request, 100 B answers", "us", envoy, 0.9, 0.6, small, false},
		{"cpu-100b-caddy", "CPU per request, 100 B answers", "us", caddy, 0.35, 0.25, small, false},
		{idleRSS, "memory of an idle proxy", "MB", "", 16, 12, workload{}, false},
		{rssEach, "memory per idle connection", "KB", "", 12, 6, workload{}, false},
		{allocations, "heap allocations per request", "", "", 2, 0, workload{}, false},
		{lookup, "look-up of a name that is bound", "ns", "", 60, 60, workload{}, true},
		{lookupAllocs, "heap allocations of that", "", "", 0, 0, workload{}, true},
		{coldBind, "bind of a new name by five rules", "us", "", 25, 25, workload{}, true},
		{endpointChange, "an endpoint's change at 1,000 proxies, p99", "ms", "", 250, 250, workload{}, true},
		{dtabChange, "a dtab's change at 1,000 proxies, p99", "ms", "", 500, 500, workload{}, true},
		{namerMemory, "memory of a controller of 10,000 pods", "MB", "", 200, 200, workload{}, true},
		{namerStart, "its start", "s", "", 10, 10, workload{}, true},
		{rateHost, "admissions by one processor, host mode", perSecond, "", 1500, 3000, workload{}, true},
		{rateSidecar, "the same, sidecar mode", perSecond, "", 1500, 3000, workload{}, true},
		{cpuHost, "CPU per admission, host mode", "us", "", 400, 200, workload{}, true},
		{cpuSidecar, "the same, sidecar mode", "us", "", 400, 200, workload{}, true},
		{cpuPeer, "CPU per admission, host mode", "us", controllerRuntime, 1, 0.5, workload{}, true},
		{latencyHost, "p99 of 500 admissions a second, host mode", "ms", "", 5, 2, workload{}, true},
		{latencySidecar, "the same, sidecar mode", "ms", "", 5, 2, workload{}, true},
		{podBurst, "1,000 pods created at once, all admitted, none retried", "s", noInjector, 3, 2, workload{}, true},
	}
}

// choose returns the rows of these names, in the table's order; all if there are none.
func choose(names []string) ([]row, error) {
	all := rows()
	if len(names) == 0 {
		return all, nil
	}
	var known []string
	for _, r := range all {
		known = append(known, r.name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("there is no row %q; the rows are %v", name, known)
		}
	}
	return slices.DeleteFunc(all, func(r row) bool { return !slices.Contains(names, r.name) }), nil
}

// result is a measured row, as bench.json has it. Must and aim are for the ratio, or for the value if
// there is no peer; they are limits from above, but from below where the unit is "/s".
type result struct {
	Name      string   `json:"name"`
	Value     float64  `json:"value"` // Tulle's, the median of the rounds
	Unit      string   `json:"unit"`
	Peer      *string  `json:"peer"`
	PeerValue *float64 `json:"peerValue"`
	Ratio     *float64 `json:"ratio"` // the median of the rounds' ratios
	Must      float64  `json:"must"`
	Aim       float64  `json:"aim"`

	low, high float64 // of what is judged
	atLeast   bool
}

// judged is what must and aim are for.
func (r result) judged() float64 {
	if r.Ratio != nil {
		return *r.Ratio
	}
	return r.Value
}

func (r result) verdict() string {
	v, must, aim := r.judged(), r.Must, r.Aim
	if r.atLeast {
		v, must, aim = -v, -must, -aim
	}
	switch {
	case v <= aim:
		return "aim met"
	case v <= must:
		return "ok"
	}
	return "MISSES MUST"
}

// result sums up the rounds of a row.
func (r row) result(f figure) result {
	out := result{Name: r.name, Value: round3(median(f.ours)), Unit: r.unit, Must: r.must, Aim: r.aim, atLeast: r.atLeast()}
	judged := f.ours
	if r.peer != "" {
		judged = quotients(f.ours, f.theirs)
		theirs, ratio := round3(median(f.theirs)), round3(median(judged))
		out.Peer, out.PeerValue, out.Ratio = &r.peer, &theirs, &ratio
	}
	out.low, out.high = slices.Min(judged), slices.Max(judged)
	return out
}

// report is what comes of a run.
type report struct {
	rows     []row
	results  map[string]result
	failures map[string]error
}

// table writes the results for people.
func (r report) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "name\tmeasure\ttulle\tpeer\tratio\t(from-to)\tmust\taim\t")
	for _, row := range r.rows {
		if r.failures[row.name] != nil {
			_, _ = fmt.Fprintf(t, "%s\t%s\t\t%s\t\t\t%.4g\t%.4g\tNOT MEASURED\n", row.name, row.what, row.peer, row.must, row.aim)
			continue
		}
		res := r.results[row.name]
		peer, ratio := "", ""
		if res.Ratio != nil {
			peer, ratio = row.peer+" "+digits(*res.PeerValue)+" "+row.unit, digits(*res.Ratio)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s %s\t%s\t%s\t(%s-%s)\t%.4g\t%.4g\t%s\n",
			row.name, row.what, digits(res.Value), row.unit, peer, ratio, digits(res.low), digits(res.high), row.must, row.aim, res.verdict())
	}
	return t.Flush()
}

// write writes the results as JSON, one object a row.
func (r report) write(path string) error {
	list := []result{}
	for _, row := range r.rows {
		if res, ok := r.results[row.name]; ok {
			list = append(list, res)
		}
	}
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// err says why rows were not measured, each reason once; nil if all were.
func (r report) err() error {
	var reasons []string
	names := map[string][]string{}
	for _, row := range r.rows {
		if err := r.failures[row.name]; err != nil {
			if names[err.Error()] == nil {
				reasons = append(reasons, err.Error())
			}
			names[err.Error()] = append(names[err.Error()], row.name)
		}
	}
	var errs []error
	for _, reason := range reasons {
		errs = append(errs, fmt.Errorf("not measured: %s: %s", strings.Join(names[reason], ", "), reason))
	}
	return errors.Join(errs...)
}
