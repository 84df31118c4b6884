// Package namerd reads the configuration of a Linkerd 1.x namerd, in YAML or JSON, as Tulle
// can serve it. docs/namerd.md lists every key.
//
// It reads and says what it read: it opens no file and no port, and knows neither stores nor
// Kubernetes. What of it listens and what a namer answers is for who serves a Config.
//
// Invariant: every word of a file is used, or has a warning that says why it has no effect,
// or is refused; all that is wrong is said at once.
//
//	c, err := namerd.Parse("namerd.yaml", content)
//	for _, s := range c.Servers {
//		serve(s.Address, s.TLS, c.Storage)
//	}
package namerd

import (
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// Kinds of storage.
const (
	InMemory   = "io.l5d.inMemory"
	Kubernetes = "io.l5d.k8s"
	Files      = "io.l5d.fs" // of Tulle
)

// Config is what one file says, with defaults for what it does not say. It is not modified
// after Parse returned it.
type Config struct {
	// File is its name, as Parse was told.
	File string
	// Admin is the address of the administration port, host:port; port 0 is one that is free.
	Admin string
	// AdminLine is that of its ip in the file, 0 if there is none.
	AdminLine int
	// Grace is how long requests may take to end when the process stops.
	Grace   time.Duration
	Storage Storage
	// Namers are what names under /# lead to, none unless the file has some. Their prefixes
	// are not empty and do not overlap.
	Namers []registry.Namer
	// Servers are where the HTTP API is, one or more, by line.
	Servers []Server
	// Kubernetes is host:port of the API of Kubernetes, as kubectl proxy has it in clear
	// text; empty if nothing asks there: neither storage nor namers nor AccessRBAC.
	Kubernetes string
	// Warnings are words that have no effect, by line.
	Warnings []document.Warning

	root  *yaml.Node
	files []document.Mention
}

// Storage is where dtabs are kept. Fields that are not of its Kind are zero.
type Storage struct {
	Kind       string
	Namespaces map[string]naming.Dtab // InMemory: dtabs to begin with
	Namespace  string                 // Kubernetes: of the objects
	Dir        string                 // Files: has a file <name>.dtab for each
}

// Server is an address of the HTTP API.
type Server struct {
	Address string // ip:port; port 0 is one that is free
	TLS     TLS
	// Access is who may do what: AccessOpen, AccessRBAC, or empty if the file does not say.
	Access string
	Line   int // of its interface in the file
}

// What Server.Access may be.
const (
	// AccessOpen lets everyone in, as namerd does, and says that it is meant.
	AccessOpen = "open"
	// AccessRBAC asks for a token of Kubernetes, whose user may do what roles let him do to
	// the object.
	AccessRBAC = "rbac"
)

// TLS names files in PEM. Without CertFile the server speaks clear text, and nothing else is
// set.
type TLS struct {
	CertFile, KeyFile string
	IntermediatesFile string
	// CAFile has the authorities of clients' certificates; those that are shown are checked.
	CAFile string
	// RequireClient refuses clients without a certificate; CAFile is set.
	RequireClient bool
}
