package sidecar

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
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

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tulle-mesh/tulle/certs"
	"github.com/tulle-mesh/tulle/certs/issuer"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// oneAddress is a namer.Source where every name leads to one address.
type oneAddress string

func (a oneAddress) Replicas(naming.Path) (*watch.Value[naming.Replicas], func()) {
	return watch.New(naming.Of(naming.Endpoint{Address: string(a), Weight: 1})), func() {}
}

func (oneAddress) Pods(string) (*watch.Value[[]api.Pod], func()) {
	return &watch.Value[[]api.Pod]{}, func() {}
}

// control runs identity and a namer that sends the policy until stop is called,
// and returns the configuration of a sidecar of theirs.
func control(t *testing.T, policy *watch.Value[[]byte], backend string, edit ...func(*namer.StreamConfig)) (cfg Config, stop func()) {
	t.Helper()
	ca, err := issuer.NewLocal(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	identity, err := issuer.New(issuer.Config{
		TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), Signer: ca, Roots: ca.Roots, Duration: time.Hour, Logger: quiet,
		Authenticator: issuer.NewStaticTokens(map[string]issuer.Caller{"secret": {Namespace: "shop", ServiceAccount: "web", Pod: "web-0", Node: "n1"}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	store, err := namer.NewMemory(map[string]string{"default": "/svc => /#/io.l5d.k8s/shop/http"})
	if err != nil {
		t.Fatal(err)
	}
	routes := http.NewServeMux()
	routes.Handle("POST "+certs.Path, identity)
	stream := namer.StreamConfig{Store: store, Source: oneAddress(backend), Policy: policy, Logger: quiet}
	for _, f := range edit {
		f(&stream)
	}
	routes.Handle("POST "+api.WatchPath, namer.NewStream(stream))
	server := httptest.NewUnstartedServer(routes)
	serving, cancel := context.WithCancel(context.Background())
	server.Config.BaseContext = func(net.Listener) context.Context { return serving }
	server.EnableHTTP2, server.Config.ErrorLog = true, slog.NewLogLogger(slog.DiscardHandler, 0)
	server.StartTLS()

	cfg = DefaultConfig()
	cfg.Outgoing, cfg.Incoming, cfg.Admin, cfg.Controller = freePort(t), freePort(t), freePort(t), server.URL
	cfg.Namespace, cfg.ServiceAccount, cfg.PodName, cfg.PodIP = "shop", "web", "web-0", "127.0.0.1"
	cfg.TokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(cfg.TokenFile, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.ControllerCA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return cfg, sync.OnceFunc(func() { cancel(); server.Close() })
}

// A policy that the controller sends holds from the next request on, loses no
// connection, and stays when a wrong one comes and when the controller is gone.
func TestPolicyOfTheMesh(t *testing.T) {
	release := make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Host == "slow" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, "hello")
	}))
	defer backend.Close()
	sent := watch.New([]byte("server: {maxCallDepth: 7}"))
	cfg, stopControl := control(t, sent, backend.Listener.Addr().String())
	defer stopControl()
	p := serve(t, cfg, cfg.Admin, slog.New(slog.DiscardHandler))
	source := func() string {
		var shown struct{ Source string }
		_, body := ask(t, cfg.Admin+"/admin/policy", "")
		_ = json.Unmarshal([]byte(body), &shown)
		return shown.Source
	}
	if p.policy.Value().Get().Server.MaxCallDepth != 7 {
		t.Error("the proxy was ready before its policy was in force")
	}
	first := source()
	if !strings.HasPrefix(first, "policy of the mesh, version ") {
		t.Errorf("the source of the policy is %q", first)
	}

	// A load that nobody repeats: a connection that is lost is a failure.
	loading, enough := context.WithCancel(t.Context())
	var answers [2]atomic.Int64
	var load sync.WaitGroup
	for i := range answers {
		load.Go(func() {
			if err := requests(loading, cfg.Outgoing, true, &answers[i]); err != nil || loading.Err() == nil {
				t.Errorf("a connection ended: %v", err)
			}
		})
	}
	under := func(what string, ok func() bool) { // the condition comes true, and the load goes on beyond it
		t.Helper()
		eventually(t, what, ok)
		for i := range answers {
			before := answers[i].Load()
			eventually(t, "more answers", func() bool { return answers[i].Load() > before+10 })
		}
	}

	slow := make(chan string, 1)
	go func() { status, body := ask(t, cfg.Outgoing, "slow"); slow <- fmt.Sprint(status, body) }()
	under("load", func() bool { return true })
	release <- struct{}{}
	if got := <-slow; got != "200hello" {
		t.Errorf("without a timeout: %s", got)
	}
	sent.Set([]byte("service: {kind: io.l5d.static, configs: [{prefix: /svc/slow, totalTimeoutMs: 50}]}"))
	under("a new policy", func() bool { return source() != first })
	second := source()
	if status, body := ask(t, cfg.Outgoing, "slow"); status != http.StatusServiceUnavailable {
		t.Errorf("with a timeout: %d %q", status, body)
	}

	sent.Set([]byte("service:\n  totalTimeoutMs: 70\n  timeTravelMs: -5\n")) // words of a later version
	under("a refusal", func() bool { _, refused := p.policy.Loads(); return refused == 1 })
	stopControl()
	under("no controller", func() bool { return !p.mesh.namer.Connected() })
	if got := source(); got != second {
		t.Errorf("the policy is that of %q, want %q", got, second)
	}
	_, metrics := ask(t, cfg.Admin+"/metrics", "")
	for _, want := range []string{`tulle_policy_reloads_total{result="ok"} 2`, `tulle_policy_reloads_total{result="failed"} 1`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no metric %s", want)
		}
	}
	enough()
	load.Wait()
}

// Whoever gives a proxy a policy of its own means that one.
func TestOwnPolicyWins(t *testing.T) {
	cfg, stop := control(t, watch.New([]byte("server: {maxCallDepth: 7}")), "127.0.0.1:1")
	defer stop()
	cfg.Policy = filepath.Join(t.TempDir(), "own.yaml")
	if err := os.WriteFile(cfg.Policy, []byte("server: {maxCallDepth: 8}"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := serve(t, cfg, cfg.Admin, slog.New(slog.DiscardHandler))
	if got := p.policy.Value().Get(); got.Server.MaxCallDepth != 8 || got.Source != cfg.Policy {
		t.Errorf("depth %d, of %s", got.Server.MaxCallDepth, got.Source)
	}
}
