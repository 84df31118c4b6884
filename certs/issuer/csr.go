package issuer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// minRSABits is the shortest RSA key that NIST SP 800-131A still allows.
const minRSABits = 2048

// subjectAltName is the extension of RFC 5280 section 4.2.1.6.
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// checkCSR lets through a request that is signed by its own key, and asks for exactly one name: the URI that
// is id. Whatever else a request may ask for is refused, so that no signer has to be trusted to ignore it.
// Its error is a *problem.
func checkCSR(content []byte, id spiffeid.ID) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(content)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, refuse(http.StatusBadRequest, "", "the CSR is not one PEM block of type CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "", "parse the CSR: %v", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, refuse(http.StatusBadRequest, "sign the CSR with the key that it carries", "check the CSR's signature: %v", err)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, refuse(http.StatusBadRequest, "use ECDSA P-256", "check the CSR's key: %v", err)
	}
	hint := "ask for the URI " + id.String() + " and nothing else"
	// Subject and names are compared in their encoding: the parser leaves out the kinds it does not know.
	if !bytes.Equal(csr.RawSubject, []byte{0x30, 0x00}) {
		return nil, refuse(http.StatusForbidden, hint, "the CSR has the subject %q", csr.Subject.String())
	}
	var names []asn1.RawValue
	for _, extension := range csr.Extensions {
		if !extension.Id.Equal(subjectAltName) {
			return nil, refuse(http.StatusForbidden, hint, "the CSR asks for the extension %s", extension.Id)
		}
		more, err := generalNames(extension.Value)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, hint, "parse the CSR's names: %v", err)
		}
		names = append(names, more...)
	}
	const uri = 6 // GeneralName's uniformResourceIdentifier [6] IA5String
	switch {
	case len(names) != 1:
		return nil, refuse(http.StatusForbidden, hint, "the CSR asks for %d names", len(names))
	case names[0].Class != asn1.ClassContextSpecific || names[0].Tag != uri:
		return nil, refuse(http.StatusForbidden, hint, "the CSR asks for a name that is not a URI")
	case string(names[0].Bytes) != id.String():
		return nil, refuse(http.StatusForbidden, hint, "the CSR asks for %q", names[0].Bytes)
	}
	return csr, nil
}

// generalNames splits the value of a subjectAltName: SEQUENCE OF GeneralName.
func generalNames(value []byte) ([]asn1.RawValue, error) {
	var sequence asn1.RawValue
	if rest, err := asn1.Unmarshal(value, &sequence); err != nil {
		return nil, err
	} else if len(rest) > 0 || sequence.Tag != asn1.TagSequence {
		return nil, errors.New("they are not one sequence")
	}
	var names []asn1.RawValue
	for rest := sequence.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

func checkKey(public any) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return fmt.Errorf("the curve is %s, not P-256 or P-384", key.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits {
			return fmt.Errorf("RSA of %d bits is too short, %d is the least", bits, minRSABits)
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("the type %T is not ECDSA, RSA or Ed25519", public)
	}
	return nil
}

// parseChain reads certificates in PEM; there is at least one.
func parseChain(content []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for rest := content; len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("the chain is not PEM blocks of type CERTIFICATE")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate: %w", err)
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return chain, nil
}
