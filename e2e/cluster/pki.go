package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// certLifetime is long for a cluster that lives minutes, and short enough that a lost key is worth nothing.
const certLifetime = 30 * 24 * time.Hour

// keyPair is a certificate and its key, both in PEM.
type keyPair struct{ Cert, Key []byte }

// authority signs certificates. Its key is never written to disk: nothing signs after Up.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of %s: %w", name, err)
	}
	template := newTemplate(name)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", name, err)
	}
	return &authority{cert: cert, key: key, pem: pemBlock("CERTIFICATE", der)}, nil
}

// identity is whom a certificate is for. For a client the name is the Kubernetes user and the groups
// are its groups; a server has hosts (DNS names or addresses) as well.
type identity struct {
	Name   string
	Groups []string
	Hosts  []string
}

// issue makes a key and a certificate that serves for both ends of a connection.
func (a *authority) issue(id identity) (keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, fmt.Errorf("make the key of %s: %w", id.Name, err)
	}
	template := newTemplate(id.Name)
	template.Subject.Organization = id.Groups
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, host := range id.Hosts {
		if addr, err := netip.ParseAddr(host); err == nil {
			template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return keyPair{}, fmt.Errorf("sign the certificate of %s: %w", id.Name, err)
	}
	private, err := privatePEM(key)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{Cert: pemBlock("CERTIFICATE", der), Key: private}, nil
}

func newTemplate(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour), // a guest's clock may be behind
		NotAfter:     now.Add(certLifetime),
	}
}

func privatePEM(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a private key: %w", err)
	}
	return pemBlock("PRIVATE KEY", der), nil
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// users are the cluster's clients that get a kubeconfig, besides the kubelets.
var users = []identity{
	{Name: "admin", Groups: []string{"system:masters"}},
	{Name: "system:kube-controller-manager"},
	{Name: "system:kube-scheduler"},
	{Name: "system:kube-proxy"},
}

// servers are the cluster's certificates that are used from files: file name to identity.
func servers() map[string]identity {
	all := map[string]identity{
		"apiserver": {Name: "kube-apiserver", Hosts: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain,
			"localhost", "127.0.0.1", cpAddr.String(), apiService.String(),
		}},
		"apiserver-kubelet-client": {Name: "kube-apiserver", Groups: []string{"system:masters"}},
	}
	for _, n := range nodes {
		all["kubelet-"+n.Name] = identity{Name: n.Name, Hosts: []string{n.Name, n.IP.String()}}
	}
	return all
}

// writePKI makes all keys, certificates and kubeconfigs of a new cluster below dir. api is where clients find
// its API server.
func writePKI(dir stateDir, api netip.AddrPort) error {
	if err := os.MkdirAll(dir.pki(""), 0o755); err != nil {
		return fmt.Errorf("make the certificates: %w", err)
	}
	ca, err := newAuthority("kubernetes")
	if err != nil {
		return err
	}
	// The front proxy's CA must be another one: whoever it signs may say who a request is from.
	frontProxy, err := newAuthority("front-proxy")
	if err != nil {
		return err
	}
	pairs := map[string]keyPair{"ca": {Cert: ca.pem}, "front-proxy-ca": {Cert: frontProxy.pem}}
	for file, id := range servers() {
		if pairs[file], err = ca.issue(id); err != nil {
			return err
		}
	}
	if pairs["front-proxy-client"], err = frontProxy.issue(identity{Name: "front-proxy-client"}); err != nil {
		return err
	}
	if pairs["service-accounts"], err = newServiceAccountKey(); err != nil {
		return err
	}
	for file, pair := range pairs {
		if err := pair.write(dir, file); err != nil {
			return err
		}
	}
	return writeKubeconfigs(dir, api, ca)
}

// newServiceAccountKey makes the key that signs service-account tokens; RSA, for what verifies the
// tokens elsewhere commonly knows only RS256.
func newServiceAccountKey() (keyPair, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return keyPair{}, fmt.Errorf("make the key of service accounts: %w", err)
	}
	private, err := privatePEM(key)
	return keyPair{Key: private}, err
}

// write writes file.crt and file.key, each if there is one.
func (k keyPair) write(dir stateDir, file string) error {
	for name, data := range map[string][]byte{file + ".crt": k.Cert, file + ".key": k.Key} {
		if data == nil {
			continue
		}
		if err := os.WriteFile(dir.pki(name), data, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

func writeKubeconfigs(dir stateDir, api netip.AddrPort, ca *authority) error {
	all := slices.Clone(users)
	for _, n := range nodes {
		all = append(all, kubeletUser(n))
	}
	for _, user := range all {
		pair, err := ca.issue(user)
		if err != nil {
			return err
		}
		if err := clientcmd.WriteToFile(newKubeconfig(api, ca.pem, pair), dir.kubeconfig(user.Name)); err != nil {
			return fmt.Errorf("write the kubeconfig of %s: %w", user.Name, err)
		}
	}
	return nil
}

// kubeletUser is the name that the node authorizer knows a node's kubelet by.
func kubeletUser(n Node) identity {
	return identity{Name: "system:node:" + n.Name, Groups: []string{"system:nodes"}}
}

// newKubeconfig holds everything inline, so that the file can be copied.
func newKubeconfig(api netip.AddrPort, ca []byte, client keyPair) clientcmdapi.Config {
	config := clientcmdapi.NewConfig()
	config.Clusters[clusterName] = &clientcmdapi.Cluster{
		Server:                   "https://" + api.String(),
		CertificateAuthorityData: ca,
	}
	config.AuthInfos[clusterName] = &clientcmdapi.AuthInfo{ClientCertificateData: client.Cert, ClientKeyData: client.Key}
	config.Contexts[clusterName] = &clientcmdapi.Context{Cluster: clusterName, AuthInfo: clusterName}
	config.CurrentContext = clusterName
	return *config
}
