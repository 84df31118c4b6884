package namerd

import (
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/l5d"
	"github.com/tulle-mesh/tulle/internal/schema"
)

// Kinds of interfaces.
const (
	overHTTP   = "io.l5d.httpController"
	overThrift = "io.l5d.thriftNameInterpreter"
	overMesh   = "io.l5d.mesh"
)

const oneInterface = "the HTTP API needs one: interfaces: [{kind: " + overHTTP + ", port: 4180}]"

// endpoint is an entry of interfaces.
type endpoint struct {
	path   string
	node   *yaml.Node
	kind   string
	ip     string
	port   int
	tls    l5d.TLS
	access string
}

func readInterfaces(r *document.Reader, path string, n *yaml.Node) func(*draft) {
	var all []endpoint
	before, http := r.Faults(), false
	for i, item := range schema.Items(r, path, n, "interfaces, each with a kind") {
		at := fmt.Sprintf("%s[%d]", path, i)
		kind := schema.Child(item, "kind")
		http = http || kind != nil && kind.Value == overHTTP
		if e, ok := interfaces().Read(r, at, item); ok {
			e.path, e.node = at, item
			all = append(all, e)
		}
	}
	switch {
	case n.Kind != yaml.SequenceNode:
	case len(n.Content) == 0:
		r.Fault(n, "%s: it is empty; %s", path, oneInterface)
	case !http && r.Faults() == before:
		r.Fault(n, "%s: none of them is opened here; %s", path, oneInterface)
	}
	return func(d *draft) { d.interfaces = all }
}

func interfaces() schema.Kinds[endpoint] {
	const asked = "is not spoken: proxies of Tulle ask over HTTP, and those of Linkerd 1.x do with the interpreter io.l5d.namerd.http"
	kind := func(name string, port int, idle string, fields ...schema.Field[endpoint]) schema.Kind[endpoint] {
		return schema.Kind[endpoint]{
			Name: name, Base: endpoint{kind: name, ip: l5d.Loopback, port: port}, Idle: idle, Fields: append(listenFields(idle == "", port), fields...),
		}
	}
	return schema.Kinds[endpoint]{
		Unset:   "required",
		NameOf:  func(e endpoint) string { return e.kind },
		Foreign: map[string]string{"io.l5d.destination": "it is for proxies of Linkerd 2; leave it out"},
		Kinds: []schema.Kind[endpoint]{
			kind(overHTTP, 4180, "", accessField()),
			kind(overThrift, 4100, "Thrift "+asked, cacheField()),
			kind(overMesh, 4321, "namerd's gRPC "+asked),
		},
	}
}

// listenFields are the keys of every interface.
func listenFields(opened bool, port int) []schema.Field[endpoint] {
	return []schema.Field[endpoint]{
		l5d.IP(l5d.Loopback, func(e *endpoint) *string { return &e.ip }),
		schema.Integer("port", 1, 0, 65535, port, func(e *endpoint) *int { return &e.port }),
		l5d.ServerTLS(opened, func(e *endpoint) *l5d.TLS { return &e.tls }),
		socketOptions(opened),
	}
}

func socketOptions(opened bool) schema.Field[endpoint] {
	idle := func(f schema.Field[endpoint], why string, so ...string) schema.Field[endpoint] {
		if !opened {
			return l5d.Quiet(f) // the whole has no effect, as is said
		}
		return schema.IdleUnless(f, why, schema.Is(so...))
	}
	flag := func(key string, unset bool) schema.Field[endpoint] {
		return schema.Flag(key, unset, schema.Nowhere[endpoint, bool])
	}
	millis := func(key string) schema.Field[endpoint] {
		return schema.Millis(key, 0, schema.Nowhere[endpoint, time.Duration])
	}
	return schema.Group("socketOptions",
		idle(flag("noDelay", true), "connections have no delay", "true"),
		idle(flag("reuseAddr", true), "addresses are reused", "true"),
		idle(flag("reusePort", false), "a port is one process's", "false"),
		idle(flag("keepAlive", true), "connections are kept alive", "true"),
		idle(schema.Integer("backlog", 1, 0, 1<<30, 0, schema.Nowhere[endpoint, int]), "it is as large as the kernel allows"),
		idle(millis("writeTimeoutMs"), "what is followed is written for as long as it is"),
		idle(millis("readTimeoutMs"), "a request has ten seconds to come"),
	)
}

func accessField() schema.Field[endpoint] {
	return schema.Text("access", "", func(e *endpoint) *string { return &e.access }, func(s string) (string, error) {
		if s != AccessOpen && s != AccessRBAC {
			return "", fmt.Errorf("%q is neither %s, which lets everyone in, nor %s, which asks for a token of Kubernetes", s, AccessOpen, AccessRBAC)
		}
		return s, nil
	})
}

// cacheField is read as a whole with the kind that it is of.
func cacheField() schema.Field[endpoint] {
	count := func(key string) schema.Field[endpoint] {
		return l5d.Quiet(schema.Integer(key, 1, 0, 1<<31-1, 0, schema.Nowhere[endpoint, int]))
	}
	return schema.Group("cache",
		count("bindingCacheActive"), count("bindingCacheInactive"), count("bindingCacheInactiveTTLSecs"),
		count("addrCacheActive"), count("addrCacheInactive"), count("addrCacheInactiveTTLSecs"))
}

// checkListeners notes what listens at one address, and makes the servers.
func (d *draft) checkListeners(r *document.Reader, root *yaml.Node) {
	var taken l5d.Listeners
	taken.Add(r, root, "admin", d.admin.IP, d.admin.Port)
	for _, e := range d.interfaces {
		taken.Add(r, e.node, e.path, e.ip, e.port)
		if e.kind != overHTTP {
			continue
		}
		if e.tls.RequireClient && e.tls.CA == "" {
			r.Fault(e.node, "%s.tls: requireClientAuth needs caCertPath, the authority of clients' certificates", e.path)
		}
		d.Servers = append(d.Servers, Server{Address: l5d.Address(e.ip, e.port), Access: e.access, Line: e.node.Line, TLS: TLS{
			CertFile: e.tls.Cert, KeyFile: e.tls.Key, IntermediatesFile: e.tls.Intermediates, CAFile: e.tls.CA, RequireClient: e.tls.RequireClient,
		}})
	}
}
