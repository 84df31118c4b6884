package namerd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/tulle-mesh/tulle/naming"
)

// TLS is how a namerd is known for the one that is meant.
type TLS struct {
	// Name is what its certificate must be for.
	Name string
	// Roots returns the authorities to trust, nil for those of the system. It is called
	// for each connection, so that files may be replaced.
	Roots func() (*x509.CertPool, error)
}

// maxDelegation bounds the bytes of an answer to Delegate: what naming.Delegate makes
// is a few megabytes at most.
const maxDelegation = 16 << 20

// dialTLS connects by what c.TLS says.
func (c Config) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	roots, err := c.TLS.Roots()
	if err != nil {
		return nil, err
	}
	raw, err := c.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{RootCAs: roots, ServerName: c.TLS.Name, MinVersion: tls.VersionTLS12})
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with namerd as %s: %w", c.TLS.Name, err)
	}
	return conn, nil
}

const handshakeTimeout = 5 * time.Second

// denial is a refusal because of who asks: nothing is answered at all.
type denial struct {
	error
	hint string
}

// get asks for url, with the token if there is one. The answer is one with status 200;
// the caller closes it.
func (c *Client) get(ctx context.Context, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	token := ""
	if c.cfg.Token != nil {
		if token, err = c.cfg.Token(); err != nil {
			return nil, fmt.Errorf("ask namerd: %w", err)
		}
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("ask namerd: %w", err)
	}
	status := response.StatusCode
	if status == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxText))
	err = fmt.Errorf("namerd answered %s: %s", response.Status, bytes.TrimSpace(text))
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		hint := "the token must be made for the audience tulle.dev, of a user who may get and watch the dtab " + c.cfg.Namespace
		if token == "" {
			hint = "no token was shown; give the interpreter tls, with the name and the CA of the namer, and tokenFile"
		}
		return nil, refusal{denial{err, hint}}
	case status == http.StatusNotImplemented:
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooManyRequests:
		return nil, err
	}
	return nil, refusal{err}
}

// denied is called when namerd said that it answers nothing to who asks.
func (c *Client) denied(d denial) {
	c.mu.Lock()
	level := slog.LevelDebug
	if !c.state.Refused {
		level = slog.LevelWarn
	}
	since := c.state.Since
	if c.state.Connected {
		since = time.Now()
	}
	c.state = State{Since: since, Refused: true, Err: fmt.Errorf("refused: %w", d.error), Hint: d.hint}
	c.refusals++
	err := c.state.Err
	c.mu.Unlock()
	c.cfg.Logger.Log(context.Background(), level, "namerd not connected", "namerd", c.cfg.Address, "error", err, "hint", d.hint)
}

// Refusals returns how often namerd has refused to answer because of who asked.
func (c *Client) Refusals() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refusals
}

// Delegate asks namerd once for every step from path by the rules of the namespace and
// further ones, which win. caller, if not empty, is the namespace of Kubernetes that
// short names are of, which a namerd of Linkerd 1.x does not know.
func (c *Client) Delegate(ctx context.Context, path naming.Path, rules naming.Dtab, caller string) (naming.Delegation, error) {
	query := url.Values{"path": {path.String()}}
	if len(rules) > 0 {
		query.Set("dtab", rules.Exact())
	}
	if caller != "" {
		query.Set("caller", caller)
	}
	u := c.base.JoinPath("delegate", url.PathEscape(c.cfg.Namespace))
	u.RawQuery = query.Encode()
	var d naming.Delegation
	response, err := c.get(ctx, u.String())
	if err != nil {
		return d, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxDelegation+1))
	if err == nil && len(text) > maxDelegation {
		err = errors.New("the answer is too long")
	}
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err == nil && !sound(&d) {
		err = errors.New("a transformation is of nothing")
	}
	if err != nil {
		return d, fmt.Errorf("read what namerd says: %w", err)
	}
	return d, nil
}

// sound reports whether d has in it what each of its nodes must have, which the methods
// of a Delegation rely on.
func sound(d *naming.Delegation) bool {
	if d.Type == naming.NodeTransformation && d.Tree == nil {
		return false
	}
	for _, next := range []*naming.Delegation{d.Delegate, d.Tree} {
		if next != nil && !sound(next) {
			return false
		}
	}
	for i := range d.Alt {
		if !sound(&d.Alt[i]) {
			return false
		}
	}
	for i := range d.Union {
		if !sound(&d.Union[i].Tree) {
			return false
		}
	}
	return true
}
