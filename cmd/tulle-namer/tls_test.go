package main

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/cli"
	"github.com/tulle-mesh/tulle/internal/logtest"
	"github.com/tulle-mesh/tulle/naming/namer/namerd"
)

// authority signs certificates for 127.0.0.1, through an intermediate, which clients may show too.
type authority struct {
	t            *testing.T
	root, middle *x509.Certificate
	key          *ecdsa.PrivateKey // of both
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.key = a.newKey()
	a.root = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true}, nil, a.key)
	a.middle = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "middle"}, IsCA: true, BasicConstraintsValid: true}, a.root, a.key)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func (a *authority) sign(c, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	var err error
	if c.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		a.t.Fatal(err)
	}
	c.NotBefore, c.NotAfter = time.Unix(0, 0), time.Now().Add(24*365*time.Hour)
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return signed
}

// put writes a new certificate with its key, the intermediate and the root into a directory, and returns it for a client.
func (a *authority) put(dir string) tls.Certificate {
	a.t.Helper()
	key := a.newKey()
	leaf := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.middle, key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for name, b := range map[string]pem.Block{
		"tls.crt": {Type: "CERTIFICATE", Bytes: leaf.Raw}, "tls.key": {Type: "PRIVATE KEY", Bytes: der},
		"middle.crt": {Type: "CERTIFICATE", Bytes: a.middle.Raw}, "ca.crt": {Type: "CERTIFICATE", Bytes: a.root.Raw},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&b), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, a.middle.Raw}, PrivateKey: key}
}

// The API speaks TLS with the certificate of the files, and asks for one of the client's.
func TestTLS(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	own := a.put(dir)
	r := launch(t, strings.ReplaceAll(`
admin: {port: 0}
storage: {kind: io.l5d.inMemory}
interfaces:
- kind: io.l5d.httpController
  port: 0
  tls: {certPath: DIR/tls.crt, keyPath: DIR/tls.key, intermediateCertsPath: DIR/middle.crt, caCertPath: DIR/ca.crt, requireClientAuth: true}
`, "DIR", dir), nil)
	roots := x509.NewCertPool()
	roots.AddCert(a.root)
	ask := func(shown ...tls.Certificate) (*http.Response, error) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: shown}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		res, err := (&http.Client{Transport: transport}).Get("https://" + r.at[api] + "/api/1/dtabs")
		if err == nil {
			_ = res.Body.Close()
		}
		return res, err
	}
	if res, err := ask(own); err != nil || res.StatusCode != 200 || res.ProtoMajor != 2 {
		t.Errorf("%+v %v", res, err)
	}
	if _, err := ask(); err == nil {
		t.Error("without a certificate one is let in")
	}
	if _, err := ask(newAuthority(t).put(t.TempDir())); err == nil {
		t.Error("with another authority's certificate one is let in")
	}
}

// Files that are replaced are served after a while, those that are wrong are not.
func TestRenewal(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	files := namerd.TLS{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), IntermediatesFile: filepath.Join(dir, "middle.crt")}
	first := a.put(dir)
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Buffer
		config, err := newTLS(files, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		serves := func(want tls.Certificate) {
			t.Helper()
			c, err := config.GetConfigForClient(nil)
			if err != nil || len(c.Certificates[0].Certificate) != 2 || string(c.Certificates[0].Certificate[0]) != string(want.Certificate[0]) {
				t.Errorf("another one is served: %v", err)
			}
		}
		second := a.put(dir)
		time.Sleep(lookAgain - 1)
		serves(first)
		time.Sleep(time.Nanosecond)
		serves(second)
		if err := os.WriteFile(files.KeyFile, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(lookAgain)
			serves(second)
		}
		third := a.put(dir)
		time.Sleep(lookAgain)
		serves(third)
		if got := log.String(); strings.Count(got, "could not read new certificates") != 1 || strings.Count(got, "loaded serving certificate") != 3 {
			t.Errorf("the log is\n%s", got)
		}
	})
}

func TestWrongCertificates(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	a.put(dir)
	in := func(name string) string { return filepath.Join(dir, name) }
	other := t.TempDir()
	a.put(other)
	if err := os.WriteFile(in("ca.key"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, files := range map[string]namerd.TLS{
		"no such file":         {CertFile: in("none"), KeyFile: in("tls.key")},
		"does not match":       {CertFile: in("tls.crt"), KeyFile: filepath.Join(other, "tls.key")},
		"ca.key holds none in": {CertFile: in("tls.crt"), KeyFile: in("tls.key"), CAFile: in("ca.key")},
	} {
		checked, said := cli.ErrReported, want
		if files.CertFile == in("none") {
			checked, said = cli.ErrAbsent, ":3: absent: "
		}
		config := fmt.Sprintf("storage: {kind: io.l5d.inMemory}\ninterfaces:\n- {kind: io.l5d.httpController, tls: {certPath: %s, keyPath: %s, caCertPath: %s}}\n",
			files.CertFile, files.KeyFile, cmp.Or(files.CAFile, in("ca.crt")))
		if printed, err := start(t, "-validate", write(t, "namerd.yaml", config)); err != checked || !strings.Contains(printed, said) || !strings.Contains(printed, "namerd.yaml:3: ") {
			t.Errorf("-validate: %v\n%s", err, printed)
		}
		if _, err := newTLS(files, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if config, err := newTLS(namerd.TLS{}, nil); config != nil || err != nil {
		t.Errorf("%v %v", config, err)
	}
}
