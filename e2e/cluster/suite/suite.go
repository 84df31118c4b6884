// Package suite runs the tests of a package around something that must not outlive them, such as a
// cluster: it is taken down after the tests, and also after an interrupt and shortly before go test
// would lose patience, both of which otherwise end the process on the spot.
//
// It is no protection against a panic of a test or a SIGKILL, after which no code runs. What is brought
// up must therefore be able to clean up after an earlier process, as cluster.Up and cluster.Down are.
//
//	func TestMain(m *testing.M) {
//		os.Exit(suite.Run(m, suite.Config{Up: up, Down: down}))
//	}
package suite

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Config is what the tests need around them.
type Config struct {
	// Up brings it up. Its context ends when the tests are to end early.
	Up func(context.Context) error
	// Failed, if not nil, keeps what helps to understand a failure of Up or of a test, or a test that hangs. It
	// is called before Down, and not after an interrupt.
	Failed func(context.Context)
	// Down takes it down, whatever came of Up. Tests that were interrupted may still be running.
	Down func(context.Context) error
}

// Tests is a *testing.M.
type Tests interface{ Run() int }

// Run calls Up, runs the tests, calls Down, and returns the exit code: that of the tests, 1 if anything
// else failed, 128 and the signal's number after SIGINT or SIGTERM. A second signal ends the process at
// once.
func Run(m Tests, cfg Config) int {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	s := &suite{Config: cfg, tests: m, signals: signals, limit: limit(timeout()), log: os.Stderr, exit: os.Exit}
	return s.run()
}

// Keep tells whether the environment variable KEEP asks to leave the cluster as it is after the tests.
// Like unset are empty, 0, no and false.
func Keep() bool {
	return !slices.Contains([]string{"", "0", "no", "false"}, strings.ToLower(os.Getenv("KEEP")))
}

// timeout is go test's -timeout; 0 is none.
func timeout() time.Duration {
	if !flag.Parsed() {
		flag.Parse()
	}
	f := flag.Lookup("test.timeout")
	if f == nil {
		return 0
	}
	value, _ := f.Value.(flag.Getter).Get().(time.Duration)
	return value
}

// limit leaves some of go test's patience for collecting logs and taking down.
func limit(timeout time.Duration) time.Duration { return timeout - min(time.Minute, timeout/5) }

type suite struct {
	Config
	tests   Tests
	signals <-chan os.Signal
	limit   time.Duration // 0 is none
	log     io.Writer
	exit    func(code int) // ends the process
}

// signaled is the cause of the end of a context.
type signaled struct{ syscall.Signal }

func (s signaled) Error() string { return "interrupted" }
func (s signaled) code() int     { return 128 + int(s.Signal) }

var errTimeout = errors.New("the tests took too long")

func (s *suite) run() (code int) {
	ctx, cancel := context.WithCancelCause(context.Background())
	done, watched := make(chan struct{}), make(chan struct{})
	go func() { defer close(watched); s.watch(cancel, done) }()
	defer func() { close(done); <-watched }()

	code = s.between(ctx)
	var by signaled
	cause := context.Cause(ctx)
	if errors.As(cause, &by) {
		code = by.code()
		s.say("interrupted: taking down what the tests use; another Ctrl-C ends this at once")
	} else {
		if cause != nil {
			code = 1
			s.say("%v: -timeout leaves them %s; this is where they are", cause, s.limit)
			_ = pprof.Lookup("goroutine").WriteTo(s.log, 1)
		}
		if code != 0 && s.Failed != nil {
			s.Failed(context.Background())
		}
	}
	if err := s.Down(context.Background()); err != nil {
		s.say("take down: %v", err)
		code = max(code, 1)
	}
	return code
}

// between brings up and runs the tests, until they are through or ctx ends.
func (s *suite) between(ctx context.Context) int {
	if err := s.Up(ctx); err != nil {
		s.say("bring up: %v", err)
		return 1
	}
	code := make(chan int, 1)
	go func() { code <- s.tests.Run() }()
	select {
	case c := <-code:
		return c
	case <-ctx.Done():
		return 1
	}
}

// watch ends the context at the first signal or when time is up, and the process at the next signal.
func (s *suite) watch(cancel context.CancelCauseFunc, done <-chan struct{}) {
	defer cancel(nil)
	var up <-chan time.Time
	if s.limit > 0 {
		timer := time.NewTimer(s.limit)
		defer timer.Stop()
		up = timer.C
	}
	for ended := false; ; ended = true {
		select {
		case got := <-s.signals:
			number, _ := got.(syscall.Signal)
			by := signaled{number}
			if ended {
				s.say("ended at once; make cluster-down takes down what may be left")
				s.exit(by.code())
				return
			}
			cancel(by)
		case <-up:
			cancel(errTimeout)
		case <-done:
			return
		}
	}
}

func (s *suite) say(format string, args ...any) { fmt.Fprintf(s.log, format+"\n", args...) }
