package sidecar

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// freePort returns an address that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// eventually waits for what takes a real clock: files are looked at in real time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		if ok() {
			return
		}
		<-tick.C
	}
	t.Fatalf("in vain: %s", what)
}

// write makes a file with the content, and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ask sends a request for a host, with headers in pairs, and returns the answer's
// status and body.
func ask(t *testing.T, url, host string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

// hostPort splits an address.
func hostPort(t *testing.T, address string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

// freePorts are n addresses that nobody listens on, and their ports.
func freePorts(t *testing.T, n int) (addresses, ports []string) {
	t.Helper()
	for range n {
		address := freePort(t)
		_, port := hostPort(t, address)
		addresses, ports = append(addresses, address), append(ports, port)
	}
	return addresses, ports
}

// backend runs an application that says its name, and for which service it was asked.
func backend(t *testing.T, name string) (address, port string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, name, " ", r.Header.Get("l5d-dst-service"))
	}))
	t.Cleanup(s.Close)
	_, port = hostPort(t, s.Listener.Addr().String())
	return s.Listener.Addr().String(), port
}

// serve runs a proxy, whose administration port is at pages, until the test ends. It
// returns once the proxy is ready. edit may change it before.
func serve(t *testing.T, cfg Config, pages string, log *slog.Logger, edit ...func(*Proxy)) *Proxy {
	t.Helper()
	p, err := New(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range edit {
		change(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "ready", func() bool { status, _ := ask(t, pages+"/admin/ready", ""); return status == 200 })
	return p
}

func TestStandalone(t *testing.T) {
	address, port := backend(t, "hello")
	host, _ := hostPort(t, address)
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("web", host+" "+port)
	c := DefaultConfig()
	c.Mode, c.Outgoing, c.Admin, c.FsRoot = ModeStandalone, freePort(t), freePort(t), dir
	c.Dtab = "/svc => /#/io.l5d.fs ; /svc/direct => /$/inet/" + host + "/" + port + " ; /svc/kube => /#/io.l5d.k8s/a/b/c"
	c.Policy = write("policy.yaml", "server: {maxCallDepth: 5}")
	p := serve(t, c, c.Admin, slog.New(slog.DiscardHandler))
	for host, want := range map[string]int{"web": 200, "direct": 200, "kube": 502, "nobody": 502, "..": 502, "policy.yaml": 502} {
		if status, body := ask(t, c.Outgoing+"/", host); status != want || status == 200 && body != "hello /svc/"+host {
			t.Errorf("%s: %d %q, want %d", host, status, body, want)
		}
	}
	write("late", host+" "+port)
	eventually(t, "a new file", func() bool { status, _ := ask(t, c.Outgoing+"/", "late"); return status == 200 })

	log := filepath.Join(t.TempDir(), "access.log")
	write("policy.yaml", "server: {maxCallDepth: 6, httpAccessLog: "+log+"}")
	p.Reload()
	eventually(t, "a new policy", func() bool {
		_, body := ask(t, c.Admin+"/admin/policy", "")
		return strings.Contains(body, `"maxCallDepth": 6`)
	})
	ask(t, c.Outgoing+"/logged", "web")
	eventually(t, "a line in the access log", func() bool {
		content, _ := os.ReadFile(log)
		return strings.HasPrefix(string(content), "web 127.0.0.1 - - [") && strings.Contains(string(content), `] "GET /logged HTTP/1.1" 200 14 "-" "Go-http-client/1.1"`)
	})
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	p.Reload()
	ask(t, c.Outgoing+"/again", "web")
	eventually(t, "a new access log", func() bool { _, err := os.Stat(log); return err == nil })
	write("policy.yaml", "server: {maxCallDepth: no}")
	p.Reload()
	eventually(t, "a refused policy", func() bool {
		_, body := ask(t, c.Admin+"/metrics", "")
		return strings.Contains(body, `tulle_policy_reloads_total{result="failed"} 1`) && strings.Contains(body, `tulle_policy_reloads_total{result="ok"} 2`)
	})
	_, body := ask(t, c.Admin+"/admin/policy?client=/%23/io.l5d.fs/web&service=/svc/web", "")
	if !strings.Contains(body, `"kind": "ewma"`) || !strings.Contains(body, `"enforceDeadlines": true`) {
		t.Error(body)
	}
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte("server: {maxCallDepht: 5}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		policy + ":1: server.maxCallDepht is not a key": func(c *Config) { c.Policy = policy },
		"no such file":    func(c *Config) { c.Policy = policy + "x" },
		"is no directory": func(c *Config) { c.FsRoot = policy },
		"fs-root: stat":   func(c *Config) { c.FsRoot = policy + "x" },
	} {
		c := DefaultConfig()
		c.Mode, c.Dtab = ModeStandalone, "/svc => /#/io.l5d.fs"
		change(&c)
		if _, err := New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
