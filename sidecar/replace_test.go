package sidecar

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A standalone proxy is replaced by another one under load: no request fails,
// and the old one ends by itself.
func TestReplaced(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer backend.Close()
	dir := t.TempDir()
	ip, port, _ := net.SplitHostPort(backend.Listener.Addr().String())
	if err := os.WriteFile(filepath.Join(dir, "web"), []byte(ip+" "+port), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Mode, cfg.Dtab, cfg.FsRoot = ModeStandalone, "/svc => /#/io.l5d.fs", dir
	cfg.Outgoing, cfg.Admin = freePort(t), freePort(t)
	cfg.Handover = fmt.Sprintf("@tulle-test/%d", os.Getpid())

	ctx, cancel := context.WithCancel(t.Context())
	var processes sync.WaitGroup
	defer processes.Wait()
	defer cancel()
	replaced := make(chan error, 1)
	start := func(name string, ended chan<- error) {
		cfg := cfg
		cfg.PodName = name
		p, err := New(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		p.linger = 200 * time.Millisecond
		processes.Go(func() {
			err := p.Run(ctx)
			if ended != nil {
				ended <- err
			}
		})
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if Serving(ctx, cfg) == nil {
				return
			}
			if ctx.Err() != nil {
				t.Fatal(name + " does not serve")
			}
		}
	}
	start("old", replaced)

	var answers atomic.Int64
	loading, enough := context.WithCancel(ctx)
	var load sync.WaitGroup
	for keep := range 2 {
		load.Go(func() {
			for loading.Err() == nil {
				if err := requests(loading, cfg.Outgoing, keep == 1, &answers); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	start("new", nil)
	if err := <-replaced; err != nil {
		t.Errorf("the old one ended with %v", err)
	}
	enough()
	load.Wait()
	if n := answers.Load(); n < 10 {
		t.Errorf("only %d requests were answered", n)
	}
	res, err := http.Get("http://" + cfg.Admin + "/admin/ping")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
}

// requests sends requests on one connection, each once.
func requests(ctx context.Context, address string, keep bool, answers *atomic.Int64) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for first := true; first || keep && ctx.Err() == nil; first = false {
		if _, err := fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
			return err
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		var body strings.Builder
		if _, err := bufio.NewReader(res.Body).WriteTo(&body); err != nil || res.StatusCode != 200 || body.String() != "hello" {
			return fmt.Errorf("%d %q %v", res.StatusCode, body.String(), err)
		}
		answers.Add(1)
		if res.Close {
			return nil
		}
	}
	return nil
}
