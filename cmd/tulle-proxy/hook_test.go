package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/cli"
	"github.com/tulle-mesh/tulle/sidecar/capture"
)

func TestAwait(t *testing.T) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) < 3 || r.URL.Path != "/admin/ready" {
			http.Error(w, "waiting for\na certificate from the controller", http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	t.Setenv("http_proxy", "http://127.0.0.1:1") // is not for the hook
	if printed, err := start(t, "await", "--admin-port", port, "--timeout", "1m"); err != nil || printed != "" || asked.Load() != 3 {
		t.Errorf("%v %q after %d questions", err, printed, asked.Load())
	}
	asked.Store(-1 << 40)
	_, err := start(t, "await", "--admin-port", port, "--timeout", "50ms")
	if err == nil || err.Error() != "the proxy is not ready after 50ms: waiting for a certificate from the controller" {
		t.Error(err)
	}
	s.Close()
	_, err = start(t, "await", "--admin-port", port, "--timeout", "10ms")
	if err == nil || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	if _, err := start(t, "await", "--admin-port", "http"); cli.ExitCode(err) != 64 {
		t.Errorf("%v exits with %d", err, cli.ExitCode(err))
	}
}

func TestAdminHost(t *testing.T) {
	for setting, want := range map[string]string{
		"": "127.0.0.1", ":9990": "127.0.0.1", "0.0.0.0:9990": "127.0.0.1", "[::]:9990": "127.0.0.1", "nonsense": "127.0.0.1",
		"10.0.1.2:9990": "10.0.1.2", "[2001:db8::1]:9990": "2001:db8::1",
	} {
		if got := adminHost(func(string) string { return setting }); got != want {
			t.Errorf("%q: %s, want %s", setting, got, want)
		}
	}
}

func TestLinger(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ended := make(chan error, 1)
	go func() {
		_, err := start(t, "linger", "--ports", port, "--timeout", "1m")
		ended <- err
	}()
	timer := time.NewTimer(2 * lingerEvery)
	select {
	case err := <-ended:
		t.Fatal("did not wait for an application that listens:", err)
	case <-timer.C:
	}
	_ = ln.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := start(t, "linger", "--ports", "http"); cli.ExitCode(err) != 64 || !strings.Contains(err.Error(), `"http" is no port`) {
		t.Error(err)
	}
}

func TestOutlive(t *testing.T) {
	for name, test := range map[string]struct {
		there  string // what is seen at each look
		unsure bool
		want   time.Duration
	}{
		"gone at once":           {there: "-", want: 0},
		"gone after three looks": {there: "+++-", want: 3 * lingerEvery},
		"unsure":                 {there: "+---+-", unsure: true, want: (5 + quiet - 1) * lingerEvery},
		"for ever":               {there: "+", want: 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			began, looks := time.Now(), 0
			err := outlive(ctx, func() (bool, error) {
				is := test.there[min(looks, len(test.there)-1)] == '+'
				looks++
				return is, nil
			}, test.unsure)
			if took := time.Since(began); err != nil || took != test.want {
				t.Errorf("%s: %v after %s, want %s", name, err, took, test.want)
			}
		})
	}
	if err := outlive(t.Context(), func() (bool, error) { return false, errors.New("no /proc") }, false); err == nil || !strings.Contains(err.Error(), "no /proc") {
		t.Error(err)
	}
}

const heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func TestApplicationThere(t *testing.T) {
	own := ownPorts(func(key string) string { return map[string]string{"TULLE_ADMIN": ":9991"}[key] })
	if own != (ports{4140, 4141, 9991}) {
		t.Fatal(own)
	}
	const (
		outgoing = "   0: 0100007F:102C 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65532 0 1\n"
		incoming = "   1: 00000000000000000000000000000000:102D 00000000000000000000000000000000:0000 0A 00000000\n"
		web      = "   2: 00000000:1F90 00000000:0000 0A 00000000\n" // 8080
		accepted = "   3: 0100007F:1F90 0100007F:9999 01 00000000\n"
		calls    = "   4: 0100007F:9999 0100007F:102C 01 00000000\n"
		called   = "   5: 0100007F:102C 0100007F:9999 01 00000000\n"
		closed   = "   5: 0100007F:102C 0100007F:9999 08 00000000\n" // by the application
		caught   = "   4: 0100007F:9999 010200C0:0050 01 00000000\n" // redirected
	)
	for table, want := range map[string]struct{ known, unknown bool }{
		heading + outgoing + incoming:        {},
		heading + outgoing + caught + called: {false, true},
		heading + outgoing + closed:          {},
		heading + outgoing + web:             {true, true},
		heading + calls:                      {false, true},
		heading + accepted:                   {},
		"":                                   {},
		"1: nonsense here 0A\n":              {},
	} {
		known := application{ports: capture.Ports{{First: 8080, Last: 8080}}, own: own}
		if is, err := known.in(strings.NewReader(table)); err != nil || is != want.known {
			t.Errorf("by its ports: %v %v\n%s", is, err, table)
		}
		if is, err := (application{own: own}).in(strings.NewReader(table)); err != nil || is != want.unknown {
			t.Errorf("by any: %v %v\n%s", is, err, table)
		}
	}
}

func FuzzApplicationIn(f *testing.F) {
	f.Add(heading + "   0: 0100007F:102C 00000000:0000 0A 00000000\n")
	f.Fuzz(func(_ *testing.T, table string) {
		_, _ = application{}.in(strings.NewReader(table))
	})
}
