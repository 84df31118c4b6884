package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The tables of all words. They are functions so that nothing can change them.

func serverFields() []field[Server] {
	unset := defaultServer()
	return []field[Server]{
		integer("maxHeadersKB", 1<<10, 1, 1<<10, unset.MaxHeaderBytes, func(s *Server) *int { return &s.MaxHeaderBytes }),
		integer("maxHeaderFields", 1, 1, 10000, unset.MaxHeaderFields, func(s *Server) *int { return &s.MaxHeaderFields }),
		integer("maxInitialLineKB", 1<<10, 1, 1<<10, unset.MaxInitialLineBytes, func(s *Server) *int { return &s.MaxInitialLineBytes }),
		integer("maxConcurrentRequests", 1, 1, 1<<30, 0, func(s *Server) *int { return &s.MaxConcurrentRequests }),
		integer("maxConnections", 1, 1, 1<<30, 0, func(s *Server) *int { return &s.MaxConnections }),
		integer("maxCallDepth", 1, 1, 1000, unset.MaxCallDepth, func(s *Server) *int { return &s.MaxCallDepth }),
		millis("headTimeoutMs", unset.HeadTimeout, func(s *Server) *time.Duration { return &s.HeadTimeout }),
		millis("timeoutMs", unset.Timeout, func(s *Server) *time.Duration { return &s.Timeout }),
		millis("writeTimeoutMs", unset.WriteTimeout, func(s *Server) *time.Duration { return &s.WriteTimeout }),
		flag("clearContext", unset.ClearContext, func(s *Server) *bool { return &s.ClearContext }),
		session("serverSession", unset.Session, func(s *Server) *Session { return &s.Session }),
		object("tunnel", unset.TunnelIdleTime, func(s *Server) *time.Duration { return &s.TunnelIdleTime }, nil,
			millis("idleTimeMs", unset.TunnelIdleTime, func(d *time.Duration) *time.Duration { return d })),
		integer("replayBufferKB", 1<<10, 0, 1<<10, unset.ReplayBufferBytes, func(s *Server) *int { return &s.ReplayBufferBytes }),
		propagator(unset.TracePropagator),
		object("addForwardedHeader", ForwardedHeader{Labeler{Kind: LabelRequestRandom}, Labeler{Kind: LabelRequestRandom}},
			func(s *Server) *ForwardedHeader { return &s.AddForwardedHeader }, nil,
			labeler("by", func(f *ForwardedHeader) *Labeler { return &f.By }),
			labeler("for", func(f *ForwardedHeader) *Labeler { return &f.For }),
		),
		text("timestampHeader", func(s *Server) *string { return &s.TimestampHeader }, headerName),
		text("httpAccessLog", func(s *Server) *string { return &s.HTTPAccessLog }, func(path string) (string, error) {
			if !strings.HasPrefix(path, "/") {
				return "", fmt.Errorf("%q is no absolute path", path)
			}
			return path, nil
		}),
	}
}

func propagator(unset string) field[Server] {
	return kinded("tracePropagator", unset, func(s *Server) *string { return &s.TracePropagator },
		func(s string) string { return s }, nil,
		kind[string]{name: PropagateL5d, base: PropagateL5d}, kind[string]{name: PropagateB3, base: PropagateB3})
}

func labeler(key string, at func(*ForwardedHeader) *Labeler) field[ForwardedHeader] {
	var kinds []kind[Labeler]
	for _, name := range []string{LabelRequestRandom, LabelConnectionRandom, LabelIP, LabelIPPort, LabelRouter} {
		kinds = append(kinds, kind[Labeler]{name: name, base: Labeler{Kind: name}})
	}
	kinds = append(kinds, kind[Labeler]{name: LabelStatic, base: Labeler{Kind: LabelStatic}, required: []string{"label"},
		fields: []field[Labeler]{text("label", func(l *Labeler) *string { return &l.Label }, func(label string) (string, error) {
			// An obfuscated node, without its underscore (RFC 7239, section 6.3).
			if !made(label, "._-") {
				return "", fmt.Errorf("%q is no label: letters, digits, \".\", \"_\" and \"-\"", label)
			}
			return label, nil
		})}})
	return kinded(key, LabelRequestRandom, at, func(l Labeler) string { return l.Kind }, nil, kinds...)
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

func clientFields() []field[Client] {
	unset := defaultClient()
	return []field[Client]{
		loadBalancer(),
		failureAccrual(),
		object("hostConnectionPool", unset.ConnectionPool, func(c *Client) *ConnectionPool { return &c.ConnectionPool },
			func(p *ConnectionPool) error {
				if p.MaxSize > 0 && p.MinSize > p.MaxSize {
					return fmt.Errorf("minSize %d is more than maxSize %d", p.MinSize, p.MaxSize)
				}
				if p.MaxSize == 0 && p.MaxWaiters != Unlimited {
					return errors.New("maxWaiters needs a maxSize: without one nobody waits")
				}
				return nil
			},
			integer("minSize", 1, 0, 1<<20, 0, func(p *ConnectionPool) *int { return &p.MinSize }),
			integer("maxSize", 1, 1, 1<<20, 0, func(p *ConnectionPool) *int { return &p.MaxSize }),
			millis("idleTimeMs", unset.ConnectionPool.IdleTime, func(p *ConnectionPool) *time.Duration { return &p.IdleTime }),
			integer("maxWaiters", 1, 0, 1<<30, Unlimited, func(p *ConnectionPool) *int { return &p.MaxWaiters }),
		),
		session("clientSession", unset.Session, func(c *Client) *Session { return &c.Session }),
		millis("requestAttemptTimeoutMs", unset.AttemptTimeout, func(c *Client) *time.Duration { return &c.AttemptTimeout }),
		millis("connectTimeoutMs", unset.ConnectTimeout, func(c *Client) *time.Duration { return &c.ConnectTimeout }),
		budget("requeueBudget", func(c *Client) *Budget { return &c.RequeueBudget }),
		integer("maxConcurrentRequestsPerEndpoint", 1, 1, 1<<30, 0, func(c *Client) *int { return &c.MaxConcurrentRequests }),
		flag("failFast", unset.FailFast, func(c *Client) *bool { return &c.FailFast }),
	}
}

func serviceFields() []field[Service] {
	unset := defaultService()
	return []field[Service]{
		millis("totalTimeoutMs", unset.TotalTimeout, func(s *Service) *time.Duration { return &s.TotalTimeout }),
		object("retries", unset.Retries, func(s *Service) *Retries { return &s.Retries }, nil,
			budget("budget", func(r *Retries) *Budget { return &r.Budget }),
			backoff("backoff", "constant", func(r *Retries) *Backoff { return &r.Backoff }),
		),
		classifier(unset.ResponseClassifier),
		integer("maxConcurrentRequests", 1, 1, 1<<30, 0, func(s *Service) *int { return &s.MaxConcurrentRequests }),
		flag("enforceDeadlines", unset.EnforceDeadlines, func(s *Service) *bool { return &s.EnforceDeadlines }),
	}
}

func session[P any](key string, unset Session, at func(*P) *Session) field[P] {
	return object(key, unset, at, nil,
		millis("idleTimeMs", unset.IdleTime, func(s *Session) *time.Duration { return &s.IdleTime }),
		millis("lifeTimeMs", unset.LifeTime, func(s *Session) *time.Duration { return &s.LifeTime }),
	)
}

func budget[P any](key string, at func(*P) *Budget) field[P] {
	unset := defaultBudget()
	return object(key, unset, at, nil,
		integer("minRetriesPerSec", 1, 0, 1<<20, unset.MinPerSec, func(b *Budget) *int { return &b.MinPerSec }),
		number("percentCanRetry", 0, 10, unset.PercentCanRetry, func(b *Budget) *float64 { return &b.PercentCanRetry }),
		integer("ttlSecs", time.Second, 1, 60, unset.TTL, func(b *Budget) *time.Duration { return &b.TTL }),
	)
}

func backoff[P any](key, unset string, at func(*P) *Backoff) field[P] {
	lo := func(b *Backoff) *time.Duration { return &b.Min }
	hi := func(b *Backoff) *time.Duration { return &b.Max }
	return kinded(key, unset, at,
		func(b Backoff) string {
			if b.Jittered {
				return "jittered"
			}
			return "constant"
		}, nil,
		kind[Backoff]{name: "constant",
			fields: []field[Backoff]{integer("ms", time.Millisecond, 0, int64(maxTime/time.Millisecond), 0, lo)},
			check:  func(b *Backoff) error { b.Max = b.Min; return nil }},
		kind[Backoff]{name: "jittered", base: Backoff{Jittered: true}, required: []string{"minMs", "maxMs"},
			fields: []field[Backoff]{millis("minMs", 0, lo), millis("maxMs", 0, hi)},
			check: func(b *Backoff) error {
				if b.Min > b.Max {
					return fmt.Errorf("minMs %d is more than maxMs %d", b.Min.Milliseconds(), b.Max.Milliseconds())
				}
				return nil
			}},
	)
}

func loadBalancer() field[Client] {
	const maxEffort = 5
	common := []field[LoadBalancer]{
		integer("maxEffort", 1, 1, 100, maxEffort, func(b *LoadBalancer) *int { return &b.MaxEffort }),
		idle(flag("enableProbation", false, func(*LoadBalancer) *bool { return new(bool) }),
			"endpoints that the namer no longer names get no new requests"),
	}
	window := LoadBalancer{Kind: Aperture, MaxEffort: maxEffort, SmoothWindow: 5 * time.Second, LowLoad: 0.5, HighLoad: 2, MinAperture: 1}
	return kinded("loadBalancer", defaultClient().LoadBalancer.Kind, func(c *Client) *LoadBalancer { return &c.LoadBalancer },
		func(b LoadBalancer) string { return b.Kind }, nil,
		kind[LoadBalancer]{name: P2C, base: LoadBalancer{Kind: P2C, MaxEffort: maxEffort}, fields: common},
		kind[LoadBalancer]{name: EWMA, base: defaultClient().LoadBalancer, fields: append([]field[LoadBalancer]{
			millis("decayTimeMs", defaultClient().LoadBalancer.DecayTime, func(b *LoadBalancer) *time.Duration { return &b.DecayTime }),
		}, common...)},
		kind[LoadBalancer]{name: Aperture, base: window, fields: append([]field[LoadBalancer]{
			millis("smoothWindowMs", window.SmoothWindow, func(b *LoadBalancer) *time.Duration { return &b.SmoothWindow }),
			number("lowLoad", 0, 1e6, window.LowLoad, func(b *LoadBalancer) *float64 { return &b.LowLoad }),
			number("highLoad", 0, 1e6, window.HighLoad, func(b *LoadBalancer) *float64 { return &b.HighLoad }),
			integer("minAperture", 1, 1, 1<<20, window.MinAperture, func(b *LoadBalancer) *int { return &b.MinAperture }),
		}, common...), check: func(b *LoadBalancer) error {
			if b.LowLoad >= b.HighLoad {
				return fmt.Errorf("lowLoad %v is not less than highLoad %v", b.LowLoad, b.HighLoad)
			}
			return nil
		}},
		kind[LoadBalancer]{name: RoundRobin, base: LoadBalancer{Kind: RoundRobin, MaxEffort: maxEffort}, fields: common},
		kind[LoadBalancer]{name: "heap", base: LoadBalancer{Kind: P2C, MaxEffort: maxEffort}, fields: common,
			idle: "p2c is used, which is as even and does not lock"},
	)
}

func failureAccrual() field[Client] {
	unset := defaultClient().FailureAccrual
	backoffs := backoff("backoff", "jittered", func(a *FailureAccrual) *Backoff { return &a.Backoff })
	rate := number("successRate", 0, 1, 0, func(a *FailureAccrual) *float64 { return &a.SuccessRate })
	return kinded("failureAccrual", unset.Kind, func(c *Client) *FailureAccrual { return &c.FailureAccrual },
		func(a FailureAccrual) string { return a.Kind }, nil,
		kind[FailureAccrual]{name: ConsecutiveFailures, base: FailureAccrual{Kind: ConsecutiveFailures, Backoff: unset.Backoff},
			required: []string{"failures"},
			fields: []field[FailureAccrual]{
				integer("failures", 1, 1, 1<<20, 0, func(a *FailureAccrual) *int { return &a.Failures }), backoffs}},
		kind[FailureAccrual]{name: SuccessRate, base: FailureAccrual{Kind: SuccessRate, Backoff: unset.Backoff},
			required: []string{"successRate", "requests"},
			fields: []field[FailureAccrual]{rate,
				integer("requests", 1, 1, 1<<20, 0, func(a *FailureAccrual) *int { return &a.Requests }), backoffs}},
		kind[FailureAccrual]{name: SuccessRateWindowed, base: FailureAccrual{Kind: SuccessRateWindowed, Backoff: unset.Backoff},
			required: []string{"successRate", "window"},
			fields: []field[FailureAccrual]{rate,
				integer("window", time.Second, 1, int64(maxTime/time.Second), 0, func(a *FailureAccrual) *time.Duration { return &a.Window }), backoffs}},
		kind[FailureAccrual]{name: NoAccrual, base: FailureAccrual{Kind: NoAccrual}},
	)
}

func classifier(unset string) field[Service] {
	var kinds []kind[string]
	for _, name := range []string{NonRetryable5XX, RetryableRead5XX, RetryableIdempotent5XX, RetryableAll5XX, AllSuccessful} {
		kinds = append(kinds, kind[string]{name: name, base: name})
	}
	return kinded("responseClassifier", unset, func(s *Service) *string { return &s.ResponseClassifier },
		func(s string) string { return s }, map[string]string{"io.l5d.h2.": "it is for HTTP/2, which this proxy does not speak"}, kinds...)
}
