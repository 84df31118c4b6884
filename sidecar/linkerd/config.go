// Package linkerd reads the configuration of a Linkerd 1.x router, in YAML or
// JSON, as Tulle can serve it. docs/linkerd.md lists every key.
//
// It reads and says what it read: it opens no file and no port, knows no router,
// and leaves what holds for servers, clients and services to package policy,
// with the defaults of Linkerd 1.x. namerd's own configuration is not read here:
// package namerd of the namer does.
//
// Invariant: every word of a file is used, or has a warning that says why it has
// no effect, or is refused; all that is wrong is said at once. What is understood
// and cannot be done yet is Missing, so that who serves a Config refuses rather
// than leaves out, above all encryption.
//
//	c, err := linkerd.Parse("linkerd.yaml", content)
//	for _, r := range c.Routers {
//		if len(r.Missing) == 0 {
//			serve(r.Label, r.Dtab, r.Servers)
//		}
//	}
package linkerd

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/sidecar/policy"
)

// Config is what one file says, with defaults for what it does not say. It is not
// modified after Parse returned it.
type Config struct {
	// File is its name, as Parse was told.
	File string
	// Admin is the address of the administration port, host:port.
	Admin string
	// ShutdownGrace is how long requests may take to end when the proxy stops.
	ShutdownGrace time.Duration
	// Routers are those of the file in its order, one or more, also those that
	// cannot be served.
	Routers []Router
	// Namers are what names under /# lead to; of two that fit the later counts.
	Namers []registry.Namer
	// Warnings are words that have no effect, by line.
	Warnings []document.Warning

	files []document.Mention
}

// Protocols of a router.
const (
	HTTP = "http"
	H2   = "h2"
)

// Router takes requests at its servers and routes them by its names.
type Router struct {
	Label    string // unique in a Config
	Protocol string // HTTP or H2
	// Prefix begins every service name: /svc.
	Prefix naming.Path
	// Dtab are the router's own rules. They come after those that an interpreter
	// has, and before those of a request.
	Dtab naming.Dtab
	// Identifiers make a service name of a request: the first that does counts.
	// There is one at least.
	Identifiers  []Identifier
	Interpreter  Interpreter
	Transformers []registry.Transformer // of the interpreter, in the order in which they apply
	Servers      []Server               // one or more
	// BindingTimeout is how long a request waits for its first binding.
	BindingTimeout time.Duration
	Cache          Cache
	// Missing is why this router cannot be served yet, empty if it can.
	Missing []document.Warning
}

// Cache bounds what a router keeps of names.
type Cache struct {
	Paths   int           // service names, of requests with rules of their own too
	Clients int           // bound names
	IdleTTL time.Duration // after which a name that nobody uses is forgotten
}

// Server is an address at which a router takes requests.
type Server struct {
	Address string // ip:port; port 0 is one that is free
	// Policy is what the router's keys, its client and service, and this server
	// say together.
	Policy *policy.Policy
	// Local is set if only rules count that callers on this machine bring along. Open is
	// set if the file says that those of everyone do, as they do if it says nothing.
	Local, Open bool
	// Missing is why this server cannot be opened yet, empty if it can.
	Missing []document.Warning
}

// Kinds of identifiers.
const (
	HeaderToken   = "io.l5d.header.token"
	Header        = "io.l5d.header"
	PathSegments  = "io.l5d.path"
	MethodAndHost = "io.l5d.methodAndHost"
	Static        = "io.l5d.static"
	Ingress       = "io.l5d.ingress"     // of Missing routers only
	HeaderPath    = "io.l5d.header.path" // H2
)

// Identifier makes the part of a service name that follows Router.Prefix. Fields
// that are not of its Kind are zero.
type Identifier struct {
	Kind     string
	Header   string      // HeaderToken, Header, HeaderPath: its name, in lower case
	Segments int         // PathSegments, HeaderPath: how many; HeaderPath: 0 for all
	Consume  bool        // PathSegments: take them off the request's path
	URIInDst bool        // MethodAndHost: append the request's path
	Path     naming.Path // Static
}

// Kinds of interpreters.
const (
	Default = "default"
	Namerd  = "io.l5d.namerd" // any of namerd's protocols; all are spoken as its HTTP API
	File    = "io.l5d.fs"
	// ConfigMap is a key of a ConfigMap, of which the controller tells.
	ConfigMap = "io.l5d.k8s.configMap"
)

// Interpreter is where a router's rules come from. Fields that are not of its
// Kind are zero.
type Interpreter struct {
	Kind      string
	Address   string // Namerd: host:port of its HTTP API
	Namespace string // Namerd: whose rules; unlike with the others, names bind there. ConfigMap: its namespace
	File      string // File: path of the rules, followed live
	Name, Key string // ConfigMap: where the rules are, followed live
	// RetryMin and RetryMax are how long Namerd waits before it connects again.
	RetryMin, RetryMax time.Duration
	TLS                TLS // Namerd: without a name it is asked in clear text
	// TokenFile has the bearer token to show to Namerd; with TLS and without it there
	// may be one of the proxy's own. Without TLS it is set for a namerd on this machine
	// only, or with TokenInClear.
	TokenFile    string
	TokenInClear bool
}

// TLS is how a namerd is trusted.
type TLS struct {
	CommonName string // that its certificate must be for
	Trust      string // files of authorities in PEM, by line; empty for those of the system
}
