//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/e2e/bench/openloop"
	"github.com/tulle-mesh/tulle/internal/counter"
)

// bench measures. Its results are figures by the name of the row.
type bench struct {
	*lab
	rounds   int
	seconds  int // of each measurement
	progress io.Writer
}

// figure is what was measured for a row, one value a round.
type figure struct {
	ours, theirs []float64 // theirs is nil where there is no peer
}

func (b *bench) say(format string, args ...any) { _, _ = fmt.Fprintf(b.progress, format+"\n", args...) }

// turn is the order of a round: every other one goes backwards, so that nobody always comes last.
func turn(names []string, round int) []string {
	order := slices.Clone(names)
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

// startAll starts proxies and returns them, why others did not start, and what ends them.
func (b *bench) startAll(ctx context.Context, names ...string) (map[string]*proxy, map[string]error, func()) {
	running, failed := map[string]*proxy{}, map[string]error{}
	for _, name := range names {
		p, err := b.start(ctx, name)
		if err != nil {
			failed[name] = err
			continue
		}
		running[name] = p
	}
	return running, failed, func() {
		for _, p := range running {
			p.stop()
		}
	}
}

// cpu measures the processor time per request, in microseconds, of Tulle and of peers. A peer that fails is
// in the second result, and the others go on.
func (b *bench) cpu(ctx context.Context, label string, w workload, peers []string) (map[string]figure, map[string]error) {
	names := append([]string{tulle}, peers...)
	running, failed, stop := b.startAll(ctx, names...)
	defer stop()
	samples := map[string][]float64{}
	for round := range b.rounds {
		for _, name := range turn(names, round) {
			if failed[name] != nil || failed[tulle] != nil {
				continue
			}
			cost, err := b.cost(ctx, running[name], w)
			if err != nil && ctx.Err() == nil {
				// Once may be the machine's fault.
				b.say("%s, round %d of %d: %s again: %v", label, round+1, b.rounds, name, err)
				cost, err = b.cost(ctx, running[name], w)
			}
			if err != nil {
				failed[name] = fmt.Errorf("measure %s: %w", name, err)
				continue
			}
			samples[name] = append(samples[name], cost)
			b.say("%s, round %d of %d: %s %.2f us", label, round+1, b.rounds, name, cost)
		}
	}
	figures := map[string]figure{}
	for _, peer := range peers {
		if failed[tulle] != nil {
			failed[peer] = failed[tulle]
		}
		if failed[peer] == nil {
			figures[peer] = figure{samples[tulle], samples[peer]}
		}
	}
	return figures, failed
}

// cost is the processor time of one request, in microseconds, after a second of warming up.
func (b *bench) cost(ctx context.Context, p *proxy, w workload) (float64, error) {
	if _, err := b.wrk(ctx, p.port, w, 1); err != nil {
		return 0, err
	}
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	t, err := b.wrk(ctx, p.port, w, b.seconds)
	if err != nil {
		return 0, err
	}
	after, err := p.cpu()
	if err != nil {
		return 0, err
	}
	return float64((after - before).Nanoseconds()) / 1e3 / float64(t.Requests), nil
}

// addedP99 measures by how many microseconds Tulle and HAProxy raise the 99th percentile, at half of what
// the slower of them can do.
func (b *bench) addedP99(ctx context.Context) (figure, error) {
	running, failed, stop := b.startAll(ctx, tulle, haproxy)
	defer stop()
	if err := errors.Join(failed[tulle], failed[haproxy]); err != nil {
		return figure{}, err
	}
	peak := 0.0
	for name, p := range running {
		var t tally
		for range 2 { // the first is to warm up
			var err error
			if t, err = b.wrk(ctx, p.port, small, 2); err != nil {
				return figure{}, fmt.Errorf("measure the peak of %s: %w", name, err)
			}
		}
		if peak == 0 || t.rate() < peak {
			peak = t.rate()
		}
	}
	rate := peak / 2
	if err := b.keepAwake(); err != nil {
		return figure{}, err
	}
	defer b.letSleep()
	// A short stall of the machine spoils all of a round's 99th percentile, so there are many short rounds.
	rounds := b.rounds * b.seconds
	const direct = "nginx"
	to := map[string][]int{direct: b.backends, tulle: {running[tulle].port}, haproxy: {running[haproxy].port}}
	var f figure
	// A round in which HAProxy seems to add nothing is noise, and there is no ratio to it.
	for round := 0; len(f.ours) < rounds; round++ {
		if round == 2*rounds {
			return figure{}, fmt.Errorf("in %d of %d rounds HAProxy added nothing that could be measured; is the machine busy?", round-len(f.ours), round)
		}
		p99 := map[string]float64{}
		for _, name := range turn([]string{tulle, direct, haproxy}, round) {
			latencies, err := openloop.Run(ctx, openloop.Config{
				Addresses: loopback(to[name]), Host: host, Path: small.path, Connections: connections,
				Rate: rate, Warmup: time.Second / 4, Duration: time.Second,
			})
			if err != nil {
				return figure{}, fmt.Errorf("measure the latency of %s at %.0f/s: %w", name, rate, err)
			}
			p99[name] = typicalP99(latencies)
		}
		ours, theirs := p99[tulle]-p99[direct], p99[haproxy]-p99[direct]
		b.say("added p99 at %.0f/s, round %d of %d: nginx has %.0f us, haproxy adds %.0f us, tulle %.0f us",
			rate, len(f.ours)+1, rounds, p99[direct], theirs, ours)
		if theirs > 0 {
			f.ours, f.theirs = append(f.ours, ours), append(f.theirs, theirs)
		}
	}
	return f, nil
}

// windows is how many parts a second of latencies is cut into.
const windows = 10

// typicalP99 is the median of the 99th percentiles of the parts, in microseconds. What the machine does for
// others in some of them, such as a kernel thread's ten milliseconds on the proxy's processor, is not in it.
func typicalP99(latencies openloop.Latencies) float64 {
	var each []float64
	for part := range slices.Chunk(latencies, max((len(latencies)+windows-1)/windows, 1)) {
		each = append(each, float64(part.Quantile(0.99).Nanoseconds())/1e3)
	}
	return median(each)
}

func loopback(ports []int) []netip.AddrPort {
	var all []netip.AddrPort
	for _, port := range ports {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)))
	}
	return all
}

// settle is how long a proxy is left alone before its memory is read.
const settle = 2 * time.Second

// memory measures the resident memory of an idle proxy, in MB, and what idle connections add to it, in KB
// each, on a proxy that is new in each round. With no connections it measures only the first.
func (b *bench) memory(ctx context.Context, conns int) (idle, each figure, err error) {
	for round := range b.rounds {
		empty, full, err := b.weigh(ctx, conns)
		if err != nil {
			return idle, each, err
		}
		idle.ours = append(idle.ours, float64(empty)/(1<<20))
		b.say("memory, round %d of %d: %.1f MB when idle", round+1, b.rounds, idle.ours[round])
		if conns > 0 {
			b.say("memory, round %d of %d: %.1f MB with %d idle connections", round+1, b.rounds, float64(full)/(1<<20), conns)
			each.ours = append(each.ours, float64(full-empty)/(1<<10)/float64(conns))
		}
	}
	return idle, each, nil
}

// weigh reads the memory of a new proxy, in bytes: idle, and with idle connections.
func (b *bench) weigh(ctx context.Context, conns int) (empty, full int, err error) {
	p, err := b.start(ctx, tulle)
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	if err := pause(ctx, settle); err != nil {
		return 0, 0, err
	}
	if empty, err = p.rss(); err != nil || conns == 0 {
		return empty, empty, err
	}
	crowd, err := gather(ctx, p.port, conns)
	defer crowd.leave()
	if err != nil {
		return 0, 0, err
	}
	if err := pause(ctx, settle); err != nil {
		return 0, 0, err
	}
	if full, err = p.rss(); err != nil {
		return 0, 0, err
	}
	if n, err := p.files(); err != nil {
		return 0, 0, fmt.Errorf("count the connections: %w", err)
	} else if n < conns {
		return 0, 0, fmt.Errorf("the proxy has closed idle connections: %d of %d are left", n, conns)
	}
	return empty, full, nil
}

// allocations measures how many objects are allocated on the heap per proxied request, once it is warm.
func (b *bench) allocations(ctx context.Context) (f figure, err error) {
	p, err := b.start(ctx, tulle)
	if err != nil {
		return f, err
	}
	defer p.stop()
	if _, err := b.wrk(ctx, p.port, small, 2); err != nil {
		return f, err
	}
	for round := range b.rounds {
		// Reading the counter allocates too: as much as lies between two readings.
		var counts [3]int
		var t tally
		for i := range counts {
			if i == 2 {
				if t, err = b.wrk(ctx, p.port, small, b.seconds); err != nil {
					return f, err
				}
			}
			if counts[i], err = mallocs(ctx, p.admin); err != nil {
				return f, err
			}
		}
		n := (counts[2] - counts[1]) - (counts[1] - counts[0])
		f.ours = append(f.ours, float64(max(n, 0))/float64(t.Requests))
		b.say("allocations, round %d of %d: %d in %d requests", round+1, b.rounds, n, t.Requests)
	}
	return f, nil
}

// mallocs reads from a Go program's metrics how many heap objects it has allocated.
func mallocs(ctx context.Context, admin int) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", admin), nil)
	if err != nil {
		return 0, err
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, fmt.Errorf("read the metrics: %w", err)
	}
	page, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return 0, fmt.Errorf("read the metrics: %w", err)
	}
	const name = "go_memstats_mallocs_total"
	n, err := counter.Sum(bytes.NewReader(page), name, nil)
	if err == nil && n == 0 {
		err = fmt.Errorf("the proxy's metrics have no %s", name)
	}
	return n, err
}
