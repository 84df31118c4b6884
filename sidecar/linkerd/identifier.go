package linkerd

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming"
)

// readIdentifiers reads one identifier, or a list of them.
func readIdentifiers(protocol string) func(*document.Reader, string, *yaml.Node) func(*router) {
	return func(r *document.Reader, path string, n *yaml.Node) func(*router) {
		kinds := identifiers(protocol)
		var all []Identifier
		var absent []document.Warning
		read := func(path string, n *yaml.Node) {
			id, ok := kinds.Read(r, path, n)
			if !ok {
				return
			}
			all = append(all, id)
			if id.Kind == Ingress {
				absent = append(absent, missing(r, n, "%s.kind: %s is not there yet: Ingress rules are not read", path, Ingress))
			}
		}
		if n.Kind == yaml.SequenceNode {
			for i, item := range n.Content {
				read(fmt.Sprintf("%s[%d]", path, i), document.Resolve(item))
			}
			if len(n.Content) == 0 {
				r.Fault(n, "%s: it is empty, and nothing would be identified; leave it out for %s", path, HeaderToken)
			}
		} else {
			read(path, n)
		}
		return func(d *router) {
			d.Identifiers = all
			d.Missing = append(d.Missing, absent...)
		}
	}
}

func identifiers(protocol string) schema.Kinds[Identifier] {
	header := func(unset string) schema.Field[Identifier] {
		return schema.Text("header", unset, func(i *Identifier) *string { return &i.Header }, headerName)
	}
	segments := func(unset int) schema.Field[Identifier] {
		return schema.Integer("segments", 1, 1, 1000, unset, func(i *Identifier) *int { return &i.Segments })
	}
	token := schema.Kind[Identifier]{Name: HeaderToken, Base: Identifier{Kind: HeaderToken, Header: tokenHeader(protocol)}, Fields: []schema.Field[Identifier]{header(tokenHeader(protocol))}}
	http := []schema.Kind[Identifier]{
		token,
		{Name: Header, Base: Identifier{Kind: Header, Header: "l5d-name"}, Fields: []schema.Field[Identifier]{header("l5d-name")}},
		{Name: PathSegments, Base: Identifier{Kind: PathSegments, Segments: 1}, Fields: []schema.Field[Identifier]{segments(1),
			schema.Flag("consume", false, func(i *Identifier) *bool { return &i.Consume })}},
		{Name: MethodAndHost, Base: Identifier{Kind: MethodAndHost}, Fields: []schema.Field[Identifier]{
			schema.Flag("httpUriInDst", false, func(i *Identifier) *bool { return &i.URIInDst })}},
		{Name: Static, Base: Identifier{Kind: Static}, Required: []string{"path"}, Fields: []schema.Field[Identifier]{
			pathField("path", nil, func(i *Identifier) *naming.Path { return &i.Path })}},
		ingress(),
	}
	h2 := []schema.Kind[Identifier]{
		token,
		{Name: HeaderPath, Base: Identifier{Kind: HeaderPath, Header: ":path"}, Fields: []schema.Field[Identifier]{header(":path"), segments(0)}},
		ingress(),
	}
	kinds, other, of := http, h2, H2
	if protocol == H2 {
		kinds, other, of = h2, http, HTTP
	}
	foreign := map[string]string{"io.l5d.k8s.istio": "Istio's rules are not read"}
	for _, k := range other {
		if slices.ContainsFunc(kinds, func(mine schema.Kind[Identifier]) bool { return mine.Name == k.Name }) {
			continue
		}
		if protocol == "" {
			kinds = append(kinds, k)
		} else {
			foreign[k.Name] = "it is for protocol " + of
		}
	}
	return schema.Kinds[Identifier]{Unset: HeaderToken, NameOf: func(i Identifier) string { return i.Kind }, Foreign: foreign, Kinds: kinds}
}

// ingress is read, and keeps its router from being served.
func ingress() schema.Kind[Identifier] {
	word := func(key string) schema.Field[Identifier] {
		return schema.Deferred(schema.Text(key, "", schema.Nowhere[Identifier, string], nil))
	}
	return schema.Kind[Identifier]{Name: Ingress, Base: Identifier{Kind: Ingress}, Fields: []schema.Field[Identifier]{
		word("namespace"), word("ingressClassAnnotation"), word("host"),
		schema.Deferred(schema.Flag("ignoreDefaultBackends", false, schema.Nowhere[Identifier, bool])),
		schema.Deferred(schema.Integer("port", 1, 1, 65535, 0, schema.Nowhere[Identifier, int])),
	}}
}

func identifierLeaves(path string) []schema.Leaf { return identifiers("").Leaves(path) }

// headerName is a header's name, or that of a pseudo-header of HTTP/2, in lower case.
func headerName(name string) (string, error) {
	token := strings.TrimPrefix(name, ":")
	for _, c := range token {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', strings.ContainsRune("!#$%&'*+-.^_`|~", c): // RFC 9110, section 5.6.2
		default:
			return "", fmt.Errorf("%q is no name of a header", name)
		}
	}
	if token == "" {
		return "", fmt.Errorf("%q is no name of a header", name)
	}
	return strings.ToLower(name), nil
}
