//go:build linux

// Package fleet measures how fast the namer tells all proxies of a big mesh what has changed: the objects of a World
// in a real API server, and a Fleet of proxies that follow names by the very client that proxies have.
//
// It is no proxy and no controller: the controller under test is a process of its own, and what is followed here
// is counted and not used.
//
//	f, err := fleet.Connect(ctx, fleet.Config{URL: url, TLS: config, Token: token, Proxies: 1000, Names: names})
//	times, err := f.Measure(ctx, func(p *fleet.Proxy) bool { return p.Endpoints() == 9 }, change)
package fleet

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/namer/client"
)

// Config is what a Fleet connects with.
type Config struct {
	URL           string
	TLS           *tls.Config
	Token         string
	DtabNamespace string
	Proxies       int
	// Names returns the ids that the i-th proxy follows; the first is the one that Endpoints asks for.
	Names func(i int) []string
}

// Fleet is many proxies. Its methods are for one goroutine.
type Fleet struct {
	proxies []*Proxy
	stop    func()
	news    chan struct{}        // one token: some proxy has heard something
	check   atomic.Pointer[test] // what is being waited for
}

// test is what a change is recognised by, and the proxies that have not seen it yet.
type test struct {
	seen    func(*Proxy) bool
	began   time.Time
	mu      sync.Mutex
	waiting map[*Proxy]bool
	took    []time.Duration
}

// Proxy is one of the Fleet.
type Proxy struct {
	client *client.Client
	first  *watch.Value[naming.Replicas]
	names  []*watch.Value[naming.Replicas]
}

// Endpoints returns how many endpoints the first name of the proxy has, -1 while that is not known.
func (p *Proxy) Endpoints() int {
	r := p.first.Get()
	if r.State == naming.StatePending {
		return -1
	}
	return len(r.Endpoints)
}

// Dtab returns the base dtab that the proxy has, printed; empty while there is none.
func (p *Proxy) Dtab() string {
	if d := p.client.Dtab().Get(); d != nil {
		return d.String()
	}
	return ""
}

func (p *Proxy) complete() bool {
	for _, n := range p.names {
		if n.Get().State != naming.StateBound {
			return false
		}
	}
	return p.client.Dtab().Get() != nil
}

// Connect starts the proxies and returns when each knows its dtab and all of its names.
func Connect(ctx context.Context, cfg Config) (*Fleet, error) {
	running, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	f := &Fleet{news: make(chan struct{}, 1), stop: func() { cancel(); wg.Wait() }}
	for i := range cfg.Proxies {
		c, err := client.New(client.Config{
			URL: cfg.URL, TLS: cfg.TLS, Token: func() (string, error) { return cfg.Token, nil },
			Hello:  api.Hello{Proxy: fmt.Sprintf("proxy-%04d", i), Mode: api.ModeSidecar, DtabNamespace: cfg.DtabNamespace},
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			f.stop()
			return nil, err
		}
		p := &Proxy{client: c}
		heard := func() { f.heard(p) }
		c.Dtab().Notify(heard)
		for _, id := range cfg.Names(i) {
			value, _ := c.Replicas(id)
			value.Notify(heard)
			p.names = append(p.names, value)
		}
		p.first = p.names[0]
		f.proxies = append(f.proxies, p)
		wg.Go(func() { _ = c.Run(running) }) // it ends with the context alone
	}
	if _, err := f.Measure(ctx, (*Proxy).complete, func() error { return nil }); err != nil {
		f.stop()
		return nil, err
	}
	return f, nil
}

// Close ends all proxies.
func (f *Fleet) Close() { f.stop() }

// patience is how long a change may take to reach all proxies before something must be wrong.
const patience = 2 * time.Minute

// Measure makes a change and returns how long it took, from before it was made, to reach each proxy.
func (f *Fleet) Measure(ctx context.Context, seen func(*Proxy) bool, change func() error) ([]time.Duration, error) {
	t := &test{seen: seen, waiting: make(map[*Proxy]bool, len(f.proxies)), began: time.Now()}
	for _, p := range f.proxies {
		t.waiting[p] = true
	}
	f.check.Store(t)
	if err := change(); err != nil {
		return nil, err
	}
	for _, p := range f.proxies { // those that had seen it before anyone looked
		f.heard(p)
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		t.mu.Lock()
		missing, took := len(t.waiting), t.took
		t.mu.Unlock()
		if missing == 0 {
			return took, nil
		}
		select {
		case <-f.news:
		case <-late.C:
			return nil, fmt.Errorf("%d of %d proxies have not seen the change within %s", missing, len(f.proxies), patience)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// heard looks whether what a proxy has just heard is what is waited for.
func (f *Fleet) heard(p *Proxy) {
	t := f.check.Load()
	if t == nil || !t.seen(p) {
		return
	}
	now := time.Since(t.began)
	t.mu.Lock()
	waited := t.waiting[p]
	if waited {
		delete(t.waiting, p)
		t.took = append(t.took, now)
	}
	last := waited && len(t.waiting) == 0
	t.mu.Unlock()
	if last {
		select {
		case f.news <- struct{}{}:
		default:
		}
	}
}
