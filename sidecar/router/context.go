package router

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/accesslog"
	"github.com/tulle-mesh/tulle/sidecar/forwarded"
	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/tracing"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// What a request tells whoever comes after about where it has been.

// span returns the span of the request's way out, the same for all attempts. Each
// router makes two: one below the span that came, and this one below that.
func (x *exchange) span(b3 bool) *tracing.Context {
	if x.trace.Span != 0 {
		return &x.trace
	}
	var in tracing.Context
	var rate []byte
	h := &x.req.Header
	if b3 {
		in, rate = fromB3(h)
	} else {
		in, _ = tracing.Parse(h.Value(wire.KindCtxTrace))
		rate = h.Value(wire.KindSample)
	}
	in = in.Child()
	if len(rate) > 0 {
		in = x.s.server.sampler.Decide(in, rate)
	}
	x.trace = in.Child()
	return &x.trace
}

func fromB3(h *wire.Header) (tracing.Context, []byte) {
	var b tracing.B3
	if h.HasKind(wire.KindB3) {
		for i := range h.Fields {
			if f := &h.Fields[i]; f.Kind == wire.KindB3 {
				b.Add(f.Name, f.Value)
			}
		}
	}
	return b.Context(), b.Rate()
}

// writeTrace writes the ids of the request's way out, and returns the memory.
func (x *exchange) writeTrace(w *http1.Writer, b3 bool, scratch []byte) []byte {
	span := x.span(b3)
	if b3 {
		for _, name := range [...]string{tracing.B3Trace, tracing.B3Span, tracing.B3Parent, tracing.B3Sampled, tracing.B3Flags} {
			scratch = span.AppendB3(scratch[:0], name)
			w.Field([]byte(name), scratch)
		}
		return scratch
	}
	scratch = span.AppendRequestID(scratch[:0])
	w.Field(requestIDName, scratch)
	scratch = span.AppendTo(scratch[:0])
	w.Field(traceName, scratch)
	return scratch
}

var (
	traceName     = []byte(tracing.Header)
	requestIDName = []byte(tracing.HeaderRequestID)
	forwardedName = []byte(forwarded.Header)
)

// writeOrigin writes from whom and when the request came, as far as the policy
// says that others may know, and returns the memory.
func (x *exchange) writeOrigin(w *http1.Writer, p *policy.Server, scratch []byte) []byte {
	if p.AddForwardedHeader.By.Kind != "" {
		labels := forwarded.Labels{By: label(&p.AddForwardedHeader.By), For: label(&p.AddForwardedHeader.For)}
		hop := x.s.hop()
		hop.Host = x.req.Authority
		hop.HTTPS = wire.HasPrefixFold(x.req.Target, "https://")
		scratch = labels.AppendTo(scratch[:0], &hop)
		w.Field(forwardedName, scratch)
	}
	if p.TimestampHeader != "" {
		scratch = strconv.AppendInt(scratch[:0], x.s.server.wall(x.started)/int64(time.Millisecond), 10)
		w.Field([]byte(p.TimestampHeader), scratch)
	}
	return scratch
}

func label(l *policy.Labeler) forwarded.Label {
	switch l.Kind {
	case policy.LabelConnectionRandom:
		return forwarded.Label{Kind: forwarded.ConnectionRandom}
	case policy.LabelIP:
		return forwarded.Label{Kind: forwarded.IP}
	case policy.LabelIPPort:
		return forwarded.Label{Kind: forwarded.IPPort}
	case policy.LabelRouter:
		return forwarded.Label{Kind: forwarded.Router}
	case policy.LabelStatic:
		return forwarded.Label{Kind: forwarded.Static, Text: l.Label}
	}
	return forwarded.Label{Kind: forwarded.RequestRandom}
}

// hop returns what Forwarded says about all requests of the connection. It is
// found out once, if anybody asks.
func (s *session) hop() forwarded.Hop {
	if s.origin == nil {
		s.origin = &forwarded.Hop{
			Local: addrPort(s.conn.LocalAddr()), Remote: addrPort(s.conn.RemoteAddr()),
			Router: forwarded.Text(s.server.name), Connection: [2]uint64{rand.Uint64(), rand.Uint64()},
		}
	}
	return *s.origin
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}

// note begins the request's line of the access log, if there is one. That cannot
// wait for the answer, when the request's memory may be gone.
func (x *exchange) note(log *accesslog.Log, p *policy.Server) {
	if log == nil || p.HTTPAccessLog == "" {
		return
	}
	req := &x.req
	target := req.Path
	if target == nil {
		target = req.Target
	}
	x.line.Begin(&accesslog.Request{
		Host: req.Authority, Method: req.Method, Target: target, Minor: req.Minor, Remote: x.s.source,
		Referer: req.Header.Get("referer"), UserAgent: req.Header.Get("user-agent"),
	})
}

// logged ends the line.
func (x *exchange) logged(log *accesslog.Log) {
	if !x.line.Begun() {
		return
	}
	took(x)
	log.Append(&x.line, time.Unix(0, x.s.server.wall(x.ended)), x.status, x.size)
}
