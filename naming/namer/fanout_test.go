package namer_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/namer/client"
)

// BenchmarkFanout connects 1,000 proxies over TCP and TLS to one namer, all in this process, each
// of which follows 50 names, and measures how long a change takes to reach all of them. What it
// reports are milliseconds; ns/op is the time until the last proxy has it.
//
//	go test ./naming/namer -run '^$' -bench Fanout -benchtime 50x
func BenchmarkFanout(b *testing.B) {
	const proxies, names = 1000, 50
	f := newFanout(b, proxies, names)
	b.Run("endpoint", func(b *testing.B) {
		value := f.source.name(f.names[0])
		for i := range f.clients {
			defer f.values[i].Notify(func() { f.arrived(i) })()
		}
		f.measure(b, func(n int) {
			value.Set(at(fmt.Sprintf("10.%d.%d.%d:80", n>>16&255, n>>8&255, n&255)))
		})
	})
	b.Run("dtab", func(b *testing.B) {
		for i, c := range f.clients {
			defer c.Dtab().Notify(func() { f.arrived(i) })()
		}
		f.measure(b, func(n int) {
			if err := put(f.store, fmt.Sprintf("/srv=>/#/io.l5d.k8s/default/http;/host=>/srv;/svc=>/host;/host/world=>/srv/world-v%d", n)); err != nil {
				b.Fatal(err)
			}
		})
	})
	// A rollout: every name changes at once.
	b.Run("all names", func(b *testing.B) {
		for i := range f.clients {
			defer f.lasts[i].Notify(func() { f.arrived(i) })()
		}
		f.measure(b, func(n int) {
			for _, name := range f.names {
				f.source.name(name).Set(at(fmt.Sprintf("10.%d.%d.%d:81", n>>16&255, n>>8&255, n&255)))
			}
		})
	})
}

type fanout struct {
	store   *namer.Memory
	source  *source
	clients []*client.Client
	names   []string
	values  []interface{ Notify(func()) func() } // of the first name, by client
	lasts   []interface{ Notify(func()) func() } // of the last one

	change int
	mu     sync.Mutex
	since  time.Time
	took   []time.Duration // by client, of the present change
	seen   []bool
	left   int
	all    chan struct{}
}

func newFanout(b *testing.B, proxies, names int) *fanout {
	f := &fanout{store: memory(b, map[string]string{"default": "/svc=>/host"}), source: newSource()}
	server := httptest.NewUnstartedServer(namer.NewStream(namer.StreamConfig{Store: f.store, Source: f.source, Logger: quiet}))
	server.EnableHTTP2 = true
	server.StartTLS()
	b.Cleanup(server.Close)
	for i := range names {
		f.names = append(f.names, fmt.Sprintf("/#/io.l5d.k8s/default/http/service-%02d", i))
		// Each has ten endpoints, so that states have the size of real ones.
		f.source.name(f.names[i]).Set(ten(i))
	}
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	b.Cleanup(func() { cancel(); running.Wait() })
	begin := time.Now()
	tls := server.Client().Transport.(*http.Transport).TLSClientConfig
	for i := range proxies {
		hello := sidecar
		hello.Proxy = fmt.Sprintf("proxy-%d", i)
		c, err := client.New(client.Config{URL: server.URL, TLS: tls, Hello: hello, Logger: quiet,
			InUse: func() []api.Name { return []api.Name{{Namespace: "default", Path: "/svc/world"}} }})
		if err != nil {
			b.Fatal(err)
		}
		f.clients = append(f.clients, c)
		for j, name := range f.names {
			v, _ := c.Replicas(name)
			switch j {
			case 0:
				f.values = append(f.values, v)
			case names - 1:
				f.lasts = append(f.lasts, v)
			}
		}
		running.Go(func() { c.Run(ctx) })
	}
	for _, c := range f.clients {
		v, release := c.Replicas(f.names[names-1])
		if _, err := v.Wait(ctx, func(r naming.Replicas) bool { return r.State == naming.StateBound }); err != nil {
			b.Fatal(err)
		}
		<-c.Synced()
		release()
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	b.Logf("%d proxies connected and told all in %v; %d MB of heap and %d MB of stacks, clients included",
		proxies, time.Since(begin).Round(time.Millisecond), m.HeapAlloc>>20, m.StackInuse>>20)
	return f
}

func ten(i int) naming.Replicas {
	var all []naming.Endpoint
	for j := range 10 {
		all = append(all, naming.Endpoint{
			Address: fmt.Sprintf("10.%d.0.%d:8080", i, j), Node: fmt.Sprintf("node-%d", j), Hop: naming.HopSidecar,
			Via: fmt.Sprintf("10.%d.0.%d:4143", i, j), Identity: "spiffe://cluster.local/ns/default/sa/service", Weight: 1,
		})
	}
	return naming.Of(all...)
}

// arrived notes that a client has the present change.
func (f *fanout) arrived(client int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left == 0 || f.seen[client] {
		return
	}
	f.seen[client] = true
	f.took = append(f.took, time.Since(f.since))
	if f.left--; f.left == 0 {
		close(f.all)
	}
}

// measure makes changes, one when the one before has reached everybody.
func (f *fanout) measure(b *testing.B, change func(n int)) {
	var all []time.Duration
	for b.Loop() {
		f.change++
		f.mu.Lock()
		f.seen, f.left, f.all = make([]bool, len(f.clients)), len(f.clients), make(chan struct{})
		f.took, f.since = f.took[:0], time.Now()
		f.mu.Unlock()
		change(f.change)
		<-f.all
		all = append(all, f.took...)
	}
	slices.Sort(all)
	at := func(q float64) float64 {
		return float64(all[int(q*float64(len(all)-1))]) / float64(time.Millisecond)
	}
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(at(1), "max-ms")
}
