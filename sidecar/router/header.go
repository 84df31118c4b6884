package router

import (
	"strconv"

	"github.com/tulle-mesh/tulle/sidecar/classify"
	"github.com/tulle-mesh/tulle/sidecar/deadline"
	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// The header fields that the proxy writes.
const (
	headerDtab      = "l5d-dtab"
	headerCtxDtab   = "l5d-ctx-dtab"
	headerService   = "l5d-dst-service"
	headerClient    = "l5d-dst-client"
	headerResidual  = "l5d-dst-residual"
	headerErr       = "l5d-err"
	headerRetryable = classify.HeaderRetryable
	headerCode      = "tulle-code"
	// headerEndpoint tells the incoming proxy which endpoint the outgoing one
	// chose. It exists only between two proxies.
	headerEndpoint = "tulle-dst-endpoint"
)

// via is what a proxy appends to Via; users of Linkerd 1.x look for this name.
const via = "1.1 linkerd"

// added are the fields that a router puts on a request in place of any that
// came with it. Empty ones are only removed.
type added struct {
	service, client string
	residual        string // what the client's name left of the path, printed
	endpoint        string
	ctxDtab         string
	upgrade         []byte    // the protocol that the client asks to switch to
	via             *upstream // another proxy that the request goes to
	// delivery is set by the incoming proxy, the last one before the application:
	// what the outgoing one wrote stays.
	delivery bool
}

// replaced reports whether the router writes or removes fields of this kind.
func (a *added) replaced(k wire.Kind) bool {
	switch k {
	case wire.KindHost, wire.KindContentLength, wire.KindEndpoint, wire.KindCtxTrace, wire.KindRequestID, wire.KindSample:
		return true
	case wire.KindClientCert: // what it says only a proxy that saw the certificate can say
		return true
	case wire.KindProxyAuthorization:
		return !a.delivery // the proxy before this one lets only its own pass
	case wire.KindDtab, wire.KindCtxDtab, wire.KindDst, wire.KindDstService, wire.KindDstClient:
		return !a.delivery
	}
	return k.Hop()
}

// writeRequest writes the head of a request for the next hop.
func writeRequest(w *http1.Writer, x *exchange, a *added) {
	req, p := &x.req, &x.s.server.policy.Get().Server
	b3, stamp := p.TracePropagator == policy.PropagateB3, ""
	if !a.delivery {
		stamp = p.TimestampHeader
	}
	target := req.Path
	if target == nil {
		target = req.Authority // of CONNECT
	}
	switch {
	case a.via != nil && req.Path != nil:
		x.scratch = absolute(x.scratch[:0], req)
		target = x.scratch
	case a.delivery && req.Path != nil && wire.HasPrefixFold(req.Target, "http://"):
		target = req.Target // for an application that is a proxy itself
	}
	w.RequestLine(req.Method, target)
	// Host first (RFC 9110, section 7.2), and from the authority that was routed.
	w.Field(hostName, req.Authority)
	vias := x.scratch[:0]
	for i := range req.Header.Fields {
		f := &req.Header.Fields[i]
		switch {
		case f.Kind == wire.KindOther:
			if stamp == "" || !wire.EqualFold(f.Name, stamp) {
				w.Field(f.Name, f.Value)
			}
		case f.Kind == wire.KindVia:
			vias = appendVia(vias, f.Value)
		case f.Kind == wire.KindCtxDeadline && x.deadline.Known:
		case f.Kind == wire.KindB3 && b3:
		case f.Kind == wire.KindMaxForwards && x.diagnosis.limited:
		case !a.replaced(f.Kind):
			w.Field(f.Name, f.Value)
		}
	}
	vias = writeVia(w, vias, req.Minor)
	if a.via != nil && a.via.auth != nil {
		w.Field(proxyAuthorization, a.via.auth)
	}
	if a.service != "" {
		w.FieldString(headerService, a.service)
	}
	if a.client != "" {
		w.FieldString(headerClient, a.client)
	}
	if a.residual != "" {
		w.FieldString(headerResidual, a.residual)
	}
	if a.ctxDtab != "" {
		w.FieldString(headerCtxDtab, a.ctxDtab)
	}
	if x.deadline.Known {
		vias = x.deadline.AppendTo(vias[:0])
		w.Field(deadlineName, vias)
	}
	if a.endpoint != "" {
		w.FieldString(headerEndpoint, a.endpoint)
	}
	if x.diagnosis.limited {
		w.FieldString(headerForwards, strconv.Itoa(x.diagnosis.left))
	}
	vias = x.writeTrace(w, b3, vias)
	if !a.delivery {
		vias = x.writeOrigin(w, p, vias)
	}
	x.scratch = vias[:0]
	if len(a.upgrade) > 0 {
		w.FieldString("Connection", "Upgrade")
		w.Field(upgradeName, a.upgrade)
	}
	// A request without a body but with a length keeps the length: POST needs it.
	if req.Body == wire.NoBody && req.Header.HasKind(wire.KindContentLength) {
		w.Framing(wire.Fixed, 0)
	} else {
		w.Framing(req.Body, req.Length)
	}
	w.EndHead()
}

// answerHead says how the head of an answer is changed on its way to the client.
type answerHead struct {
	framing    wire.Framing // of the body as it will be sent
	length     int64
	connection string // what to tell the client about the next request, if anything
	class      string // for l5d-success-class; empty leaves what came
	// foreign marks an answer that was made by an application, not by a proxy: it
	// cannot claim to be one's.
	foreign bool
	clear   bool // hide what the mesh says about itself
	upgrade bool // to another protocol
}

// keeps reports whether a field of this kind goes on to the client.
func (a *answerHead) keeps(k wire.Kind, status int) bool {
	switch {
	case k == wire.KindContentLength:
		return a.framing == wire.NoBody && status >= 200 && status != 204
	case k == wire.KindCode:
		return !a.foreign && !a.clear
	case k == wire.KindSuccessClass:
		return a.class == "" && !a.clear
	case k == wire.KindUpgrade:
		return a.upgrade
	case k.L5d():
		return !a.clear
	}
	return !k.Hop()
}

// writeResponse writes the head of an answer.
func writeResponse(w *http1.Writer, res *wire.Response, a answerHead) {
	w.StatusLine(res.Status, res.Reason)
	var space [128]byte
	vias := space[:0]
	for i := range res.Header.Fields {
		f := &res.Header.Fields[i]
		switch {
		case f.Kind == wire.KindOther:
			w.Field(f.Name, f.Value)
		case f.Kind == wire.KindVia:
			vias = appendVia(vias, f.Value)
		case a.keeps(f.Kind, res.Status):
			w.Field(f.Name, f.Value)
		}
	}
	if res.Status >= 200 || a.upgrade {
		writeVia(w, vias, res.Minor)
	}
	if a.class != "" && !a.clear {
		w.FieldString(classify.HeaderSuccessClass, a.class)
	}
	w.Framing(a.framing, a.length)
	if a.connection != "" {
		w.FieldString("Connection", a.connection)
	}
	w.EndHead()
}

func appendVia(vias, value []byte) []byte {
	if len(vias) > 0 {
		vias = append(vias, ", "...)
	}
	return append(vias, value...)
}

// writeVia appends this proxy to those before it, with the version in which it got
// the message, and returns the memory.
func writeVia(w *http1.Writer, before []byte, minor byte) []byte {
	value := viaValue
	if minor == 0 {
		value = viaOld
	}
	before = appendVia(before, value)
	w.Field(viaName, before)
	return before
}

var (
	hostName = []byte("Host")

	proxyAuthorization = []byte("Proxy-Authorization")
	viaName            = []byte("Via")
	viaValue           = []byte(via)
	viaOld             = []byte("1.0 linkerd")
	upgradeName        = []byte("Upgrade")
	deadlineName       = []byte(deadline.Header)
)

// countVia returns how many proxies a request has passed.
func countVia(h *wire.Header) int {
	if !h.HasKind(wire.KindVia) {
		return 0
	}
	n := 0
	for i := range h.Fields {
		if h.Fields[i].Kind == wire.KindVia {
			http1.EachElement(h.Fields[i].Value, func([]byte) { n++ })
		}
	}
	return n
}

// writeProblem writes a whole answer of the proxy's own.
func writeProblem(w *http1.Writer, p *Problem, x *exchange) {
	clear := x.s.server.hides()
	body := ""
	if !clear {
		body = p.body()
	}
	w.StatusLine(p.Status, []byte(reason(p.Status)))
	if !clear {
		w.FieldString(headerErr, p.header())
		w.FieldString(headerCode, p.Code)
		if p.Retryable {
			w.FieldString(headerRetryable, "true")
		}
		w.FieldString("Content-Type", "text/plain; charset=utf-8")
	}
	if p.busy {
		// What Finagle's clients and Linkerd 1.x take for "not processed".
		w.FieldString("Retry-After", "0")
		w.FieldString("finagle-http-nack", "true")
	}
	w.FieldString("Via", via)
	w.FieldString("Content-Length", strconv.Itoa(len(body)))
	if x.closing {
		w.FieldString("Connection", "close")
	}
	w.EndHead()
	if !x.head {
		w.Raw(body)
		x.size = int64(len(body))
	}
}
