//go:build linux

// Command bench measures Tulle's proxy against HAProxy, Envoy and Caddy on this machine, and its controller: `make bench`.
//
// It is a benchmark and no test: what misses its limit is marked in the table, and the program fails only
// if something could not be measured. How it measures, and why so, is in docs/design/bench.md.
//
// Invariant: everything runs on loopback, and nothing is left running when it ends, however it ends.
//
//	build/bench -rounds 5 cpu-100b
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/e2e/cluster/debian"
	"github.com/tulle-mesh/tulle/internal/run"
)

func main() {
	ctx, stop := run.Signals(context.Background())
	defer stop()
	if err := benchmark(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// benchmark measures what the arguments name and reports it.
func benchmark(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var (
		rounds  = flags.Int("rounds", 7, "how often everything is measured")
		seconds = flags.Int("seconds", 3, "how long each measurement takes")
		program = flags.String("tulle", "build/tulle-proxy", "the proxy to measure")
		source  = flags.String("peer", "e2e/bench/peer", "the source of the peer of admissions")
		control = flags.String("controller", "build/tulle-controller", "the controller to measure")
		file    = flags.String("out", "build/bench.json", "where to write the results")
	)
	flags.Usage = func() {
		_, _ = fmt.Fprintln(flags.Output(), "usage: bench [flags] [row...]\n\nrows:")
		for _, r := range rows() {
			_, _ = fmt.Fprintf(flags.Output(), "  %-24s %s\n", r.name, strings.TrimSpace(r.what+" "+r.peer))
		}
		_, _ = fmt.Fprintln(flags.Output(), "\nflags:")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *rounds < 1 || *seconds < 1 {
		return fmt.Errorf("-rounds and -seconds are %d and %d, want at least 1", *rounds, *seconds)
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	l := &lab{}
	if l.tulle, err = filepath.Abs(*program); err != nil {
		return err
	}
	if l.controller, err = filepath.Abs(*control); err != nil {
		return err
	}
	if l.peerSource, err = filepath.Abs(*source); err != nil {
		return err
	}
	cpus, err := allowedCPUs()
	if err != nil {
		return err
	}
	if l.proxyCPUs, l.loadCPUs, l.backendCPUs, err = split(cpus); err != nil {
		return err
	}
	release, err := alone(ctx, out)
	if err != nil {
		return err
	}
	defer release()
	if err := keepTo(l.loadCPUs); err != nil {
		return err
	}
	files, err := raiseFiles()
	if err != nil {
		return err
	}

	r := report{rows: chosen, results: map[string]result{}, failures: map[string]error{}}
	l.prepare(ctx, &r, out)
	if len(r.failures) == len(chosen) {
		return r.err()
	}
	if err := facts(ctx, l, cpus, out); err != nil {
		return err
	}
	b := &bench{lab: l, rounds: *rounds, seconds: *seconds, progress: out}
	others, err := othersDuring(func() error {
		defer l.close()
		if slices.ContainsFunc(chosen, func(row row) bool { return !row.apart }) {
			if err := l.open(ctx); err != nil {
				return err
			}
		}
		b.measure(ctx, &r, files)
		return nil
	})
	if ctx.Err() != nil {
		return errors.New("interrupted")
	} else if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out)
	if err := errors.Join(r.table(out), r.write(*file)); err != nil {
		return err
	}
	if others > 0.1 {
		_, _ = fmt.Fprintf(out, "\nOther programs used %.1f processors meanwhile: what is above is noisy, latencies most of all.\n", others)
	}
	return r.err()
}

// prepare finds the programs, or installs them as `make packages` does. Rows whose programs cannot be had
// fail; the others are measured all the same.
func (l *lab) prepare(ctx context.Context, r *report, out io.Writer) {
	// Users other than root often lack the sbin directories.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":"+debian.Path); err != nil {
		r.fail(err, func(row) bool { return true })
	}
	uses := func(need debian.Need) func(row) bool {
		return func(row row) bool {
			if row.apart {
				return false
			}
			switch need.Program {
			case "nginx":
				return true
			case "wrk":
				return row.name != idleRSS && row.name != rssEach
			}
			return row.peer == need.Program
		}
	}
	needs := slices.DeleteFunc(debian.Bench(), func(n debian.Need) bool { return !slices.ContainsFunc(r.rows, uses(n)) })
	if err := debian.Ensure(ctx, needs, true, out); err != nil {
		for _, need := range needs {
			if !debian.Has(need.Program) {
				r.fail(err, uses(need))
			}
		}
	}
	toEnvoy := func(row row) bool { return row.peer == envoy }
	if slices.ContainsFunc(r.rows, toEnvoy) {
		var err error
		if l.envoy, err = getEnvoy(ctx, out); err != nil {
			r.fail(err, toEnvoy)
		}
	}
	toControllerRuntime := func(row row) bool { return row.peer == controllerRuntime }
	if slices.ContainsFunc(r.rows, toControllerRuntime) {
		var err error
		if l.admissionPeer, err = buildPeer(ctx, l.peerSource, out); err != nil {
			r.fail(err, toControllerRuntime)
		}
	}
}

// fail notes why rows cannot be measured.
func (r *report) fail(err error, which func(row) bool) {
	for _, row := range r.rows {
		if which(row) {
			r.failures[row.name] = cmp.Or(r.failures[row.name], err)
		}
	}
}

// facts prints what was measured on, and with.
func facts(ctx context.Context, l *lab, cpus []int, out io.Writer) error {
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "%s, %d processors: the proxy on %v, the load on %v, the backends on %v\nLinux %s, %s\n",
		cpuModel(), len(cpus), l.proxyCPUs, l.loadCPUs, l.backendCPUs, unix.ByteSliceToString(kernel.Release[:]), runtime.Version())
	for _, p := range [][]string{{"nginx", "-v"}, {"wrk", "-v"}, {haproxy, "-v"}, {caddy, "version"}, {l.envoy, "--version"}} {
		if p[0] != "" && debian.Has(p[0]) {
			_, _ = fmt.Fprintf(out, "%s: %s\n", filepath.Base(p[0]), strings.TrimSpace(strings.TrimPrefix(firstLine(ctx, p[0], p[1:]...), p[0])))
		}
	}
	_, err := fmt.Fprintln(out)
	return err
}

// measure fills the report.
func (b *bench) measure(ctx context.Context, r *report, files uint64) {
	todo := map[string]row{}
	var works []workload
	for _, row := range r.rows {
		if r.failures[row.name] != nil {
			continue
		}
		todo[row.name] = row
		if row.work.path != "" && !slices.Contains(works, row.work) {
			works = append(works, row.work)
		}
	}
	done := func(name string, f figure, err error) {
		if row, ok := todo[name]; ok && err != nil {
			r.failures[name] = err
		} else if ok {
			r.results[name] = row.result(f)
		}
	}
	for _, w := range works {
		byPeer := map[string]row{}
		var peers []string
		for _, row := range r.rows {
			if _, ok := todo[row.name]; ok && row.work == w {
				byPeer[row.peer] = row
				peers = append(peers, row.peer)
			}
		}
		figures, failed := b.cpu(ctx, byPeer[peers[0]].name, w, peers)
		for peer, row := range byPeer {
			done(row.name, figures[peer], failed[peer])
		}
	}
	if _, ok := todo[addedP99]; ok {
		f, err := b.addedP99(ctx)
		done(addedP99, f, err)
	}
	_, wantIdle := todo[idleRSS]
	_, wantEach := todo[rssEach]
	if wantIdle || wantEach {
		conns := 0
		if wantEach {
			conns = idle
		}
		if wantEach && files < idle+spareFiles {
			done(rssEach, figure{}, fmt.Errorf("%d idle connections need as many open files and some more, and only %d are allowed; raise the hard limit (ulimit -Hn)", idle, files))
			conns = 0
		}
		idleFigure, each, err := b.memory(ctx, conns)
		done(idleRSS, idleFigure, err)
		if conns > 0 {
			done(rssEach, each, err)
		}
	}
	if _, ok := todo[allocations]; ok {
		f, err := b.allocations(ctx)
		done(allocations, f, err)
	}
	b.measureNames(ctx, todo, done)
	b.measureAdmissions(ctx, todo, done)
}
