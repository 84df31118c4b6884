package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// A client whose replica set is being waited for is neither idle nor one too many, and
// does not stay once nobody waits.
func TestWhoIsWaitedForStays(t *testing.T) {
	const crowd = 20
	synctest.Test(t, func(t *testing.T) {
		names := &table{}
		s := NewSet(Config{
			Source: names, Policy: watch.New(policy.Default()), Metrics: telemetry.New(prometheus.NewRegistry()), Limit: 2, IdleTTL: time.Second,
			Pools: pool.NewSet(func(context.Context, pool.Target) (net.Conn, error) { return nil, errors.New("unused") }),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done, errs := make(chan struct{}), make(chan error, crowd)
		go func() { defer close(done); _ = s.Run(ctx) }()
		for i := range crowd {
			id := fmt.Sprintf("/%d", i)
			go func() {
				_, err := s.Get(id, i%2 == 0).Picker(t.Context())
				errs <- err
			}()
			synctest.Wait()
		}
		time.Sleep(5 * time.Second) // virtual
		if n := names.following(); n != crowd {
			t.Errorf("while %d are waited for, %d names are followed", crowd, n)
		}
		for i := range crowd {
			names.value(fmt.Sprintf("/%d", i)).Set(naming.Of(endpoint("10.0.0.1:80")))
			if err := <-errs; err != nil {
				t.Errorf("the client %d: %v", i, err)
			}
			synctest.Wait()
		}
		if n := names.following(); n != 4 {
			t.Errorf("when nobody waits %d names are followed, want 2 and 2 of guests", n)
		}
		cancel()
		<-done
	})
}

func TestPickerOfAForgottenClient(t *testing.T) {
	s := newSet(&table{})
	c := s.Get("/a", false)
	forget(s)
	if _, err := c.Picker(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}
