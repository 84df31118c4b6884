package sidecar

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Two names of one router, and one name of two routers, lead to one address: the limits
// of one are not the others'.
func TestPoolsOfNamesThatMeet(t *testing.T) {
	open := make(chan struct{})
	inside := make(chan struct{}, 10)
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inside <- struct{}{}; <-open }))
	t.Cleanup(s.Close)
	address := s.Listener.Addr().String()
	host, port := hostPort(t, address)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "five"), []byte(host+" "+port), 0o600); err != nil {
		t.Fatal(err)
	}
	addresses, ports := freePorts(t, 3)
	cfg := DefaultConfig()
	cfg.Config = write(t, "linkerd.yaml", `
admin: {ip: 127.0.0.1, port: `+ports[2]+`}
namers:
- {kind: io.l5d.fs, rootDir: `+root+`}
routers:
- protocol: http
  label: a
  dtab: /svc/free => /#/io.l5d.fs/five ; /svc/tight => /$/inet/`+host+`/`+port+` ;
  client:
    kind: io.l5d.static
    configs:
    - prefix: /$/inet
      hostConnectionPool: {maxSize: 1, maxWaiters: 0}
  servers: [{ip: 127.0.0.1, port: `+ports[0]+`}]
- protocol: http
  label: b
  dtab: /svc => /$/inet/`+host+`/`+port+` ;
  servers: [{ip: 127.0.0.1, port: `+ports[1]+`}]
`)
	serve(t, cfg, addresses[2], slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	send := func(address, host string) {
		wg.Go(func() {
			if status, body := ask(t, address+"/", host); status != 200 {
				t.Errorf("%s of %s: %d %q", host, address, status, body)
				inside <- struct{}{}
			}
		})
		<-inside
	}
	send(addresses[0], "free")
	send(addresses[1], "any")
	send(addresses[0], "tight") // whose limits are the last that were set
	for range 2 {
		send(addresses[0], "free")
		send(addresses[1], "any")
	}
	if status, _ := ask(t, addresses[0]+"/", "tight"); status != 503 {
		t.Errorf("tight, beyond its limit: %d", status)
	}
	close(open)
	wg.Wait()
}
