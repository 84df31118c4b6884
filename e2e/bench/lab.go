//go:build linux

package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"
)

//go:embed config
var configs embed.FS

const (
	host      = "bench" // what the requests are for
	endpoints = 3       // behind every proxy

	tulle   = "tulle"
	haproxy = "haproxy"
	envoy   = "envoy"
	caddy   = "caddy"
)

// text is the body of the small answers.
var text = strings.Repeat("0123456789", 10)

// lab is the bench itself: a directory, the processors and the backends.
type lab struct {
	dir          string
	tulle, envoy string // programs
	controller   string

	peerSource    string // a directory
	admissionPeer string // the program, once it is built

	wrkScript   string
	proxyCPUs   []int
	loadCPUs    []int
	backendCPUs []int
	nginx       []*process
	awake       []*process
	backends    []int // their ports
}

// split gives the proxy one processor. The load generator gets another and the backends the rest, if there
// are as many.
func split(cpus []int) (proxy, load, backend []int, err error) {
	if len(cpus) < 2 {
		return nil, nil, nil, fmt.Errorf("there is %d processor; the benchmark needs one for the proxy and another for what calls it", len(cpus))
	}
	proxy, load, backend = cpus[:1], cpus[1:2], cpus[1:]
	if len(cpus) > 2 {
		backend = cpus[2:]
	}
	return proxy, load, backend, nil
}

// open makes the directory and starts the backends. Close it even if this fails.
func (l *lab) open(ctx context.Context) error {
	var err error
	if l.dir, err = os.MkdirTemp("", "tulle-bench-*"); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(l.dir, "temp"), 0o755); err != nil {
		return err
	}
	for name, size := range map[string]int{"64k": 64 << 10, "post": 1} {
		if err := os.WriteFile(filepath.Join(l.dir, name), bytes.Repeat([]byte("x"), size), 0o644); err != nil {
			return err
		}
	}
	if l.wrkScript, err = l.config("wrk.lua", "wrk", 0); err != nil {
		return err
	}
	for i := range endpoints {
		port, err := freePort()
		if err != nil {
			return err
		}
		name := fmt.Sprintf("nginx-%d", i)
		conf, err := l.config("nginx.conf", name, port)
		if err != nil {
			return err
		}
		cpus := l.backendCPUs[i%len(l.backendCPUs):][:1]
		p, err := spawn(l.dir, name, cpus, nil, "nginx", "-p", l.dir, "-c", conf, "-e", "stderr")
		if err != nil {
			return err
		}
		l.nginx, l.backends = append(l.nginx, p), append(l.backends, port)
		if err := ready(ctx, p, port); err != nil {
			return err
		}
	}
	// Tulle's namer reads the addresses from here.
	var addresses strings.Builder
	for _, port := range l.backends {
		fmt.Fprintf(&addresses, "127.0.0.1 %d\n", port)
	}
	if err := os.Mkdir(l.names(), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.names(), host), []byte(addresses.String()), 0o644)
}

func (l *lab) names() string { return filepath.Join(l.dir, "names") }

// close ends the backends and removes the directory.
func (l *lab) close() {
	l.letSleep()
	for _, p := range l.nginx {
		p.stop()
	}
	if l.dir != "" {
		_ = os.RemoveAll(l.dir)
	}
}

// keepAwake gives the processors of proxy and backends something to do that yields to all else, so that
// none sleeps between two requests: to wake one takes as long as many requests, in a virtual machine above
// all, and the less a proxy does the oftener it would wait for that. The load generator keeps its own
// processor awake.
func (l *lab) keepAwake() error {
	backends := l.backendCPUs[:min(len(l.backendCPUs), endpoints)]
	for _, cpu := range slices.Concat(l.proxyCPUs, backends) {
		if slices.Contains(l.loadCPUs, cpu) {
			continue
		}
		p, err := spawn(l.dir, "awake", []int{cpu}, nil, "chrt", "--idle", "0", "sh", "-c", "while :; do :; done")
		if err != nil {
			return err
		}
		l.awake = append(l.awake, p)
	}
	return nil
}

func (l *lab) letSleep() {
	for _, p := range l.awake {
		p.stop()
	}
	l.awake = nil
}

// config fills in a configuration and returns the file it is in.
func (l *lab) config(file, name string, port int) (string, error) {
	t, err := template.ParseFS(configs, "config/"+file)
	if err != nil {
		return "", fmt.Errorf("configure %s: %w", name, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, struct {
		Name, Dir, Text string
		Port            int
		Backends        []int
	}{name, l.dir, text, port, l.backends}); err != nil {
		return "", fmt.Errorf("configure %s: %w", name, err)
	}
	path := filepath.Join(l.dir, name+"-"+file)
	return path, os.WriteFile(path, b.Bytes(), 0o644)
}

// proxy is a running proxy.
type proxy struct {
	*process
	port  int
	admin int // Tulle's
}

// start starts a proxy by its name and waits until it answers.
func (l *lab) start(ctx context.Context, name string) (_ *proxy, err error) {
	p := &proxy{}
	if p.port, err = freePort(); err != nil {
		return nil, err
	}
	if p.admin, err = freePort(); err != nil {
		return nil, err
	}
	file := map[string]string{tulle: "tulle.yaml", haproxy: "haproxy.cfg", envoy: "envoy.yaml", caddy: "Caddyfile"}[name]
	conf, err := l.config(file, name, p.port)
	if err != nil {
		return nil, err
	}
	env := []string{"GOMAXPROCS=1", "HOME=" + l.dir, "XDG_CONFIG_HOME=" + l.dir, "XDG_DATA_HOME=" + l.dir}
	var command []string
	switch name {
	case tulle:
		command = []string{l.tulle, "--mode", "standalone", "--log-level", "warn",
			"--outgoing", fmt.Sprintf("127.0.0.1:%d", p.port), "--admin", fmt.Sprintf("127.0.0.1:%d", p.admin),
			"--dtab", "/svc => /#/io.l5d.fs", "--fs-root", l.names(), "--policy", conf}
	case haproxy:
		command = []string{"haproxy", "-db", "-f", conf}
	case envoy:
		command = []string{l.envoy, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c", conf}
	case caddy:
		command = []string{"caddy", "run", "--adapter", "caddyfile", "--config", conf}
	}
	if p.process, err = spawn(l.dir, name, l.proxyCPUs, env, command[0], command[1:]...); err != nil {
		return nil, err
	}
	if err := ready(ctx, p.process, p.port); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// freePort returns a port that nobody listens on.
func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return ln.Addr().(*net.TCPAddr).Port, ln.Close()
}

// ready waits until a process answers as the backends do.
func ready(ctx context.Context, p *process, port int) error {
	const limit = 15 * time.Second
	deadline := time.Now().Add(limit)
	for {
		err := get(ctx, port)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("start %s: it ended (%v)%s", p.name, p.err, p.tail())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start %s: no good answer within %s: %w%s", p.name, limit, err, p.tail())
		}
	}
}

// get asks once for the small answer, on a connection of its own.
func get(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/100b", port), nil)
	if err != nil {
		return err
	}
	req.Host, req.Close = host, true
	// Not the default transport: that one would ask the environment for a proxy.
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK || string(body) != text {
		return fmt.Errorf("got status %d with %q", res.StatusCode, body)
	}
	return nil
}
