package pool

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
)

// However calls and changes of limits come together, the count is right in the
// end and nobody waits for ever.
func TestCountIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewSet(func(ctx context.Context, target Target) (net.Conn, error) {
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
			if rand.IntN(4) == 0 {
				return nil, errors.New("refused")
			}
			return piped(ctx, target)
		}).Acquire(Target{Address: "a"})
		use := func() {
			c := p.Get()
			if c == nil {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rand.IntN(5))*time.Millisecond)
				defer cancel()
				var err error
				if c, err = p.Open(ctx); err != nil {
					return
				}
			}
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
			switch rand.IntN(4) {
			case 0:
				p.Close(c)
			case 1:
				p.Hijack(c)
				_ = c.Conn.Close()
			default:
				p.Put(c, clock.Now())
			}
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 200 {
					use()
				}
			})
		}
		for range 100 {
			time.Sleep(2 * time.Millisecond)
			p.SetLimits(Limits{MaxOpen: rand.IntN(8), Waiters: rand.IntN(20) - 1, Idle: time.Millisecond})
			p.expire(clock.Now())
		}
		wg.Wait()
		p.mu.Lock()
		if len(p.waiting) != 0 || p.open != len(p.idle) {
			t.Errorf("%d wait, %d count as open and %d are idle", len(p.waiting), p.open, len(p.idle))
		}
		p.mu.Unlock()
		p.close()
		if p.size() != 0 {
			t.Errorf("at the end %d count as open", p.size())
		}
	})
}
