package router

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
	"github.com/tulle-mesh/tulle/sidecar/tunnel"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// Capture says that connections may have been redirected to the router by the
// kernel, and what is to become of those. All fields are set.
type Capture struct {
	// Original returns where an accepted connection was going; it is false for one
	// that was made to the router itself, which is served as without Capture.
	Original func(net.Conn) (netip.AddrPort, bool)
	// Opaque reports whether connections to a port are carried without a look.
	Opaque func(port uint16) bool
	// Allow says why the router does not go to an address.
	Allow func(netip.AddrPort) error
	// Dial connects to an address, in a way that is not redirected again.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// reachFor is how long a connection to where a captured one was going may take: as
// long as most clients would wait for it.
const reachFor = 10 * time.Second

// What is found in captured connections, for their count.
const (
	foundHTTP    = "http"  // HTTP/1, whose requests are routed
	foundTLS     = "tls"   // all others are carried as they are
	foundHTTP2   = "http2" // without TLS
	foundProxy   = "proxy" // HTTP/1 that is meant for another proxy
	foundOther   = "other" // also when the server speaks first
	foundOpaque  = "opaque"
	foundRefused = "refused" // closed: it was going where the router does not go, or is its own
)

// captured serves redirected connections.
type captured struct {
	Capture
	count map[string]prometheus.Counter
	// mine has the local addresses of the connections that carry others on.
	mine sync.Map
}

func newCaptured(o *Outgoing) *captured {
	c := &captured{Capture: *o.cfg.Capture, count: map[string]prometheus.Counter{}}
	for _, found := range []string{foundHTTP, foundTLS, foundHTTP2, foundProxy, foundOther, foundOpaque, foundRefused} {
		c.count[found] = o.cfg.Metrics.Captured(o.server.name, found)
	}
	return c
}

// onward is where a captured connection is carried on, and what came from there
// already. The zero value is not connected yet.
type onward struct {
	net.Conn
	mine  netip.AddrPort // this end
	first []byte
}

// intercept serves a connection that was going to s.original. What is HTTP/1 is
// routed, request by request; everything else is carried there.
func (c *captured) intercept(s *session) {
	var there onward
	defer c.leave(&there)
	found := c.find(s, &there)
	c.count[found].Inc()
	if found == foundHTTP {
		c.leave(&there) // it is not needed
		s.adopt(s.policy)
		s.run()
		return
	}
	if found == foundRefused || !s.state.CompareAndSwap(stateIdle, stateBusy) || !c.reach(s, &there) {
		reset(s.conn)
	} else {
		c.carry(s, &there)
	}
	s.server.remove(s)
}

// find tells what is in a connection. It connects there if it has to know.
func (c *captured) find(s *session, there *onward) string {
	if err := c.Allow(*s.original); err != nil {
		s.server.log.Warn("connection closed: this proxy does not go where it was going", "router", s.server.name, "source", s.source, "to", s.original, "error", err)
		return foundRefused
	}
	found := foundOpaque
	if !c.Opaque(s.original.Port()) {
		found = s.look()
	}
	if c.own(s) {
		return foundRefused
	}
	if found == foundOther && s.r.Buffered() == 0 && c.reach(s, there) && s.speaksFirst(there) {
		// Clients keep connections in reserve (Go's does), which speak when they are used.
		found = s.look()
	}
	return found
}

// speaksFirst waits, while neither side has said anything, until one does or ends,
// and reports whether it was the client. What the server said is in there.first.
func (s *session) speaksFirst(there *onward) bool {
	if s.state.Load() != stateIdle {
		return false // it is to end
	}
	if s.transport != nil {
		s.transport.SetPatience(0, 0)
	}
	var heard int
	greeting := make([]byte, 1<<10)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		heard, _ = there.Read(greeting) // an end is found again by whoever carries
		_ = s.conn.SetReadDeadline(past)
	}()
	_, err := s.r.Hold(1)
	_ = there.SetReadDeadline(past)
	<-ended
	there.first = greeting[:heard]
	_ = there.SetReadDeadline(time.Time{})
	if s.state.Load() == stateIdle { // else its end has been set
		_ = s.conn.SetReadDeadline(time.Time{})
	}
	return err == nil && heard == 0
}

// own reports whether a connection is one of those that carry others on: then the
// rules of the kernel do not know this proxy, and it would go round and round.
func (c *captured) own(s *session) bool {
	peer := addressOf(s.conn.RemoteAddr())
	_, mine := c.mine.Load(peer)
	if mine = mine && peer.IsValid(); mine {
		s.server.log.Error("connection closed: this proxy's own connections are redirected to it", "router", s.server.name, "to", s.original,
			"hint", "tulle-proxy redirect needs the user that the proxy runs as, in --proxy-uid")
	}
	return mine
}

func addressOf(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// look tells what a client says first, for which it waits a little.
func (s *session) look() string {
	kind := s.sniff()
	switch kind {
	case tunnel.HTTP1:
		if p, _ := s.r.Hold(s.r.Buffered()); forProxy(p) {
			return foundProxy
		}
		return foundHTTP
	case tunnel.HTTP2:
		return foundHTTP2
	case tunnel.TLS:
		return foundTLS
	}
	return foundOther
}

// forProxy reports whether a request is for a proxy that its client was told of: it
// asks for a tunnel, or names another server in its target.
func forProxy(first []byte) bool {
	method, rest, _ := bytes.Cut(bytes.TrimLeft(first, "\r\n"), []byte(" "))
	return string(method) == "CONNECT" || wire.HasPrefixFold(rest, "http://")
}

// reach connects to where the connection was going, unless that is done.
func (c *captured) reach(s *session, there *onward) bool {
	if there.Conn != nil {
		return true
	}
	dialing, cancel := context.WithTimeout(s.server.work, reachFor)
	defer cancel()
	conn, err := c.Dial(dialing, s.original.String())
	if err != nil {
		s.server.log.Debug("captured connection not made", "router", s.server.name, "source", s.source, "to", s.original, "error", err)
		return false
	}
	there.Conn, there.mine = conn, addressOf(conn.LocalAddr())
	c.mine.Store(there.mine, true)
	return true
}

func (c *captured) leave(there *onward) {
	if there.Conn != nil {
		_ = there.Close()
		c.mine.Delete(there.mine)
		there.Conn = nil
	}
}

// carry joins the connection to where it was going, and returns when both are
// closed. There is no limit to how long they may be silent, for there was none
// without a proxy; peers that vanish are found by keep-alive.
func (c *captured) carry(s *session, there *onward) {
	first := unread(s.r)
	s.r.Idle()
	if s.transport != nil {
		s.transport.SetPatience(0, 0)
		s.transport.OnHangup(nil)
	}
	stats, err := tunnel.Copy(s.server.work, s.conn, there.Conn, first, there.first, tunnel.Config{})
	if err != nil {
		s.server.log.Debug("captured connection cut", "router", s.server.name, "source", s.source, "to", s.original, "sent", stats.AToB, "received", stats.BToA, "error", err)
	}
}

// reset closes a client's connection as a server does that is not there.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = c.Close()
}

// authority returns what the request is for as names have it. A captured request's
// Host may leave the port out that its connection was going to.
func (x *exchange) authority() []byte {
	to := x.s.original
	if to == nil {
		return x.req.Authority
	}
	if len(x.req.Authority) == 0 {
		x.req.Authority = []byte(to.String())
	}
	if _, port, _ := splitAuthority(x.req.Authority); port != nil || to.Port() == 80 {
		return x.req.Authority
	}
	x.scratch = append(append(x.scratch[:0], x.req.Authority...), ':')
	x.scratch = strconv.AppendUint(x.scratch, uint64(to.Port()), 10)
	return x.scratch
}

// itself reports whether a bound name is no more than the host that the request
// names, as DNS has it: then its client has found it already.
func (x *exchange) itself(id naming.Path) bool {
	host, port, ok := rewrite.Inet(id)
	if !ok {
		return false
	}
	own, number, _ := splitAuthority(x.authority())
	if number == nil {
		number = []byte("80")
	}
	return strings.EqualFold(host, string(own)) && strconv.Itoa(int(port)) == string(number)
}

// straight makes the request go where its connection was going.
func (o *Outgoing) straight(ctx context.Context, x *exchange, r *routing) *Problem {
	r.straight = true
	to, id := x.s.original, x.authority()
	rule := naming.Dentry{
		Prefix: naming.Prefix(o.cfg.Binder.Config().Prefix.Join(string(id))),
		Dst:    naming.Leaf(rewrite.InetID(to.Addr().String(), strconv.Itoa(int(to.Port())))),
	}
	r.name, _ = o.cfg.Binder.Name(r.namespace, id, naming.Dtab{rule}, x.started)
	return o.bind(ctx, x, r)
}
