// Package policy holds the words in which an operator says how a proxy behaves:
// limits of its server, where it may go, balancing, failure accrual, timeouts, retries. They are
// those of Linkerd 1.x, and docs/policy.md lists them.
//
// It does nothing but read and answer: it knows no balancer and no timer, and
// whoever has one asks for its numbers when a name is bound. A change of the
// file makes a new Policy; [File] follows one, [Live] takes what somebody else
// has read.
//
// Invariant: a Policy that Parse returned is complete, consistent and never
// changes. Every word in a file is used, or said to have no effect, or refused.
//
//	p, err := policy.Parse("policy.yaml", content)
//	c := p.Client("/#/io.l5d.k8s/shop/http/cart")
//	s := p.Service("/svc/cart")
//	fmt.Println(p.Server.HeadTimeout, c.LoadBalancer.Kind, s.TotalTimeout)
package policy

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming"
)

// Policy is what one file says, with defaults for what it does not say. It is
// immutable and safe for concurrent use.
type Policy struct {
	// Source is where it comes from: the file as Parse was told its name.
	Source string
	// Server is how requests are taken.
	Server Server
	// Egress is where requests may go outside; nil: anywhere.
	Egress *Egress
	// Warnings are words of the file that have no effect, in its order.
	Warnings []Warning

	// What holds where no rule says anything.
	client  Client
	service Service

	clients  []rule[Client]
	services []rule[Service]
}

// Warning is a word that was accepted and changes nothing.
type Warning = document.Warning

// Default returns the policy of an empty file.
func Default() *Policy {
	return &Policy{Source: "defaults", Server: defaultServer(), client: defaultClient(), service: defaultService()}
}

// Server is how requests are taken from clients. Zero means no limit where a
// field says so.
type Server struct {
	MaxHeaderBytes        int           // of a head without its first line
	MaxHeaderFields       int           // header lines of a head
	MaxInitialLineBytes   int           // of a request line
	MaxConcurrentRequests int           // in the whole proxy; 0: no limit
	MaxConnections        int           // of clients, at a time; 0: no limit
	MaxCallDepth          int           // entries of Via
	HeadTimeout           time.Duration // for a head, from its first byte
	Timeout               time.Duration // for a whole request; 0: no limit
	WriteTimeout          time.Duration // for a client to take anything of an answer
	ClearContext          bool          // trust no l5d-* header of a client, and show it none
	Session               Session       // of a client's connection
	TunnelIdleTime        time.Duration // without a byte in either direction
	ReplayBufferBytes     int           // of a request's body, kept to be sent again; 0: none

	TracePropagator    string          // which headers carry the ids of a trace
	AddForwardedHeader ForwardedHeader // zero: none is added
	TimestampHeader    string          // that gets the time of arrival, in lower case; empty: none
	HTTPAccessLog      string          // path of a file with a line for each request; empty: none
}

// Propagators, by their names in a file.
const (
	PropagateL5d = "io.l5d.default" // l5d-ctx-trace and l5d-reqid
	PropagateB3  = "io.l5d.zipkin"  // the B3 headers of Zipkin
)

// ForwardedHeader is how the ends of a client's connection are called in the
// header Forwarded.
type ForwardedHeader struct{ By, For Labeler }

// Labelers, by their names in a file.
const (
	LabelRequestRandom    = "requestRandom"
	LabelConnectionRandom = "connectionRandom"
	LabelIP               = "ip"
	LabelIPPort           = "ip:port"
	LabelRouter           = "router"
	LabelStatic           = "static"
)

// Labeler is how one end is called.
type Labeler struct {
	Kind  string
	Label string // LabelStatic: letters, digits, ".", "_" and "-"
}

// Session is how long a connection may last. Zero means no limit.
type Session struct {
	IdleTime time.Duration // without a request
	LifeTime time.Duration // from its first byte; ends after a request
}

// Client is how requests are sent to the endpoints of one bound name. It is
// comparable.
type Client struct {
	LoadBalancer   LoadBalancer
	FailureAccrual FailureAccrual
	ConnectionPool ConnectionPool
	Session        Session // of a connection to an endpoint
	// AttemptTimeout is for one attempt, from its start to the head of its answer's end; 0: no limit.
	AttemptTimeout time.Duration
	ConnectTimeout time.Duration // for a connection and its handshake
	RequeueBudget  Budget        // for what has not reached an application
	// MaxConcurrentRequests is for each endpoint; 0: no limit.
	MaxConcurrentRequests int
	// FailFast passes over an endpoint that could not be connected to until one
	// connection to it succeeds again.
	FailFast bool
	// TLS is to be spoken to the endpoints, by themselves, unless it is zero: the
	// mesh's own encryption is no matter of a policy. Who cannot do so refuses requests.
	TLS TLS
}

// TLS is how endpoints are spoken to that want TLS of their own.
type TLS struct {
	Enabled bool
	// CommonName is the name that a certificate must have, and that is asked for;
	// empty if DisableValidation.
	CommonName        string
	DisableValidation bool // any certificate will do
	// Trust are PEM files of the authorities to believe, one a line; empty: those of the system.
	Trust      string
	ClientAuth ClientAuth
	Protocols  string // those allowed, such as TLSv1.2, one a line; empty: the usual ones
}

// ClientAuth are PEM files by which a client shows who it is, all empty if it does not.
type ClientAuth struct {
	Cert, Key     string
	Intermediates string // may be empty
}

// Balancers, by their names in a file.
const (
	P2C        = "p2c"        // the less loaded of two random endpoints
	EWMA       = "ewma"       // the one of two with the lower latency times load
	Aperture   = "aperture"   // p2c among as few endpoints as carry the load
	RoundRobin = "roundRobin" // one after the other, by weight
)

// LoadBalancer is how an endpoint is chosen. Fields that are not of its Kind are zero.
type LoadBalancer struct {
	Kind         string
	MaxEffort    int           // picks until an unavailable endpoint is used anyway
	DecayTime    time.Duration // EWMA
	SmoothWindow time.Duration // Aperture
	LowLoad      float64       // Aperture: load for each endpoint below which it shrinks
	HighLoad     float64       // Aperture: above which it grows
	MinAperture  int           // Aperture
}

// Kinds of failure accrual, by their names in a file.
const (
	ConsecutiveFailures = "io.l5d.consecutiveFailures"
	SuccessRate         = "io.l5d.successRate"
	SuccessRateWindowed = "io.l5d.successRateWindowed"
	NoAccrual           = "none"
)

// FailureAccrual is when an endpoint is passed over, and for how long. Fields
// that are not of its Kind are zero.
type FailureAccrual struct {
	Kind        string
	Failures    int           // ConsecutiveFailures: in a row
	SuccessRate float64       // SuccessRate, SuccessRateWindowed: 0 to 1
	Requests    int           // SuccessRate: over which it is taken
	Window      time.Duration // SuccessRateWindowed
	Backoff     Backoff       // zero for NoAccrual
}

// Backoff is a series of waits: always Min, or random ones that grow from Min
// to Max.
type Backoff struct {
	Jittered bool
	Min, Max time.Duration // equal if it is not jittered
}

// ConnectionPool is about the connections to one endpoint.
type ConnectionPool struct {
	MinSize    int           // idle ones that are kept whatever their age
	MaxSize    int           // 0: no limit
	IdleTime   time.Duration // after which an idle one is closed; 0: never
	MaxWaiters int           // requests that may wait for one of MaxSize; Unlimited: all
}

// Unlimited is a MaxWaiters without a limit, as zero means that nobody may wait.
const Unlimited = -1

// Budget bounds what is sent again: a reserve, and a share of what is sent.
type Budget struct {
	MinPerSec       int
	PercentCanRetry float64 // a share: 0.2 is one retry for five requests
	TTL             time.Duration
}

// Response classifiers, by their names in a file.
const (
	NonRetryable5XX        = "io.l5d.http.nonRetryable5XX"
	RetryableRead5XX       = "io.l5d.http.retryableRead5XX"
	RetryableIdempotent5XX = "io.l5d.http.retryableIdempotent5XX"
	RetryableAll5XX        = "io.l5d.http.retryableAll5XX"
	AllSuccessful          = "io.l5d.http.allSuccessful"
)

// Service is what holds for one service name, whatever it is bound to. It is
// comparable.
type Service struct {
	TotalTimeout          time.Duration // with all retries; 0: no limit
	Retries               Retries
	ResponseClassifier    string
	MaxConcurrentRequests int  // 0: no limit
	EnforceDeadlines      bool // answer requests whose deadline has passed without a backend
}

// Retries is about requests that failed and that a classifier allows to be sent
// again.
type Retries struct {
	Budget  Budget
	Backoff Backoff // before each
}

func defaultServer() Server {
	return Server{
		MaxHeaderBytes: 64 << 10, MaxHeaderFields: 200, MaxInitialLineBytes: 8 << 10, MaxCallDepth: 100,
		HeadTimeout: 10 * time.Second, WriteTimeout: time.Minute, Session: Session{IdleTime: 2 * time.Minute},
		TunnelIdleTime: time.Hour, ReplayBufferBytes: 16 << 10, TracePropagator: PropagateL5d,
	}
}

func defaultBudget() Budget {
	return Budget{MinPerSec: 10, PercentCanRetry: 0.2, TTL: 10 * time.Second}
}

// The idle time of a connection is less than the 60 s and 75 s after which common
// servers close theirs.
func defaultClient() Client {
	return Client{
		LoadBalancer: LoadBalancer{Kind: EWMA, MaxEffort: 5, DecayTime: 10 * time.Second},
		FailureAccrual: FailureAccrual{Kind: ConsecutiveFailures, Failures: 5,
			Backoff: Backoff{Jittered: true, Min: 5 * time.Second, Max: 5 * time.Minute}},
		ConnectionPool: ConnectionPool{MaxWaiters: Unlimited, IdleTime: 50 * time.Second},
		ConnectTimeout: 3 * time.Second, RequeueBudget: defaultBudget(),
	}
}

func defaultService() Service {
	return Service{Retries: Retries{Budget: defaultBudget()}, ResponseClassifier: NonRetryable5XX, EnforceDeadlines: true}
}

// rule is what a file says for the names that a pattern matches.
type rule[T any] struct {
	prefix naming.Pattern
	says   []schema.Setting[T]
}

// Client returns what holds for the bound name id, such as
// /#/io.l5d.k8s/shop/http/cart. It is for when a name is bound, not for each request.
func (p *Policy) Client(id string) Client {
	c := p.client
	for _, r := range p.clients {
		if vars, ok := r.prefix.Capture(id); ok {
			c = schema.Apply(c, r.says)
			c.TLS.CommonName = naming.Substitute(c.TLS.CommonName, vars)
		}
	}
	return c
}

// Service returns what holds for a service name such as /svc/cart, likewise.
func (p *Policy) Service(name string) Service {
	s := p.service
	for _, r := range p.services {
		if r.prefix.Match(name) {
			s = schema.Apply(s, r.says)
		}
	}
	return s
}
