package policy

import (
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
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
	d := &decoder{Reader: document.Reader{File: file}}
	p := Default()
	p.Source = file
	if root := d.Root(content); root != nil {
		for key, value := range d.Entries("", root) {
			switch key.Value {
			case "server":
				sets, _ := readFields(d, "server", value, serverFields(), foreignServer())
				p.Server = apply(p.Server, sets)
			case "client":
				p.clients = readRules(d, "client", value, clientFields(), foreignClient())
			case "service":
				p.services = readRules(d, "service", value, serviceFields(), foreignService())
			default:
				d.unknown(key, key.Value, []string{"server", "client", "service"}, nil)
			}
		}
	}
	if err := d.Err(); err != nil {
		return nil, err
	}
	p.Warnings = d.Warnings()
	return p, nil
}

// readRules reads a block that is either for all names or, with the kind
// io.l5d.static, a list of what holds for which. foreign are keys that are not
// for us, and why.
func readRules[T any](d *decoder, path string, n *yaml.Node, fields []field[T], foreign map[string]string) []rule[T] {
	named := child(n, "kind")
	if named == nil || named.Value == global {
		foreign["configs"] = "it needs kind: " + static
		foreign["prefix"] = "it is for the entries of configs, with kind: " + static
		settings, _ := readFields(d, path, n, append([]field[T]{marker[T]("kind", nil)}, fields...), foreign)
		return []rule[T]{{says: settings}}
	}
	if named.Value != static {
		d.Fault(named, "%s.kind: %s", path, unknownKind(named, []string{global, static}, nil))
		return nil
	}
	var rules []rule[T]
	configs := func(d *decoder, path string, list *yaml.Node) {
		if list.Kind != yaml.SequenceNode {
			d.Fault(list, "%s: it must be a list of entries with a prefix", path)
			return
		}
		for i, entry := range list.Content {
			rules = append(rules, readRule(d, fmt.Sprintf("%s[%d]", path, i), document.Resolve(entry), fields, foreign))
		}
	}
	inside := map[string]string{}
	for _, f := range fields {
		inside[f.key] = "with kind " + static + " it goes into an entry of configs, with prefix: / for all names"
	}
	readFields(d, path, n, []field[T]{marker[T]("kind", nil), marker[T]("configs", configs)}, inside)
	if child(n, "configs") == nil {
		d.Fault(named, "%s.configs is not set, which kind %s needs", path, static)
	}
	return rules
}

// readRule reads an entry of configs.
func readRule[T any](d *decoder, path string, n *yaml.Node, fields []field[T], foreign map[string]string) rule[T] {
	var r rule[T]
	prefix := func(d *decoder, path string, n *yaml.Node) {
		var err error
		if r.prefix, err = readScalar(n, func(n *yaml.Node) (pattern, error) { return parsePattern(n.Value) }); err != nil {
			d.Fault(n, "%s: %w", path, err)
		}
	}
	r.says, _ = readFields(d, path, n, append([]field[T]{marker[T]("prefix", prefix)}, fields...), foreign)
	if n.Kind == yaml.MappingNode && child(n, "prefix") == nil {
		d.Fault(n, "%s.prefix is not set; / is for all names", path)
	}
	return r
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
