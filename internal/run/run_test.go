package run_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/run"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func wait(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func TestGroupDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		var draining, stopped time.Duration
		time.AfterFunc(time.Minute, cancel)
		err := run.Group(ctx, run.Config{
			Drain:    5 * time.Second,
			Draining: func() { draining = time.Since(start) },
		}, run.Component{Name: "server", Run: func(ctx context.Context) error {
			<-ctx.Done()
			stopped = time.Since(start)
			return nil
		}}, run.Component{Name: "watch", Run: wait})
		if err != nil {
			t.Fatal(err)
		}
		if draining != time.Minute || stopped != time.Minute+5*time.Second {
			t.Errorf("draining at %v, stopped at %v", draining, stopped)
		}
	})
}

func TestGroupEndsWithItsFirstComponent(t *testing.T) {
	broken := errors.New("no such port")
	for name, c := range map[string]struct {
		run  func(context.Context) error
		want string
	}{
		"failure":    {func(context.Context) error { return broken }, "run bad: no such port"},
		"early end":  {func(context.Context) error { return nil }, "run bad: it ended before it was told to stop"},
		"false stop": {func(context.Context) error { return context.Canceled }, "run bad: context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			err := run.Group(t.Context(), run.Config{Drain: time.Hour},
				run.Component{Name: "good", Run: wait},
				run.Component{Name: "bad", Run: c.run})
			if err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestGroupFailureEndsTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		err := run.Group(ctx, run.Config{Drain: time.Hour}, run.Component{Name: "bad", Run: func(context.Context) error {
			time.Sleep(time.Second)
			return errors.New("lost")
		}})
		if err == nil || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestSignals(t *testing.T) {
	ctx, stop := run.Signals(t.Context())
	defer stop()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
}

func TestHTTPFinishesWhatItHasBegun(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun, finish := make(chan struct{}), make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-finish
		_, _ = io.WriteString(w, "done")
	})}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run.HTTP(server, listener, time.Minute)(ctx) }()
	answer := make(chan string, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Get("http://" + listener.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer func() { _ = res.Body.Close() }()
		body, _ := io.ReadAll(res.Body)
		answer <- string(body)
	}()
	<-begun
	cancel()
	close(finish)
	if got := <-answer; got != "done" {
		t.Errorf("got %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestHTTPCutsOffAfterGrace(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	})}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run.HTTP(server, listener, time.Millisecond)(ctx) }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.Copy(conn, strings.NewReader("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	<-begun
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestHTTPReportsALostListener(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	if err := run.HTTP(&http.Server{}, listener, 0)(t.Context()); err == nil {
		t.Error("no error")
	}
}

func TestStreamsEndWithTheServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{}
	server.Handler = run.Streams(server, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		_, _ = io.WriteString(w, "bye")
	}))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run.HTTP(server, listener, time.Hour)(ctx) }()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	cancel()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "bye" {
		t.Errorf("got %q, %v", body, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	answer := func(text string) *http.Server {
		return &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })}
	}
	at := map[string]string{}
	components, err := run.Listen([]run.Server{
		{Name: "a", Address: "127.0.0.1:0", HTTP: answer("from a")}, {Name: "b", Address: "127.0.0.1:0", HTTP: answer("from b")},
	}, time.Second, func(name, address string) { at[name] = address })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run.Group(ctx, run.Config{}, components...) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, name := range []string{"a", "b"} {
		res, err := client.Get("http://" + at[name])
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(body) != "from "+name {
			t.Errorf("%s answers %q", name, body)
		}
	}

	// One that is taken, and one that is none: both are said, and nothing stays open.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	_, err = run.Listen([]run.Server{
		{Name: "first", Address: address, HTTP: answer("")}, {Name: "second", Address: at["a"], HTTP: answer("")}, {Name: "third", Address: "8080", HTTP: answer("")},
	}, 0, func(name, _ string) { t.Errorf("%s is open", name) })
	if err == nil || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "listen for the second: ") || !strings.Contains(err.Error(), "listen for the third: ") {
		t.Errorf("got %v", err)
	}
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Error(err)
	} else {
		_ = again.Close()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
