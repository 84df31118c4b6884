package issuer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// backdate is how far certificates reach into the past, for clocks that are slow.
const backdate = time.Minute

// Local is a certificate authority in memory: for a mesh on one machine, and for tests. It is gone
// with the process. It is safe for concurrent use.
type Local struct {
	root *x509.Certificate
	key  crypto.Signer
}

// NewLocal makes an authority that is good for life.
func NewLocal(life time.Duration) (*Local, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate the authority's key: %w", err)
	}
	local := &Local{key: key, root: &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Tulle local authority"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}}
	content, err := local.make(local.root, key.Public(), life)
	if err != nil {
		return nil, err
	}
	chain, err := parseChain(content)
	if err != nil {
		return nil, err
	}
	local.root = chain[0]
	return local, nil
}

// Roots returns the authority's certificate in PEM.
func (l *Local) Roots() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.root.Raw})
}

// Sign implements [Signer].
func (l *Local) Sign(_ context.Context, order Order) ([]byte, error) {
	return l.make(&x509.Certificate{
		URIs:        []*url.URL{order.ID.URL()},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, order.CSR.PublicKey, order.Duration)
}

// Server returns a serving certificate for host names and IP addresses, as the controller's own servers need.
func (l *Local) Server(life time.Duration, hosts ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("generate key: %w", err)
	}
	template := &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	content, err := l.make(template, key.Public(), life)
	if err != nil {
		return tls.Certificate{}, err
	}
	chain, err := parseChain(content)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{chain[0].Raw}, PrivateKey: key, Leaf: chain[0]}, nil
}

// make signs a template that lacks serial number and dates, and returns it in PEM.
func (l *Local) make(template *x509.Certificate, public crypto.PublicKey, life time.Duration) ([]byte, error) {
	// RFC 5280 section 4.1.2.2: positive and at most 20 octets.
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 159))
	if err != nil {
		return nil, fmt.Errorf("choose a serial number: %w", err)
	}
	now := time.Now()
	template.SerialNumber, template.NotBefore, template.NotAfter = serial, now.Add(-backdate), now.Add(life)
	der, err := x509.CreateCertificate(rand.Reader, template, l.root, public, l.key)
	if err != nil {
		return nil, fmt.Errorf("create certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
