package certs_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

var meshDomain = spiffeid.RequireTrustDomainFromString("cluster.local")

// authority is a root that signs.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, public crypto.PublicKey, life time.Duration) []byte {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(life)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// controller is the server side of the identity protocol in memory: it grants what is asked for, with
// knobs for what can go wrong.
type controller struct {
	t     *testing.T
	ca    *authority
	conns chan net.Conn
	// guarded by mu
	mu       sync.Mutex
	life     time.Duration
	down     bool           // refuse connections
	refuse   *certs.Refusal // answer 403
	bundle   *authority     // the bundle to hand out, if not ca
	other    string         // identity to sign in place of the one asked for
	requests []time.Time
}

func newController(t *testing.T) *controller {
	c := &controller{t: t, ca: newAuthority(t), conns: make(chan net.Conn), life: 24 * time.Hour}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := c.ca.sign(t, &x509.Certificate{DNSNames: []string{"tulle-controller"}}, key.Public(), 1000*time.Hour)
	server := &http.Server{
		Handler:   c,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ServeTLS(&listener{c.conns, make(chan struct{})}, "", "") }()
	t.Cleanup(func() {
		pass(10 * time.Second) // Each end of a pipe waits 5 s to say goodbye to the other.
		_ = server.Close()
		<-done
	})
	return c
}

func (c *controller) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *controller) seen() []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Time(nil), c.requests...)
}

func (c *controller) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	c.mu.Lock()
	c.requests = append(c.requests, time.Now())
	down := c.down
	c.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	near, far := net.Pipe()
	select {
	case c.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *controller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.Path != certs.Path || r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer token-1" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if c.refuse != nil {
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(c.refuse)
		return
	}
	var request certs.Request
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		c.t.Error(err)
	}
	block, _ := pem.Decode([]byte(request.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		c.t.Error(err)
		return
	}
	uris := csr.URIs
	if c.other != "" {
		uris[0] = spiffeid.RequireFromString(c.other).URL()
	}
	bundle := c.ca
	if c.bundle != nil {
		bundle = c.bundle
	}
	der := c.ca.sign(c.t, &x509.Certificate{URIs: uris}, csr.PublicKey, c.life)
	_ = json.NewEncoder(w).Encode(certs.Answer{
		Chain:  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Bundle: string(bundle.pem),
	})
}

// listener accepts what comes through a channel.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { close(l.closed); return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

// start runs a source for a service account of namespace default until the test ends.
func (c *controller) start(serviceAccount string, log *slog.Logger) *certs.Source {
	c.t.Helper()
	id, err := certs.Identity(meshDomain, "default", serviceAccount)
	if err != nil {
		c.t.Fatal(err)
	}
	source, err := certs.New(certs.Config{
		URL: "https://tulle-controller:4181", TLS: &tls.Config{RootCAs: c.ca.pool()},
		Token: func() (string, error) { return "token-1", nil },
		ID:    id, Logger: log, Dial: c.dial,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := source.Run(ctx); err != nil {
			c.t.Error(err)
		}
	}()
	c.t.Cleanup(func() { cancel(); <-done })
	return source
}

func TestRenewsAtTwoThirdsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newController(t)
		source := c.start("web", nil)
		<-source.Ready()
		first, err := source.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for len(c.seen()) < 6 {
			pass(time.Minute)
		}
		seen := c.seen()
		for i := 1; i < len(seen); i++ {
			if gap := seen[i].Sub(seen[i-1]); gap < 13*time.Hour || gap > 16*time.Hour {
				t.Errorf("renewal %d came after %v", i, gap)
			}
		}
		second, err := source.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		if !second.Certificates[0].NotAfter.After(first.Certificates[0].NotAfter) {
			t.Errorf("the certificate is as old as it was %v ago", time.Since(start))
		}
		if first.PrivateKey.(*ecdsa.PrivateKey).Equal(second.PrivateKey) {
			t.Error("the key was used again")
		}
	})
}

func TestKeepsTheOldCertificateWhileRenewalsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newController(t)
		var lines bytes.Buffer
		log := slog.New(slog.NewTextHandler(&lines, nil))
		source := c.start("web", log)
		<-source.Ready()
		before, err := source.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		c.set(func() { c.down = true })
		pass(23 * time.Hour)
		after, err := source.GetX509SVID()
		if err != nil || after != before || !source.Valid() {
			t.Fatalf("the certificate went away before its time: %v", err)
		}
		attempts := len(c.seen())
		if attempts < 20 || attempts > 400 {
			t.Errorf("%d attempts in 23 hours", attempts)
		}
		if n := strings.Count(lines.String(), "could not obtain"); n != 1 {
			t.Errorf("%d log lines for one transition:\n%s", n, &lines)
		}

		pass(2 * time.Hour)
		_, err = source.GetX509SVID()
		if err == nil || source.Valid() || !strings.Contains(err.Error(), "ran out at") || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("an old certificate is in use: %v", err)
		}
		if _, err := source.GetX509BundleForTrustDomain(meshDomain); err == nil {
			t.Error("the bundle outlived its certificate")
		}

		c.set(func() { c.down = false })
		pass(11 * time.Second)
		if !source.Valid() {
			t.Error("no certificate though the controller is back")
		}
	})
}

func TestRetriesUntilTheFirstCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newController(t)
		c.set(func() {
			c.refuse = &certs.Refusal{Error: "token is for another audience", Hint: "project it for tulle.dev"}
		})
		source := c.start("web", nil)
		pass(time.Minute)
		select {
		case <-source.Ready():
			t.Fatal("ready without a certificate")
		default:
		}
		_, err := source.GetX509SVID()
		want := "there is no certificate for spiffe://cluster.local/ns/default/sa/web yet: " +
			"request certificate from https://tulle-controller:4181/tulle/v1/certificate: " +
			"the controller refused with 403: token is for another audience (project it for tulle.dev)"
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if n := len(c.seen()); n < 6 || n > 15 {
			t.Errorf("%d attempts in a minute", n)
		}
		c.set(func() { c.refuse = nil })
		<-source.Ready()
		if left := time.Until(source.NotAfter()); left < 23*time.Hour {
			t.Errorf("good for %v", left)
		}
	})
}

func TestTakesNoWrongCertificate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*controller, *testing.T)
		want   string
	}{
		"another identity": {
			func(c *controller, _ *testing.T) { c.other = "spiffe://cluster.local/ns/default/sa/admin" },
			"it names spiffe://cluster.local/ns/default/sa/admin, not spiffe://cluster.local/ns/default/sa/web",
		},
		"another root": {
			func(c *controller, t *testing.T) { c.bundle = newAuthority(t) },
			"certificate signed by unknown authority",
		},
		"one that has run out": {
			func(c *controller, _ *testing.T) { c.life = -time.Second },
			"expired",
		},
		"no bundle": {
			func(c *controller, _ *testing.T) { c.bundle = &authority{} },
			"certificate signed by unknown authority",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := newController(t)
				server.set(func() { c.change(server, t) })
				source := server.start("web", nil)
				pass(time.Second)
				_, err := source.GetX509SVID()
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %s", err, c.want)
				}
			})
		})
	}
}

// shake makes a connection between two configurations and sends a byte each way. It goes over loopback:
// a pipe has no buffer, so that two ends with bad news for each other would wait for ever.
func shake(t *testing.T, client, server *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	result := make(chan error, 1)
	go func() {
		far, err := listener.Accept()
		if err != nil {
			result <- err
			return
		}
		conn := tls.Server(far, server)
		_, err = io.CopyN(conn, conn, 1)
		_ = conn.Close()
		result <- err
	}()
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(near, client)
	err = func() error {
		if _, err := conn.Write([]byte("a")); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, make([]byte, 1))
		return err
	}()
	state := conn.ConnectionState()
	_ = near.Close()
	return state, errors.Join(err, <-result)
}

func TestHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newController(t)
		web, world := c.start("web", nil), c.start("world", nil)
		<-web.Ready()
		<-world.Ready()
		state, err := shake(t, web.ClientTLS(world.ID()), world.ServerTLS())
		if err != nil {
			t.Fatal(err)
		}
		if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != "http/1.1" {
			t.Errorf("version %x, protocol %q", state.Version, state.NegotiatedProtocol)
		}

		if _, err := shake(t, web.ClientTLS(world.ID()), world.ServerTLS(web.ID())); err != nil {
			t.Errorf("a client that is expected: %v", err)
		}

		// Configurations are made once and must follow renewals.
		client, server := web.ClientTLS(world.ID()), world.ServerTLS()
		pass(100 * time.Hour)
		if _, err := shake(t, client, server); err != nil {
			t.Errorf("after renewals: %v", err)
		}

		other := newController(t)
		stranger := other.start("web", nil)
		<-stranger.Ready()
		old := web.ClientTLS(world.ID())
		old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		for name, c := range map[string]struct {
			client, server *tls.Config
			want           string
		}{
			"another identity than expected": {web.ClientTLS(web.ID()), server, "unexpected ID"},
			"a client that is not expected":  {client, world.ServerTLS(world.ID()), "unexpected ID"},
			"a client of another root":       {stranger.ClientTLS(world.ID()), server, "unknown authority"},
			"a server of another root":       {client, stranger.ServerTLS(), "unknown authority"},
			"a client without certificate":   {&tls.Config{InsecureSkipVerify: true}, server, "didn't provide a certificate"},
			"TLS 1.2":                        {old, server, "protocol version"},
		} {
			if _, err := shake(t, c.client, c.server); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %s", name, err, c.want)
			}
		}
	})
}

func TestNewRefuses(t *testing.T) {
	token := func() (string, error) { return "", nil }
	id := spiffeid.RequireFromString("spiffe://cluster.local/ns/a/sa/b")
	for name, cfg := range map[string]certs.Config{
		"plain URL":   {URL: "http://a:1", Token: token, ID: id},
		"no host":     {URL: "https:", Token: token, ID: id},
		"no identity": {URL: "https://a:1", Token: token},
		"no token":    {URL: "https://a:1", ID: id},
	} {
		if _, err := certs.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestIdentity(t *testing.T) {
	id, err := certs.Identity(meshDomain, "shop", "cart.v2")
	if err != nil || id.String() != "spiffe://cluster.local/ns/shop/sa/cart.v2" {
		t.Errorf("got %s, %v", id, err)
	}
	for _, name := range []string{"", "a/b", "..", "a b"} {
		if id, err := certs.Identity(meshDomain, "shop", name); err == nil {
			t.Errorf("%q gave %s", name, id)
		}
	}
}

func TestFileToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	token := certs.FileToken(path)
	if _, err := token(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"one", "two"} {
		if err := os.WriteFile(path, []byte(want+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := token(); err != nil || got != want {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := token(); err == nil {
		t.Error("no error for an empty file")
	}
}
