package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	kilobyte = 1 << 10
	megabyte = 1 << 20
)

// caller calls the application as Go programs do, through the proxy that the environment names.
type caller struct {
	host     string // of the application
	override string // a dtab under which the host is another application, which says so
	proxy    string // host and port
	client   *http.Client
}

// cases are what is tried, in this order.
var cases = []struct {
	name string
	try  func(*caller, context.Context) error
}{
	{"get", (*caller).get},
	{"head", (*caller).head},
	{"post", (*caller).post},
	{"chunked", (*caller).chunked},
	{"expect", (*caller).expect},
	{"refused", (*caller).refused},
	{"early", (*caller).early},
	{"keepalive", (*caller).keepalive},
	{"download", (*caller).download},
	{"trailers", (*caller).trailers},
	{"streaming", (*caller).streaming},
	{"errors", (*caller).errors},
	{"unknown", (*caller).unknown},
	{"override", (*caller).overridden},
	{"connect http", (*caller).connectHTTP},
	{"connect tcp", (*caller).connectTCP},
	{"connect tls", (*caller).connectTLS},
	{"connect unknown", (*caller).connectUnknown},
	{"websocket", (*caller).webSocket},
	{"connect websocket", (*caller).connectWebSocket},
	{"connect secure websocket", (*caller).connectSecureWebSocket},
}

// call tries all cases against a host and writes what came of each.
func call(ctx context.Context, host, override string, out io.Writer) error {
	target, err := url.Parse("http://" + host)
	if err != nil {
		return err
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: target})
	if err != nil {
		return err
	}
	if proxy == nil {
		return errors.New("http_proxy names no proxy")
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, ExpectContinueTimeout: slow}
	defer transport.CloseIdleConnections()
	c := &caller{host: host, override: override, proxy: proxy.Host, client: &http.Client{Transport: transport, Timeout: slow,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	for _, k := range cases {
		began := time.Now()
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, slow)
			defer cancel()
			return k.try(c, ctx)
		}()
		if err != nil {
			_, _ = fmt.Fprintf(out, "FAIL %s: %s\n", k.name, strings.ReplaceAll(err.Error(), "\n", "; "))
			continue
		}
		_, _ = fmt.Fprintf(out, "ok %s: %d ms\n", k.name, time.Since(began).Milliseconds())
	}
	return nil
}

// same returns an error unless both are the same.
func same[T comparable](what string, got, want T) error {
	if got == want {
		return nil
	}
	return fmt.Errorf("%s: got %v, want %v", what, got, want)
}

// request makes a request for a path of the application, with header fields in pairs.
func (c *caller) request(ctx context.Context, method, path string, body io.Reader, header ...string) *http.Request {
	req, _ := http.NewRequestWithContext(ctx, method, "http://"+c.host+path, body) // call has checked the host
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

// do sends a request and reads the answer to its end.
func (c *caller) do(req *http.Request) (*http.Response, []byte, error) {
	res, err := c.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return res, body, err
}

// echo sends a request to /echo and returns how it arrived.
func (c *caller) echo(req *http.Request) (echoed, error) {
	var e echoed
	res, body, err := c.do(req)
	if err != nil {
		return e, err
	}
	if res.StatusCode != http.StatusOK {
		return e, fmt.Errorf("%s: %s", res.Status, body)
	}
	return e, json.Unmarshal(body, &e)
}

func (c *caller) get(ctx context.Context) error {
	e, err := c.echo(c.request(ctx, "GET", "/echo?a=%20b&c", nil, "X-Custom", "kept", "Proxy-Connection", "keep-alive"))
	return errors.Join(err, same("method", e.Method, "GET"), same("URI", e.URI, "/echo?a=%20b&c"), same("host", e.Host, c.host),
		same("X-Custom", e.Header.Get("X-Custom"), "kept"), same("Proxy-Connection", e.Header.Get("Proxy-Connection"), ""),
		same("chunked", e.Chunked, false), same("length", e.Length, 0), same("came through the mesh", e.Header.Get("Via") != "", true))
}

func (c *caller) head(ctx context.Context) error {
	for range 2 { // a body would spoil the second answer
		res, body, err := c.do(c.request(ctx, "HEAD", "/bytes?n=100000", nil))
		if err != nil {
			return err
		}
		if err := errors.Join(same("length", res.ContentLength, 100000), same("body", len(body), 0)); err != nil {
			return err
		}
	}
	return nil
}

func (c *caller) post(ctx context.Context) error {
	body := pattern(300 * kilobyte)
	e, err := c.echo(c.request(ctx, "POST", "/echo", bytes.NewReader(body)))
	return errors.Join(err, same("chunked", e.Chunked, false), same("SHA-256", e.SHA256, hashOf(body)))
}

// chunked sends a body of unknown length, and a trailer.
func (c *caller) chunked(ctx context.Context) error {
	body := pattern(3 * megabyte / 2)
	req := c.request(ctx, "POST", "/echo", io.MultiReader(bytes.NewReader(body)))
	req.Trailer = http.Header{"X-Late": {"at last"}}
	e, err := c.echo(req)
	return errors.Join(err, same("chunked", e.Chunked, true), same("SHA-256", e.SHA256, hashOf(body)), same("trailer", e.Trailers.Get("X-Late"), "at last"))
}

func (c *caller) expect(ctx context.Context) error {
	continued := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got100Continue: func() { continued = true }})
	body := pattern(megabyte)
	e, err := c.echo(c.request(ctx, "POST", "/echo", bytes.NewReader(body), "Expect", "100-continue"))
	return errors.Join(err, same("told to continue", continued, true), same("SHA-256", e.SHA256, hashOf(body)))
}

// untouched is a body that must not be asked for.
type untouched struct{ read bool }

func (u *untouched) Read([]byte) (int, error) { u.read = true; return 0, io.EOF }

// refused asks before it sends, and is told not to.
func (c *caller) refused(ctx context.Context) error {
	body := &untouched{}
	req := c.request(ctx, "POST", "/refuse", body, "Expect", "100-continue")
	req.ContentLength = megabyte // else a byte is read to see whether there is any
	res, text, err := c.do(req)
	if err != nil {
		return err
	}
	return errors.Join(same("status", res.StatusCode, 413), same("text", string(text), "the application wants less\n"), same("the body was sent", body.read, false))
}

// early is refused while it sends without asking. That the connection breaks under the body must not keep
// the answer from it.
func (c *caller) early(ctx context.Context) error {
	res, text, err := c.do(c.request(ctx, "POST", "/refuse", io.MultiReader(bytes.NewReader(pattern(4*megabyte)))))
	if err != nil {
		return err
	}
	return errors.Join(same("status", res.StatusCode, 413), same("text", string(text), "the application wants less\n"))
}

func (c *caller) keepalive(ctx context.Context) error {
	made := 0
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			made++
		}
	}})
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	one := &caller{host: c.host, client: &http.Client{Transport: transport}}
	for i := range 20 {
		body := pattern(i * 1000)
		e, err := one.echo(one.request(ctx, []string{"POST", "PUT"}[i%2], "/echo", bytes.NewReader(body)))
		if err := errors.Join(err, same("SHA-256", e.SHA256, hashOf(body))); err != nil {
			return err
		}
	}
	return same("connections", made, 1)
}

func (c *caller) download(ctx context.Context) error {
	for _, how := range []string{"", "&chunked"} {
		res, body, err := c.do(c.request(ctx, "GET", fmt.Sprint("/bytes?n=", 4*megabyte, how), nil))
		if err != nil {
			return err
		}
		if err := errors.Join(same("has a length", res.ContentLength >= 0, how == ""), same("SHA-256", hashOf(body), res.Header.Get("X-Sha256"))); err != nil {
			return err
		}
	}
	return nil
}

func (c *caller) trailers(ctx context.Context) error {
	res, body, err := c.do(c.request(ctx, "GET", "/trailers", nil))
	if err != nil {
		return err
	}
	return same("X-Sha256", res.Trailer.Get("X-Sha256"), hashOf(body))
}

// streaming sends each piece of a body once the one before was answered.
func (c *caller) streaming(ctx context.Context) error {
	read, write := io.Pipe()
	defer func() { _ = write.Close() }()
	res, err := c.client.Do(c.request(ctx, "POST", "/stream", read))
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	for _, word := range []string{"one", "two", "three"} {
		if _, err := io.WriteString(write, word); err != nil {
			return err
		}
		p := make([]byte, len(word))
		if _, err := io.ReadFull(res.Body, p); err != nil {
			return err
		}
		if err := same("answer", string(p), word); err != nil {
			return err
		}
	}
	_ = write.Close()
	rest, err := io.ReadAll(res.Body)
	return errors.Join(err, same("rest", string(rest), ""))
}

// errors are the application's own business.
func (c *caller) errors(ctx context.Context) error {
	for _, code := range []int{404, 500, 503, 418, 302, 307, 204, 304} {
		text, location := fmt.Sprintf("the application says %d\n", code), ""
		if code == 204 || code == 304 {
			text = ""
		}
		if code == 302 || code == 307 {
			location = "http://elsewhere/"
		}
		res, body, err := c.do(c.request(ctx, "GET", fmt.Sprintf("/status?code=%d&location=%s", code, location), nil))
		if err != nil {
			return err
		}
		if err := errors.Join(same("status", res.StatusCode, code), same("body", string(body), text), same("Location", res.Header.Get("Location"), location),
			same("X-Reason", res.Header.Get("X-Reason"), "because"), same("tulle-code", res.Header.Get("Tulle-Code"), ""), same("l5d-err", res.Header.Get("L5d-Err"), "")); err != nil {
			return fmt.Errorf("%d: %w", code, err)
		}
	}
	return nil
}

func (c *caller) unknown(ctx context.Context) error {
	res, body, err := c.do((&caller{host: "nobody"}).request(ctx, "GET", "/", nil))
	if err != nil {
		return err
	}
	return errors.Join(same("status", res.StatusCode, 502), same("tulle-code", res.Header.Get("Tulle-Code"), "T201"),
		same("says what to do", strings.Contains(string(body), "check that the Service is there"), true))
}

func (c *caller) overridden(ctx context.Context) error {
	before, err := c.echo(c.request(ctx, "GET", "/echo", nil))
	if err != nil {
		return err
	}
	during, err := c.echo(c.request(ctx, "GET", "/echo", nil, "l5d-dtab", c.override))
	if err != nil {
		return err
	}
	after, err := c.echo(c.request(ctx, "GET", "/echo", nil))
	return errors.Join(err, same("overridden", during.App != before.App, true), same("after it", after.App, before.App))
}

// tunnel makes a connection to a port of the application by CONNECT. What may have come along with the
// answer is still to be read.
func (c *caller) tunnel(ctx context.Context, address string, header ...string) (net.Conn, *bufio.Reader, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.proxy)
	if err != nil {
		return nil, nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(slow))
	head := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	for pair := range slices.Chunk(header, 2) {
		head += pair[0] + ": " + pair[1] + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err == nil {
		err = same("answer to CONNECT", res.StatusCode, 200)
	}
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, r, nil
}

// connectHTTP sends requests through a tunnel. The proxy looks at each of them.
func (c *caller) connectHTTP(ctx context.Context) error {
	conn, r, err := c.tunnel(ctx, c.host+":80")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	var apps []string
	for i := range 3 {
		body := pattern(10 * kilobyte)
		req := c.request(ctx, "POST", "/echo", bytes.NewReader(body))
		if i == 1 {
			req.Header.Set("l5d-dtab", c.override)
		}
		if err := req.Write(conn); err != nil {
			return err
		}
		res, err := http.ReadResponse(r, req)
		if err != nil {
			return err
		}
		var e echoed
		err = json.NewDecoder(res.Body).Decode(&e)
		if err := errors.Join(err, same("SHA-256", e.SHA256, hashOf(body)), same("URI", e.URI, "/echo"), same("host", e.Host, c.host)); err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, res.Body)
		apps = append(apps, e.App)
	}
	return errors.Join(same("the last is the first", apps[2], apps[0]), same("overridden", apps[1] != apps[0], true))
}

// connectTCP speaks what is no HTTP: once after the other end did, once before, and with half of the
// connection closed.
func (c *caller) connectTCP(ctx context.Context) error {
	for _, first := range []bool{false, true} {
		conn, r, err := c.tunnel(ctx, c.host+":7000")
		if err != nil {
			return err
		}
		err = func() error {
			defer func() { _ = conn.Close() }()
			greeting := make([]byte, len(banner))
			if !first {
				if _, err := io.ReadFull(r, greeting); err != nil {
					return err
				}
			}
			body := append([]byte{0}, pattern(megabyte)...)
			sent := make(chan error, 1)
			go func() {
				_, err := conn.Write(body)
				sent <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
			}()
			answer, err := io.ReadAll(r)
			if first {
				greeting, answer = answer[:min(len(banner), len(answer))], answer[min(len(banner), len(answer)):]
			}
			return errors.Join(err, <-sent, same("greeting", string(greeting), banner), same("SHA-256", hashOf(answer), hashOf(body)))
		}()
		if err != nil {
			return fmt.Errorf("client speaks first %v: %w", first, err)
		}
	}
	return nil
}

// roots fetches the application's certificate, to trust nothing else.
func (c *caller) roots(ctx context.Context) (*x509.CertPool, error) {
	_, text, err := c.do(c.request(ctx, "GET", "/certificate", nil))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("this is no certificate: %q", text)
	}
	return pool, nil
}

// connectTLS has the application prove itself through the proxies.
func (c *caller) connectTLS(ctx context.Context) error {
	roots, err := c.roots(ctx)
	if err != nil {
		return err
	}
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: c.proxy}), TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	secure := &caller{host: c.host, client: &http.Client{Transport: transport}}
	for range 3 {
		body := pattern(megabyte)
		req := secure.request(ctx, "POST", "/echo", bytes.NewReader(body))
		req.URL.Scheme = "https"
		e, err := secure.echo(req)
		if err := errors.Join(err, same("SHA-256", e.SHA256, hashOf(body)), same("Via, which nobody can add", e.Header.Get("Via"), "")); err != nil {
			return err
		}
	}
	return nil
}

// connectUnknown is refused with an answer, not with a tunnel that ends.
func (c *caller) connectUnknown(ctx context.Context) error {
	conn, _, err := c.tunnel(ctx, "nobody:443")
	if err == nil {
		_ = conn.Close()
		return errors.New("there is a tunnel to nobody")
	}
	return same("answer", err.Error(), "answer to CONNECT: got 502, want 200")
}

// webSocket upgrades as a client does that knows of the proxy: with the whole URL.
func (c *caller) webSocket(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.proxy)
	if err != nil {
		return err
	}
	return c.converse(ctx, conn, "http://"+c.host+"/ws")
}

// connectWebSocket upgrades as most libraries do when there is a proxy: inside CONNECT.
func (c *caller) connectWebSocket(ctx context.Context) error {
	conn, _, err := c.tunnel(ctx, c.host+":80")
	if err != nil {
		return err
	}
	return c.converse(ctx, conn, "/ws")
}

func (c *caller) connectSecureWebSocket(ctx context.Context) error {
	roots, err := c.roots(ctx)
	if err != nil {
		return err
	}
	conn, _, err := c.tunnel(ctx, c.host+":443")
	if err != nil {
		return err
	}
	return c.converse(ctx, tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: c.host}), "/ws")
}

// converse is a WebSocket from its handshake to its end.
func (c *caller) converse(ctx context.Context, conn net.Conn, target string) error {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(slow))
	s, res, err := upgrade(ctx, conn, target, c.host)
	if err != nil {
		return err
	}
	if err := same("has X-App", res.Header.Get("X-App") != "", true); err != nil {
		return err
	}
	hear := func(op byte, want []byte) error {
		got, message, err := s.read()
		return errors.Join(err, same("opcode", got, op), same("SHA-256", hashOf(message), hashOf(want)))
	}
	if err := hear(opText, []byte(banner)); err != nil {
		return fmt.Errorf("the greeting: %w", err)
	}
	goodbye := append([]byte{3, 232}, "bye"...) // 1000, a normal end
	for i, step := range []struct {
		op, back byte
		message  []byte
		answer   []byte
	}{
		{opText, opText, []byte("hello"), []byte("hello")},
		{opBinary, opBinary, pattern(200 * kilobyte), pattern(200 * kilobyte)},
		{opPing, opPong, []byte("me"), []byte("me")},
		{opText, opText, []byte("ping me"), []byte("are you there?")},
		{opBinary, opBinary, nil, nil},
		{opClose, opClose, goodbye, goodbye},
	} {
		if err := s.write(step.op, step.message); err != nil {
			return err
		}
		if err := hear(step.back, step.answer); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
	}
	_, err = s.r.ReadByte()
	return same("the end", err, io.EOF)
}
