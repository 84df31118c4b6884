//go:build e2e

package soak

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// endpoints is how many healthy ones each service has, beside the failing one
	// that all share.
	endpoints = 8
	// warm is the share of the requests after which the proxy has the size that it
	// has at the end, too.
	warm = 10
	// churnEvery is how often an endpoint joins and another one leaves.
	churnEvery = 100 * time.Millisecond
	// reloadEvery is how often the proxy gets another policy.
	reloadEvery = time.Second
	// refuseEvery is how often the failing backend stops listening until something
	// joins or leaves: the proxy then passes it over for two seconds.
	refuseEvery = 3 * time.Second
)

// total returns how many requests there are to be.
func total(t *testing.T) int {
	text := os.Getenv("SOAK_REQUESTS")
	if text == "" {
		return 1_000_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < warm {
		t.Fatalf("SOAK_REQUESTS is %q, which is no number of requests", text)
	}
	return n
}

func TestSoak(t *testing.T) {
	n := total(t)
	l := newLedger(n)
	p := startProxy(t)
	f := newFailing(t, l)
	defer f.close()
	c := newChurn(t, l, p, f)
	defer c.close()

	small := p.settle(t, "before the first request", func(s figures) bool { return s.descriptors > 0 })
	// Idle goroutines wait for work, no more than have been busy at a time.
	calm := func(s figures) bool {
		return s.connections == 0 && s.descriptors <= small.descriptors+2 && s.goroutines <= small.goroutines+3*clients
	}
	began := time.Now()
	c.run(t, func() { load(l, p.outgoing, 0, n/warm) })
	before := p.settle(t, "warm", calm)
	c.run(t, func() { load(l, p.outgoing, n/warm, n) })
	took := time.Since(began)
	after := p.settle(t, "after the last request", func(s figures) bool {
		return calm(s) && s.goroutines <= before.goroutines+clients && s.memory <= max(before.memory*5/4, before.memory+8<<20)
	})

	t.Logf("%d requests in %.0f s (%.0f/s) by %d clients to %d services; %d endpoints joined and left; a fault was done to %d requests, of which %d got their answer; "+
		"%d failed as they had to; %d policies were taken, %d refused; the failing backend stopped listening %d times; before: %v; after: %v",
		l.done.Load(), took.Seconds(), float64(l.done.Load())/took.Seconds(), clients, services, c.left, l.faulty(), l.hidden.Load(),
		l.failed.Load(), after.reloads, after.refusals, f.refused.Load(), before, after)
	for _, v := range l.violations {
		t.Error(v)
	}
	if l.count > len(l.violations) {
		t.Errorf("and %d more", l.count-len(l.violations))
	}
	if l.hidden.Load() == 0 || l.failed.Load() == 0 || c.left == 0 || after.reloads < 2 {
		t.Error("too little has happened; the test shows nothing")
	}
	f.well.Store(true)
	c.drain(t)
}

// churn makes endpoints join and leave, the failing one refuse, and the proxy
// take other policies.
type churn struct {
	ledger  *ledger
	proxy   *proxy
	failing *failing
	present [services][]*healthy
	leaving sync.WaitGroup
	over    chan struct{} // closed when load has ended
	left    int
	reloads int
}

func newChurn(t *testing.T, l *ledger, p *proxy, f *failing) *churn {
	c := &churn{ledger: l, proxy: p, failing: f}
	for s := range services {
		for range endpoints {
			c.present[s] = append(c.present[s], newHealthy(t, l))
		}
		c.publish(t, s)
	}
	return c
}

func (c *churn) close() {
	c.leaving.Wait()
	for _, all := range c.present {
		for _, h := range all {
			h.close()
		}
	}
}

// publish writes the addresses of a service.
func (c *churn) publish(t *testing.T, service int) {
	t.Helper()
	var lines strings.Builder
	for _, h := range append(slices.Clone(c.present[service]), &healthy{address: c.failing.address}) {
		host, port, _ := net.SplitHostPort(h.address)
		_, _ = fmt.Fprintf(&lines, "%s %s\n", host, port)
	}
	replace(t, filepath.Join(c.proxy.files, fmt.Sprintf("svc%d", service)), lines.String())
}

// run lets everything happen while load runs, and returns when no endpoint is
// leaving any more.
func (c *churn) run(t *testing.T, load func()) {
	t.Helper()
	c.over = make(chan struct{})
	go func() { load(); close(c.over) }()
	swaps, reloads, refusals := time.NewTicker(churnEvery), time.NewTicker(reloadEvery), time.NewTicker(refuseEvery)
	defer swaps.Stop()
	defer reloads.Stop()
	defer refusals.Stop()
	listening := true
	for running := true; running; {
		select {
		case <-swaps.C:
			c.swap(t)
			if !listening {
				c.listen(t)
				listening = true
			}
		case <-reloads.C:
			c.reload(t)
		case <-refusals.C:
			c.failing.refuse()
			listening = false
		case <-c.over:
			running = false
		}
	}
	if !listening {
		c.listen(t)
	}
	c.leaving.Wait()
}

func (c *churn) listen(t *testing.T) {
	t.Helper()
	if err := c.failing.listen(); err != nil {
		t.Fatal(err)
	}
}

// swap makes an endpoint join a service and another one leave it.
func (c *churn) swap(t *testing.T) {
	t.Helper()
	service := c.left % services
	joins, leaves := newHealthy(t, c.ledger), c.present[service][0]
	c.present[service] = append(c.present[service][1:], joins)
	c.publish(t, service)
	c.left++
	over := c.over
	c.leaving.Go(func() {
		if err := leaves.leave(t.Context(), joins, over); err != nil {
			c.ledger.violate("%v", err)
		}
	})
}

// leave stops the endpoint as soon as the proxy has let go of it. That it has
// heard of the change shows the one which has joined in the same moment.
func (h *healthy) leave(ctx context.Context, joined *healthy, over <-chan struct{}) error {
	defer h.close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-joined.asked:
	case <-over: // nobody is asked any more
	case <-ctx.Done():
		return errors.New("an endpoint that joined is not asked")
	}
	for h.conns.Load() > 0 {
		select {
		case <-h.idle:
		case <-ctx.Done():
			return fmt.Errorf("an endpoint that left keeps %d connections", h.conns.Load())
		}
	}
	return nil
}

// reload gives the proxy the next policy, now and then one that it must refuse.
func (c *churn) reload(t *testing.T) {
	t.Helper()
	c.reloads++
	text := policies[c.reloads%len(policies)]
	if c.reloads%7 == 3 {
		text = wrong
	}
	replace(t, c.proxy.policy, text)
	if err := c.proxy.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// drain ends the proxy while requests are under way, which get their answers.
func (c *churn) drain(t *testing.T) {
	t.Helper()
	var answers sync.WaitGroup
	conns := make([]net.Conn, clients)
	for i := range conns {
		conn, err := net.Dial("tcp", c.proxy.outgoing)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		conns[i] = conn
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprintf(conn, "PUT /hold HTTP/1.1\r\nHost: svc%d\r\nContent-Length: 2\r\n\r\nab", i%services); err != nil {
			t.Fatal(err)
		}
	}
	all := slices.Concat(c.present[:]...)
	eventually(t, patience, func() error {
		held := int64(0)
		for _, h := range all {
			held += h.held.Load()
		}
		if held < clients {
			return fmt.Errorf("%d of %d requests are under way", held, clients)
		}
		return nil
	})
	if err := c.proxy.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, func() error {
		conn, err := net.Dial("tcp", c.proxy.outgoing)
		if err != nil {
			return nil
		}
		_ = conn.Close()
		return errors.New("the proxy still accepts connections after SIGTERM")
	})
	for _, h := range all {
		close(h.release)
	}
	for _, conn := range conns {
		answers.Go(func() {
			r := bufio.NewReader(conn)
			res, err := http.ReadResponse(r, nil)
			if err != nil || res.StatusCode != 200 || !res.Close {
				t.Errorf("a request that was under way at SIGTERM: %v, %v", res, err)
				return
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Errorf("its answer breaks off: %v", err)
			}
			if _, err := r.ReadByte(); err != io.EOF {
				t.Errorf("its connection stays: %v", err)
			}
		})
	}
	answers.Wait()
	select {
	case err := <-c.proxy.exited:
		if err != nil {
			t.Errorf("the proxy ends with %v", err)
		}
	case <-time.After(patience):
		t.Error("the proxy does not end after SIGTERM")
	}
}
