package examples

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/helloworld"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
)

// pipeline is the mesh of namerd.yaml on two nodes, with hello and world-v1 in it, whose
// rules for world are at a namerd.
type pipeline struct {
	*lab
	store *namer.Memory
	front string // where requests come in
	at    string // of namerd
	stop  func() // of namerd
}

// stored are the rules before that for world.
const stored = "/srv => /#/io.l5d.k8s/default/http ; /host => /srv ; /tmp => /srv ; /svc => /host ; /host/world => "

func newPipeline(t *testing.T) *pipeline {
	t.Helper()
	p := &pipeline{lab: newLab(t)}
	for _, n := range []string{"a", "b"} {
		p.place(n, 4140, 4141, 4142)
	}
	p.daemons("incoming", 4141, "a", "b")
	p.helloWorld("a", "b")
	var err error
	if p.store, err = namer.NewMemory(map[string]string{
		"external": "/host => /#/io.l5d.k8s/default/http/hello ; /svc/* => /host",
		"internal": stored + "/srv/world-v1",
	}); err != nil {
		t.Fatal(err)
	}
	p.at, p.stop = p.namerd(p.store)
	for _, n := range []string{"a", "b"} {
		p.proxy(p.configuration("namerd", n, func(c map[string]any) {
			for _, r := range c["routers"].([]any) {
				in := r.(map[string]any)["interpreter"].(map[string]any)
				in["dst"] = "/$/inet/" + strings.Replace(p.at, ":", "/", 1)
			}
		}), n)
	}
	p.front = p.node("a").ports[4142]
	return p
}

// deploy makes world-v2, whose pod says earth.
func (p *pipeline) deploy() {
	p.t.Helper()
	p.service("world-v2", corev1.ServicePort{Name: "http", Port: 7778})
	p.app("world-v2", "b", "127.0.1.30", helloworld.Config{Text: "earth"})
}

// remove takes a version's Service away, and then its endpoints.
func (p *pipeline) remove(service string, ips ...string) {
	p.index.DeleteService("default", service)
	for _, ip := range ips {
		p.index.DeleteSlice("default", service+"-"+ip)
	}
}

// write sets where world leads; printed is how namerd shows that.
func (p *pipeline) write(dst, printed string) {
	p.t.Helper()
	dtab, err := naming.ParseDtab(stored + dst)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.store.Put(p.t.Context(), "internal", namer.Change{Dtab: dtab}); err != nil {
		p.t.Fatal(err)
	}
	v, err := p.store.Get(p.t.Context(), "internal")
	if err != nil {
		p.t.Fatal(err)
	}
	if got := v.Dtab[len(v.Dtab)-1].Dst.String(); got != printed {
		p.t.Errorf("world leads to %s, want %s", got, printed)
	}
}

// load asks all the time until stop is called, which returns how often. Nothing may fail.
func (p *pipeline) load() (stop func() int64) {
	var stopped atomic.Bool
	var asked atomic.Int64
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for !stopped.Load() {
				if a := p.want(p.front, map[string]string{"Host": "any.host"}, 200, "Hello"); !sentence.MatchString(a.body) {
					p.t.Errorf("under load: %q", a.body)
				}
				asked.Add(1)
			}
		})
	}
	stop = func() int64 { stopped.Store(true); all.Wait(); return asked.Load() }
	p.t.Cleanup(func() { stop() })
	return stop
}

const try = "/host/world => /tmp/world-v2"

// settled waits until plain requests are all answered by one world, and says what those
// with an override of their own are answered.
func (p *pipeline) settled(stage, plain, tried string) {
	p.t.Helper()
	for override, world := range map[string]string{"": plain, try: tried} {
		inRow := 0
		p.eventually(fmt.Sprintf("%s: %s by %q", stage, world, override), func() bool {
			a := p.get(p.front, "/", map[string]string{"Host": "any.host", "l5d-dtab": override})
			if override == "" && a.status != 200 { // with one, it may be too early
				p.t.Errorf("%s: %d %s", stage, a.status, a.body)
			}
			inRow++
			if a.status != 200 || !strings.Contains(a.body, world) {
				inRow = 0
			}
			return inRow == 10
		})
	}
}

// A pipeline brings a new world in steps, and takes each of them back: what is stored, and who answers at each
// stage. No request fails.
func TestPipeline(t *testing.T) {
	p := newPipeline(t)
	stop := p.load()
	const old, fresh = "world", "earth"
	p.settled("before", old, old) // what is tried leads nowhere, and the stored rule is in reserve
	// to goes through the stages up to one of them.
	to := func(stage int) {
		t.Helper()
		p.write("/tmp/world-v1", "/tmp/world-v1")
		p.deploy()
		p.settled("deployed", old, fresh) // stages 2 and 3
		if stage < 4 {
			return
		}
		p.write("1 * /tmp/world-v2 & 9 * /tmp/world-v1", "/tmp/world-v2 & 9.00*/tmp/world-v1")
		p.eventually("the first new world", func() bool { return strings.Contains(p.get(p.front, "/", nil).body, fresh) })
		const requests = 300
		earths := 0
		for range requests {
			if strings.Contains(p.want(p.front, map[string]string{"Host": "any.host"}, 200, "Hello").body, fresh) {
				earths++
			}
		}
		if earths < 5 || earths > 75 { // 30 in the mean; either is once in a million runs
			t.Errorf("a tenth: %d of %d", earths, requests)
		}
		for range 20 {
			p.want(p.front, map[string]string{"Host": "any.host", "l5d-dtab": try}, 200, fresh)
		}
		if stage < 5 {
			return
		}
		p.write("/tmp/world-v2 | /tmp/world-v1", "/tmp/world-v2 | /tmp/world-v1")
		p.settled("all", fresh, fresh)
	}
	for _, stage := range []int{3, 4, 5} {
		to(stage)
		p.write("/srv/world-v1", "/srv/world-v1")
		p.remove("world-v2", "127.0.1.30")
		p.settled(fmt.Sprint("aborted at stage ", stage), old, old)
	}
	to(5)
	p.write("/srv/world-v2", "/srv/world-v2")
	p.settled("cleaned up", fresh, fresh)
	p.remove("world-v1", "127.0.1.20", "127.0.1.21", "127.0.1.22")
	p.settled("the old world is gone", fresh, fresh)
	t.Logf("%d requests, and none failed", stop())
}
