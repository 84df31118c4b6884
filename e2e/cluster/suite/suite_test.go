package suite

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

type testsFunc func() int

func (f testsFunc) Run() int { return f() }

// played is a suite that notes what is called, on a clock of its own.
type played struct {
	suite
	signals chan os.Signal
	calls   []string
	printed bytes.Buffer
}

func play(tests testsFunc) *played {
	p := &played{signals: make(chan os.Signal, 2)}
	note := func(call string) { p.calls = append(p.calls, call) }
	p.suite = suite{
		Config: Config{
			Up:     func(context.Context) error { note("up"); return nil },
			Failed: func(context.Context) { note("failed") },
			Down:   func(context.Context) error { note("down"); return nil },
		},
		tests: tests, signals: p.signals, log: &p.printed,
		exit: func(code int) { note("exit"); p.printed.WriteString("exit") },
	}
	return p
}

func (p *played) expect(t *testing.T, code int, calls ...string) {
	t.Helper()
	if got := p.run(); got != code {
		t.Errorf("exit code %d, want %d\n%s", got, code, p.printed.String())
	}
	if !slices.Equal(p.calls, calls) {
		t.Errorf("called %v, want %v", p.calls, calls)
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		play(func() int { return 0 }).expect(t, 0, "up", "down")
		play(func() int { return 3 }).expect(t, 3, "up", "failed", "down")
	})
}

func TestUpAndDownFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := play(func() int { t.Error("the tests ran"); return 0 })
		p.Up = func(context.Context) error { return errors.New("no power") }
		p.expect(t, 1, "failed", "down")
		if !strings.Contains(p.printed.String(), "no power") {
			t.Errorf("the reason is not told: %s", p.printed.String())
		}
		p = play(func() int { return 0 })
		p.Down = func(context.Context) error { return errors.New("stuck") }
		p.expect(t, 1, "up")
	})
}

func TestInterrupt(t *testing.T) {
	for signal, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan int)
			p := play(func() int { return <-release }) // a test that knows nothing of the signal
			time.AfterFunc(time.Minute, func() { p.signals <- signal })
			p.expect(t, code, "up", "down")
			close(release)
		})
	}
}

func TestInterruptWhileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := play(func() int { t.Error("the tests ran"); return 0 })
		p.Up = func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
		time.AfterFunc(time.Minute, func() { p.signals <- syscall.SIGINT })
		p.expect(t, 130, "down")
	})
}

func TestSecondSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := play(nil)
		p.Up = func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
		p.Down = func(context.Context) error {
			p.signals <- syscall.SIGINT
			synctest.Wait()
			if !slices.Equal(p.calls, []string{"exit"}) {
				t.Errorf("the second signal led to %v", p.calls)
			}
			return nil
		}
		p.signals <- syscall.SIGINT
		p.expect(t, 130, "exit")
	})
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan int)
		p := play(func() int { return <-release })
		p.limit = limit(10 * time.Minute)
		began := time.Now()
		p.expect(t, 1, "up", "failed", "down")
		if took := time.Since(began); took != 9*time.Minute {
			t.Errorf("it ended after %s", took)
		}
		close(release)
	})
	if got := limit(0); got != 0 {
		t.Errorf("without a timeout the limit is %s", got)
	}
}

func TestKeep(t *testing.T) {
	for value, want := range map[string]bool{"": false, "0": false, "no": false, "False": false, "1": true, "yes": true} {
		t.Setenv("KEEP", value)
		if Keep() != want {
			t.Errorf("KEEP=%s keeps: %v", value, !want)
		}
	}
}
