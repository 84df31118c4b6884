package linkerd_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/sidecar/linkerd"
	"github.com/tulle-mesh/tulle/sidecar/policy"
)

func policyOf(t *testing.T, text string) *policy.Policy {
	t.Helper()
	c, err := linkerd.Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c.Routers[0].Servers[0].Policy
}

// Where the defaults are not those of a policy, docs/linkerd.md says so.
func TestDefaultPolicy(t *testing.T) {
	p, ours := policyOf(t, router("label: a")), policy.Default()
	server, client, service := ours.Server, ours.Client("/x"), ours.Service("/x")
	server.MaxHeaderBytes, server.MaxInitialLineBytes, server.ReplayBufferBytes = 8<<10, 4<<10, 5<<10
	client.LoadBalancer = policy.LoadBalancer{Kind: policy.P2C, MaxEffort: 5}
	service.EnforceDeadlines = false
	for _, diff := range []string{cmp.Diff(server, p.Server), cmp.Diff(client, p.Client("/x")), cmp.Diff(service, p.Service("/x"))} {
		if diff != "" {
			t.Error(diff)
		}
	}
}

// Where requests may go outside a router says for all its servers, in the words of a policy.
func TestEgressOfARouter(t *testing.T) {
	c, err := linkerd.Parse("f", []byte(`
routers:
- protocol: http
  label: a
  servers: [{port: 1}, {port: 2}]
  egress: {allow: [api.example.com, 10.0.0.0/8]}
- protocol: http
  label: b
  servers: [{port: 3}]
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Routers[0].Servers {
		if e := s.Policy.Egress; e == nil || !e.Host("api.example.com", 443) || e.Host("example.com", 443) || !e.Addresses() {
			t.Errorf("%s: %+v", s.Address, e)
		}
	}
	if e := c.Routers[1].Servers[0].Policy.Egress; e != nil {
		t.Errorf("the other router has %+v", e)
	}
	_, err = linkerd.Parse("f", []byte("routers:\n- protocol: http\n  servers: [{}]\n  egress:\n    allow:\n    - a.test:http\n"))
	if err == nil || !strings.HasPrefix(err.Error(), "f:6: routers[0].egress.allow[0]: ") {
		t.Error(err)
	}
}

// A file that is not named from the root is where the proxy runs.
func TestRelativeAccessLog(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for said, want := range map[string]string{
		"access.log": here + "/access.log", "../logs/a": filepath.Dir(here) + "/logs/a", "/var/log/a": "/var/log/a",
	} {
		if got := policyOf(t, router("httpAccessLog: "+said)).Server.HTTPAccessLog; got != want {
			t.Errorf("%s: %s, want %s", said, got, want)
		}
	}
	_, err = linkerd.Parse("f", []byte(router("httpAccessLog: ''")))
	if err == nil || !strings.HasSuffix(err.Error(), "httpAccessLog: it is empty, and must be the path of a file") {
		t.Error(err)
	}
}

// A router says what holds for all its servers, and a server the rest.
func TestPolicyOfServers(t *testing.T) {
	c, err := linkerd.Parse("f", []byte(`
routers:
- protocol: http
  servers:
  - {port: 1, maxConcurrentRequests: 7, clearContext: true, replayBufferKB: 9, socketOptions: {writeTimeoutMs: 300}}
  - {port: 2}
  maxHeadersKB: 16
  maxInitialLineKB: 2
  streamAfterContentLengthKB: 20000
  httpAccessLog: /var/log/a
  tracePropagator: {kind: io.l5d.zipkin}
  service: {totalTimeoutMs: 900}
`))
	if err != nil {
		t.Fatal(err)
	}
	first, second := c.Routers[0].Servers[0].Policy, c.Routers[0].Servers[1].Policy
	for _, p := range []*policy.Policy{first, second} {
		s := p.Server
		if s.MaxHeaderBytes != 16<<10 || s.MaxInitialLineBytes != 2<<10 || s.HTTPAccessLog != "/var/log/a" || s.TracePropagator != policy.PropagateB3 {
			t.Errorf("%+v", s)
		}
		if p.Service("/svc/a").TotalTimeout != 900*time.Millisecond {
			t.Errorf("%+v", p.Service("/svc/a"))
		}
	}
	if s := first.Server; s.MaxConcurrentRequests != 7 || !s.ClearContext || s.ReplayBufferBytes != 9<<10 || s.WriteTimeout != 300*time.Millisecond {
		t.Errorf("%+v", s)
	}
	if s := second.Server; s.MaxConcurrentRequests != 0 || s.ClearContext || s.ReplayBufferBytes != 1<<20 || s.WriteTimeout != time.Minute {
		t.Errorf("%+v", s)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].Text, "1024 KB of a body are kept at most") {
		t.Error(c.Warnings)
	}
}

// Entries that match apply in order, and what one does not say it leaves; a block
// of TLS is taken as a whole.
func TestClientTLS(t *testing.T) {
	p := policyOf(t, router(`client:
  kind: io.l5d.static
  configs:
  - prefix: /
    failureAccrual: {kind: none}
  - prefix: /$/io.buoyant.rinet/443/{host}
    tls: {commonName: "{host}", trustCerts: [/a.pem, /b.pem], protocols: [TLSv1.2], clientAuth: {certPath: /c, keyPath: /k, intermediateCertsPath: /i}}
  - prefix: /$/io.buoyant.rinet/443/legacy.test
    tls: {disableValidation: true}
  - prefix: /$/io.buoyant.rinet/443/plain.test
    tls: {enabled: false}`))
	for name, want := range map[string]policy.TLS{
		"/$/io.buoyant.rinet/443/pay.test": {Enabled: true, CommonName: "pay.test", Trust: "/a.pem\n/b.pem", Protocols: "TLSv1.2",
			ClientAuth: policy.ClientAuth{Cert: "/c", Key: "/k", Intermediates: "/i"}},
		"/$/io.buoyant.rinet/80/pay.test":     {},
		"/$/io.buoyant.rinet/443/legacy.test": {Enabled: true, DisableValidation: true},
		"/$/io.buoyant.rinet/443/plain.test":  {},
	} {
		c := p.Client(name)
		if diff := cmp.Diff(want, c.TLS); diff != "" || c.FailureAccrual.Kind != policy.NoAccrual {
			t.Errorf("%s: %+v\n%s", name, c, diff)
		}
	}
	_, err := linkerd.Parse("f", []byte(router(`client: {kind: io.l5d.static, configs: [{prefix: "/a/{b}", tls: {commonName: "{c}"}}]}`)))
	if err == nil || !strings.Contains(err.Error(), `tls.commonName "{c}": the prefix /a/{b} captures nothing of this name`) {
		t.Error(err)
	}
}

// What the administration port shows of a policy is a policy that means the same.
func TestShownPolicy(t *testing.T) {
	p := policyOf(t, router("client: {requestAttemptTimeoutMs: 300, hostConnectionPool: {maxWaiters: 5}}\nservice: {retries: {backoff: {kind: jittered, minMs: 1, maxMs: 2}}}"))
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	q, err := policy.Parse("shown", text)
	if err != nil {
		t.Fatal(err)
	}
	if q.Server != p.Server || q.Client("/x") != p.Client("/x") || q.Service("/x") != p.Service("/x") {
		t.Errorf("%s", text)
	}
}
