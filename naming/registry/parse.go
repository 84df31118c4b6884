package registry

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/l5d"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// ReadNamers reads the list `namers` of a configuration; path is the key where it stands. What
// is wrong or without effect is noted in r, and namers with a fault are left out. Kinds that
// Linkerd 1.x calls experimental are taken with `experimental: true` and without.
func ReadNamers(r *document.Reader, path string, n *yaml.Node) []Namer {
	namers, _ := readNamers(r, path, n, namerKinds(process))
	return namers
}

// ReadOwnNamers reads the list `namers` of a namerd, likewise: it asks Kubernetes by itself, so
// that it also returns where its namers have that. Prefixes are distinct, as Config.Distinct says.
func ReadOwnNamers(r *document.Reader, path string, n *yaml.Node) ([]Namer, []l5d.API) {
	namers, items := readNamers(r, path, n, namerKinds(namerd))
	checkPrefixes(r, namers, items)
	var apis []l5d.API
	for i, namer := range namers {
		switch namer.Kind {
		case Kubernetes, KubernetesHere, KubernetesExternal:
			apis = append(apis, l5d.KubernetesAt(items[i].path, items[i].node, namerHost, namerPort))
		}
		for j, t := range namer.Transformers {
			if t.Kind == DaemonSet {
				node := document.Resolve(schema.Child(items[i].node, "transformers").Content[j])
				apis = append(apis, l5d.KubernetesAt(fmt.Sprintf("%s.transformers[%d]", items[i].path, j), node, transformerHost, transformerPort))
			}
		}
	}
	return namers, apis
}

// checkPrefixes notes prefixes that are empty or overlap.
func checkPrefixes(r *document.Reader, namers []Namer, items []item) {
	for i, n := range namers {
		for j, other := range namers[:i] {
			if begins(n.Prefix, other.Prefix) || begins(other.Prefix, n.Prefix) {
				r.Fault(items[i].prefix(), "%s.prefix: %s and %s of %s in line %d overlap; each must be its own",
					items[i].path, n.Prefix, other.Prefix, items[j].path, items[j].prefix().Line)
			}
		}
		if len(n.Prefix) == 0 {
			r.Fault(items[i].prefix(), "%s.prefix: / would take all names; it needs an element", items[i].path)
		}
	}
}

// item is where a namer stands.
type item struct {
	path string
	node *yaml.Node
}

// prefix is where the namer's prefix stands, the namer if there is none.
func (it item) prefix() *yaml.Node {
	if n := schema.Child(it.node, "prefix"); n != nil {
		return n
	}
	return it.node
}

// readNamers also returns where each namer stands.
func readNamers(r *document.Reader, path string, n *yaml.Node, kinds schema.Kinds[Namer]) (namers []Namer, items []item) {
	for i, node := range schema.Items(r, path, n, "namers, each with a kind") {
		at := fmt.Sprintf("%s[%d]", path, i)
		if namer, ok := kinds.Read(r, at, node); ok {
			namers, items = append(namers, namer), append(items, item{at, node})
		}
	}
	return namers, items
}

// ReadTransformers reads a list `transformers` likewise.
func ReadTransformers(r *document.Reader, path string, n *yaml.Node) []Transformer {
	return readTransformers(r, path, n, transformerKinds(process))
}

func readTransformers(r *document.Reader, path string, n *yaml.Node, kinds schema.Kinds[Transformer]) []Transformer {
	var all []Transformer
	for i, item := range schema.Items(r, path, n, "transformers, each with a kind") {
		if t, ok := kinds.Read(r, fmt.Sprintf("%s[%d]", path, i), item); ok {
			all = append(all, t)
		}
	}
	return all
}

// Parse reads the namers of a mesh: a YAML list alone, in the words of Linkerd 1.x. The error
// joins all that is wrong, one line each, as file:line: key: what is wrong. Those of Default
// whose prefix is not taken come first, so that the mesh always has them; and prefixes are
// distinct as Config.Distinct says.
//
// What depends on where a process runs is refused, since a name must mean the same to the
// controller and to all proxies: RootDir, which is a setting of each proxy, KubernetesHere,
// LocalNode and Localhost.
func Parse(file string, content []byte) ([]Namer, []document.Warning, error) {
	r := document.Reader{File: file, Of: "a namer"}
	all := Default()
	root := r.Root(content)
	if root == nil || root.Tag == "!!null" {
		return all, r.Warnings(), r.Err()
	}
	namers, items := readNamers(&r, "namers", root, namerKinds(mesh))
	checkPrefixes(&r, namers, items)
	for i, n := range namers {
		for _, t := range n.Transformers {
			if t.Kind == LocalNode || t.Kind == Localhost {
				r.Fault(items[i].node, "the transformer %s depends on where a process runs, and the namers of a mesh hold for all", t.Kind)
			}
		}
		all = slices.DeleteFunc(all, func(d Namer) bool { return begins(n.Prefix, d.Prefix) || begins(d.Prefix, n.Prefix) })
	}
	if err := r.Err(); err != nil {
		return nil, nil, err
	}
	return append(all, namers...), r.Warnings(), nil
}

// NamerLeaves lists the keys of a namer below path, for a test of the documentation.
func NamerLeaves(path string) []schema.Leaf { return namerKinds(process).Leaves(path) }

// TransformerLeaves lists the keys of a transformer likewise.
func TransformerLeaves(path string) []schema.Leaf { return transformerKinds(process).Leaves(path) }

// OwnLeaves lists the keys that [ReadOwnNamers] knows, of namers and of transformers.
func OwnLeaves(namer, transformer string) []schema.Leaf {
	return append(namerKinds(namerd).Leaves(namer), transformerKinds(namerd).Leaves(transformer)...)
}

// whose says for whom a list is.
type whose int

const (
	mesh    whose = iota // the controller and all proxies
	process              // one proxy, with its environment and its files
	namerd               // one process that binds for others, and asks Kubernetes itself
)

// Keys that say where Kubernetes is.
const (
	namerHost, namerPort             = "host", "port"
	transformerHost, transformerPort = "k8sHost", "k8sPort"
)

// Why a word of Linkerd 1.x has no effect.
const (
	// NoProxy is that of a key that says where the API of Kubernetes is.
	NoProxy = "the API of Kubernetes is asked by the controller, with its own credentials, and not through kubectl proxy"
	noHost  = "nodes are told by their names, on the network of the host too"
)

// apiFields are the keys by which Linkerd 1.x is told where Kubernetes is.
func apiFields[T any](of whose, host, port string) []schema.Field[T] {
	if of == namerd {
		return l5d.KubernetesFields[T](host, port)
	}
	return []schema.Field[T]{
		schema.Idle(schema.Text(host, "localhost", schema.Nowhere[T, string], nil), NoProxy),
		schema.Idle(schema.Integer(port, 1, 1, 65535, 8001, schema.Nowhere[T, int]), NoProxy),
	}
}

// namerKinds are the kinds of namers. Some are for one process: those that depend on its
// environment and its files.
func namerKinds(of whose) schema.Kinds[Namer] {
	api := append(apiFields[Namer](of, namerHost, namerPort), schema.Text("labelSelector", "", func(n *Namer) *string { return &n.LabelSelector }, labelKey))
	kind := func(name string, required []string, check func(*Namer) error, fields ...schema.Field[Namer]) schema.Kind[Namer] {
		own := append([]schema.Field[Namer]{
			pathField("prefix", "/"+name, func(n *Namer) *naming.Path { return &n.Prefix }, func(p naming.Path) error {
				if len(p) == 0 || p[0] != mark {
					return nil
				}
				if p = p[1:]; len(p) == 0 {
					p = naming.Path{name}
				}
				return fmt.Errorf("names of a namer begin with /# by themselves: write %s", p)
			}),
			{
				Key: "transformers",
				Read: func(r *document.Reader, path string, n *yaml.Node) func(*Namer) {
					ts := readTransformers(r, path, n, transformerKinds(of))
					return func(n *Namer) { n.Transformers = ts }
				},
				Leaves: func(path string) []schema.Leaf { return []schema.Leaf{{Path: path, Default: "none"}} },
			},
		}, fields...)
		return schema.Kind[Namer]{Name: name, Base: Namer{Kind: name, Prefix: naming.Path{name}}, Fields: own, Required: required, Check: check}
	}
	rootDir := schema.Text("rootDir", "", func(n *Namer) *string { return &n.RootDir }, func(s string) (string, error) {
		if s == "" {
			return "", fmt.Errorf("it is empty, and must be a directory")
		}
		return s, nil
	})
	text := func(s string) (string, error) { return s, nil }
	all := []schema.Kind[Namer]{
		kind(Kubernetes, nil, nil, api...),
		kind(KubernetesExternal, nil, nil, api...),
		kind(Rewrite, []string{"pattern", "name"}, func(n *Namer) error {
			_, err := readPattern(n.Pattern, n.Name)
			return err
		}, schema.Text("pattern", "", func(n *Namer) *string { return &n.Pattern }, text),
			schema.Text("name", "", func(n *Namer) *string { return &n.Name }, text)),
	}
	foreign := foreignNamers()
	if of != mesh {
		all = append(all,
			kind(KubernetesHere, nil, nil, append([]schema.Field[Namer]{
				schema.Text("envVar", defaultEnvVar, func(n *Namer) *string { return &n.EnvVar }, text)}, api...)...),
			kind(Files, []string{"rootDir"}, nil, rootDir))
	} else {
		foreign[KubernetesHere] = "proxies of the mesh are in many namespaces; /caller in a dtab is the namespace of whoever asks"
		all = append(all, kind(Files, nil, nil, schema.Refused[Namer]("rootDir", "the directory is a setting of each proxy, fs-root")))
	}
	return schema.Kinds[Namer]{Unset: "required", NameOf: func(n Namer) string { return n.Kind }, Foreign: foreign, Kinds: all}
}

func foreignNamers() map[string]string {
	foreign := map[string]string{
		"io.l5d.dnssrv": "not supported; names of DNS with a port are /$/inet/<host>/<port>",
		"io.l5d.istio":  "not supported; Services of Kubernetes are named by io.l5d.k8s",
	}
	for _, kind := range []string{"consul", "marathon", "serversets", "curator", "zkLeader", "rancher", "etcd"} {
		foreign["io.l5d."+kind] = "not supported; addresses of other registries can be kept in files, which io.l5d.fs follows, or in Services without selectors"
	}
	return foreign
}

func transformerKinds(of whose) schema.Kinds[Transformer] {
	type T = Transformer
	kind := func(name string, required []string, fields ...schema.Field[T]) schema.Kind[T] {
		own := append([]schema.Field[T]{pathField("prefix", "/"+name, func(t *T) *naming.Path { return &t.Prefix }, checkPrefix)}, fields...)
		return schema.Kind[T]{Name: name, Base: T{Kind: name}, Fields: own, Required: required}
	}
	label := func(key string, at func(*T) *string) schema.Field[T] {
		return schema.Scalar(key, "", at, func(n *yaml.Node) (string, error) {
			if !rewrite.IsLabel(strings.ToLower(n.Value)) {
				return "", fmt.Errorf("%q is nothing that Kubernetes calls a Service, a namespace or a port", n.Value)
			}
			return n.Value, nil
		}, func(s string) any { return s })
	}
	hostNetwork := func(t *T) *bool { return &t.HostNetwork }
	subnet := schema.Flag("matchSubnet", false, func(t *T) *bool { return &t.Subnet })
	target := pathField("path", "", func(t *T) *naming.Path { return &t.Path }, checkTarget)
	return schema.Kinds[T]{
		Unset:  "required",
		NameOf: func(t T) string { return t.Kind },
		Kinds: []schema.Kind[T]{
			kind(DaemonSet, []string{"namespace", "service", "port"}, append(apiFields[T](of, transformerHost, transformerPort),
				label("namespace", func(t *T) *string { return &t.Namespace }),
				label("service", func(t *T) *string { return &t.Service }),
				label("port", func(t *T) *string { return &t.Port }),
				schema.Idle(schema.Flag("hostNetwork", false, hostNetwork), noHost),
				subnet)...),
			kind(LocalNode, nil, schema.Flag("hostNetwork", false, hostNetwork), subnet),
			kind(Localhost, nil),
			kind(Port, []string{"port"}, schema.Scalar("port", "", func(t *T) *string { return &t.Port }, func(n *yaml.Node) (string, error) {
				if p, err := strconv.ParseUint(n.Value, 10, 16); err != nil || p == 0 {
					return "", fmt.Errorf("%q is no port from 1 to 65535", n.Value)
				}
				return n.Value, nil
			}, func(s string) any { return s })),
			kind(SpecificHost, []string{"host"}, schema.Text("host", "", func(t *T) *string { return &t.Host }, func(s string) (string, error) {
				if _, err := netip.ParseAddr(s); err != nil {
					return "", fmt.Errorf("%q is no IP address", s)
				}
				return s, nil
			})),
			kind(Const, []string{"path"}, target),
			kind(Replace, []string{"path"}, target),
		},
	}
}

// pathField is a path, checked by check if that is not nil; unset is its default as it is
// documented.
func pathField[T any](key, unset string, at func(*T) *naming.Path, check func(naming.Path) error) schema.Field[T] {
	f := schema.Scalar(key, naming.Path(nil), at, func(n *yaml.Node) (naming.Path, error) {
		p, err := naming.ParsePath(n.Value)
		if err == nil && check != nil {
			err = check(p)
		}
		return p, err
	}, func(p naming.Path) any {
		if p == nil {
			return nil
		}
		return p.String()
	})
	if unset != "" {
		f.Leaves = func(path string) []schema.Leaf { return []schema.Leaf{{Path: path, Default: unset}} }
	}
	return f
}

// labelKey checks the name of a label.
func labelKey(s string) (string, error) {
	for _, c := range s {
		if !strings.ContainsRune("/-_.", c) && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return "", fmt.Errorf("%q is not the name of a label alone, such as version; its value is an element of the name that is looked up", s)
		}
	}
	if s == "" {
		return "", fmt.Errorf("it is empty; leave it out for the default")
	}
	return s, nil
}
