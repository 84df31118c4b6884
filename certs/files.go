package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// pollInterval is how often files are read again. The kubelet takes a minute or so to bring a renewed Secret
// into a pod, so that some seconds more make no difference.
const pollInterval = 10 * time.Second

// Files is a serving certificate and the roots of its issuer, kept by others in three PEM files, as cert-manager
// keeps them in a mounted Secret. It follows the files while Run runs, and goes on with what it has
// read last while they are missing, half written or wrong. Its methods are safe for concurrent use.
type Files struct {
	cert, key, ca string
	log           *slog.Logger
	current       atomic.Pointer[files]
}

// files is one reading; immutable.
type files struct {
	cert, key, ca []byte
	pair          *tls.Certificate
}

// NewFiles returns the certificate in the file cert, its key in key and its issuer's roots in ca. It does no I/O;
// nil discards the log of transitions.
func NewFiles(cert, key, ca string, log *slog.Logger) *Files {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Files{cert: cert, key: key, ca: ca, log: log}
}

// Run reads the files now and then until ctx is done, when it returns nil.
func (f *Files) Run(ctx context.Context) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	failing := false
	for {
		next, err := f.read()
		switch {
		case err == nil && next != nil:
			f.current.Store(next)
			f.log.Info("loaded serving certificate", "file", f.cert, "not_after", next.pair.Leaf.NotAfter)
		case err != nil && !failing:
			f.log.Warn("could not load serving certificate, will retry", "error", err)
		}
		failing = err != nil
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// read returns nil without an error when nothing has changed.
func (f *Files) read() (*files, error) {
	var next files
	var errs [3]error
	next.cert, errs[0] = os.ReadFile(f.cert)
	next.key, errs[1] = os.ReadFile(f.key)
	next.ca, errs[2] = os.ReadFile(f.ca)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if last := f.current.Load(); last != nil &&
		bytes.Equal(last.cert, next.cert) && bytes.Equal(last.key, next.key) && bytes.Equal(last.ca, next.ca) {
		return nil, nil
	}
	pair, err := tls.X509KeyPair(next.cert, next.key)
	if err != nil {
		return nil, fmt.Errorf("read %s and %s: %w", f.cert, f.key, err)
	}
	if block, _ := pem.Decode(next.ca); block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("read %s: it does not begin with a PEM block of type CERTIFICATE", f.ca)
	}
	next.pair = &pair
	return &next, nil
}

// Loaded reports whether the files have been read.
func (f *Files) Loaded() bool { return f.current.Load() != nil }

// CA returns the roots in PEM, nil while there are none. It must not be changed.
func (f *Files) CA() []byte {
	if current := f.current.Load(); current != nil {
		return current.ca
	}
	return nil
}

// NotAfter returns when the certificate runs out, the zero time while there is none.
func (f *Files) NotAfter() time.Time {
	if current := f.current.Load(); current != nil {
		return current.pair.Leaf.NotAfter
	}
	return time.Time{}
}

// GetCertificate is made for the field of that name in a [tls.Config].
func (f *Files) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if current := f.current.Load(); current != nil {
		return current.pair, nil
	}
	return nil, fmt.Errorf("there is no certificate in %s yet", f.cert)
}
