package router

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/tulle-mesh/tulle/internal/metadata"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// chainUser begins the user of a Proxy-Authorization that names another proxy: the
// rest is its URL in base64url without padding. An injector writes it into the
// http_proxy of an application that had a proxy of its own.
const chainUser = "chain-"

// maxChain bounds the URL.
const maxChain = 2 << 10

// upstream is the proxy through which a caller wants to leave the mesh.
type upstream struct {
	said      []byte // the header that names it
	authority []byte // host:port
	auth      []byte // Proxy-Authorization for it; nil for none
}

// chain is what a session remembers of the proxies that its client named.
type chain struct {
	last   *upstream // that the last request named which named one
	inside *upstream // of the CONNECT that brought the requests; nil for none
}

// chain finds out through which proxy the request is to leave the mesh, if that was
// said: by the request, or by the CONNECT that it came in. Credentials for somebody
// else are none of this proxy's business, and go no further.
func (o *Outgoing) chain(x *exchange, r *routing) *Problem {
	value := x.req.Header.Value(wire.KindProxyAuthorization)
	if value == nil {
		if x.s.chain != nil {
			r.upstream = x.s.chain.inside
		}
		return nil
	}
	var known *upstream
	if x.s.chain != nil {
		known = x.s.chain.last
	}
	if known == nil || !bytes.Equal(known.said, value) {
		var err error
		known, err = parseChain(value)
		if err != nil {
			return &Problem{Status: 400, Code: codeBadChain, Message: "Proxy-Authorization: " + err.Error(), Retryable: true,
				Hint: "leave the annotation tulle.dev/on-conflict out, or set http_proxy of the application to a URL such as http://proxy.example.org:3128"}
		}
		if known == nil {
			return nil
		}
		if x.s.chain == nil {
			x.s.chain = new(chain)
		}
		x.s.chain.last = known
	}
	if o.cfg.Local != nil && !o.cfg.Local(x.s.source) {
		o.dropped.Inc()
		return nil
	}
	r.upstream = known
	return nil
}

// parseChain reads the credentials of a client. It returns nil for what names no
// proxy.
func parseChain(value []byte) (*upstream, error) {
	if !wire.HasPrefixFold(value, "basic ") || len(value) > 4*maxChain {
		return nil, nil
	}
	text := strings.TrimRight(strings.TrimSpace(string(value[len("basic "):])), "=")
	plain, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, nil
	}
	user, _, _ := strings.Cut(string(plain), ":")
	word, ok := strings.CutPrefix(user, chainUser)
	if !ok {
		return nil, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(word)
	if err != nil {
		return nil, errors.New("what follows chain- is no base64url without padding")
	}
	if len(raw) > maxChain {
		return nil, fmt.Errorf("the proxy's URL is longer than %d bytes", maxChain)
	}
	u, err := url.Parse(string(raw))
	switch {
	case err != nil:
		return nil, errors.New("what follows chain- is no URL") // the error would repeat its password
	case u.Scheme != "http":
		return nil, fmt.Errorf("the proxy's URL has the scheme %q, and only http is spoken to another proxy", u.Scheme)
	case u.Hostname() == "" || strings.ContainsFunc(u.Host, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return nil, errors.New("the proxy's URL names no host")
	}
	known := &upstream{said: bytes.Clone(value), authority: []byte(net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80")))}
	if u.User != nil {
		password, _ := u.User.Password()
		known.auth = []byte("Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	}
	return known, nil
}

// onward makes the request go to the proxy that its caller chained. That one is found
// like any other host.
func (o *Outgoing) onward(x *exchange, r *routing) *Problem {
	if host, _, _ := splitAuthority(x.req.Authority); metadata.Host(string(host)) {
		return forbidden(fmt.Sprintf("%v: %s belongs to the machine that asks", metadata.ErrRefused, host))
	}
	r.via = r.upstream
	r.name, _ = o.cfg.Binder.Name(r.namespace, r.via.authority, r.override, x.started)
	return nil
}

// outside reports whether a bound name is a host of DNS, not a name of the mesh.
func outside(id naming.Path) bool {
	_, _, ok := rewrite.Inet(id)
	return ok
}

// splitAuthority splits host:port and [v6]:port; the port is nil if there is none.
func splitAuthority(authority []byte) (host, port []byte, ok bool) {
	colon := bytes.LastIndexByte(authority, ':')
	if end := bytes.LastIndexByte(authority, ']'); colon <= end {
		colon = -1
	}
	host = authority
	if colon >= 0 {
		host, port = authority[:colon], authority[colon+1:]
	}
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	return host, port, len(host) > 0
}

// absolute appends the target by which a proxy is asked (RFC 9112, section 3.2.2).
func absolute(to []byte, req *wire.Request) []byte {
	to = append(append(to, "http://"...), req.Authority...)
	if len(req.Path) == 1 && req.Path[0] == '*' { // of OPTIONS
		return to
	}
	return append(to, req.Path...)
}
