package linkerd

import (
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/l5d"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/policy"
)

// router is a Router while it is being read.
type router struct {
	Router
	policy  policy.Policy // what its servers have in common
	entries []entry
	servers []*server
	// interpreterAt says what is wrong with the interpreter; nil without one.
	interpreterAt func(format string, args ...any)
}

func missing(r *document.Reader, n *yaml.Node, format string, args ...any) document.Warning {
	return document.Warning{File: r.File, Line: n.Line, Text: fmt.Sprintf(format, args...)}
}

func readRouters(r *document.Reader, path string, n *yaml.Node) func(*draft) {
	if n.Kind != yaml.SequenceNode {
		r.Fault(n, "%s: it must be a list of routers", path)
		return nil
	}
	if len(n.Content) == 0 {
		r.Fault(n, "%s", noRouter)
	}
	var all []*router
	labels := map[string]bool{}
	for i, item := range n.Content {
		router := readRouter(r, fmt.Sprintf("%s[%d]", path, i), document.Resolve(item))
		if labels[router.Label] && router.Label != "" {
			r.Fault(item, "%s[%d]: Multiple routers with the label %s; give each a label of its own", path, i, router.Label)
		}
		labels[router.Label] = true
		all = append(all, router)
	}
	return func(d *draft) { d.routers = all }
}

func readRouter(r *document.Reader, path string, n *yaml.Node) *router {
	protocol := readProtocol(r, path, n)
	d := &router{
		Router: Router{
			Label: protocol, Protocol: protocol, Prefix: naming.Path{"svc"},
			Interpreter: Interpreter{Kind: Default}, BindingTimeout: 10 * time.Second, Cache: defaultCache(),
		},
		policy: *policy.Linkerd(),
	}
	d.policy.Source = r.File
	d.Identifiers = []Identifier{{Kind: HeaderToken, Header: tokenHeader(protocol)}}
	sets, _ := schema.Read(r, path, n, routerFields(protocol), otherProtocol(protocol, routerFields))
	*d = schema.Apply(*d, sets)
	if streaming := schema.Child(n, "streamingEnabled"); streaming != nil && streaming.Value == "false" && schema.Child(n, "streamAfterContentLengthKB") != nil {
		r.Fault(streaming, "%s: conflicting streaming options: streamAfterContentLengthKB says what is streamed, and streamingEnabled: false that nothing is", path)
	}
	if n.Kind == yaml.MappingNode && len(d.entries) == 0 {
		if servers := schema.Child(n, "servers"); servers == nil || servers.Kind == yaml.SequenceNode {
			r.Fault(n, "%s: router '%s' has no servers; servers: [{}] is one at %s:%d", path, d.Label, loopback, defaultPort(protocol))
		}
	}
	if protocol == H2 {
		d.Missing = append(d.Missing, missing(r, n, "%s.protocol: h2 is not spoken yet", path))
	}
	for _, e := range d.entries {
		s := e.server(*d)
		d.servers = append(d.servers, s)
		d.Servers = append(d.Servers, Server{Address: s.address(), Policy: &s.policy, Local: s.local, Open: s.open, Missing: s.missing})
	}
	return d
}

// readProtocol returns the protocol of a router, empty if it has none that is
// known, so that all keys are.
func readProtocol(r *document.Reader, path string, n *yaml.Node) string {
	if n.Kind != yaml.MappingNode {
		return ""
	}
	named := schema.Child(n, "protocol")
	if named == nil {
		r.Fault(n, "%s.protocol is not set, allowed: %s, %s", path, HTTP, H2)
		return ""
	}
	thrift := "Thrift is not spoken; such traffic must go past this proxy"
	switch known := []string{HTTP, H2}; {
	case slices.Contains(known, named.Value):
		return named.Value
	default:
		r.Fault(named, "%s.protocol: %s", path, schema.UnknownKind(named.Value, known, map[string]string{"thrift": thrift, "mux": "Mux is not spoken; such traffic must go past this proxy"}))
		return ""
	}
}

func defaultPort(protocol string) int {
	if protocol == H2 {
		return 4142
	}
	return 4140
}

func tokenHeader(protocol string) string {
	if protocol == H2 {
		return ":authority"
	}
	return "host"
}

func defaultCache() Cache {
	return Cache{Paths: 1000, Clients: 1000, IdleTTL: 10 * time.Minute}
}

// ofBoth returns the keys of one protocol, or of both if protocol is neither.
func ofBoth[T any](protocol string, of func(h2 bool) []schema.Field[T]) []schema.Field[T] {
	if protocol != "" {
		return of(protocol == H2)
	}
	all := of(false)
	for _, f := range of(true) {
		if !slices.ContainsFunc(all, func(a schema.Field[T]) bool { return a.Key == f.Key }) {
			all = append(all, f)
		}
	}
	return all
}

// otherProtocol says of the keys that only the other protocol has that they are its.
func otherProtocol[T any](protocol string, fields func(protocol string) []schema.Field[T]) map[string]string {
	other := map[string]string{HTTP: H2, H2: HTTP}[protocol]
	elsewhere := map[string]string{}
	if other != "" {
		for _, f := range fields(other) {
			elsewhere[f.Key] = "it is for protocol " + other
		}
	}
	return elsewhere
}

func routerFields(protocol string) []schema.Field[router] {
	const withPaths = "what a name is bound to is kept with the name, as many as paths says"
	size := func(key string, at func(*Cache) *int) schema.Field[Cache] {
		return schema.Integer(key, 1, 1, 1<<20, 1000, at)
	}
	fields := []schema.Field[router]{
		{Key: "protocol", Read: func(*document.Reader, string, *yaml.Node) func(*router) { return nil },
			Leaves: func(path string) []schema.Leaf { return []schema.Leaf{{Path: path, Default: "required"}} }},
		schema.Text("label", protocol, func(d *router) *string { return &d.Label }, func(s string) (string, error) {
			if s == "" {
				return "", fmt.Errorf("it is empty; leave it out for %q", protocol)
			}
			return s, nil
		}),
		{Key: "servers", Read: readServers(protocol), Leaves: func(path string) []schema.Leaf {
			return schema.Leaves(path+"[]", serverFields(""))
		}},
		schema.Scalar("dtab", naming.Dtab(nil), func(d *router) *naming.Dtab { return &d.Dtab }, nil, func(naming.Dtab) any { return nil }),
		pathField("dstPrefix", naming.Path{"svc"}, func(d *router) *naming.Path { return &d.Prefix }),
		{Key: "identifier", Read: readIdentifiers(protocol), Leaves: identifierLeaves},
		{Key: "interpreter", Read: readInterpreter, Leaves: interpreterLeaves},
		schema.Millis("bindingTimeoutMs", 10*time.Second, func(d *router) *time.Duration { return &d.BindingTimeout }),
		schema.Object("bindingCache", defaultCache(), func(d *router) *Cache { return &d.Cache }, nil,
			size("paths", func(c *Cache) *int { return &c.Paths }), size("clients", func(c *Cache) *int { return &c.Clients }),
			schema.IdleUnless(size("trees", schema.Nowhere[Cache, int]), withPaths, schema.Is("1000")),
			schema.IdleUnless(size("bounds", schema.Nowhere[Cache, int]), withPaths, schema.Is("1000")),
			schema.Integer("idleTtlSecs", time.Second, 1, int64(schema.MaxTime/time.Second), defaultCache().IdleTTL, func(c *Cache) *time.Duration { return &c.IdleTTL })),
		schema.IdleUnless(schema.Flag("originator", false, schema.Nowhere[router, bool]), "there is no metric for it", schema.Is("false")),
		schema.Refused[router]("announcers", "this proxy announces its servers to nobody"),
		l5d.Quiet(schema.Flag("experimental", false, schema.Nowhere[router, bool])),
	}
	for i := range fields {
		if fields[i].Key == "dtab" {
			fields[i].Read = readDtab
		}
	}
	for _, f := range ofBoth(protocol, policy.LinkerdRouter) {
		fields = append(fields, schema.Lift(f, func(d *router) *policy.Policy { return &d.policy }))
	}
	return fields
}

func readDtab(r *document.Reader, path string, n *yaml.Node) func(*router) {
	text := schema.Text("", "", func(s *string) *string { return s }, nil)
	if text.Read(r, path, n) == nil {
		return nil
	}
	dtab, ok := l5d.Dtab(r, path, n)
	if !ok {
		return nil
	}
	return func(d *router) { d.Dtab = dtab }
}

func pathField[T any](key string, unset naming.Path, at func(*T) *naming.Path) schema.Field[T] {
	return schema.Scalar(key, unset, at,
		func(n *yaml.Node) (naming.Path, error) { return naming.ParsePath(n.Value) },
		func(p naming.Path) any {
			if p == nil {
				return nil
			}
			return p.String()
		})
}

// routerLeaves lists the keys of routers of both protocols.
func routerLeaves(path string) []schema.Leaf {
	all := schema.Leaves(path, routerFields(HTTP))
	for _, l := range schema.Leaves(path, routerFields(H2)) {
		if !slices.ContainsFunc(all, func(a schema.Leaf) bool { return a.Path == l.Path }) {
			all = append(all, l)
		}
	}
	return all
}
