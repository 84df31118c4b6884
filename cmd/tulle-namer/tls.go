package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/naming/namer/namerd"
)

// lookAgain is how long files of certificates are believed. The kubelet takes a minute to bring a renewed Secret into a
// pod, so that some seconds more make no difference.
const lookAgain = 10 * time.Second

// newTLS returns the TLS of a server, nil for none. Files that were replaced count from the next connection on; while
// they are missing, half written or wrong, those before do.
func newTLS(files namerd.TLS, log *slog.Logger) (*tls.Config, error) {
	if files.CertFile == "" {
		return nil, nil
	}
	c := &certificates{files: files, log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: c.current}, nil
}

// certificates are the files of one server.
type certificates struct {
	files namerd.TLS
	log   *slog.Logger

	mu      sync.Mutex
	looked  time.Time
	failing bool
	content [4][]byte
	config  *tls.Config
}

// current returns what holds for a connection that is being made.
func (c *certificates) current(*tls.ClientHelloInfo) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < lookAgain {
		return c.config, nil
	}
	err := c.load()
	if err != nil && !c.failing {
		c.log.Warn("could not read new certificates, the former ones are served", "file", c.files.CertFile, "error", err)
	}
	c.failing = err != nil
	return c.config, nil
}

// load reads the files.
func (c *certificates) load() error {
	c.looked = time.Now()
	var next [4][]byte
	for i, path := range []string{c.files.CertFile, c.files.IntermediatesFile, c.files.KeyFile, c.files.CAFile} {
		if path == "" {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read the certificate: %w", err)
		}
		next[i] = content
	}
	if c.config != nil && slices.EqualFunc(next[:], c.content[:], bytes.Equal) {
		return nil
	}
	pair, err := tls.X509KeyPair(slices.Concat(next[0], []byte("\n"), next[1]), next[2])
	if err != nil {
		return fmt.Errorf("read the certificate in %s and its key in %s: %w", c.files.CertFile, c.files.KeyFile, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{pair}}
	if c.files.CAFile != "" {
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
		if c.files.RequireClient {
			config.ClientAuth = tls.RequireAndVerifyClientCert
		}
		if !config.ClientCAs.AppendCertsFromPEM(next[3]) {
			return fmt.Errorf("read the authorities of clients: %s holds none in PEM", c.files.CAFile)
		}
	}
	c.content, c.config = next, config
	c.log.Info("loaded serving certificate", "file", c.files.CertFile, "not_after", pair.Leaf.NotAfter)
	return nil
}
