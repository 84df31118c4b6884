package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/internal/run"
)

// The ports of the application.
const (
	portHTTP = ":7777"
	portTLS  = ":7443" // the same over TLS
	portTCP  = ":7000" // says "ready" first, and then whatever it is told
)

const (
	// banner is what the TCP port and WebSockets say before anybody asked.
	banner = "ready\n"
	// slow bounds what an answer may take to be written or a request to be read.
	slow = 20 * time.Second
)

// app is the application as an http.Handler. It is safe for concurrent use.
type app struct {
	name        string
	certificate []byte // PEM
	mux         *http.ServeMux
}

// serve runs the application until ctx ends. Its certificate is for the hosts.
func serve(ctx context.Context, name string, hosts []string) error {
	certificate, err := selfSigned(hosts)
	if err != nil {
		return err
	}
	var components []run.Component
	a := newApp(name, certificate)
	for _, port := range []string{portHTTP, portTLS, portTCP} {
		listener, err := net.Listen("tcp", port)
		if err != nil {
			return err
		}
		server := &http.Server{Handler: a, ReadTimeout: slow, WriteTimeout: slow, IdleTimeout: 2 * time.Minute}
		c := run.Component{Name: port, Run: run.HTTP(server, listener, time.Second)}
		switch port {
		case portTLS:
			// HTTP/1 alone: a client that could choose would take HTTP/2 here, and WebSocket differs there.
			c.Run = run.HTTP(server, tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}}), time.Second)
		case portTCP:
			c.Run = func(ctx context.Context) error {
				defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
				echoTCP(listener)
				return ctx.Err()
			}
		}
		components = append(components, c)
	}
	return run.Group(ctx, run.Config{}, components...)
}

func newApp(name string, certificate tls.Certificate) *app {
	a := &app{name: name, mux: http.NewServeMux()}
	if len(certificate.Certificate) > 0 {
		a.certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	}
	for path, handle := range map[string]http.HandlerFunc{
		"/echo": a.echo, "/bytes": a.bytes, "/status": a.status, "/trailers": a.trailers, "/stream": a.stream,
		"/refuse": a.refuse, "/certificate": a.pem, "/ws": a.websocket,
	} {
		a.mux.HandleFunc(path, handle)
	}
	return a
}

// ServeHTTP implements http.Handler. Every answer says in X-App who made it.
func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-App", a.name)
	a.mux.ServeHTTP(w, r)
}

// echoed is what /echo answers: the request as it arrived.
type echoed struct {
	App      string      `json:"app"`
	Method   string      `json:"method"`
	URI      string      `json:"uri"`
	Host     string      `json:"host"`
	Header   http.Header `json:"header"`
	Chunked  bool        `json:"chunked"`
	Length   int64       `json:"length"` // of the body that was read
	SHA256   string      `json:"sha256"`
	Trailers http.Header `json:"trailers"`
}

// echo answers what was asked. It reads all of the body first.
func (a *app) echo(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(echoed{App: a.name, Method: r.Method, URI: r.RequestURI, Host: r.Host, Header: r.Header,
		Chunked: len(r.TransferEncoding) > 0, Length: n, SHA256: hex.EncodeToString(sum.Sum(nil)), Trailers: r.Trailer})
}

// bytes answers ?n= bytes, with a Content-Length or ?chunked, and their sum in X-Sha256.
func (a *app) bytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("n"))
	if err != nil || n < 0 || n > 64<<20 {
		http.Error(w, "n is no number of bytes up to 64 MiB", http.StatusBadRequest)
		return
	}
	body := pattern(n)
	w.Header().Set("X-Sha256", hashOf(body))
	if !r.Form.Has("chunked") {
		w.Header().Set("Content-Length", strconv.Itoa(n))
	} else {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
	}
	_, _ = w.Write(body)
}

// status answers with ?code= and, if given, ?location=.
func (a *app) status(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.FormValue("code"))
	if err != nil || code < 200 || code > 599 {
		http.Error(w, "code is no status", http.StatusBadRequest)
		return
	}
	if location := r.FormValue("location"); location != "" {
		w.Header().Set("Location", location)
	}
	w.Header().Set("X-Reason", "because")
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, "the application says %d\n", code) // of 204 and 304 nothing is written
}

// trailers answers a body and then its sum.
func (a *app) trailers(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Trailer", "X-Sha256")
	body := pattern(100 << 10)
	_, _ = w.Write(body)
	w.Header().Set("X-Sha256", hashOf(body))
}

// stream answers each piece of the body as soon as it is there, before the request has ended.
func (a *app) stream(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	if err := c.EnableFullDuplex(); err != nil {
		http.Error(w, err.Error(), http.StatusHTTPVersionNotSupported)
		return
	}
	w.WriteHeader(http.StatusOK)
	_ = c.Flush()
	p := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(p)
		if n > 0 {
			_, _ = w.Write(p[:n])
			_ = c.Flush()
		}
		if err != nil {
			return
		}
	}
}

// refuse answers 413 without reading any of the body, and hangs up.
func (a *app) refuse(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusRequestEntityTooLarge)
	_, _ = io.WriteString(w, "the application wants less\n")
}

// pem answers the certificate of the TLS port, which is its own root.
func (a *app) pem(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(a.certificate) }

// websocket says "ready" right behind the handshake, and then echoes messages. Told "ping me" it sends a ping, and as the next message what the pong said.
func (a *app) websocket(w http.ResponseWriter, r *http.Request) {
	s, err := accept(w, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer func() { _ = s.conn.Close() }()
	err = s.write(opText, []byte(banner))
	for err == nil {
		_ = s.conn.SetDeadline(time.Now().Add(slow))
		var op byte
		var message []byte
		if op, message, err = s.read(); err != nil {
			return
		}
		switch {
		case op == opClose:
			_ = s.write(opClose, message)
			return
		case op == opPong:
			err = s.write(opText, message)
		case string(message) == "ping me":
			err = s.write(opPing, []byte("are you there?"))
		default:
			err = s.write(op, message)
		}
	}
}

// echoTCP serves the TCP port until the listener is closed.
func echoTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(slow))
			if _, err := io.WriteString(conn, banner); err == nil {
				_, _ = io.Copy(conn, conn)
			}
		}()
	}
}

// pattern returns n bytes that look random.
func pattern(n int) []byte { return sha3.SumSHAKE256(nil, n) }

func hashOf(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// selfSigned makes a certificate that is its own root.
func selfSigned(hosts []string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
