//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/certs/issuer"
	"github.com/tulle-mesh/tulle/e2e/bench/fleet"
	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/manifests"
)

// What the namer is measured with.
const (
	fleetProxies = 1000
	fleetNames   = 50 // that each follows
	dtabName     = "default"
)

var world = fleet.World{Nodes: 100, Services: 1000, PodsEach: 10}

// mesh is a real API server with the objects of a big cluster, and where a controller beside it serves.
type mesh struct {
	*bench
	dir          string
	api          *cluster.API
	roots        *x509.CertPool
	ca           []byte          // the same in PEM
	server       tls.Certificate // of the controller
	token        string
	ports        map[string]int // by setting
	certificates []string       // settings
}

// measureNames measures the rows about names.
func (b *bench) measureNames(ctx context.Context, todo map[string]row, done func(string, figure, error)) {
	wants := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { _, ok := todo[name]; return ok })
	}
	if wants(lookup, lookupAllocs) {
		times, allocs, err := b.lookup()
		done(lookup, times, err)
		done(lookupAllocs, allocs, err)
	}
	if wants(coldBind) {
		f, err := b.bind()
		done(coldBind, f, err)
	}
	wantNamer, wantChanges := wants(namerMemory, namerStart), wants(endpointChange, dtabChange)
	if !wantNamer && !wantChanges {
		return
	}
	m, err := b.openMesh(ctx)
	defer m.close()
	var start, memory, endpoint, dtab figure
	errNamer, errChanges := err, err
	if err == nil && wantNamer {
		start, memory, errNamer = m.namer(ctx)
	}
	if err == nil && wantChanges {
		endpoint, dtab, errChanges = m.changes(ctx)
	}
	done(namerStart, start, errNamer)
	done(namerMemory, memory, errNamer)
	done(endpointChange, endpoint, errChanges)
	done(dtabChange, dtab, errChanges)
}

// openMesh starts the API server and fills it. Close it even if this fails.
func (b *bench) openMesh(ctx context.Context) (*mesh, error) {
	m, err := b.emptyMesh(ctx)
	if err != nil {
		return m, err
	}
	b.say("names: creating %d nodes, %d services and %d pods", world.Nodes, world.Services, world.Services*world.PodsEach)
	if err := world.Populate(ctx, m.api.RESTConfig()); err != nil {
		return m, err
	}
	m.token, err = fleet.Token(ctx, m.api.Client())
	return m, err
}

// emptyMesh starts the API server. Close it even if this fails.
func (b *bench) emptyMesh(ctx context.Context) (*mesh, error) {
	m := &mesh{bench: b, ports: map[string]int{}}
	var err error
	if m.dir, err = os.MkdirTemp("", "tulle-bench-mesh-*"); err != nil {
		return m, err
	}
	if err := m.identity(); err != nil {
		return m, err
	}
	for _, setting := range []string{"webhook-address", "namer-address", "mesh-address", "admin-address", "pages-address"} {
		if m.ports[setting], err = freePort(); err != nil {
			return m, err
		}
	}
	b.say("starting an API server, which is built first if it is not in the cache")
	if m.api, err = cluster.StartAPI(ctx, cluster.Options{Log: b.progress}); err != nil {
		return m, err
	}
	return m, m.definitions(ctx)
}

func (m *mesh) close() {
	if m.api != nil {
		if err := m.api.Close(); err != nil {
			m.say("names: end the API server: %v", err)
		}
	}
	if m.dir != "" {
		_ = os.RemoveAll(m.dir)
	}
}

// definitions gives the API server the kinds of the chart.
func (m *mesh) definitions(ctx context.Context) error {
	chart, err := manifests.Render("tulle", nil)
	if err != nil {
		return err
	}
	for object := range strings.SplitSeq(string(chart), "\n---\n") {
		if strings.Contains(object, "\nkind: CustomResourceDefinition\n") {
			if err := m.api.Apply(ctx, object); err != nil {
				return err
			}
		}
	}
	_, err = m.api.Kubectl(ctx, nil, "wait", "--for=condition=Established", "crd/dtabs.l5d.io", "--timeout=30s")
	return err
}

// identity makes the certificate of the controller's servers.
func (m *mesh) identity() error {
	const life = 24 * time.Hour
	ca, err := issuer.NewLocal(life)
	if err != nil {
		return err
	}
	server, err := ca.Server(life, "127.0.0.1", "0.0.0.0")
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		return err
	}
	m.roots, m.ca, m.server = x509.NewCertPool(), ca.Roots(), server
	m.roots.AppendCertsFromPEM(m.ca)
	for _, f := range []struct {
		setting string
		content []byte
	}{
		{"tls-cert-file", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate[0]})},
		{"tls-key-file", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})},
		{"ca-file", ca.Roots()},
	} {
		path := filepath.Join(m.dir, f.setting)
		if err := os.WriteFile(path, f.content, 0o600); err != nil {
			return err
		}
		m.certificates = append(m.certificates, "--"+f.setting, path)
	}
	return nil
}

// start starts a controller and returns it once it serves, and how long that took.
func (m *mesh) start(ctx context.Context) (*process, time.Duration, error) {
	args := append([]string{"--kubeconfig", m.api.Kubeconfig(), "--log-level", "warn", "--webhook-certificate", "file"}, m.certificates...)
	for setting, port := range m.ports {
		args = append(args, "--"+setting, fmt.Sprintf("127.0.0.1:%d", port))
	}
	began := time.Now()
	p, err := spawn(m.dir, "controller", m.proxyCPUs, nil, m.controller, args...)
	if err != nil {
		return nil, 0, err
	}
	const limit = 2 * time.Minute
	for {
		status, body, err := m.ask(ctx, http.MethodGet, "admin-address", "/admin/ready", "")
		if err == nil && status == http.StatusOK {
			return p, time.Since(began), nil
		}
		select {
		case <-p.ended:
			return nil, 0, fmt.Errorf("start the controller: it ended (%v)%s", p.err, p.tail())
		case <-ctx.Done():
			p.stop()
			return nil, 0, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		if time.Since(began) > limit {
			p.stop()
			return nil, 0, fmt.Errorf("start the controller: not ready within %s: %d %s, %w%s", limit, status, body, err, p.tail())
		}
	}
}

// ask sends one request to a server of the controller.
func (m *mesh) ask(ctx context.Context, method, setting, path, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", m.ports[setting], path), strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/dtab")
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), errors.Join(err, res.Body.Close())
}

// namer measures the controller's start in seconds and its memory in MB, on one that is new in each round.
func (m *mesh) namer(ctx context.Context) (start, memory figure, err error) {
	for round := range m.rounds {
		p, took, err := m.start(ctx)
		if err != nil {
			return start, memory, err
		}
		err = pause(ctx, settle)
		var rss int
		if err == nil {
			rss, err = p.rss()
		}
		p.stop()
		if err != nil {
			return start, memory, err
		}
		start.ours, memory.ours = append(start.ours, took.Seconds()), append(memory.ours, float64(rss)/(1<<20))
		m.say("names, round %d of %d: serving after %.2f s, %.1f MB", round+1, m.rounds, took.Seconds(), float64(rss)/(1<<20))
	}
	return start, memory, nil
}

// changes measures how long changes take to reach the proxies, in milliseconds: of each round the 99th percentile
// over the proxies, from before the change was made.
func (m *mesh) changes(ctx context.Context) (endpoint, dtab figure, err error) {
	p, _, err := m.start(ctx)
	if err != nil {
		return endpoint, dtab, err
	}
	defer p.stop()
	m.say("names: connecting %d proxies", fleetProxies)
	f, err := fleet.Connect(ctx, fleet.Config{
		URL: fmt.Sprintf("https://127.0.0.1:%d", m.ports["mesh-address"]), TLS: &tls.Config{RootCAs: m.roots, MinVersion: tls.VersionTLS13},
		Token: m.token, DtabNamespace: dtabName, Proxies: fleetProxies,
		Names: func(i int) []string {
			names := []string{fleet.ID(0)}
			for j := range fleetNames - 1 {
				names = append(names, fleet.ID(1+(i*(fleetNames-1)+j)%(world.Services-1)))
			}
			return names
		},
	})
	if err != nil {
		return endpoint, dtab, fmt.Errorf("%w%s", err, p.tail())
	}
	defer f.Close()
	if rss, err := p.rss(); err == nil {
		m.say("names: the controller has %.1f MB with %d proxies that follow %d names each", float64(rss)/(1<<20), fleetProxies, fleetNames)
	}
	for round := range m.rounds {
		// Out and in again: two changes of an endpoint.
		var took []time.Duration
		for _, ready := range []bool{false, true} {
			want := world.PodsEach - 1
			if ready {
				want++
			}
			times, err := f.Measure(ctx, func(p *fleet.Proxy) bool { return p.Endpoints() == want },
				func() error { return fleet.Toggle(ctx, m.api.Client(), 0, ready) })
			if err != nil {
				return endpoint, dtab, err
			}
			took = append(took, times...)
		}
		rules := fmt.Sprintf("/srv=>/caller;/host=>/srv;/host/round-%d=>/srv/other;/svc=>/host", round)
		times, err := f.Measure(ctx, func(p *fleet.Proxy) bool { return p.Dtab() == rules }, func() error {
			status, text, err := m.ask(ctx, http.MethodPut, "namer-address", "/api/1/dtabs/"+dtabName, rules)
			if err == nil && status != http.StatusNoContent {
				err = fmt.Errorf("write the dtab: status %d %s", status, text)
			}
			return err
		})
		if err != nil {
			return endpoint, dtab, err
		}
		endpoint.ours, dtab.ours = append(endpoint.ours, p99(took)), append(dtab.ours, p99(times))
		m.say("names, round %d of %d: 99 %% of %d proxies know a new endpoint after %.0f ms, a new dtab after %.0f ms", round+1, m.rounds, fleetProxies, p99(took), p99(times))
	}
	return endpoint, dtab, nil
}

// p99 is in milliseconds.
func p99(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[(len(times)*99+99)/100-1].Microseconds()) / 1e3
}
