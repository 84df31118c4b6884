//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/e2e/bench/admission"
	"github.com/tulle-mesh/tulle/internal/counter"
	"github.com/tulle-mesh/tulle/manifests"
)

// What admissions are compared with.
const (
	controllerRuntime = "controller-runtime"
	noInjector        = "without"
)

const (
	openRate  = 500  // admissions a second of an open loop
	burstPods = 1000 // that are created at once
)

// buildPeer builds the peer of admissions, a module of its own, and returns the program's path.
func buildPeer(ctx context.Context, source string, log io.Writer) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "admission-peer")
	_, _ = fmt.Fprintf(log, "building the peer of admissions from %s\n", source)
	build := exec.CommandContext(ctx, "go", "build", "-o", path, ".")
	build.Dir, build.Env = source, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the peer of admissions by %s in %s: %w\n%s", build, source, err, out)
	}
	return path, nil
}

// injector is a controller, of which the webhook is measured, and what it is measured with.
type injector struct {
	*mesh
	world   *admission.World
	process *process
	reviews map[string][]byte // by mode
}

// target is a webhook and the review that it is asked.
type target struct {
	name    string
	process *process
	client  *admission.Client
}

// measureAdmissions measures the rows about the injector.
func (b *bench) measureAdmissions(ctx context.Context, todo map[string]row, done func(string, figure, error)) {
	wants := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { _, ok := todo[name]; return ok })
	}
	wantCost, wantLatency, wantBurst := wants(rateHost, rateSidecar, cpuHost, cpuSidecar, cpuPeer), wants(latencyHost, latencySidecar), wants(podBurst)
	if !wantCost && !wantLatency && !wantBurst {
		return
	}
	m, err := b.emptyMesh(ctx)
	defer m.close()
	i := &injector{mesh: m}
	if err == nil {
		err = i.open(ctx)
	}
	if i.process != nil {
		defer i.process.stop()
	}
	costs, rates, latencies, burst := map[string]figure{}, map[string]figure{}, map[string]figure{}, figure{}
	errCost, errPeer, errLatency, errBurst := err, err, err, err
	if err == nil && wantCost {
		costs, rates, errPeer, errCost = i.cost(ctx, wants(cpuPeer))
	}
	if err == nil && wantLatency {
		latencies, errLatency = i.latency(ctx)
	}
	if err == nil && wantBurst {
		burst, errBurst = i.burst(ctx)
	}
	for _, r := range []struct {
		name string
		f    figure
		err  error
	}{
		{rateHost, rates[hostMode], errCost}, {rateSidecar, rates[sidecarMode], errCost},
		{cpuHost, costs[hostMode], errCost}, {cpuSidecar, costs[sidecarMode], errCost},
		{cpuPeer, figure{costs[hostMode].ours, costs[controllerRuntime].ours}, errors.Join(errCost, errPeer)},
		{latencyHost, latencies[hostMode], errLatency}, {latencySidecar, latencies[sidecarMode], errLatency},
		{podBurst, burst, errBurst},
	} {
		done(r.name, r.f, r.err)
	}
}

// Modes, which name the targets.
const (
	hostMode    = "host"
	sidecarMode = "sidecar"
)

// open creates what admissions need, reads what the API server asks, and starts the controller.
func (i *injector) open(ctx context.Context) (err error) {
	if i.world, err = admission.NewWorld(ctx, i.api.RESTConfig()); err != nil {
		return err
	}
	i.reviews = map[string][]byte{}
	for _, mode := range []string{hostMode, sidecarMode} {
		if i.reviews[mode], err = i.world.Capture(ctx, i.server, i.ca, mode); err != nil {
			return fmt.Errorf("get a review of the API server: %w", err)
		}
		i.say("admissions: a review of %s mode has %d bytes", mode, len(i.reviews[mode]))
	}
	i.process, _, err = i.start(ctx)
	return err
}

func (i *injector) address() string { return fmt.Sprintf("127.0.0.1:%d", i.ports["webhook-address"]) }

// targets connects to the controller once for each mode.
func (i *injector) targets(ctx context.Context) (all map[string]*target, closeAll func(), err error) {
	all = map[string]*target{}
	closeAll = func() {
		for _, t := range all {
			t.client.Close()
		}
	}
	for _, mode := range []string{hostMode, sidecarMode} {
		c, err := admission.Dial(ctx, i.address(), i.roots, admission.Connections, i.reviews[mode])
		if err != nil {
			return all, closeAll, err
		}
		all[mode] = &target{mode, i.process, c}
	}
	return all, closeAll, nil
}

// startPeer starts the peer and connects to it.
func (i *injector) startPeer(ctx context.Context) (*target, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	for from, to := range map[string]string{"tls-cert-file": "tls.crt", "tls-key-file": "tls.key"} {
		if err := os.Link(filepath.Join(i.dir, from), filepath.Join(i.dir, to)); err != nil {
			return nil, err
		}
	}
	p, err := spawn(i.dir, "peer", i.proxyCPUs, []string{"GOMAXPROCS=1"}, i.admissionPeer, "-port", fmt.Sprint(port), "-certificates", i.dir)
	if err != nil {
		return nil, err
	}
	const tries = 200
	for try := 1; ; try++ {
		c, err := admission.Dial(ctx, fmt.Sprintf("127.0.0.1:%d", port), i.roots, admission.Connections, i.reviews[hostMode])
		if err == nil {
			return &target{controllerRuntime, p, c}, nil
		}
		if try == tries {
			p.stop()
			return nil, fmt.Errorf("start %s: %w%s", controllerRuntime, err, p.tail())
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			p.stop()
			return nil, err
		}
	}
}

// cost measures, by mode and of the peer, the processor time of an admission in microseconds, and how many there are a
// second while all connections are busy.
func (i *injector) cost(ctx context.Context, withPeer bool) (costs, rates map[string]figure, errPeer, err error) {
	costs, rates = map[string]figure{}, map[string]figure{}
	all, closeAll, err := i.targets(ctx)
	defer closeAll()
	if err != nil {
		return costs, rates, nil, err
	}
	names := []string{hostMode, sidecarMode}
	if withPeer {
		var t *target
		if t, errPeer = i.startPeer(ctx); errPeer == nil {
			defer t.process.stop()
			all[controllerRuntime] = t
			names = append(names, controllerRuntime)
		}
	}
	for round := range i.rounds {
		for _, name := range turn(names, round) {
			if name == controllerRuntime && errPeer != nil {
				continue
			}
			cost, rate, err := i.fully(ctx, all[name])
			switch {
			case err != nil && name == controllerRuntime:
				errPeer = err
				continue
			case err != nil:
				return costs, rates, errPeer, err
			}
			costs[name], rates[name] = figure{ours: append(costs[name].ours, cost)}, figure{ours: append(rates[name].ours, rate)}
			i.say("admissions, round %d of %d: %s %.1f us, %.0f/s", round+1, i.rounds, name, cost, rate)
		}
	}
	return costs, rates, errPeer, nil
}

// fully is what an admission costs, in microseconds, and how many there are a second, after a second of warming up.
func (i *injector) fully(ctx context.Context, t *target) (cost, rate float64, err error) {
	fail := func(err error) (float64, float64, error) {
		return 0, 0, fmt.Errorf("measure admissions by %s: %w%s", t.name, err, t.process.tail())
	}
	if _, _, err := t.client.Full(ctx, time.Second); err != nil {
		return fail(err)
	}
	before, err := t.process.cpu()
	if err != nil {
		return fail(err)
	}
	n, took, err := t.client.Full(ctx, time.Duration(i.seconds)*time.Second)
	if err != nil {
		return fail(err)
	}
	after, err := t.process.cpu()
	if err != nil {
		return fail(err)
	}
	return float64((after - before).Nanoseconds()) / 1e3 / float64(n), float64(n) / took.Seconds(), nil
}

// latency measures the 99th percentile at a constant rate, by mode, in milliseconds.
func (i *injector) latency(ctx context.Context) (map[string]figure, error) {
	figures := map[string]figure{}
	all, closeAll, err := i.targets(ctx)
	defer closeAll()
	if err != nil {
		return figures, err
	}
	for round := range i.rounds {
		for _, mode := range turn([]string{hostMode, sidecarMode}, round) {
			if _, err := all[mode].client.Open(ctx, openRate, time.Second/2); err != nil {
				return figures, err
			}
			took, err := all[mode].client.Open(ctx, openRate, time.Duration(i.seconds)*time.Second)
			if err != nil {
				return figures, fmt.Errorf("measure admissions at %d/s: %w%s", openRate, err, i.process.tail())
			}
			figures[mode] = figure{ours: append(figures[mode].ours, p99(took))}
			i.say("admissions at %d/s, round %d of %d: %s mode has a median of %.2f ms and a p99 of %.2f ms", openRate, round+1, i.rounds, mode,
				float64(took[len(took)/2].Microseconds())/1e3, p99(took)) // p99 has sorted them
		}
	}
	return figures, nil
}

// burst measures how many seconds it takes to create pods at once, with the injector and without it.
func (i *injector) burst(ctx context.Context) (f figure, err error) {
	chart, err := manifests.Render("tulle", nil)
	if err != nil {
		return f, err
	}
	if err := i.world.Register(ctx, chart, fmt.Sprint(i.ports["webhook-address"]), i.ca); err != nil {
		return f, err
	}
	for round := range i.rounds {
		took := map[string]float64{}
		for _, namespace := range turn([]string{admission.Joined, admission.Apart}, round) {
			before, err := i.asked(ctx)
			if err != nil {
				return f, err
			}
			d, err := i.world.Burst(ctx, namespace, burstPods)
			if err != nil {
				return f, fmt.Errorf("create pods at once in namespace %s: %w%s", namespace, err, i.process.tail())
			}
			after, err := i.asked(ctx)
			if err != nil {
				return f, err
			}
			want := map[string]int{admission.Joined: burstPods}[namespace]
			if after-before != want {
				return f, fmt.Errorf("create %d pods at once in namespace %s: the injector was asked %d times, want %d", burstPods, namespace, after-before, want)
			}
			took[namespace] = d.Seconds()
		}
		f.ours, f.theirs = append(f.ours, took[admission.Joined]), append(f.theirs, took[admission.Apart])
		i.say("burst, round %d of %d: %d pods in %.2f s, in %.2f s without the injector", round+1, i.rounds, burstPods, took[admission.Joined], took[admission.Apart])
	}
	return f, nil
}

// asked is how many pods the injector has been asked about.
func (i *injector) asked(ctx context.Context) (int, error) {
	status, page, err := i.ask(ctx, http.MethodGet, "admin-address", "/metrics", "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil {
		return 0, fmt.Errorf("read the controller's metrics: %w", err)
	}
	return counter.Sum(bytes.NewReader([]byte(page)), "tulle_inject_requests_total", nil)
}
