package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming"
)

// The tables of all words. They are functions so that nothing can change them.

func serverFields(unset Server) []schema.Field[Server] {
	return []schema.Field[Server]{
		schema.Integer("maxHeadersKB", 1<<10, 1, 1<<10, unset.MaxHeaderBytes, func(s *Server) *int { return &s.MaxHeaderBytes }),
		schema.Integer("maxHeaderFields", 1, 1, 10000, unset.MaxHeaderFields, func(s *Server) *int { return &s.MaxHeaderFields }),
		schema.Integer("maxInitialLineKB", 1<<10, 1, 1<<10, unset.MaxInitialLineBytes, func(s *Server) *int { return &s.MaxInitialLineBytes }),
		schema.Integer("maxConcurrentRequests", 1, 1, 1<<30, 0, func(s *Server) *int { return &s.MaxConcurrentRequests }),
		schema.Integer("maxConnections", 1, 1, 1<<30, 0, func(s *Server) *int { return &s.MaxConnections }),
		schema.Integer("maxCallDepth", 1, 1, 1000, unset.MaxCallDepth, func(s *Server) *int { return &s.MaxCallDepth }),
		schema.Millis("headTimeoutMs", unset.HeadTimeout, func(s *Server) *time.Duration { return &s.HeadTimeout }),
		schema.Millis("timeoutMs", unset.Timeout, func(s *Server) *time.Duration { return &s.Timeout }),
		schema.Millis("writeTimeoutMs", unset.WriteTimeout, func(s *Server) *time.Duration { return &s.WriteTimeout }),
		schema.Flag("clearContext", unset.ClearContext, func(s *Server) *bool { return &s.ClearContext }),
		session("serverSession", unset.Session, func(s *Server) *Session { return &s.Session }),
		schema.Object("tunnel", unset.TunnelIdleTime, func(s *Server) *time.Duration { return &s.TunnelIdleTime }, nil,
			schema.Millis("idleTimeMs", unset.TunnelIdleTime, func(d *time.Duration) *time.Duration { return d })),
		schema.Integer("replayBufferKB", 1<<10, 0, 1<<10, unset.ReplayBufferBytes, func(s *Server) *int { return &s.ReplayBufferBytes }),
		propagator(unset.TracePropagator),
		schema.Object("addForwardedHeader", ForwardedHeader{Labeler{Kind: LabelRequestRandom}, Labeler{Kind: LabelRequestRandom}},
			func(s *Server) *ForwardedHeader { return &s.AddForwardedHeader }, nil,
			labeler("by", func(f *ForwardedHeader) *Labeler { return &f.By }),
			labeler("for", func(f *ForwardedHeader) *Labeler { return &f.For }),
		),
		schema.Text("timestampHeader", "", func(s *Server) *string { return &s.TimestampHeader }, headerName),
		accessLog(func(path string) (string, error) {
			if !strings.HasPrefix(path, "/") {
				return "", fmt.Errorf("%q is no absolute path", path)
			}
			return path, nil
		}),
	}
}

const accessLogKey = "httpAccessLog"

func accessLog(read func(path string) (string, error)) schema.Field[Server] {
	return schema.Text(accessLogKey, "", func(s *Server) *string { return &s.HTTPAccessLog }, read)
}

func propagator(unset string) schema.Field[Server] {
	return schema.Kinded("tracePropagator", unset, func(s *Server) *string { return &s.TracePropagator },
		func(s string) string { return s }, nil,
		schema.Kind[string]{Name: PropagateL5d, Base: PropagateL5d}, schema.Kind[string]{Name: PropagateB3, Base: PropagateB3})
}

func labeler(key string, at func(*ForwardedHeader) *Labeler) schema.Field[ForwardedHeader] {
	var kinds []schema.Kind[Labeler]
	for _, name := range []string{LabelRequestRandom, LabelConnectionRandom, LabelIP, LabelIPPort, LabelRouter} {
		kinds = append(kinds, schema.Kind[Labeler]{Name: name, Base: Labeler{Kind: name}})
	}
	kinds = append(kinds, schema.Kind[Labeler]{Name: LabelStatic, Base: Labeler{Kind: LabelStatic}, Required: []string{"label"},
		Fields: []schema.Field[Labeler]{schema.Text("label", "", func(l *Labeler) *string { return &l.Label }, func(label string) (string, error) {
			// An obfuscated node, without its underscore (RFC 7239, section 6.3).
			if !made(label, "._-") {
				return "", fmt.Errorf("%q is no label: letters, digits, \".\", \"_\" and \"-\"", label)
			}
			return label, nil
		})}})
	return schema.Kinded(key, LabelRequestRandom, at, func(l Labeler) string { return l.Kind }, nil, kinds...)
}

// headerName checks a name for a header that the proxy adds: none that it acts
// upon itself.
func headerName(name string) (string, error) {
	lower := strings.ToLower(name)
	if !made(name, "!#$%&'*+-.^_`|~") { // RFC 9110, section 5.6.2
		return "", fmt.Errorf("%q is no name of a header", name)
	}
	for _, taken := range []string{"l5d-", "tulle-", "x-b3-", "proxy-"} {
		if strings.HasPrefix(lower, taken) {
			return "", fmt.Errorf("%s: the proxy has its own use for %s…", name, taken)
		}
	}
	switch lower {
	case "host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade",
		"http2-settings", "expect", "via", "max-forwards", "forwarded":
		return "", fmt.Errorf("%s: the proxy has its own use for it", name)
	}
	return lower, nil
}

// made reports whether s is not empty and consists of letters, digits and others.
func made(s, others string) bool {
	for _, c := range s {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', strings.ContainsRune(others, c):
		default:
			return false
		}
	}
	return s != ""
}

func clientFields(unset Client) []schema.Field[Client] {
	return []schema.Field[Client]{
		loadBalancer(unset.LoadBalancer.Kind),
		failureAccrual(unset.FailureAccrual),
		pool(unset.ConnectionPool),
		session("clientSession", unset.Session, func(c *Client) *Session { return &c.Session }),
		schema.Millis("requestAttemptTimeoutMs", unset.AttemptTimeout, func(c *Client) *time.Duration { return &c.AttemptTimeout }),
		schema.Millis("connectTimeoutMs", unset.ConnectTimeout, func(c *Client) *time.Duration { return &c.ConnectTimeout }),
		budget("requeueBudget", func(c *Client) *Budget { return &c.RequeueBudget }),
		schema.Integer("maxConcurrentRequestsPerEndpoint", 1, 1, 1<<30, 0, func(c *Client) *int { return &c.MaxConcurrentRequests }),
		schema.Flag("failFast", unset.FailFast, func(c *Client) *bool { return &c.FailFast }),
	}
}

func pool(unset ConnectionPool) schema.Field[Client] {
	f := schema.Object("hostConnectionPool", unset, func(c *Client) *ConnectionPool { return &c.ConnectionPool },
		func(p *ConnectionPool) error {
			if p.MaxSize > 0 && p.MinSize > p.MaxSize {
				return fmt.Errorf("minSize %d is more than maxSize %d", p.MinSize, p.MaxSize)
			}
			if p.MaxSize == 0 {
				p.MaxWaiters = Unlimited
			}
			return nil
		},
		schema.Integer("minSize", 1, 0, 1<<20, 0, func(p *ConnectionPool) *int { return &p.MinSize }),
		schema.Integer("maxSize", 1, 1, 1<<20, 0, func(p *ConnectionPool) *int { return &p.MaxSize }),
		schema.Millis("idleTimeMs", unset.IdleTime, func(p *ConnectionPool) *time.Duration { return &p.IdleTime }),
		schema.Integer("maxWaiters", 1, 0, 1<<30, Unlimited, func(p *ConnectionPool) *int { return &p.MaxWaiters }),
	)
	read := f.Read
	f.Read = func(r *document.Reader, path string, n *yaml.Node) func(*Client) {
		if waiters := schema.Child(n, "maxWaiters"); waiters != nil && schema.Child(n, "maxSize") == nil {
			r.Warn(waiters, "%s.maxWaiters has no effect: without a maxSize nobody waits", path)
		}
		return read(r, path, n)
	}
	return f
}

// tlsField is the key tls of a client, which only configurations of Linkerd 1.x have.
func tlsField() schema.Field[Client] {
	at := func(c *Client) *TLS { return &c.TLS }
	f := schema.Object("tls", TLS{Enabled: true}, at, checkTLS,
		schema.Flag("enabled", true, func(t *TLS) *bool { return &t.Enabled }),
		schema.Text("commonName", "", func(t *TLS) *string { return &t.CommonName }, nil),
		schema.Flag("disableValidation", false, func(t *TLS) *bool { return &t.DisableValidation }),
		schema.File("trustCertsBundle", func(t *TLS) *string { return &t.Trust }),
		schema.Lines("trustCerts", true, func(t *TLS) *string { return &t.Trust }),
		schema.Required(schema.Object("clientAuth", ClientAuth{}, func(t *TLS) *ClientAuth { return &t.ClientAuth }, nil,
			schema.File("certPath", func(a *ClientAuth) *string { return &a.Cert }),
			schema.File("keyPath", func(a *ClientAuth) *string { return &a.Key }),
			schema.File("intermediateCertsPath", func(a *ClientAuth) *string { return &a.Intermediates }),
		), "certPath", "keyPath"),
		schema.Lines("protocols", false, func(t *TLS) *string { return &t.Protocols }),
	)
	read := f.Read
	f.Read = func(r *document.Reader, path string, n *yaml.Node) func(*Client) {
		if schema.Child(n, "trustCerts") != nil && schema.Child(n, "trustCertsBundle") != nil {
			r.Fault(n, "%s: trustCerts and trustCertsBundle are incompatible: put all certificates into the bundle", path)
		}
		set := read(r, path, n)
		if enabled := schema.Child(n, "enabled"); set != nil && (enabled == nil || enabled.Value != "false") {
			r.Warn(n, "%s: TLS is not spoken to endpoints yet: their requests get 502 (T307), and nothing is sent in clear text", path)
		}
		return set
	}
	show := f.Show
	f.Show = func(c Client) any {
		if !c.TLS.Enabled {
			return nil
		}
		return show(c)
	}
	return f
}

func checkTLS(t *TLS) error {
	if !t.Enabled {
		*t = TLS{}
		return nil
	}
	switch {
	case t.DisableValidation && t.ClientAuth != ClientAuth{}:
		return errors.New("disableValidation: true and clientAuth are incompatible: a certificate would be shown to whoever answers")
	case t.CommonName == "" && !t.DisableValidation:
		return errors.New("commonName is required, the name that the certificate must have, or disableValidation: true")
	}
	return nil
}

// checkCaptures refuses captures of a rule that its prefix does not make.
func checkCaptures(r rule[Client]) error {
	vars := map[string]string{}
	for _, name := range r.prefix.Vars() {
		vars[name] = ""
	}
	name := schema.Apply(Client{}, r.says).TLS.CommonName
	if strings.Contains(naming.Substitute(name, vars), "{") {
		return fmt.Errorf("tls.commonName %q: the prefix %s captures nothing of this name", name, r.prefix)
	}
	return nil
}

func serviceFields(unset Service) []schema.Field[Service] {
	return []schema.Field[Service]{
		schema.Millis("totalTimeoutMs", unset.TotalTimeout, func(s *Service) *time.Duration { return &s.TotalTimeout }),
		schema.Object("retries", unset.Retries, func(s *Service) *Retries { return &s.Retries }, nil,
			budget("budget", func(r *Retries) *Budget { return &r.Budget }),
			backoff("backoff", "constant", func(r *Retries) *Backoff { return &r.Backoff }),
		),
		classifier(unset.ResponseClassifier),
		schema.Integer("maxConcurrentRequests", 1, 1, 1<<30, 0, func(s *Service) *int { return &s.MaxConcurrentRequests }),
		schema.Flag("enforceDeadlines", unset.EnforceDeadlines, func(s *Service) *bool { return &s.EnforceDeadlines }),
	}
}

func session[P any](key string, unset Session, at func(*P) *Session) schema.Field[P] {
	return schema.Object(key, unset, at, nil,
		schema.Millis("idleTimeMs", unset.IdleTime, func(s *Session) *time.Duration { return &s.IdleTime }),
		schema.Millis("lifeTimeMs", unset.LifeTime, func(s *Session) *time.Duration { return &s.LifeTime }),
	)
}

func budget[P any](key string, at func(*P) *Budget) schema.Field[P] {
	unset := defaultBudget()
	return schema.Object(key, unset, at, nil,
		schema.Integer("minRetriesPerSec", 1, 0, 1<<20, unset.MinPerSec, func(b *Budget) *int { return &b.MinPerSec }),
		schema.Number("percentCanRetry", 0, 10, unset.PercentCanRetry, func(b *Budget) *float64 { return &b.PercentCanRetry }),
		schema.Integer("ttlSecs", time.Second, 1, 60, unset.TTL, func(b *Budget) *time.Duration { return &b.TTL }),
	)
}

func backoff[P any](key, unset string, at func(*P) *Backoff) schema.Field[P] {
	lo := func(b *Backoff) *time.Duration { return &b.Min }
	hi := func(b *Backoff) *time.Duration { return &b.Max }
	return schema.Kinded(key, unset, at,
		func(b Backoff) string {
			if b.Jittered {
				return "jittered"
			}
			return "constant"
		}, nil,
		schema.Kind[Backoff]{Name: "constant",
			Fields: []schema.Field[Backoff]{schema.Integer("ms", time.Millisecond, 0, int64(schema.MaxTime/time.Millisecond), 0, lo)},
			Check:  func(b *Backoff) error { b.Max = b.Min; return nil }},
		schema.Kind[Backoff]{Name: "jittered", Base: Backoff{Jittered: true}, Required: []string{"minMs", "maxMs"},
			Fields: []schema.Field[Backoff]{schema.Millis("minMs", 0, lo), schema.Millis("maxMs", 0, hi)},
			Check: func(b *Backoff) error {
				if b.Min > b.Max {
					return fmt.Errorf("minMs %d is more than maxMs %d", b.Min.Milliseconds(), b.Max.Milliseconds())
				}
				return nil
			}},
	)
}

func loadBalancer(unset string) schema.Field[Client] {
	const maxEffort, decay = 5, 10 * time.Second
	common := []schema.Field[LoadBalancer]{
		schema.Integer("maxEffort", 1, 1, 100, maxEffort, func(b *LoadBalancer) *int { return &b.MaxEffort }),
		schema.IdleUnless(schema.Flag("enableProbation", false, schema.Nowhere[LoadBalancer, bool]),
			"endpoints that the namer no longer names get no new requests", schema.Is("false")),
	}
	window := LoadBalancer{Kind: Aperture, MaxEffort: maxEffort, SmoothWindow: 5 * time.Second, LowLoad: 0.5, HighLoad: 2, MinAperture: 1}
	return schema.Kinded("loadBalancer", unset, func(c *Client) *LoadBalancer { return &c.LoadBalancer },
		func(b LoadBalancer) string { return b.Kind }, nil,
		schema.Kind[LoadBalancer]{Name: P2C, Base: LoadBalancer{Kind: P2C, MaxEffort: maxEffort}, Fields: common},
		schema.Kind[LoadBalancer]{Name: EWMA, Base: LoadBalancer{Kind: EWMA, MaxEffort: maxEffort, DecayTime: decay}, Fields: append([]schema.Field[LoadBalancer]{
			schema.Millis("decayTimeMs", decay, func(b *LoadBalancer) *time.Duration { return &b.DecayTime }),
		}, common...)},
		schema.Kind[LoadBalancer]{Name: Aperture, Base: window, Fields: append([]schema.Field[LoadBalancer]{
			schema.Millis("smoothWindowMs", window.SmoothWindow, func(b *LoadBalancer) *time.Duration { return &b.SmoothWindow }),
			schema.Number("lowLoad", 0, 1e6, window.LowLoad, func(b *LoadBalancer) *float64 { return &b.LowLoad }),
			schema.Number("highLoad", 0, 1e6, window.HighLoad, func(b *LoadBalancer) *float64 { return &b.HighLoad }),
			schema.Integer("minAperture", 1, 1, 1<<20, window.MinAperture, func(b *LoadBalancer) *int { return &b.MinAperture }),
		}, common...), Check: func(b *LoadBalancer) error {
			if b.LowLoad >= b.HighLoad {
				return fmt.Errorf("lowLoad %v is not less than highLoad %v", b.LowLoad, b.HighLoad)
			}
			return nil
		}},
		schema.Kind[LoadBalancer]{Name: RoundRobin, Base: LoadBalancer{Kind: RoundRobin, MaxEffort: maxEffort}, Fields: common},
		schema.Kind[LoadBalancer]{Name: "heap", Base: LoadBalancer{Kind: P2C, MaxEffort: maxEffort}, Fields: common,
			Idle: "p2c is used, which is as even and does not lock"},
	)
}

func failureAccrual(unset FailureAccrual) schema.Field[Client] {
	backoffs := backoff("backoff", "jittered", func(a *FailureAccrual) *Backoff { return &a.Backoff })
	rate := schema.Number("successRate", 0, 1, 0, func(a *FailureAccrual) *float64 { return &a.SuccessRate })
	return schema.Kinded("failureAccrual", unset.Kind, func(c *Client) *FailureAccrual { return &c.FailureAccrual },
		func(a FailureAccrual) string { return a.Kind }, nil,
		schema.Kind[FailureAccrual]{Name: ConsecutiveFailures, Base: FailureAccrual{Kind: ConsecutiveFailures, Backoff: unset.Backoff},
			Required: []string{"failures"},
			Fields: []schema.Field[FailureAccrual]{
				schema.Integer("failures", 1, 1, 1<<20, 0, func(a *FailureAccrual) *int { return &a.Failures }), backoffs}},
		schema.Kind[FailureAccrual]{Name: SuccessRate, Base: FailureAccrual{Kind: SuccessRate, Backoff: unset.Backoff},
			Required: []string{"successRate", "requests"},
			Fields: []schema.Field[FailureAccrual]{rate,
				schema.Integer("requests", 1, 1, 1<<20, 0, func(a *FailureAccrual) *int { return &a.Requests }), backoffs}},
		schema.Kind[FailureAccrual]{Name: SuccessRateWindowed, Base: FailureAccrual{Kind: SuccessRateWindowed, Backoff: unset.Backoff},
			Required: []string{"successRate", "window"},
			Fields: []schema.Field[FailureAccrual]{rate,
				schema.Integer("window", time.Second, 1, int64(schema.MaxTime/time.Second), 0, func(a *FailureAccrual) *time.Duration { return &a.Window }), backoffs}},
		schema.Kind[FailureAccrual]{Name: NoAccrual, Base: FailureAccrual{Kind: NoAccrual}},
	)
}

func classifier(unset string) schema.Field[Service] {
	var kinds []schema.Kind[string]
	for _, name := range []string{NonRetryable5XX, RetryableRead5XX, RetryableIdempotent5XX, RetryableAll5XX, AllSuccessful} {
		kinds = append(kinds, schema.Kind[string]{Name: name, Base: name})
	}
	return schema.Kinded("responseClassifier", unset, func(s *Service) *string { return &s.ResponseClassifier },
		func(s string) string { return s }, map[string]string{"io.l5d.h2.": "it is for HTTP/2, which this proxy does not speak"}, kinds...)
}
