package namer_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// A proxy goes from one replica to another, and sees the last state of everything, whatever
// changed while it was with neither; also what changed back, vanished, or was never asked for
// before.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		src := newSource() // the cluster, which both replicas watch
		policy, namers := watch.New([]byte("p0")), watch.New([]byte("n0"))
		replica := func() (h *namer.Stream, store *files, stop func()) {
			store, stop = openFiles(t, dir)
			synctest.Wait()
			return namer.NewStream(namer.StreamConfig{Store: store, Source: src, Policy: policy, Namers: namers, Seen: &namer.Seen{}, Logger: quiet}), store, stop
		}
		h, storeA, stopA := replica()
		defer stopA()
		n := &network{}
		stopServer := n.serve(h)
		hello := sidecar
		hello.Mode = api.ModeHost
		c, stop := n.start(t, hello)
		defer stop()
		src.node("n1").Set([]api.Pod{})
		names := make([]string, 20)
		values := make([]*watch.Value[naming.Replicas], len(names))
		for i := range names {
			names[i] = fmt.Sprintf("/#/io.l5d.k8s/default/80/n%d", i)
			src.name(names[i]).Set(at(fmt.Sprintf("10.0.0.%d:1", i)))
			var release func()
			values[i], release = c.Replicas(names[i])
			defer release()
		}
		if err := put(storeA, "/svc=>/0"); err != nil {
			t.Fatal(err)
		}
		<-c.Synced()
		synctest.Wait()

		for round := 1; round <= 5; round++ {
			stopServer()
			stopA()
			synctest.Wait()
			// Nobody is there, and everything changes; some of it twice, some not.
			for i, name := range names {
				switch (i + round) % 4 {
				case 0:
					src.name(name).Set(naming.Replicas{State: naming.StateNeg})
				case 1:
					src.name(name).Set(at("10.9.9.9:9"))
					src.name(name).Set(at(fmt.Sprintf("10.0.%d.%d:1", round, i)))
				case 2:
					src.name(name).Set(naming.Of())
				}
			}
			pods := []api.Pod{{IP: fmt.Sprintf("10.0.0.%d", round), Namespace: "a", Name: "x"}}
			src.node("n1").Set(pods)
			policy.Set(fmt.Appendf(nil, "p%d", round))
			namers.Set(fmt.Appendf(nil, "n%d", round))
			rules := fmt.Sprintf("/svc=>/%d", round)
			by, closeBy := openFiles(t, dir) // another replica, where somebody writes
			if err := put(by, rules); err != nil {
				t.Fatal(err)
			}
			closeBy()

			h, _, stopA = replica()
			stopServer = n.serve(h)
			time.Sleep(4 * time.Second) // virtual; at most one and a half of the longest wait
			synctest.Wait()
			for i, v := range values {
				if got, want := v.Get(), src.name(names[i]).Get(); !got.Equal(want) {
					t.Errorf("round %d: %s is %+v, want %+v", round, names[i], got, want)
				}
			}
			if !c.Connected() || c.Dtab().Get().String() != rules || !slices.Equal(c.Pods().Get(), pods) ||
				c.Policy().Get().Text != string(policy.Get()) || c.Namers().Get().Text != string(namers.Get()) {
				t.Errorf("round %d: %s, %v, %+v, %+v", round, c.Dtab().Get(), c.Pods().Get(), c.Policy().Get(), c.Namers().Get())
			}
		}
		stopServer()
		stopA()
	})
}

// The state of the stream, for readiness.
func TestClientState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{}
		c, stop := n.start(t, sidecar)
		defer stop()
		if s := c.State(); s.Connected || !s.Since.IsZero() {
			t.Errorf("before: %+v", s)
		}
		synctest.Wait()
		if s := c.State(); s.Connected || !s.Since.IsZero() || s.Err == nil {
			t.Errorf("nobody there: %+v", s)
		}
		stopServer := n.serve(namer.NewStream(namer.StreamConfig{Store: memory(t, nil), Source: newSource(), Logger: quiet}))
		<-c.Synced()
		up := c.State()
		if !up.Connected || up.Since.IsZero() || up.Err != nil {
			t.Errorf("up: %+v", up)
		}
		time.Sleep(time.Minute)
		stopServer()
		synctest.Wait()
		lost := c.State()
		time.Sleep(time.Minute)
		if s := c.State(); s.Connected || s.Since.Sub(up.Since) < time.Minute || !s.Since.Equal(lost.Since) || s.Err == nil {
			t.Errorf("lost: %+v, up was %+v", s, up)
		}
	})
}
