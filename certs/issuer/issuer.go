// Package issuer is the controller's side of identity: it turns a service-account token and a certificate
// request into a mesh certificate.
//
// It decides who a caller is (an [Authenticator]) and that it gets exactly the certificate of that identity; a
// [Signer] makes it. There are two of each: Kubernetes (TokenReview, cert-manager) and plain Go for a mesh
// on one machine. The package is the one below certs that knows Kubernetes; proxies link only certs.
//
// Invariants: a certificate names the identity that the token proves and nothing else, whatever was asked
// for and whatever the signer made; one that does not chain to the mesh's roots is not handed out. No
// private key is ever seen here but the local authority's own.
//
//	server, err := issuer.New(issuer.Config{
//		TrustDomain:   spiffeid.RequireTrustDomainFromString("cluster.local"),
//		Authenticator: issuer.NewTokenReview(client, "tulle.dev"),
//		Signer:        issuer.NewCertManager(issuer.CertManagerConfig{…}),
//		Roots:         files.CA, Duration: 24 * time.Hour, Logger: log,
//	})
//	mux.Handle("POST "+certs.Path, server)
package issuer

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/tulle-mesh/tulle/certs"
)

// maxRequest bounds a request; a CSR with an RSA key of 4096 bits has some two thousand bytes.
const maxRequest = 16 << 10

// readTimeout bounds the time for its body.
const readTimeout = 10 * time.Second

var (
	// ErrUnauthenticated is in the chain of an [Authenticator]'s error when the token is no good, in
	// contrast to one that could not be checked. The caller needs another token.
	ErrUnauthenticated = errors.New("the token is not accepted")
	// ErrDenied is in the chain of a [Signer]'s error when a policy forbids the certificate. Asking
	// again does not help.
	ErrDenied = errors.New("the certificate request was denied")
)

// Caller is who a token speaks for.
type Caller struct {
	Namespace      string
	ServiceAccount string
	// Pod is the name of the pod that the token is bound to, Node that of its node, if known.
	Pod, Node string
}

// Authenticator tells who a bearer token speaks for. It is safe for concurrent use.
type Authenticator interface {
	// Authenticate fails with [ErrUnauthenticated] when the token is no good, with another error when
	// that could not be found out.
	Authenticate(ctx context.Context, token string) (Caller, error)
}

// Order is a certificate to be signed. Its CSR has been checked.
type Order struct {
	// CSR is the request, CSRPEM the same in PEM.
	CSR    *x509.CertificateRequest
	CSRPEM []byte
	// ID is what the certificate is to name, Caller who will hold it.
	ID     spiffeid.ID
	Caller Caller
	// Duration is how long the certificate is to be good for.
	Duration time.Duration
}

// Signer makes certificates. It is safe for concurrent use.
type Signer interface {
	// Sign returns the certificate in PEM, followed by the intermediate ones. It fails with [ErrDenied]
	// when it was forbidden, and takes no longer than it must be waited for.
	Sign(ctx context.Context, order Order) (chain []byte, err error)
}

// Config is what a [Server] is made of; all but Registerer and Logger is required.
type Config struct {
	TrustDomain   spiffeid.TrustDomain
	Authenticator Authenticator
	Signer        Signer
	// Roots returns the mesh's roots in PEM as they are now; it is called for each certificate.
	Roots func() []byte
	// Duration is how long certificates are good for.
	Duration time.Duration
	// Registerer receives the metrics; nil if nobody reads them.
	Registerer prometheus.Registerer
	// Logger gets a line for each certificate issued and each that the signer owed. Nil discards them.
	Logger *slog.Logger
}

// Server answers requests for certificates (certs.Request) at certs.Path.
type Server struct {
	cfg      Config
	log      *slog.Logger
	requests *prometheus.CounterVec
}

// Results of a request, as the metric has them.
const (
	resultIssued  = "issued"
	resultRefused = "refused" // the caller's fault
	resultFailed  = "failed"  // ours, or the signer's
)

// New checks cfg. It does no I/O.
func New(cfg Config) (*Server, error) {
	var errs []error
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("make an issuer: it has no %s", what))
		}
	}
	require(!cfg.TrustDomain.IsZero(), "trust domain")
	require(cfg.Authenticator != nil, "authenticator")
	require(cfg.Signer != nil, "signer")
	require(cfg.Roots != nil, "roots")
	require(cfg.Duration > 0, "duration")
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tulle_certificate_requests_total",
		Help: "Requests of proxies for a certificate, by result.",
	}, []string{"result"})
	for _, result := range []string{resultIssued, resultRefused, resultFailed} {
		requests.WithLabelValues(result) // So that a rate works from the first event.
	}
	if cfg.Registerer != nil {
		errs = append(errs, cfg.Registerer.Register(requests))
	}
	return &Server{cfg: cfg, log: log, requests: requests}, errors.Join(errs...)
}

// problem is an error that the caller is told.
type problem struct {
	status int
	certs.Refusal
}

func (p *problem) Error() string { return p.Refusal.Error }

// StatusCode is the HTTP status to answer with.
func (p *problem) StatusCode() int { return p.status }

func refuse(status int, hint, format string, args ...any) *problem {
	return &problem{status, certs.Refusal{Error: fmt.Sprintf(format, args...), Hint: hint}}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := s.issue(w, r)
	status, body, result := http.StatusOK, any(answer), resultIssued
	if err != nil {
		var told *problem
		if !errors.As(err, &told) {
			told = refuse(http.StatusServiceUnavailable, "", "%v", err)
		}
		status, body, result = told.status, told.Refusal, resultRefused
		if status == http.StatusServiceUnavailable {
			s.log.Error("could not issue certificate", "error", err)
			result = resultFailed
		}
	}
	s.requests.WithLabelValues(result).Inc()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // A caller who has gone away asks again.
}

func (s *Server) issue(w http.ResponseWriter, r *http.Request) (certs.Answer, error) {
	if r.Method != http.MethodPost {
		return certs.Answer{}, refuse(http.StatusMethodNotAllowed, "", "the method is %s, not POST", r.Method)
	}
	caller, err := Authenticate(s.cfg.Authenticator, r)
	if err != nil {
		return certs.Answer{}, err
	}
	id, err := certs.Identity(s.cfg.TrustDomain, caller.Namespace, caller.ServiceAccount)
	if err != nil {
		return certs.Answer{}, refuse(http.StatusForbidden, "", "%v", err)
	}
	content, err := readAll(w, r)
	if err != nil {
		return certs.Answer{}, refuse(http.StatusBadRequest, "", "read the request: %v", err)
	}
	var request certs.Request
	if err := json.Unmarshal(content, &request); err != nil {
		return certs.Answer{}, refuse(http.StatusBadRequest, `send {"csr":"<PEM>"}`, "decode the request: %v", err)
	}
	csr, err := checkCSR([]byte(request.CSR), id)
	if err != nil {
		return certs.Answer{}, err
	}
	chain, err := s.cfg.Signer.Sign(r.Context(), Order{
		CSR: csr, CSRPEM: []byte(request.CSR), ID: id, Caller: caller, Duration: s.cfg.Duration,
	})
	if errors.Is(err, ErrDenied) {
		return certs.Answer{}, refuse(http.StatusForbidden, "", "%v", err)
	} else if err != nil {
		return certs.Answer{}, fmt.Errorf("sign a certificate for %s: %w", id, err)
	}
	roots := s.cfg.Roots()
	leaf, err := s.checkChain(chain, roots, csr, id)
	if err != nil {
		return certs.Answer{}, fmt.Errorf("check the signed certificate for %s: %w", id, err)
	}
	s.log.Info("issued certificate", "identity", id.String(), "namespace", caller.Namespace, "pod", caller.Pod, "node", caller.Node,
		"serial", leaf.SerialNumber.String(), "not_after", leaf.NotAfter)
	return certs.Answer{Chain: string(chain), Bundle: string(roots)}, nil
}

// readAll reads a short body from a caller who may be slow, or hostile. The server it runs in also serves
// streams and so has no timeout for bodies; a writer that knows no deadlines is a test's.
func readAll(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(readTimeout))
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	_ = deadline.SetReadDeadline(time.Time{})
	return content, err
}

// Authenticate tells who sent a request with a bearer token. Its error has the method StatusCode() int: 401 when
// the token is missing or no good, 503 when that could not be found out.
func Authenticate(a Authenticator, r *http.Request) (Caller, error) {
	const hint = "send a service-account token of a pod, projected for the mesh's audience"
	token, err := bearerToken(r)
	if err != nil {
		return Caller{}, refuse(http.StatusUnauthorized, hint, "%v", err)
	}
	caller, err := a.Authenticate(r.Context(), token)
	if errors.Is(err, ErrUnauthenticated) {
		return Caller{}, refuse(http.StatusUnauthorized, hint, "%v", err)
	} else if err != nil {
		return Caller{}, refuse(http.StatusServiceUnavailable, "", "authenticate: %v", err)
	}
	return caller, nil
}

// bearerToken returns the token of a request's Authorization header (RFC 6750 section 2.1).
func bearerToken(r *http.Request) (string, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", fmt.Errorf("%w: there is no bearer token in the Authorization header", ErrUnauthenticated)
	}
	return token, nil
}

// checkChain checks what the signer made: issuers may change or add what they like.
func (s *Server) checkChain(chain, roots []byte, csr *x509.CertificateRequest, id spiffeid.ID) (*x509.Certificate, error) {
	bundle, err := x509bundle.Parse(s.cfg.TrustDomain, roots)
	if err != nil {
		return nil, fmt.Errorf("parse the mesh's roots: %w", err)
	}
	certificates, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	got, _, err := x509svid.Verify(certificates, bundle)
	if err != nil {
		return nil, fmt.Errorf("%w; is the issuer of the controller's own certificate another than the mesh's?", err)
	}
	leaf := certificates[0]
	names := len(leaf.DNSNames) + len(leaf.EmailAddresses) + len(leaf.IPAddresses)
	switch key, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); {
	case got != id:
		return nil, fmt.Errorf("it names %s", got)
	case names > 0:
		return nil, fmt.Errorf("it has %d names besides the identity", names)
	case !ok || !key.Equal(csr.PublicKey):
		return nil, errors.New("it is for another key")
	}
	return leaf, nil
}
