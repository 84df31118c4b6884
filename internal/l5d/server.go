package l5d

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
)

// TLS is what a server's `tls` names: files in PEM, of which Cert and Key are not empty.
type TLS struct {
	Cert, Key, Intermediates string
	// CA are the authorities of clients' certificates, empty if they are not looked at.
	CA string
	// RequireClient refuses clients without a certificate.
	RequireClient bool
}

// ServerTLS is the key tls of a server. If opened, the files that it names must be there
// once the program runs.
func ServerTLS[T any](opened bool, at func(*T) *TLS) schema.Field[T] {
	file := func(key string, at func(*TLS) *string) schema.Field[TLS] {
		if opened {
			return schema.File(key, at)
		}
		return schema.Text(key, "", at, nil)
	}
	const ciphers = "versions and ciphers of TLS are those that Go holds to be safe"
	return schema.Required(schema.Object("tls", TLS{}, at, nil,
		file("certPath", func(t *TLS) *string { return &t.Cert }),
		file("keyPath", func(t *TLS) *string { return &t.Key }),
		file("intermediateCertsPath", func(t *TLS) *string { return &t.Intermediates }),
		file("caCertPath", func(t *TLS) *string { return &t.CA }),
		schema.Flag("requireClientAuth", false, func(t *TLS) *bool { return &t.RequireClient }),
		schema.Idle(schema.Lines("ciphers", false, schema.Nowhere[TLS, string]), ciphers),
		schema.Idle(schema.Lines("protocols", false, schema.Nowhere[TLS, string]), ciphers),
	), "certPath", "keyPath")
}

// Listeners are the addresses that a configuration listens at. The zero value is none.
type Listeners []listener

type listener struct {
	ip   string
	port int
	by   string
}

// Add notes a listener, by whom, or a fault at n if another one has its address. Port 0
// is no address yet.
func (l *Listeners) Add(r *document.Reader, n *yaml.Node, by, ip string, port int) {
	for _, other := range *l {
		if port == 0 || port != other.port || ip != other.ip && !wild(ip) && !wild(other.ip) {
			continue
		}
		r.Fault(n, "%s: Server conflict on port %d: %s listens at %s", by, port, other.by, Address(other.ip, other.port))
		break
	}
	*l = append(*l, listener{ip, port, by})
}

// wild reports whether ip is all addresses.
func wild(ip string) bool {
	addr, err := netip.ParseAddr(ip)
	return err == nil && addr.IsUnspecified()
}

// DefaultKubernetes is where kubectl proxy has the API of Kubernetes.
const DefaultKubernetes = defaultHost + ":8001"

const (
	defaultHost = "localhost"
	defaultPort = 8001
)

// SameAddress reports whether two are one, host:port, in either of the ways to write this machine's.
func SameAddress(a, b string) bool {
	spelled := func(address string) string {
		if port, ok := strings.CutPrefix(address, "localhost:"); ok {
			return Loopback + ":" + port
		}
		return address
	}
	return spelled(a) == spelled(b)
}

// KubernetesFields are two keys that say where the API of Kubernetes is, of a program that
// asks there: that of DefaultKubernetes without them.
func KubernetesFields[T any](host, port string) []schema.Field[T] {
	return []schema.Field[T]{
		schema.Text(host, defaultHost, schema.Nowhere[T, string], checkHost),
		schema.Integer(port, 1, 1, 65535, defaultPort, schema.Nowhere[T, int]),
	}
}

func checkHost(s string) (string, error) {
	if _, err := netip.ParseAddr(s); err == nil {
		return s, nil
	}
	for _, c := range s {
		if c != '-' && c != '.' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return "", fmt.Errorf("%q is no host: a name or an IP address, without a port", s)
		}
	}
	if s == "" {
		return "", errors.New("it is empty, and must be a host, such as localhost")
	}
	return s, nil
}

// API is where a part of a configuration has the API of Kubernetes.
type API struct {
	Node    *yaml.Node // of the part
	Path    string     // its key
	Address string     // host:port
}

// KubernetesAt returns what the mapping n says, whose key is path and which was read with
// KubernetesFields.
func KubernetesAt(path string, n *yaml.Node, host, port string) API {
	at, number := defaultHost, defaultPort
	if h := schema.Child(n, host); h != nil {
		at = h.Value
	}
	if p := schema.Child(n, port); p != nil && p.Decode(&number) != nil {
		number = 0 // which was a fault
	}
	return API{n, path, Address(at, number)}
}
