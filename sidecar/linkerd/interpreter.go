package linkerd

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// interpreter is an Interpreter while it is being read, and what stands beside it.
type interpreter struct {
	Interpreter
	transformers []registry.Transformer
}

func readInterpreter(r *document.Reader, path string, n *yaml.Node) func(*router) {
	i, ok := interpreters().Read(r, path, n)
	if !ok {
		return nil
	}
	return func(d *router) {
		d.Interpreter, d.Transformers = i.Interpreter, i.transformers
		d.interpreterAt = func(format string, args ...any) { r.Fault(n, path+": "+format, args...) }
	}
}

func interpreterLeaves(path string) []schema.Leaf { return interpreters().Leaves(path) }

const (
	namerdHTTP = "io.l5d.namerd.http"
	namerdMesh = "io.l5d.mesh"
)

// httpPort is where namerd's HTTP API is, and tlsPort where Tulle's controller has it
// under TLS.
const (
	httpPort = 4180
	tlsPort  = 4181
)

func interpreters() schema.Kinds[interpreter] {
	transformers := schema.Field[interpreter]{Key: "transformers", Read: func(r *document.Reader, path string, n *yaml.Node) func(*interpreter) {
		ts := registry.ReadTransformers(r, path, n)
		return func(i *interpreter) { i.transformers = ts }
	}, Leaves: func(path string) []schema.Leaf { return []schema.Leaf{{Path: path, Default: "none"}} }}
	kind := func(name string, base Interpreter, required []string, fields ...schema.Field[interpreter]) schema.Kind[interpreter] {
		return schema.Kind[interpreter]{Name: name, Base: interpreter{Interpreter: base}, Required: required, Fields: append(fields, transformers)}
	}
	whole := func(i *interpreter) *Interpreter { return &i.Interpreter }
	namerd := func(name string, retry time.Duration, fields ...schema.Field[interpreter]) schema.Kind[interpreter] {
		base := Interpreter{Kind: Namerd, Namespace: "default", RetryMin: retry, RetryMax: 10 * time.Minute}
		k := kind(name, base, []string{"dst"}, append(fields, dst(name), retries(base), schema.Lift(interpreterTLS(), whole),
			schema.File("tokenFile", func(i *interpreter) *string { return &i.TokenFile }),
			schema.Flag("tokenInClear", false, func(i *interpreter) *bool { return &i.TokenInClear }))...)
		k.Check = func(i *interpreter) error {
			if i.RetryMin > i.RetryMax {
				return fmt.Errorf("retry.baseSeconds %v is more than retry.maxSeconds %v", i.RetryMin.Seconds(), i.RetryMax.Seconds())
			}
			return checkToken(&i.Interpreter)
		}
		return k
	}
	namespace := schema.Text("namespace", "default", func(i *interpreter) *string { return &i.Namespace }, namespaceName)
	overHTTP := namerd(namerdHTTP, 5*time.Second, namespace)
	overHTTP.Experimental = true
	configMap := kind(ConfigMap, Interpreter{Kind: ConfigMap, Namespace: "default"}, []string{"name", "filename"},
		schema.Text("namespace", "default", func(i *interpreter) *string { return &i.Namespace }, kubernetesNamespace),
		schema.Text("name", "", func(i *interpreter) *string { return &i.Name }, configMapName),
		schema.Text("filename", "", func(i *interpreter) *string { return &i.Key }, configMapKey),
		schema.Idle(schema.Text("host", "", schema.Nowhere[interpreter, string], nil), registry.NoProxy),
		schema.Idle(schema.Integer("port", 1, 1, 65535, 0, schema.Nowhere[interpreter, int]), registry.NoProxy))
	configMap.Experimental = true
	millis := func(key string) schema.Field[interpreter] {
		return schema.Idle(schema.Millis(key, 0, schema.Nowhere[interpreter, time.Duration]), "a connection that fails is made again after retry")
	}
	threshold := schema.Group("failureThreshold", millis("minPeriodMs"), millis("closeTimeoutMs"))
	return schema.Kinds[interpreter]{
		Unset:  Default,
		NameOf: func(i interpreter) string { return i.Kind },
		Foreign: map[string]string{
			"io.l5d.consul": "Consul is not supported; namerd's API or a file can hold the rules",
			"io.l5d.istio":  "Istio's rules are not read", "io.l5d.k8s.istio": "Istio's rules are not read",
		},
		Kinds: []schema.Kind[interpreter]{
			kind(Default, Interpreter{Kind: Default}, nil),
			configMap,
			namerd(Namerd, 5*time.Second, namespace, threshold),
			overHTTP,
			namerd(namerdMesh, time.Second, root(), threshold,
				schema.Idle(schema.Integer("initialStreamWindowSizeKB", 1, 1, 1<<31-1, 0, schema.Nowhere[interpreter, int]), "namerd's gRPC is not spoken")),
			kind(File, Interpreter{Kind: File}, []string{"dtabFile"},
				schema.Text("dtabFile", "", func(i *interpreter) *string { return &i.File }, func(path string) (string, error) {
					if path == "" {
						return "", fmt.Errorf("it is empty, and must be the path of a file of rules")
					}
					return path, nil
				})),
		},
	}
}

// dst is where namerd is. Its protocols but for HTTP are not spoken, and what
// speaks them has HTTP beside.
func dst(kind string) schema.Field[interpreter] {
	path := pathField("dst", nil, func(i *interpreter) *naming.Path { return new(naming.Path) })
	return schema.Field[interpreter]{
		Key: "dst",
		Read: func(r *document.Reader, at string, n *yaml.Node) func(*interpreter) {
			if path.Read(r, at, n) == nil {
				return nil
			}
			host, port, ok := inet(n.Value)
			if !ok {
				r.Fault(n, "%s: %s is no address of a namerd: /$/inet/<host>/<port>", at, n.Value)
				return nil
			}
			if kind != namerdHTTP {
				switch port {
				case 4100, 4321:
					r.Warn(n, "%s: namerd is asked over HTTP, at its port %d in place of %d", at, httpPort, port)
					port = httpPort
				case httpPort, tlsPort:
				default:
					r.Warn(n, "%s: namerd is asked over HTTP, so port %d must be the one of its httpController, usually %d", at, port, httpPort)
				}
			}
			address := net.JoinHostPort(host, strconv.Itoa(port))
			return func(i *interpreter) { i.Address = address }
		},
		Leaves: path.Leaves,
	}
}

// inet returns the address that a path such as /$/inet/namerd.shop.svc/4180 is.
func inet(text string) (host string, port int, ok bool) {
	p, err := naming.ParsePath(text)
	if err != nil || len(p) < 3 || p[0] != "$" || p[1] != "inet" {
		return "", 0, false
	}
	host, number := loopback, p[2]
	switch len(p) {
	case 3:
	case 4:
		host, number = p[2], p[3]
	default:
		return "", 0, false
	}
	if host == "127.1" { // which the original's examples have, and its resolver knows
		host = loopback
	}
	port, err = strconv.Atoi(number)
	return host, port, err == nil && 0 < port && port < 1<<16
}

func retries(base Interpreter) schema.Field[interpreter] {
	const most = int64(schema.MaxTime / time.Second)
	return schema.Group("retry",
		schema.Integer("baseSeconds", time.Second, 1, most, base.RetryMin, func(i *interpreter) *time.Duration { return &i.RetryMin }),
		schema.Integer("maxSeconds", time.Second, 1, most, base.RetryMax, func(i *interpreter) *time.Duration { return &i.RetryMax }))
}

// root is the namespace as a path of one element.
func root() schema.Field[interpreter] {
	return schema.Text("root", "/default", func(i *interpreter) *string { return &i.Namespace }, func(s string) (string, error) {
		p, err := naming.ParsePath(s)
		if err != nil {
			return "", err
		}
		if len(p) != 1 {
			return "", fmt.Errorf("%q must be one element, such as /default", s)
		}
		return namespaceName(p[0])
	})
}

func namespaceName(s string) (string, error) {
	if s == "" || strings.ContainsAny(s, "/?#% ") {
		return "", fmt.Errorf("%q is no name of a dtab", s)
	}
	return s, nil
}

func kubernetesNamespace(s string) (string, error) {
	if !rewrite.IsLabel(s) {
		return "", fmt.Errorf("%q is no name of a namespace of Kubernetes: it must be lower-case letters, digits and inner hyphens, 63 characters at most", s)
	}
	return s, nil
}

// configMapName reads the name of a ConfigMap, an RFC 1123 subdomain.
func configMapName(s string) (string, error) {
	if len(s) > maxName || !subdomain.MatchString(s) {
		return "", fmt.Errorf("%q is no name of a ConfigMap: it must be lower-case letters, digits and inner hyphens, with dots between, %d characters at most", s, maxName)
	}
	return s, nil
}

// configMapKey reads a key of a ConfigMap.
func configMapKey(s string) (string, error) {
	if len(s) > maxName || !key.MatchString(s) || s == "." || strings.HasPrefix(s, "..") {
		return "", fmt.Errorf("%q is no key of a ConfigMap: it must be letters, digits, '-', '_' and '.', %d characters at most; and not '.', nor '..' at its beginning, which lead out of a folder", s, maxName)
	}
	return s, nil
}

// maxName is how long names and keys may be in Kubernetes.
const maxName = 253

var (
	subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	key       = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)
)

// interpreterTLS are the keys by which namerd is trusted. A namerd of Linkerd 1.x is
// given caCert, and its gRPC interpreter the words of a client's tls.
func interpreterTLS() schema.Field[Interpreter] {
	trust := func(t *TLS) *string { return &t.Trust }
	authorities := []schema.Field[TLS]{schema.File("caCert", trust), schema.File("trustCertsBundle", trust), schema.Lines("trustCerts", true, trust)}
	f := schema.Required(schema.Object("tls", TLS{}, func(i *Interpreter) *TLS { return &i.TLS }, func(t *TLS) error {
		if t.CommonName == "" {
			return fmt.Errorf("commonName is empty, and must be a name that namerd's certificate is for")
		}
		return nil
	}, append(authorities,
		schema.Text("commonName", "", func(t *TLS) *string { return &t.CommonName }, nil),
		schema.Refused[TLS]("disableValidation", "rules of whoever answers would be followed"),
		schema.Refused[TLS]("clientAuth", "no certificate is shown to a namerd; tokenFile says who asks"),
	)...), "commonName")
	read := f.Read
	f.Read = func(r *document.Reader, path string, n *yaml.Node) func(*Interpreter) {
		given := 0
		for _, a := range authorities {
			if schema.Child(n, a.Key) != nil {
				given++
			}
		}
		if given > 1 {
			r.Fault(n, "%s: caCert, trustCertsBundle and trustCerts are incompatible: put all certificates into one", path)
		}
		return read(r, path, n)
	}
	return f
}

// checkToken refuses to show a token where others may listen.
func checkToken(i *Interpreter) error {
	host, _, _ := net.SplitHostPort(i.Address)
	ip, err := netip.ParseAddr(host)
	if i.TokenFile == "" || i.TLS.CommonName != "" || i.TokenInClear || host == "localhost" || err == nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("tokenFile without tls would show the token to whoever listens on the way to %s; set tls, or tokenInClear: true", i.Address)
}
