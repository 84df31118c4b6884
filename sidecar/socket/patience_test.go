//go:build linux

package socket

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"
)

// reading begins a Read of one byte and returns once it waits.
func reading(c *Conn) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		done <- err
	}()
	for {
		c.mu.Lock()
		waits := c.in.waiting
		c.mu.Unlock()
		if waits {
			return done
		}
		runtime.Gosched()
	}
}

// A new patience counts for who waits already.
func TestPatienceReachesWhoWaits(t *testing.T) {
	p := open(t)
	c, _ := pair(t, p)
	done := reading(c)
	c.SetPatience(time.Millisecond, 0)
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
}

// A deadline that is set while somebody waits with patience outlives the wait.
func TestDeadlineOutlivesPatience(t *testing.T) {
	p := open(t)
	c, peer := pair(t, p)
	c.SetPatience(5*time.Second, 0)
	done := reading(c)
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = peer.Write([]byte("x"))
	if err := <-done; err != nil {
		t.Fatalf("Read: %v", err)
	}
	began := time.Now()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > 2*time.Second {
		t.Errorf("Read after it: %v after %s", err, time.Since(began))
	}
}
