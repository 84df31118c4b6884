package policy

import (
	"fmt"
	"maps"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming"
)

// The kinds of the blocks client and service.
const (
	global = "io.l5d.global"
	static = "io.l5d.static"
)

// Parse reads a policy; file is its name, for errors. The error joins all that
// is wrong, one line each, as file:line: key: what is wrong. An empty file is
// the default policy.
func Parse(file string, content []byte) (*Policy, error) {
	r := &document.Reader{File: file, Of: "a policy"}
	p := Default()
	p.Source = file
	if root := r.Root(content); root != nil {
		sets, _ := schema.Read(r, "", root, fields(), nil)
		*p = schema.Apply(*p, sets)
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	p.Warnings = r.Warnings()
	return p, nil
}

// fields are the keys of a policy.
func fields() []schema.Field[Policy] {
	server := schema.Field[Policy]{
		Key: "server",
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*Policy) {
			sets, _ := schema.Read(r, path, n, serverFields(defaultServer()), foreignServer())
			return func(p *Policy) { p.Server = schema.Apply(p.Server, sets) }
		},
		Leaves: func(path string) []schema.Leaf { return schema.Leaves(path, serverFields(defaultServer())) },
	}
	return []schema.Field[Policy]{server, egress(),
		block("client", rules[Client]{clientFields(defaultClient()), foreignClient(), nil}, func(p *Policy) *[]rule[Client] { return &p.clients }),
		block("service", rules[Service]{serviceFields(defaultService()), foreignService(), nil}, func(p *Policy) *[]rule[Service] { return &p.services }),
	}
}

// rules is how a block is read that is either for all names or, with the kind
// io.l5d.static, a list of what holds for which.
type rules[T any] struct {
	fields  []schema.Field[T]
	foreign map[string]string   // keys that are not for us, and why
	check   func(rule[T]) error // nil: whatever can be read is right
}

// block is the field of a block.
func block[T any](key string, rs rules[T], at func(*Policy) *[]rule[T]) schema.Field[Policy] {
	return schema.Field[Policy]{
		Key: key,
		Read: func(r *document.Reader, path string, n *yaml.Node) func(*Policy) {
			read := rs.read(r, path, n)
			return func(p *Policy) { *at(p) = read }
		},
		Leaves: func(path string) []schema.Leaf { return schema.Leaves(path, rs.fields) },
	}
}

func (rs rules[T]) read(r *document.Reader, path string, n *yaml.Node) []rule[T] {
	named := schema.Child(n, "kind")
	if named == nil || named.Value == global {
		elsewhere := map[string]string{
			"configs": "it needs kind: " + static,
			"prefix":  "it is for the entries of configs, with kind: " + static,
		}
		maps.Copy(elsewhere, rs.foreign)
		return []rule[T]{rs.entry(r, path, n, new(naming.Pattern), schema.Marker[T]("kind", nil), elsewhere)}
	}
	if named.Value != static {
		r.Fault(named, "%s.kind: %s", path, schema.UnknownKind(named.Value, []string{global, static}, nil))
		return nil
	}
	var all []rule[T]
	configs := func(r *document.Reader, path string, list *yaml.Node) {
		for i, entry := range schema.Items(r, path, list, "entries with a prefix") {
			all = append(all, rs.static(r, fmt.Sprintf("%s[%d]", path, i), entry))
		}
	}
	inside := map[string]string{}
	for _, f := range rs.fields {
		inside[f.Key] = "with kind " + static + " it goes into an entry of configs, with prefix: / for all names"
	}
	schema.Read(r, path, n, []schema.Field[T]{schema.Marker[T]("kind", nil), schema.Marker[T]("configs", configs)}, inside)
	if schema.Child(n, "configs") == nil {
		r.Fault(named, "%s.configs is not set, which kind %s needs", path, static)
	}
	return all
}

// static reads an entry of configs.
func (rs rules[T]) static(r *document.Reader, path string, n *yaml.Node) rule[T] {
	var prefix naming.Pattern
	field := schema.Scalar("prefix", nil, func(p *naming.Pattern) *naming.Pattern { return p },
		func(n *yaml.Node) (naming.Pattern, error) { return naming.ParsePattern(n.Value) }, func(naming.Pattern) any { return nil })
	entry := rs.entry(r, path, n, &prefix, schema.Marker[T]("prefix", func(r *document.Reader, path string, n *yaml.Node) {
		if set := field.Read(r, path, n); set != nil {
			set(&prefix)
		}
	}), rs.foreign)
	if n.Kind == yaml.MappingNode && schema.Child(n, "prefix") == nil {
		r.Fault(n, "%s.prefix is not set; / is for all names", path)
	}
	return entry
}

// entry reads a mapping of words, and one key besides that may set prefix.
func (rs rules[T]) entry(r *document.Reader, path string, n *yaml.Node, prefix *naming.Pattern, key schema.Field[T], elsewhere map[string]string) rule[T] {
	settings, ok := schema.Read(r, path, n, append([]schema.Field[T]{key}, rs.fields...), elsewhere)
	entry := rule[T]{prefix: *prefix, says: settings}
	if ok && rs.check != nil {
		if err := rs.check(entry); err != nil {
			r.Fault(n, "%s: %w", path, err)
		}
	}
	return entry
}

// What Linkerd 1.x knows at these places and a policy does not.

func foreignServer() map[string]string {
	rotation := "rename the file, as logrotate does, and a new one is begun"
	elsewhere := "addresses and identities are settings of the proxy, not of its policy"
	return map[string]string{
		"port": elsewhere, "ip": elsewhere, "label": elsewhere, "tls": elsewhere,
		"announce":      "this proxy announces nothing",
		"socketOptions": "connections have no delay and are kept alive; writeTimeoutMs is a key of its own",
		"idleTimeMs":    "it is for serverSession or tunnel", "lifeTimeMs": "it is for serverSession",
		"httpAccessLogRollPolicy": rotation, "httpAccessLogRotateCount": rotation, "httpAccessLogAppend": "it is always appended to",
		"streamingEnabled": "bodies are always streamed; replayBufferKB is what is kept of them to be sent again",
	}
}

func foreignClient() map[string]string {
	return map[string]string{
		"tls":                   "the mesh encrypts by itself, and TLS to others is not spoken yet",
		"socketOptions":         "connections have no delay and are kept alive; connectTimeoutMs is a key of its own",
		"forwardClientCert":     "no certificates are forwarded",
		"requestAuthorizers":    "requests are not authorised here",
		"totalTimeoutMs":        "it is for service; one attempt has requestAttemptTimeoutMs",
		"retries":               "it is for service; what has not reached an application is sent again by requeueBudget",
		"responseClassifier":    "it is for service",
		"maxConcurrentRequests": "it is for server or service; an endpoint has maxConcurrentRequestsPerEndpoint",
	}
}

func foreignService() map[string]string {
	http2 := "it is for HTTP/2, which this proxy does not speak"
	return map[string]string{
		"classificationTimeoutMs": http2, "retryBufferSize": http2,
		"requestAttemptTimeoutMs": "it is for client; a whole request has totalTimeoutMs",
		"failureAccrual":          "it is for client", "loadBalancer": "it is for client",
	}
}
