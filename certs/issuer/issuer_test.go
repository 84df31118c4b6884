package issuer_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/certs"
	"github.com/tulle-mesh/tulle/certs/issuer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	meshDomain = spiffeid.RequireTrustDomainFromString("cluster.local")
	webID      = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
	webCaller  = issuer.Caller{Namespace: "shop", ServiceAccount: "web", Pod: "web-0", Node: "n1"}
	tokens     = issuer.NewStaticTokens(map[string]issuer.Caller{"token-web": webCaller})
)

func newLocal(t *testing.T) *issuer.Local {
	t.Helper()
	local, err := issuer.NewLocal(100 * time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return local
}

// signerFunc is a signer for what real ones are not meant to do.
type signerFunc func(context.Context, issuer.Order) ([]byte, error)

func (f signerFunc) Sign(ctx context.Context, o issuer.Order) ([]byte, error) { return f(ctx, o) }

func newServer(t *testing.T, local *issuer.Local, signer issuer.Signer) *issuer.Server {
	t.Helper()
	server, err := issuer.New(issuer.Config{
		TrustDomain: meshDomain, Authenticator: tokens, Signer: signer, Roots: local.Roots, Duration: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t *testing.T, key crypto.Signer, template x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// ask posts one CSR and returns what was answered.
func ask(t *testing.T, h http.Handler, token, csr string) (int, certs.Answer, certs.Refusal) {
	t.Helper()
	body, err := json.Marshal(certs.Request{CSR: csr})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, certs.Path, bytes.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var answer struct {
		certs.Answer
		certs.Refusal
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("decode %q: %v", w.Body, err)
	}
	return w.Code, answer.Answer, answer.Refusal
}

func TestSourceGetsACertificate(t *testing.T) {
	local := newLocal(t)
	serving, err := local.Server(time.Hour, "tulle-controller.tulle", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.StripPrefix("/mesh", newServer(t, local, local)))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{serving}}
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(local.Roots())
	source, err := certs.New(certs.Config{
		URL: server.URL + "/mesh", TLS: &tls.Config{RootCAs: roots}, ID: webID,
		Token: func() (string, error) { return "token-web", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx) }()
	<-source.Ready()
	svid, err := source.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	leaf := svid.Certificates[0]
	if left := time.Until(leaf.NotAfter); svid.ID != webID || left > time.Hour || left < 59*time.Minute {
		t.Errorf("got %s for %s", svid.ID, left)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCSR(t *testing.T) {
	key := newKey(t)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uris := []*url.URL{webID.URL()}
	good := newCSR(t, key, x509.CertificateRequest{URIs: uris})
	forged, _ := pem.Decode([]byte(good))
	forged.Bytes[len(forged.Bytes)-1] ^= 1
	san := func(value any) []pkix.Extension {
		der, err := asn1.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}}
	}
	uriName := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(webID.String())}
	registered := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{0x2a, 0x03}}
	for name, c := range map[string]struct {
		csr    string
		status int
		want   string
	}{
		"P-256":             {good, 200, ""},
		"RSA 2048":          {newCSR(t, long, x509.CertificateRequest{URIs: uris}), 200, ""},
		"Ed25519":           {newCSR(t, edwards, x509.CertificateRequest{URIs: uris}), 200, ""},
		"nothing":           {"", 400, "not one PEM block"},
		"another block":     {strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE"), 400, "not one PEM block"},
		"two":               {good + good, 400, "not one PEM block"},
		"no DER":            {"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", 400, "parse the CSR"},
		"forged signature":  {string(pem.EncodeToMemory(forged)), 400, "check the CSR's signature"},
		"P-224":             {newCSR(t, p224, x509.CertificateRequest{URIs: uris}), 400, "the curve is P-224, not P-256 or P-384"},
		"RSA 1024":          {newCSR(t, short, x509.CertificateRequest{URIs: uris}), 400, "RSA of 1024 bits is too short"},
		"no name":           {newCSR(t, key, x509.CertificateRequest{}), 403, "asks for 0 names"},
		"another":           {newCSR(t, key, x509.CertificateRequest{URIs: []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/shop/sa/admin"}}}), 403, `asks for "spiffe://cluster.local/ns/shop/sa/admin"`},
		"trust domain":      {newCSR(t, key, x509.CertificateRequest{URIs: []*url.URL{{Scheme: "spiffe", Host: "other", Path: "/ns/shop/sa/web"}}}), 403, `asks for "spiffe://other/`},
		"twice":             {newCSR(t, key, x509.CertificateRequest{URIs: append(uris, uris...)}), 403, "asks for 2 names"},
		"DNS besides":       {newCSR(t, key, x509.CertificateRequest{URIs: uris, DNSNames: []string{"a"}}), 403, "asks for 2 names"},
		"IP besides":        {newCSR(t, key, x509.CertificateRequest{URIs: uris, IPAddresses: []net.IP{{1, 2, 3, 4}}}), 403, "asks for 2 names"},
		"mail only":         {newCSR(t, key, x509.CertificateRequest{EmailAddresses: []string{"a@b"}}), 403, "not a URI"},
		"subject":           {newCSR(t, key, x509.CertificateRequest{URIs: uris, Subject: pkix.Name{CommonName: "admin"}}), 403, `the subject "CN=admin"`},
		"kind Go leaves":    {newCSR(t, key, x509.CertificateRequest{ExtraExtensions: san([]asn1.RawValue{uriName, registered})}), 403, "asks for 2 names"},
		"another extension": {newCSR(t, key, x509.CertificateRequest{URIs: uris, ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}}}), 403, "extension 2.5.29.19"},
	} {
		t.Run(name, func(t *testing.T) {
			local := newLocal(t)
			status, _, refusal := ask(t, newServer(t, local, local), "token-web", c.csr)
			if status != c.status || !strings.Contains(refusal.Error, c.want) {
				t.Errorf("got %d %+v, want %d %s", status, refusal, c.status, c.want)
			}
		})
	}
}

func FuzzCSR(f *testing.F) {
	f.Add([]byte{0x30, 0})
	local, err := issuer.NewLocal(time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	server, err := issuer.New(issuer.Config{
		TrustDomain: meshDomain, Authenticator: tokens, Signer: local, Roots: local.Roots, Duration: time.Hour,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, san []byte) {
		// The names alone are of interest: the signature is right by construction.
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san},
		}}, newKey(t))
		if err != nil {
			return
		}
		status, answer, _ := ask(t, server, "token-web", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
		if status != 200 {
			return
		}
		block, _ := pem.Decode([]byte(answer.Chain))
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || len(cert.URIs) != 1 || cert.URIs[0].String() != webID.String() {
			t.Errorf("%x gave %v, %v", san, cert, err)
		}
	})
}

func TestTokens(t *testing.T) {
	local := newLocal(t)
	server := newServer(t, local, local)
	csr := newCSR(t, newKey(t), x509.CertificateRequest{URIs: []*url.URL{webID.URL()}})
	for token, want := range map[string]string{
		"":      "the token is not accepted: there is no bearer token in the Authorization header",
		"other": "the token is not accepted: it is not in the list",
	} {
		status, _, refusal := ask(t, server, token, csr)
		if status != 401 || refusal.Error != want || refusal.Hint == "" {
			t.Errorf("%q: got %d %+v", token, status, refusal)
		}
	}
}

func TestMethodAndBody(t *testing.T) {
	local := newLocal(t)
	server := newServer(t, local, local)
	for name, c := range map[string]struct {
		method, body string
		status       int
	}{
		"GET":       {http.MethodGet, "", 405},
		"no JSON":   {http.MethodPost, "csr", 400},
		"too large": {http.MethodPost, `{"csr":"` + strings.Repeat("a", 20<<10) + `"}`, 400},
	} {
		r := httptest.NewRequest(c.method, certs.Path, strings.NewReader(c.body))
		r.Header.Set("Authorization", "Bearer token-web")
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), `"error"`) {
			t.Errorf("%s: got %d %s", name, w.Code, w.Body)
		}
	}
}

func TestSignersThatErr(t *testing.T) {
	local, stranger := newLocal(t), newLocal(t)
	admin := spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/admin")
	otherKey := newKey(t)
	for name, c := range map[string]struct {
		sign   signerFunc
		status int
		want   string
	}{
		"denied": {func(context.Context, issuer.Order) ([]byte, error) {
			return nil, errors.Join(issuer.ErrDenied, errors.New("no policy allows it"))
		}, 403, "no policy allows it"},
		"broken": {func(context.Context, issuer.Order) ([]byte, error) {
			return nil, errors.New("the vault is sealed")
		}, 503, "sign a certificate for spiffe://cluster.local/ns/shop/sa/web: the vault is sealed"},
		"no certificate": {func(context.Context, issuer.Order) ([]byte, error) {
			return []byte("\n"), nil
		}, 503, "there is no certificate in it"},
		"another root": {stranger.Sign, 503, "is the issuer of the controller's own certificate another than the mesh's?"},
		"another identity": {func(ctx context.Context, o issuer.Order) ([]byte, error) {
			o.ID = admin
			return local.Sign(ctx, o)
		}, 503, "it names spiffe://cluster.local/ns/shop/sa/admin"},
		"another key": {func(ctx context.Context, o issuer.Order) ([]byte, error) {
			csr := *o.CSR
			csr.PublicKey = otherKey.Public()
			o.CSR = &csr
			return local.Sign(ctx, o)
		}, 503, "it is for another key"},
	} {
		t.Run(name, func(t *testing.T) {
			csr := newCSR(t, newKey(t), x509.CertificateRequest{URIs: []*url.URL{webID.URL()}})
			status, _, refusal := ask(t, newServer(t, local, c.sign), "token-web", csr)
			if status != c.status || !strings.Contains(refusal.Error, c.want) {
				t.Errorf("got %d %+v", status, refusal)
			}
		})
	}
}

func TestNewWantsEverything(t *testing.T) {
	_, err := issuer.New(issuer.Config{})
	for _, want := range []string{"trust domain", "authenticator", "signer", "roots", "duration"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v says nothing of %s", err, want)
		}
	}
}

func TestMetrics(t *testing.T) {
	local, registry := newLocal(t), prometheus.NewRegistry()
	var broken error
	server, err := issuer.New(issuer.Config{
		TrustDomain: meshDomain, Authenticator: tokens, Roots: local.Roots, Duration: time.Hour, Registerer: registry,
		Signer: signerFunc(func(ctx context.Context, o issuer.Order) ([]byte, error) {
			if broken != nil {
				return nil, broken
			}
			return local.Sign(ctx, o)
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	csr := newCSR(t, newKey(t), x509.CertificateRequest{URIs: []*url.URL{webID.URL()}})
	ask(t, server, "token-web", csr)
	ask(t, server, "token-web", csr)
	ask(t, server, "other", csr)
	broken = errors.New("the vault is sealed")
	ask(t, server, "token-web", csr)
	want := `# HELP tulle_certificate_requests_total Requests of proxies for a certificate, by result.
# TYPE tulle_certificate_requests_total counter
tulle_certificate_requests_total{result="failed"} 1
tulle_certificate_requests_total{result="issued"} 2
tulle_certificate_requests_total{result="refused"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
