package certs_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/certs"
)

func TestFilesFollowTheirFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := func(name string) string { return filepath.Join(dir, name) }
		write := func(name string, content []byte) {
			if err := os.WriteFile(path(name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ca := newAuthority(t)
		renew := func(life time.Duration) (cert, key []byte) {
			private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKCS8PrivateKey(private)
			if err != nil {
				t.Fatal(err)
			}
			cert = ca.sign(t, &x509.Certificate{DNSNames: []string{"controller"}}, private.Public(), life)
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		}
		files := certs.NewFiles(path("tls.crt"), path("tls.key"), path("ca.crt"), nil)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- files.Run(ctx) }()
		pass(time.Minute)
		if _, err := files.GetCertificate(nil); err == nil || files.Loaded() || files.CA() != nil || !files.NotAfter().IsZero() {
			t.Error("a certificate out of nothing")
		}

		cert, key := renew(time.Hour)
		write("tls.crt", cert)
		write("tls.key", key)
		write("ca.crt", ca.pem)
		pass(11 * time.Second)
		first, err := files.GetCertificate(nil)
		if err != nil || !files.Loaded() || string(files.CA()) != string(ca.pem) {
			t.Fatalf("not loaded: %v", err)
		}

		// The certificate of another key, roots that are none, and a missing file change nothing.
		cert, key = renew(2 * time.Hour)
		write("tls.crt", cert)
		pass(11 * time.Second)
		write("tls.key", key)
		write("ca.crt", []byte("none"))
		pass(11 * time.Second)
		if err := os.Remove(path("ca.crt")); err != nil {
			t.Fatal(err)
		}
		pass(11 * time.Second)
		if now, err := files.GetCertificate(nil); err != nil || now != first {
			t.Errorf("it took a wrong file: %v", err)
		}

		write("ca.crt", ca.pem)
		pass(11 * time.Second)
		if now, err := files.GetCertificate(nil); err != nil || now == first || time.Until(files.NotAfter()) < time.Hour {
			t.Errorf("it did not take the renewed files: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
