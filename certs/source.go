package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	// attemptTimeout is longer than the controller waits for its signer, so that the reason of a failure
	// comes from the one who knows it.
	attemptTimeout = time.Minute
	// firstBackoff is the wait after the first failure.
	firstBackoff = time.Second
	// bareBackoff bounds the wait while there is no valid certificate: a pod is waiting to start.
	bareBackoff = 10 * time.Second
	// calmBackoff bounds the wait while the old certificate is still good.
	calmBackoff = 5 * time.Minute
	// maxAnswer bounds an answer; a chain with a bundle of several roots has some ten thousand bytes.
	maxAnswer = 1 << 20
)

// Config says whose certificate to get, and from where.
type Config struct {
	// URL is the base of the controller's mesh API, https://host:port.
	URL string
	// TLS verifies the controller: RootCAs are the mesh's roots. It is cloned; nil trusts the system's roots.
	TLS *tls.Config
	// Token returns the caller's service-account token; it is called for every attempt. See [FileToken].
	Token func() (string, error)
	// ID is the identity to ask for.
	ID spiffeid.ID
	// Logger gets transitions: a certificate obtained, renewals beginning to fail. Nil discards them.
	Logger *slog.Logger
	// Dial, if not nil, makes the connections to the controller in place of a [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Source is a certificate that renews itself while Run runs. Its methods are safe for concurrent use
// and do not block. It is an [x509svid.Source] and an [x509bundle.Source].
type Source struct {
	// read-only after New
	cfg      Config
	endpoint string
	client   *http.Client
	log      *slog.Logger
	ready    chan struct{}

	current atomic.Pointer[state]
	failure atomic.Pointer[error] // of the last attempt, nil when it succeeded
}

// state is one certificate with the bundle it came with; immutable.
type state struct {
	svid   *x509svid.SVID
	bundle *x509bundle.Bundle
}

func (s *state) notAfter() time.Time { return s.svid.Certificates[0].NotAfter }

// New checks cfg. It does no I/O.
func New(cfg Config) (*Source, error) {
	base, err := url.Parse(cfg.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("parse the controller's URL: %w", err)
	case base.Scheme != "https" || base.Host == "":
		return nil, fmt.Errorf("check the controller's URL: %q is not https://host:port", cfg.URL)
	case cfg.ID.IsZero():
		return nil, errors.New("check the identity: it is empty")
	case cfg.Token == nil:
		return nil, errors.New("check the token: there is no way to get one")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Source{
		cfg:      cfg,
		endpoint: base.JoinPath(Path).String(),
		// The variable http_proxy is for applications: the way to the controller leads through no proxy.
		client: &http.Client{
			Transport: &http.Transport{
				TLSClientConfig:   cfg.TLS.Clone(),
				DialContext:       cfg.Dial,
				DisableKeepAlives: true, // The next request is hours away.
			},
			// The token is for the controller and nobody it may point to.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		log:   log,
		ready: make(chan struct{}),
	}, nil
}

// Run gets a certificate and renews it, each time with a new key, when at most two thirds of what was
// left of its life have passed. Failures are retried with growing waits, for ever. It returns nil
// when ctx is done. Call it once.
func (s *Source) Run(ctx context.Context) error {
	backoff := firstBackoff
	for {
		next, err := s.obtain(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var wait time.Duration
		if err == nil {
			first := s.current.Swap(next) == nil
			s.failure.Store(nil)
			backoff = firstBackoff
			wait = renewIn(time.Until(next.notAfter()))
			s.log.Info("obtained certificate", "identity", s.cfg.ID.String(), "not_after", next.notAfter(), "renew_in", wait)
			if first {
				close(s.ready)
			}
		} else {
			level := slog.LevelWarn
			if last := s.failure.Swap(&err); last != nil && (*last).Error() == err.Error() {
				level = slog.LevelDebug // It is no news.
			}
			bound := bareBackoff
			if left := time.Until(s.NotAfter()); left > 0 {
				bound = min(calmBackoff, left/8)
			}
			backoff = max(firstBackoff, min(backoff, bound))
			wait = jitter(backoff)
			s.log.Log(ctx, level, "could not obtain certificate, will retry", "identity", s.cfg.ID.String(), "error", err, "retry_in", wait)
			backoff *= 2
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// renewIn returns when to renew a certificate that is good for left: at two thirds or up to a tenth
// earlier, so that pods which started together do not all come back together.
func renewIn(left time.Duration) time.Duration {
	return max(firstBackoff, time.Duration(float64(left)*(2.0/3-mathrand.Float64()/10)))
}

// jitter spreads a wait over its upper half.
func jitter(d time.Duration) time.Duration { return d/2 + mathrand.N(d/2+1) }

// obtain asks for one certificate and checks it.
func (s *Source) obtain(ctx context.Context) (*state, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{s.cfg.ID.URL()}}, key)
	if err != nil {
		return nil, fmt.Errorf("create certificate request: %w", err)
	}
	answer, err := s.request(ctx, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	if err != nil {
		return nil, fmt.Errorf("request certificate from %s: %w", s.endpoint, err)
	}
	next, err := s.accept(answer, key)
	if err != nil {
		return nil, fmt.Errorf("check certificate from %s: %w", s.endpoint, err)
	}
	return next, nil
}

func (s *Source) request(ctx context.Context, csr []byte) (Answer, error) {
	token, err := s.cfg.Token()
	if err != nil {
		return Answer{}, err
	}
	body, err := json.Marshal(Request{CSR: string(csr)})
	if err != nil {
		return Answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.endpoint, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	res, err := s.client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return Answer{}, fmt.Errorf("read answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		refused := &RefusedError{Status: res.StatusCode}
		if json.Unmarshal(content, &refused.Refusal) != nil || refused.Refusal.Error == "" {
			refused.Refusal.Error = http.StatusText(res.StatusCode)
		}
		return Answer{}, refused
	}
	var answer Answer
	if err := json.Unmarshal(content, &answer); err != nil {
		return Answer{}, fmt.Errorf("decode answer: %w", err)
	}
	return answer, nil
}

// accept checks what the controller sent: it is not trusted to have made no mistake.
func (s *Source) accept(answer Answer, key *ecdsa.PrivateKey) (*state, error) {
	bundle, err := x509bundle.Parse(s.cfg.ID.TrustDomain(), []byte(answer.Bundle))
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	svid, err := x509svid.Parse([]byte(answer.Chain), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		return nil, err
	}
	if svid.ID != s.cfg.ID {
		return nil, fmt.Errorf("it names %s, not %s", svid.ID, s.cfg.ID)
	}
	if _, _, err := x509svid.Verify(svid.Certificates, bundle); err != nil {
		return nil, err
	}
	return &state{svid: svid, bundle: bundle}, nil
}

// Ready returns a channel that is closed when the first certificate is there.
func (s *Source) Ready() <-chan struct{} { return s.ready }

// Valid reports whether there is a certificate and it has not run out.
func (s *Source) Valid() bool { return time.Now().Before(s.NotAfter()) }

// NotAfter returns when the certificate runs out, the zero time while there is none.
func (s *Source) NotAfter() time.Time {
	if current := s.current.Load(); current != nil {
		return current.notAfter()
	}
	return time.Time{}
}

// ID returns the identity that the source was made for.
func (s *Source) ID() spiffeid.ID { return s.cfg.ID }

// valid returns the certificate in use, or why there is none.
func (s *Source) valid() (*state, error) {
	current := s.current.Load()
	var reason string
	if failure := s.failure.Load(); failure != nil {
		reason = ": " + (*failure).Error()
	}
	switch {
	case current == nil:
		return nil, fmt.Errorf("there is no certificate for %s yet%s", s.cfg.ID, reason)
	case !time.Now().Before(current.notAfter()):
		return nil, fmt.Errorf("the certificate for %s ran out at %s%s", s.cfg.ID, current.notAfter().Format(time.RFC3339), reason)
	}
	return current, nil
}

// GetX509SVID returns the certificate and its key. It fails, with the last failure of a renewal, while
// there is no valid one.
func (s *Source) GetX509SVID() (*x509svid.SVID, error) {
	current, err := s.valid()
	if err != nil {
		return nil, err
	}
	return current.svid, nil
}

// GetX509BundleForTrustDomain returns the mesh's roots. It fails for any trust domain but the source's own.
func (s *Source) GetX509BundleForTrustDomain(trustDomain spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if trustDomain != s.cfg.ID.TrustDomain() {
		return nil, fmt.Errorf("trust domain %s is not %s", trustDomain, s.cfg.ID.TrustDomain())
	}
	current, err := s.valid()
	if err != nil {
		return nil, err
	}
	return current.bundle, nil
}

// ServerTLS returns the configuration of the incoming end of a hop: TLS 1.3, and a client certificate of
// one of the expected peers, or of anyone in the own trust domain if none is named. It follows renewals and
// may be used before [Source.Ready], when handshakes fail.
func (s *Source) ServerTLS(expected ...spiffeid.ID) *tls.Config {
	authorize := tlsconfig.AuthorizeMemberOf(s.cfg.ID.TrustDomain())
	if len(expected) > 0 {
		authorize = tlsconfig.AuthorizeOneOf(expected...)
	}
	return hop(tlsconfig.MTLSServerConfig(s, s, authorize))
}

// ClientTLS returns the configuration of the outgoing end of a hop to the one peer that is expected there.
// Any other identity fails the handshake. It follows renewals; make it once for each peer.
func (s *Source) ClientTLS(expected spiffeid.ID) *tls.Config {
	return hop(tlsconfig.MTLSClientConfig(s, s, tlsconfig.AuthorizeID(expected)))
}

// hop makes a configuration fit for the way between two proxies of ours.
func hop(config *tls.Config) *tls.Config {
	config.MinVersion = tls.VersionTLS13
	config.NextProtos = []string{"http/1.1"}
	// A resumed session would skip the check of the peer's certificate. Connections are kept for long,
	// so that there is little to gain from one.
	config.SessionTicketsDisabled = true
	// Small records at first are for browsers, which can use half a page; a proxy cannot.
	config.DynamicRecordSizingDisabled = true
	return config
}

// Compile-time checks of what the TLS configurations rely on.
var (
	_ x509svid.Source   = (*Source)(nil)
	_ x509bundle.Source = (*Source)(nil)
)
