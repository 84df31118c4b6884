package linkerd

import (
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/l5d"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/sidecar/policy"
)

// entry is an entry of servers, as it stands in the file.
type entry struct {
	path string
	node *yaml.Node
	says []schema.Setting[server]
}

// server is a Server while it is being read.
type server struct {
	path    string
	node    *yaml.Node
	ip      string
	port    int
	policy  policy.Policy
	local   bool
	open    bool
	missing []document.Warning
}

func (s *server) address() string { return l5d.Address(s.ip, s.port) }

// server returns the server of a router that e describes: it has what the router
// says, and then what it says itself.
func (e entry) server(d router) *server {
	s := schema.Apply(server{path: e.path, node: e.node, ip: loopback, port: defaultPort(d.Protocol), policy: d.policy}, e.says)
	return &s
}

func readServers(protocol string) func(*document.Reader, string, *yaml.Node) func(*router) {
	return func(r *document.Reader, path string, n *yaml.Node) func(*router) {
		var entries []entry
		for i, item := range schema.Items(r, path, n, "servers") {
			e := entry{path: fmt.Sprintf("%s[%d]", path, i), node: item}
			e.says, _ = schema.Read(r, e.path, item, serverFields(protocol), otherProtocol(protocol, serverFields))
			entries = append(entries, e)
		}
		return func(d *router) { d.entries = entries }
	}
}

func serverFields(protocol string) []schema.Field[server] {
	fields := []schema.Field[server]{
		schema.Integer("port", 1, 0, 65535, defaultPort(protocol), func(s *server) *int { return &s.port }),
		l5d.IP(loopback, func(s *server) *string { return &s.ip }),
		schema.Idle(schema.Text("label", "", schema.Nowhere[server, string], nil), "servers are told by their address, and routers by their label"),
		serverTLS(),
		overrides(),
		schema.Refused[server]("announce", "this proxy announces its servers to nobody"),
	}
	for _, f := range ofBoth(protocol, policy.LinkerdServer) {
		fields = append(fields, schema.Lift(f, func(s *server) *policy.Policy { return &s.policy }))
	}
	return fields
}

// Whose rules count at a server.
const (
	everyone = "everyone"
	local    = "local"
)

// overrides is a key of Tulle: docs/design/linkerd-overrides.md has why, and why it is
// not local without it.
func overrides() schema.Field[server] {
	f := schema.Text("overrides", everyone, schema.Nowhere[server, string], func(s string) (string, error) {
		if s != everyone && s != local {
			return "", fmt.Errorf("%q is neither %s nor %s", s, everyone, local)
		}
		return s, nil
	})
	return schema.Field[server]{
		Key: f.Key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*server) {
			if f.Read(r, path, n) == nil {
				return nil
			}
			return func(s *server) { s.local, s.open = n.Value == local, n.Value == everyone }
		},
		Leaves: f.Leaves,
	}
}

// serverTLS is read whole, and keeps the server from being opened.
func serverTLS() schema.Field[server] {
	f := schema.Deferred(l5d.ServerTLS(true, schema.Nowhere[server, l5d.TLS]))
	return schema.Field[server]{
		Key: f.Key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*server) {
			f.Read(r, path, n)
			why := missing(r, n, "%s: TLS is not spoken by servers yet", path)
			return func(s *server) { s.missing = append(s.missing, why) }
		},
		Leaves: f.Leaves,
	}
}
