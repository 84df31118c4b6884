package policy

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func parse(t *testing.T, content string) *Policy {
	t.Helper()
	p, err := Parse("p.yaml", []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaults(t *testing.T) {
	p := parse(t, "")
	if diff := cmp.Diff(Default().Server, p.Server); diff != "" {
		t.Error(diff)
	}
	c, s := p.Client("/#/io.l5d.fs/web"), p.Service("/svc/web")
	if c.LoadBalancer.Kind != EWMA || c.FailureAccrual.Failures != 5 || c.ConnectTimeout != 3*time.Second || c.AttemptTimeout != 0 {
		t.Errorf("%+v", c)
	}
	if s.ResponseClassifier != NonRetryable5XX || s.TotalTimeout != 0 || !s.EnforceDeadlines || s.Retries.Budget != (Budget{10, 0.2, 10 * time.Second}) {
		t.Errorf("%+v", s)
	}
}

func TestEveryWord(t *testing.T) {
	p := parse(t, `
server:
  maxHeadersKB: 8
  maxHeaderFields: 50
  maxInitialLineKB: 4
  maxConcurrentRequests: 1000
  maxConnections: 2000
  maxCallDepth: 10
  headTimeoutMs: 1000
  timeoutMs: 60000
  writeTimeoutMs: 2000
  clearContext: true
  serverSession: {idleTimeMs: 5000, lifeTimeMs: 6000}
  tunnel: {idleTimeMs: 7000}
  replayBufferKB: 0
  tracePropagator: {kind: io.l5d.zipkin}
  addForwardedHeader: {by: {kind: static, label: a-1.b_C}}
  timestampHeader: X-Request-Start
  httpAccessLog: /var/log/a b
client:
  loadBalancer: {kind: aperture, smoothWindowMs: 1, lowLoad: 1, highLoad: 3.5, minAperture: 2, maxEffort: 3}
  failureAccrual: {kind: io.l5d.successRateWindowed, successRate: 0.9, window: 30, backoff: {kind: constant, ms: 250}}
  hostConnectionPool: {minSize: 1, maxSize: 2, idleTimeMs: 3, maxWaiters: 0}
  clientSession: {idleTimeMs: 1, lifeTimeMs: 2}
  requestAttemptTimeoutMs: 300
  connectTimeoutMs: 400
  requeueBudget: {minRetriesPerSec: 0, percentCanRetry: 1, ttlSecs: 60}
  maxConcurrentRequestsPerEndpoint: 7
  failFast: true
service:
  totalTimeoutMs: 900
  retries:
    budget: {minRetriesPerSec: 1, percentCanRetry: 0.5, ttlSecs: 1}
    backoff: {kind: jittered, minMs: 10, maxMs: 20}
  responseClassifier: {kind: io.l5d.http.retryableRead5XX}
  maxConcurrentRequests: 8
  enforceDeadlines: false
`)
	ms := time.Millisecond
	for _, diff := range []string{
		cmp.Diff(Server{
			MaxHeaderBytes: 8 << 10, MaxHeaderFields: 50, MaxInitialLineBytes: 4 << 10, MaxConcurrentRequests: 1000, MaxConnections: 2000,
			MaxCallDepth: 10, HeadTimeout: time.Second, Timeout: time.Minute, WriteTimeout: 2 * time.Second, ClearContext: true,
			Session: Session{5 * time.Second, 6 * time.Second}, TunnelIdleTime: 7 * time.Second,
			TracePropagator: PropagateB3, TimestampHeader: "x-request-start", HTTPAccessLog: "/var/log/a b",
			AddForwardedHeader: ForwardedHeader{Labeler{LabelStatic, "a-1.b_C"}, Labeler{Kind: LabelRequestRandom}},
		}, p.Server),
		cmp.Diff(Client{
			LoadBalancer:   LoadBalancer{Kind: Aperture, MaxEffort: 3, SmoothWindow: ms, LowLoad: 1, HighLoad: 3.5, MinAperture: 2},
			FailureAccrual: FailureAccrual{Kind: SuccessRateWindowed, SuccessRate: 0.9, Window: 30 * time.Second, Backoff: Backoff{Min: 250 * ms, Max: 250 * ms}},
			ConnectionPool: ConnectionPool{MinSize: 1, MaxSize: 2, IdleTime: 3 * ms}, Session: Session{ms, 2 * ms},
			AttemptTimeout: 300 * ms, ConnectTimeout: 400 * ms, RequeueBudget: Budget{0, 1, time.Minute}, MaxConcurrentRequests: 7, FailFast: true,
		}, p.Client("/any")),
		cmp.Diff(Service{
			TotalTimeout: 900 * ms, Retries: Retries{Budget{1, 0.5, time.Second}, Backoff{true, 10 * ms, 20 * ms}},
			ResponseClassifier: RetryableRead5XX, MaxConcurrentRequests: 8,
		}, p.Service("/svc/any")),
	} {
		if diff != "" {
			t.Error(diff)
		}
	}
}

// All entries that match apply, in their order, each key as a whole.
func TestStatic(t *testing.T) {
	p := parse(t, `
client:
  kind: io.l5d.static
  configs:
  - prefix: /
    failureAccrual: {kind: none}
    hostConnectionPool: {maxSize: 5, minSize: 2}
  - prefix: /#/io.l5d.k8s/*/http
    requestAttemptTimeoutMs: 100
    hostConnectionPool: {minSize: 1}
  - prefix: /#/io.l5d.k8s/shop
    requestAttemptTimeoutMs: 200
service:
  kind: io.l5d.static
  configs:
  - {prefix: "/svc/{name}.test", totalTimeoutMs: 1000}
`)
	for id, want := range map[string]time.Duration{
		"/#/io.l5d.fs/web":             0,
		"/#/io.l5d.k8s/eu/http/cart":   100 * time.Millisecond,
		"/#/io.l5d.k8s/shop/http/cart": 200 * time.Millisecond,
		"/#/io.l5d.k8s/shop/80/cart":   200 * time.Millisecond,
	} {
		c := p.Client(id)
		if c.FailureAccrual != (FailureAccrual{Kind: NoAccrual}) || c.AttemptTimeout != want {
			t.Errorf("%s: %+v", id, c)
		}
		pool := ConnectionPool{MinSize: 2, MaxSize: 5, IdleTime: 50 * time.Second, MaxWaiters: Unlimited}
		if strings.Contains(id, "/http/") {
			pool = ConnectionPool{MinSize: 1, IdleTime: 50 * time.Second, MaxWaiters: Unlimited}
		}
		if c.ConnectionPool != pool {
			t.Errorf("%s: %+v, want %+v", id, c.ConnectionPool, pool)
		}
	}
	if got := p.Service("/svc/a.test").TotalTimeout; got != time.Second {
		t.Error(got)
	}
	if got := p.Service("/svc/a.test2").TotalTimeout; got != 0 {
		t.Error(got)
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"no mapping":  {"- a", "p.yaml:1: it must hold keys and values"},
		"no YAML":     {"a: [", "p.yaml: yaml: line 1: did not find expected node content"},
		"two of them": {"server: {}\n---\nserver: {}", "p.yaml:2: a second document begins, there must be one"},
		"unknown, near and far": {"servers: {}\nservice:\n  totalTimeout: 1\n  zzz: 1\nclient: {loadbalancer: {kind: p2c}}", `
p.yaml:1: servers is not a key of a policy; did you mean server?
p.yaml:3: service.totalTimeout is not a key of a policy; did you mean totalTimeoutMs?
p.yaml:4: service.zzz is not a key of a policy
p.yaml:5: client.loadbalancer is not a key of a policy; did you mean loadBalancer?`},
		"twice": {"server:\n  headTimeoutMs: 1\n  headTimeoutMs: 2", "p.yaml:3: server.headTimeoutMs is set twice, first in line 2"},
		"types": {"server:\n  headTimeoutMs: \"1\"\n  timeoutMs: 1.5\n  clearContext: 1\n  maxCallDepth: [1]\n  maxConnections:\n  tunnel: 5\n  serverSession:", `
p.yaml:2: server.headTimeoutMs: "1" is not a whole number
p.yaml:3: server.timeoutMs: 1.5 is not a whole number
p.yaml:4: server.clearContext: 1 is not true or false
p.yaml:5: server.maxCallDepth: it must be a single value
p.yaml:6: server.maxConnections: it has no value; leave it out for the default
p.yaml:7: server.tunnel: it must hold keys and values
p.yaml:8: server.serverSession: it has no value; leave it out for the default`},
		"ranges": {"server: {headTimeoutMs: 0, maxHeadersKB: 4096}\nservice: {retries: {budget: {ttlSecs: 61, percentCanRetry: -1}}}\nclient: {requeueBudget: {percentCanRetry: .nan}}", `
p.yaml:1: server.headTimeoutMs: 0 is out of range: 1 to 2592000000
p.yaml:1: server.maxHeadersKB: 4096 is out of range: 1 to 1024
p.yaml:2: service.retries.budget.ttlSecs: 61 is out of range: 1 to 60
p.yaml:2: service.retries.budget.percentCanRetry: -1 is out of range: 0 to 10
p.yaml:3: client.requeueBudget.percentCanRetry: .nan is out of range: 0 to 10`},
		"kinds": {"client:\n  loadBalancer: {kind: ewna}\n  failureAccrual: {failures: 3}\nservice:\n  responseClassifier: {kind: io.l5d.h2.nonRetryable5XX}\n  retries: {backoff: 5}", `
p.yaml:2: client.loadBalancer.kind: "ewna" is none; did you mean ewma? Allowed: p2c, ewma, aperture, roundRobin, heap
p.yaml:3: client.failureAccrual.kind is not set, allowed: io.l5d.consecutiveFailures, io.l5d.successRate, io.l5d.successRateWindowed, none
p.yaml:5: service.responseClassifier.kind: io.l5d.h2.nonRetryable5XX is not here: it is for HTTP/2, which this proxy does not speak
p.yaml:6: service.retries.backoff: it must hold keys and values`},
		"of other kinds": {"client:\n  failureAccrual: {kind: none, backoff: {kind: constant, ms: 5}, successRate: 0.5}", `
p.yaml:2: client.failureAccrual.backoff is not known here: it is of kind io.l5d.consecutiveFailures, io.l5d.successRate or io.l5d.successRateWindowed, and this is none
p.yaml:2: client.failureAccrual.successRate is not known here: it is of kind io.l5d.successRate or io.l5d.successRateWindowed, and this is none`},
		"of another kind": {"client:\n  loadBalancer: {kind: p2c, decayTimeMs: 5}\n  failureAccrual: {kind: io.l5d.successRate, failures: 3, successRate: 0.5}", `
p.yaml:2: client.loadBalancer.decayTimeMs is not known here: it is of kind ewma, and this is p2c
p.yaml:3: client.failureAccrual.failures is not known here: it is of kind io.l5d.consecutiveFailures, and this is io.l5d.successRate
p.yaml:3: client.failureAccrual.requests is not set, which kind io.l5d.successRate needs`},
		"conflicts": {"client:\n  hostConnectionPool: {minSize: 3, maxSize: 2}\n  loadBalancer: {kind: aperture, lowLoad: 2}\nservice: {retries: {backoff: {kind: jittered, minMs: 2, maxMs: 1}}}", `
p.yaml:2: client.hostConnectionPool: minSize 3 is more than maxSize 2
p.yaml:3: client.loadBalancer: lowLoad 2 is not less than highLoad 2
p.yaml:4: service.retries.backoff: minMs 2 is more than maxMs 1`},
		"other places": {"client: {totalTimeoutMs: 1, tls: {}}\nserver: {port: 1}\nservice: {loadBalancer: {kind: p2c}}", `
p.yaml:1: client.totalTimeoutMs is not known here: it is for service; one attempt has requestAttemptTimeoutMs
p.yaml:1: client.tls is not known here: the mesh encrypts by itself, and TLS to others is not spoken yet
p.yaml:2: server.port is not known here: addresses and identities are settings of the proxy, not of its policy
p.yaml:3: service.loadBalancer is not known here: it is for client`},
		"static": {"client:\n  kind: io.l5d.static\n  failFast: true\nservice:\n  kind: io.l5d.static\n  configs:\n  - totalTimeoutMs: 1\n  - prefix: svc\n  - 5", `
p.yaml:2: client.configs is not set, which kind io.l5d.static needs
p.yaml:3: client.failFast is not known here: with kind io.l5d.static it goes into an entry of configs, with prefix: / for all names
p.yaml:7: service.configs[0].prefix is not set; / is for all names
p.yaml:8: service.configs[1].prefix: "svc" does not begin with /
p.yaml:9: service.configs[2]: it must hold keys and values`},
		"texts": {"server:\n  timestampHeader: L5D-Ctx-Time\n  httpAccessLog: access.log\n  addForwardedHeader: {by: {kind: static}, for: {kind: ip, label: x}}", `
p.yaml:2: server.timestampHeader: L5D-Ctx-Time: the proxy has its own use for l5d-…
p.yaml:3: server.httpAccessLog: "access.log" is no absolute path
p.yaml:4: server.addForwardedHeader.by.label is not set, which kind static needs
p.yaml:4: server.addForwardedHeader.for.label is not known here: it is of kind static, and this is ip`},
		"more texts": {"server:\n  timestampHeader: Host\n  httpAccessLog: 5\n  httpAccessLogAppend: true\n  addForwardedHeader: {by: {kind: static, label: \"a b\"}}\n  tracePropagator: {kind: b3}", `
p.yaml:2: server.timestampHeader: Host: the proxy has its own use for it
p.yaml:3: server.httpAccessLog: 5 is not text but read as a number; quotes make it text
p.yaml:4: server.httpAccessLogAppend is not known here: it is always appended to
p.yaml:5: server.addForwardedHeader.by.label: "a b" is no label: letters, digits, ".", "_" and "-"
p.yaml:6: server.tracePropagator.kind: "b3" is none. Allowed: io.l5d.default, io.l5d.zipkin`},
		"no header": {"server: {timestampHeader: \"a: b\"}", "p.yaml:1: server.timestampHeader: \"a: b\" is no name of a header"},
		"global": {"client: {kind: io.l5d.globl}\nservice: {configs: []}", `
p.yaml:1: client.kind: "io.l5d.globl" is none; did you mean io.l5d.global? Allowed: io.l5d.global, io.l5d.static
p.yaml:2: service.configs is not known here: it needs kind: io.l5d.static`},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Parse("p.yaml", []byte(c.content))
			if err == nil {
				t.Fatalf("taken as %s", p)
			}
			if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	p := parse(t, "client:\n  loadBalancer: {kind: heap, enableProbation: true}\n")
	want := []Warning{
		{File: "p.yaml", Line: 2, Text: "client.loadBalancer.enableProbation has no effect: endpoints that the namer no longer names get no new requests"},
		{File: "p.yaml", Line: 2, Text: "client.loadBalancer.kind heap has no effect: p2c is used, which is as even and does not lock"},
	}
	if diff := cmp.Diff(want, p.Warnings); diff != "" {
		t.Error(diff)
	}
	if got := p.Client("/x").LoadBalancer.Kind; got != P2C {
		t.Error(got)
	}
	// What is so anyway needs no warning.
	if p := parse(t, "client: {loadBalancer: {kind: p2c, enableProbation: false}}"); p.Warnings != nil {
		t.Error(p.Warnings)
	}
}

// What is printed says the same, and printing it again gives the same.
func FuzzParse(f *testing.F) {
	f.Add("server: {maxHeadersKB: 8}\nclient: {kind: io.l5d.static, configs: [{prefix: /, failFast: true}]}\n")
	f.Add("service: {retries: {backoff: {kind: jittered, minMs: 1, maxMs: 2}, budget: {percentCanRetry: 0.25}}, responseClassifier: {kind: io.l5d.http.allSuccessful}}")
	f.Add("client: {loadBalancer: {kind: aperture}, failureAccrual: {kind: none}, hostConnectionPool: {maxSize: 1, maxWaiters: 3}}")
	f.Add("server: {addForwardedHeader: {by: {kind: static, label: \"1\"}, for: {kind: ip}}, timestampHeader: t, httpAccessLog: /a, tracePropagator: {kind: io.l5d.zipkin}}")
	f.Add("a: &a [*a]\nserver: &x {tunnel: *x}\n? {}\n: 1\n")
	f.Fuzz(func(t *testing.T, content string) {
		p, err := Parse("f", []byte(content))
		if err != nil {
			return
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := Parse("printed", text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, name := range []string{"/", "/svc/web", "/#/io.l5d.fs/web"} {
			if p.Client(name) != q.Client(name) || p.Service(name) != q.Service(name) {
				t.Errorf("%s means something else:\n%s", name, text)
			}
		}
		if again, _ := json.Marshal(q); p.Server != q.Server || string(again) != string(text) {
			t.Errorf("printed %s, and then %s", text, again)
		}
	})
}
