package policy

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
)

// Linkerd returns what holds in a router of Linkerd 1.x that says nothing. Where
// its defaults differ from Tulle's, those hold that refuse more: its limits of
// heads, and of bodies that are sent again; and our limits of time, of field
// lines and of proxies in a row, where it has none. Requests are balanced and
// deadlines are taken as it does.
func Linkerd() *Policy {
	return &Policy{Source: "defaults", Server: linkerdServer(), client: linkerdClient(), service: linkerdService()}
}

func linkerdServer() Server {
	s := defaultServer()
	s.MaxHeaderBytes, s.MaxInitialLineBytes, s.ReplayBufferBytes = 8<<10, 4<<10, 5<<10
	return s
}

func linkerdClient() Client {
	c := defaultClient()
	c.LoadBalancer = LoadBalancer{Kind: P2C, MaxEffort: c.LoadBalancer.MaxEffort}
	return c
}

func linkerdService() Service {
	s := defaultService()
	s.EnforceDeadlines = false
	return s
}

// LinkerdRouter returns the keys that a router of Linkerd 1.x has and that are a
// policy's, for its protocol: http, or h2. What they say holds for its servers.
func LinkerdRouter(h2 bool) []schema.Field[Policy] {
	foreign := foreignService()
	service := serviceFields(linkerdService())
	client := append(clientFields(linkerdClient()), linkerdClientFields()...)
	if h2 {
		delete(foreign, "classificationTimeoutMs")
		delete(foreign, "retryBufferSize")
		for i := range service {
			if service[i].Key == "responseClassifier" {
				service[i] = h2Classifier()
			}
		}
		service = append(service,
			schema.Deferred(schema.Millis("classificationTimeoutMs", 0, schema.Nowhere[Service, time.Duration])),
			schema.Deferred(schema.Group("retryBufferSize", h2Bytes[Service]("requestBytes"), h2Bytes[Service]("responseBytes"))),
		)
		client = append(client, h2Session[Client]()...)
	}
	return append(routerWords(h2), egress(),
		block("client", rules[Client]{client, foreignClient(), checkCaptures}, func(p *Policy) *[]rule[Client] { return &p.clients }),
		block("service", rules[Service]{service, foreign, nil}, func(p *Policy) *[]rule[Service] { return &p.services }),
	)
}

// LinkerdServer returns the keys of an entry of servers, likewise.
func LinkerdServer(h2 bool) []schema.Field[Policy] {
	socket := schema.Group("socketOptions", append(socketOptions[Server](),
		schema.Millis("writeTimeoutMs", linkerdServer().WriteTimeout, func(s *Server) *time.Duration { return &s.WriteTimeout }),
		schema.Idle(schema.Millis("readTimeoutMs", 0, schema.Nowhere[Server, time.Duration]),
			"headTimeoutMs and serverSession.idleTimeMs limit how long a client may say nothing"),
	)...)
	fields := []schema.Field[Policy]{onServer(socket)}
	for _, f := range serverFields(linkerdServer()) {
		if !ofRouter(f.Key) {
			fields = append(fields, onServer(f))
		}
	}
	if h2 {
		fields = append(fields, h2Session[Policy]()...)
		fields = append(fields, schema.Deferred(schema.Integer("maxConcurrentStreamsPerConnection", 1, 1, 1<<30, 0, schema.Nowhere[Policy, int])))
	}
	return fields
}

func onServer(f schema.Field[Server]) schema.Field[Policy] {
	return schema.Lift(f, func(p *Policy) *Server { return &p.Server })
}

// ofRouter reports whether a key of our server is one of a router there.
func ofRouter(key string) bool {
	switch key {
	case "maxHeadersKB", "maxInitialLineKB", "tracePropagator", accessLogKey:
		return true
	}
	return false
}

// fromHere makes the path of a file absolute, which a file of Linkerd 1.x may name from
// where the process runs. A policy may not: it holds for many processes.
func fromHere(path string) (string, error) {
	if path == "" {
		return "", errors.New("it is empty, and must be the path of a file")
	}
	return filepath.Abs(path)
}

func routerWords(h2 bool) []schema.Field[Policy] {
	var fields []schema.Field[Policy]
	logged := accessLogKey
	if h2 {
		logged = "h2AccessLog"
		fields = append(fields, schema.Deferred(onServer(propagator(PropagateL5d))),
			schema.Deferred(schema.Text(logged, "", schema.Nowhere[Policy, string], nil)))
	} else {
		for _, f := range serverFields(linkerdServer()) {
			if f.Key == accessLogKey {
				f = accessLog(fromHere)
			}
			if ofRouter(f.Key) {
				fields = append(fields, onServer(f))
			}
		}
		fields = append(fields, streamAfter(),
			schema.IdleUnless(schema.Flag("streamingEnabled", true, schema.Nowhere[Policy, bool]),
				"bodies are always streamed; streamAfterContentLengthKB of them are kept to be sent again", schema.Is("true")),
			schema.Idle(schema.Integer("maxErrResponseKB", 1, 0, 1<<30, 0, schema.Nowhere[Policy, int]),
				"the texts of a proxy's own answers are short"),
			schema.IdleUnless(schema.Integer("compressionLevel", 1, -1, 9, 0, schema.Nowhere[Policy, int]),
				"answers are passed on as they are, never compressed", schema.Is("0")),
		)
	}
	rotation := "rename the file, as logrotate does, and a new one is begun"
	rotate := []schema.Field[Policy]{
		schema.IdleUnless(schema.Text(logged+"RollPolicy", "", schema.Nowhere[Policy, string], nil), rotation, schema.Is("never")),
		schema.IdleUnless(schema.Flag(logged+"Append", true, schema.Nowhere[Policy, bool]), "a log is always appended to", schema.Is("true")),
		schema.IdleUnless(schema.Integer(logged+"RotateCount", 1, -1, 1<<30, -1, schema.Nowhere[Policy, int]), rotation, schema.Is("-1")),
	}
	for _, f := range rotate {
		if h2 {
			f = schema.Deferred(f)
		}
		fields = append(fields, f)
	}
	return fields
}

// streamAfter is the size up to which Linkerd 1.x holds a body back, and so can
// send it again. Ours are never held back, but kept.
func streamAfter() schema.Field[Policy] {
	const most = 1 << 10
	f := schema.Integer("streamAfterContentLengthKB", 1, 0, 1<<30, linkerdServer().ReplayBufferBytes>>10, schema.Nowhere[Policy, int])
	read := f.Read
	f.Read = func(r *document.Reader, path string, n *yaml.Node) func(*Policy) {
		var kb int
		if read(r, path, n) == nil || n.Decode(&kb) != nil {
			return nil
		}
		if kb > most {
			r.Warn(n, "%s: %d KB of a body are kept at most", path, most)
			kb = most
		}
		return func(p *Policy) { p.Server.ReplayBufferBytes = kb << 10 }
	}
	return f
}

func linkerdClientFields() []schema.Field[Client] {
	timeout := "requestAttemptTimeoutMs limits how long an endpoint may take"
	return []schema.Field[Client]{
		tlsField(),
		schema.Group("socketOptions", append(socketOptions[Client](),
			schema.Idle(schema.Millis("writeTimeoutMs", 0, schema.Nowhere[Client, time.Duration]), timeout),
			schema.Idle(schema.Millis("readTimeoutMs", 0, schema.Nowhere[Client, time.Duration]), timeout),
		)...),
		schema.IdleUnless(schema.Flag("forwardClientCert", false, schema.Nowhere[Client, bool]),
			"no client has shown a certificate, as servers speak no TLS yet", schema.Is("false")),
		schema.Refused[Client]("requestAuthorizers", "requests are not authorised here, and what was forbidden would pass"),
	}
}

// socketOptions are those of servers and clients alike.
func socketOptions[T any]() []schema.Field[T] {
	return []schema.Field[T]{
		schema.IdleUnless(schema.Flag("noDelay", true, schema.Nowhere[T, bool]), "connections have no delay", schema.Is("true")),
		schema.IdleUnless(schema.Flag("reuseAddr", true, schema.Nowhere[T, bool]), "addresses are reused", schema.Is("true")),
		schema.IdleUnless(schema.Flag("reusePort", false, schema.Nowhere[T, bool]),
			"a port is one process's; --handover passes it to the next", schema.Is("false")),
		schema.IdleUnless(schema.Flag("keepAlive", true, schema.Nowhere[T, bool]), "connections are kept alive", schema.Is("true")),
		schema.Idle(schema.Integer("backlog", 1, 0, 1<<30, 0, schema.Nowhere[T, int]), "it is as large as the kernel allows"),
	}
}

// h2Session are what servers and clients of HTTP/2 have alike.
func h2Session[T any]() []schema.Field[T] {
	return []schema.Field[T]{
		schema.Deferred(schema.Number("windowUpdateRatio", 0, 1, 0.99, schema.Nowhere[T, float64])),
		h2Bytes[T]("headerTableBytes"), h2Bytes[T]("initialStreamWindowBytes"), h2Bytes[T]("maxFrameBytes"), h2Bytes[T]("maxHeaderListBytes"),
	}
}

func h2Bytes[T any](key string) schema.Field[T] {
	return schema.Deferred(schema.Integer(key, 1, 0, 1<<31-1, 0, schema.Nowhere[T, int]))
}

// h2Classifier is the classifier of HTTP/2. Its kinds are known, so that a file
// can be checked; nothing classifies by them yet.
func h2Classifier() schema.Field[Service] {
	codes := func(key string) schema.Field[string] {
		return schema.Field[string]{
			Key: key,
			Read: func(r *document.Reader, path string, n *yaml.Node) func(*string) {
				item := schema.Integer("", 1, 0, 16, 0, schema.Nowhere[string, int])
				for i, n := range schema.Items(r, path, n, "status codes of gRPC, 0 to 16") {
					item.Read(r, fmt.Sprintf("%s[%d]", path, i), n)
				}
				return nil
			},
			Leaves: func(path string) []schema.Leaf { return []schema.Leaf{{Path: path}} },
		}
	}
	kinds := []schema.Kind[string]{}
	for _, name := range []string{"nonRetryable5XX", "retryableRead5XX", "retryableIdempotent5XX", "retryableAll5XX", "allSuccessful"} {
		kinds = append(kinds, schema.Kind[string]{Name: "io.l5d.h2." + name, Base: "io.l5d.h2." + name})
	}
	for _, name := range []string{"default", "compliant", "alwaysRetryable", "neverRetryable", "retryableStatusCodes"} {
		k := schema.Kind[string]{Name: "io.l5d.h2.grpc." + name, Base: "io.l5d.h2.grpc." + name, Fields: []schema.Field[string]{codes("successStatusCodes")}}
		if name == "retryableStatusCodes" {
			k.Fields, k.Required = append(k.Fields, codes(name)), []string{name}
		}
		kinds = append(kinds, k)
	}
	return schema.Deferred(schema.Kinded("responseClassifier", "", schema.Nowhere[Service, string],
		func(s string) string { return s }, map[string]string{"io.l5d.http.": "it is for protocol http"}, kinds...))
}
