// Package certs is how a proxy proves who it is: it gets a certificate from the controller, keeps it fresh,
// and makes the TLS configurations of the hop between two proxies from it.
//
// It is the client side only. The server that signs is package certs/issuer; what a peer may do once it is
// known is the router's affair. It imports nothing of Kubernetes: a token in a file is all it needs.
//
// An identity is a SPIFFE id, spiffe://<trust domain>/ns/<namespace>/sa/<service account>, as the only
// subject alternative name of an X.509 certificate (https://github.com/spiffe/spiffe, X509-SVID).
//
// Invariants: a private key never leaves the memory of the process, and each certificate has its own. A
// certificate is used only if it chains to the bundle that came with it and names the identity asked for.
// While it is valid nothing takes it away: failing renewals leave it in use.
//
//	source, err := certs.New(certs.Config{
//		URL: "https://tulle-controller.tulle:4181", TLS: &tls.Config{RootCAs: roots},
//		Token: certs.FileToken("/var/run/secrets/tulle.dev/token"), ID: id, Logger: log,
//	})
//	go source.Run(ctx)
//	<-source.Ready()
//	listener = tls.NewListener(listener, source.ServerTLS())
package certs

import (
	"fmt"
	"os"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Path is where the controller answers a [Request] by POST, below its base URL.
const Path = "/tulle/v1/certificate"

// Request is the body of a request for a certificate. The caller's token goes into the Authorization header.
type Request struct {
	// CSR is a PKCS #10 request in PEM, with the caller's SPIFFE id as its only name.
	CSR string `json:"csr"`
}

// Answer is the body of a granted request.
type Answer struct {
	// Chain is the certificate in PEM, followed by what leads from it to the bundle, without the root.
	Chain string `json:"chain"`
	// Bundle is every root that the mesh trusts now, in PEM.
	Bundle string `json:"bundle"`
}

// Refusal is the body of a request that was not granted.
type Refusal struct {
	// Error says what is wrong.
	Error string `json:"error"`
	// Hint says what would be right, or is empty.
	Hint string `json:"hint,omitempty"`
}

// RefusedError is what the controller said when it did not grant a certificate.
type RefusedError struct {
	Status int
	Refusal
}

func (e *RefusedError) Error() string {
	text := fmt.Sprintf("the controller refused with %d: %s", e.Status, e.Refusal.Error)
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// Identity returns the SPIFFE id of a service account. It fails on names that Kubernetes would not take either.
func Identity(trustDomain spiffeid.TrustDomain, namespace, serviceAccount string) (spiffeid.ID, error) {
	id, err := spiffeid.FromSegments(trustDomain, "ns", namespace, "sa", serviceAccount)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("make the identity of service account %q in namespace %q: %w", serviceAccount, namespace, err)
	}
	return id, nil
}

// FileToken returns a token function for [Config] that reads the file each time, since the kubelet
// replaces a projected token before it runs out.
func FileToken(path string) func() (string, error) {
	return func() (string, error) {
		content, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		token := strings.TrimSpace(string(content))
		if token == "" {
			return "", fmt.Errorf("read token: %s is empty", path)
		}
		return token, nil
	}
}
