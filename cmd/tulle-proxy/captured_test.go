//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/capture/capturetest"
)

// programKey makes this program the one that it tests.
const programKey = "TULLE_PROXY_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programKey) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program returns the proxy, run as its own user as in a pod.
func program(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), programKey+"=1", "HOME=/")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65532, Gid: 65532, NoSetGroups: true}}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// serve has each connection to an address in the world served.
func serve(t *testing.T, world *capturetest.Space, address string, h func(net.Conn)) {
	t.Helper()
	var ln net.Listener
	var err error
	world.Do(func() { ln, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { h(conn); _ = conn.Close() })
		}
	})
}

// web answers requests on a connection and says who it is and by whom it was asked.
func web(name string) func(net.Conn) {
	return func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			answer := name + " " + req.Host + " via " + req.Header.Get("Via")
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
		}
	}
}

// A pod whose application knows nothing of a proxy: the init container has written
// the rules, and the proxy runs as a user without any privilege.
func TestCapturedPod(t *testing.T) {
	pod, world := capturetest.New(t)
	serve(t, world, "192.0.2.1:80", web("there"))
	serve(t, world, "192.0.2.1:8080", web("there"))
	serve(t, world, "[2001:db8::1]:80", web("there by IPv6"))
	serve(t, world, "192.0.2.2:80", web("cart"))
	serve(t, world, "169.254.169.254:80", web("metadata"))
	echo := func(conn net.Conn) { _, _ = io.Copy(conn, conn) }
	greet := func(conn net.Conn) { _, _ = io.WriteString(conn, "220 mail\r\n"); echo(conn) }
	serve(t, world, "192.0.2.1:443", echo)
	serve(t, world, "192.0.2.1:25", greet)
	serve(t, world, "192.0.2.1:3306", greet)
	serve(t, world, "192.0.2.1:5000", web("skipped"))

	var err error
	pod.Do(func() { _, err = start(t, "redirect", "--skip-ports=5000-5010") })
	if err != nil {
		t.Fatal(err)
	}
	proxy := program(t.Context(), "--mode=standalone", "--capture=redirect", "--opaque-ports=3306",
		"--dtab=/svc/cart => /$/inet/192.0.2.2/80 ; /svc/cart:8080 => /svc/cart", "--log-level=debug")
	var out strings.Builder
	proxy.Stdout, proxy.Stderr = &out, &out
	pod.Do(func() { err = proxy.Start() })
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		_ = proxy.Cancel()
		if err := proxy.Wait(); err != nil {
			t.Errorf("the proxy: %v\n%s", err, out.String())
		}
	})
	defer stop()
	// The hook of a classic container runs in the pod, too.
	ready := program(t.Context(), "await", "--timeout=30s")
	var awaited []byte
	pod.Do(func() { awaited, err = ready.CombinedOutput() })
	if err != nil || len(awaited) != 0 {
		t.Fatalf("await: %v %s", err, awaited)
	}

	var opened []net.Conn
	open := func(to string) net.Conn {
		t.Helper()
		var conn net.Conn
		pod.Do(func() { conn, err = net.Dial("tcp", to) })
		if err != nil {
			t.Fatal(err)
		}
		opened = append(opened, conn)
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		return conn
	}
	const via = " via 1.1 linkerd"
	for _, test := range []struct{ to, host, want string }{
		{"192.0.2.1:80", "cart", "cart cart" + via},
		{"192.0.2.1:8080", "cart", "cart cart" + via},
		{"192.0.2.1:80", "example.org", "there example.org" + via},
		{"192.0.2.1:8080", "192.0.2.1:8080", "there 192.0.2.1:8080" + via},
		{"[2001:db8::1]:80", "cart", "cart cart" + via},
		{"[2001:db8::1]:80", "[2001:db8::1]", "there by IPv6 [2001:db8::1]" + via},
		{"127.0.0.1:4140", "cart", "cart cart" + via}, // as one that was told of the proxy
		{"169.254.169.254:80", "169.254.169.254", "metadata 169.254.169.254 via "},
		{"192.0.2.1:5000", "cart", "skipped cart via "},
	} {
		conn := open(test.to)
		_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", test.host)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s at %s: %v", test.host, test.to, err)
			continue
		}
		if body, _ := io.ReadAll(res.Body); string(body) != test.want {
			t.Errorf("%s at %s: %d %q, want %q", test.host, test.to, res.StatusCode, body, test.want)
		}
	}
	for to, first := range map[string]string{"192.0.2.1:443": "\x16\x03\x01\x00\x05hello", "192.0.2.1:25": "", "192.0.2.1:3306": ""} {
		conn, want := open(to), first
		if first == "" {
			want = "220 mail\r\n"
		}
		_, _ = io.WriteString(conn, first)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			t.Errorf("%s: %q %v", to, got, err)
		}
	}
	if curl, err := exec.LookPath("curl"); err == nil {
		said, err := pod.Run(t, curl, "-sS", "--max-time", "20", "--connect-to", "cart:80:192.0.2.1:80", "http://cart/")
		if err != nil || said != "cart cart"+via {
			t.Errorf("curl: %v %q", err, said)
		}
	}
	var page *http.Response
	conn := open("127.0.0.1:9990")
	_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
	if page, err = http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(page.Body)
	for _, want := range []string{
		`tulle_captured_connections_total{found="opaque",router="outgoing"} 1`, `tulle_captured_connections_total{found="other",router="outgoing"} 2`,
		`tulle_captured_connections_total{found="refused",router="outgoing"} 0`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
	for _, conn := range opened { // or the proxy would give them time
		_ = conn.Close()
	}
	stop()
}

// Rules that were written for another user do not make connections go round.
func TestRulesForAnotherUser(t *testing.T) {
	pod, world := capturetest.New(t)
	serve(t, world, "192.0.2.1:443", func(conn net.Conn) { _, _ = io.WriteString(conn, "hello") })
	var err error
	pod.Do(func() { _, err = start(t, "redirect", "--proxy-uid=1234") })
	if err != nil {
		t.Fatal(err)
	}
	proxy := program(t.Context(), "--mode=standalone", "--capture=redirect", "--dtab=/svc => /$/inet/192.0.2.2/80")
	var out strings.Builder
	proxy.Stdout, proxy.Stderr = &out, &out
	ready := program(t.Context(), "await", "--timeout=30s")
	var said []byte
	pod.Do(func() {
		if err = proxy.Start(); err == nil {
			said, err = ready.CombinedOutput()
		}
	})
	if err != nil {
		t.Fatalf("%v %s", err, said)
	}
	var conn net.Conn
	pod.Do(func() { conn, err = net.Dial("tcp", "192.0.2.1:443") })
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, "*1\r\n")
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	_ = conn.Close()
	_ = proxy.Cancel()
	if err := proxy.Wait(); err != nil || strings.Count(out.String(), "this proxy's own connections are redirected to it") != 1 || !strings.Contains(out.String(), "--proxy-uid") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
