package router

import (
	"strconv"

	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// The header fields that the proxy reads or writes.
const (
	headerDtab      = "l5d-dtab"
	headerCtxDtab   = "l5d-ctx-dtab"
	headerService   = "l5d-dst-service"
	headerClient    = "l5d-dst-client"
	headerErr       = "l5d-err"
	headerRetryable = "l5d-retryable"
	headerCode      = "tulle-code"
	// headerEndpoint tells the incoming proxy which endpoint the outgoing one
	// chose. It exists only between two proxies.
	headerEndpoint = "tulle-dst-endpoint"
)

// via is what a proxy appends to Via; users of Linkerd 1.x look for this name.
const via = "1.1 linkerd"

// maxVia is the number of proxies after which a request must be in a loop: an
// application in between starts a new count, so a sane path has very few.
const maxVia = 100

// hopByHop reports whether a field concerns one connection only (RFC 9110,
// section 7.6.1) or is written anew by the Writer.
func hopByHop(name []byte) bool {
	switch len(name) {
	case 2:
		return wire.EqualFold(name, "te")
	case 7:
		return wire.EqualFold(name, "trailer") || wire.EqualFold(name, "upgrade")
	case 10:
		return wire.EqualFold(name, "connection") || wire.EqualFold(name, "keep-alive")
	case 16:
		return wire.EqualFold(name, "proxy-connection")
	case 17:
		return wire.EqualFold(name, "transfer-encoding")
	case 18:
		return wire.EqualFold(name, "proxy-authenticate")
	case 19:
		return wire.EqualFold(name, "proxy-authorization")
	}
	return false
}

// listed reports whether a Connection field of h names the field.
func listed(h *wire.Header, name []byte) bool {
	for i := range h.Fields {
		if !wire.EqualFold(h.Fields[i].Name, "connection") {
			continue
		}
		found := false
		http1.EachElement(h.Fields[i].Value, func(e []byte) {
			found = found || wire.EqualFold(e, string(name))
		})
		if found {
			return true
		}
	}
	return false
}

// added are the fields that a router puts on a request in place of any that
// came with it. Empty ones are only removed.
type added struct {
	service, client string
	endpoint        string
	ctxDtab         string
	// delivery is set by the incoming proxy, the last one before the application:
	// l5d-dst-* and l5d-ctx-dtab stay as the outgoing one wrote them, and the
	// answer cannot claim to be a proxy's.
	delivery bool
}

// replaced reports whether the router writes or removes the field itself.
func (a *added) replaced(name []byte) bool {
	switch {
	case wire.EqualFold(name, headerEndpoint):
		return true
	case a.delivery:
		return false
	}
	return wire.EqualFold(name, headerDtab) || wire.EqualFold(name, headerCtxDtab) ||
		wire.HasPrefixFold(name, "l5d-dst-")
}

// writeRequest writes the head of a request for the next hop.
func writeRequest(w *http1.Writer, req *wire.Request, a *added) {
	w.RequestLine(req.Method, req.Path)
	// Host first (RFC 9110, section 7.2), and from the authority that was routed.
	w.Field(hostName, req.Authority)
	hasConnection := req.Header.Has("connection")
	var vias []byte
	for _, f := range req.Header.Fields {
		switch {
		case wire.EqualFold(f.Name, "host"), wire.EqualFold(f.Name, "content-length"),
			hopByHop(f.Name), a.replaced(f.Name):
		case wire.EqualFold(f.Name, "via"):
			if vias != nil {
				vias = append(vias, ", "...)
			}
			vias = append(vias, f.Value...)
		case hasConnection && listed(&req.Header, f.Name):
		default:
			w.Field(f.Name, f.Value)
		}
	}
	writeVia(w, vias)
	if a.service != "" {
		w.FieldString(headerService, a.service)
	}
	if a.client != "" {
		w.FieldString(headerClient, a.client)
	}
	if a.ctxDtab != "" {
		w.FieldString(headerCtxDtab, a.ctxDtab)
	}
	if a.endpoint != "" {
		w.FieldString(headerEndpoint, a.endpoint)
	}
	// A request without a body but with a length keeps the length: POST needs it.
	if req.Body == wire.NoBody && req.Header.Has("content-length") {
		w.Framing(wire.Fixed, 0)
	} else {
		w.Framing(req.Body, req.Length)
	}
	w.EndHead()
}

// writeResponse writes the head of an answer. framing and length say how its
// body will be sent; connection is what to tell the client about the next
// request, if anything. delivered marks an application's own answer.
func writeResponse(w *http1.Writer, res *wire.Response, framing wire.Framing, length int64, connection string, delivered bool) {
	w.StatusLine(res.Status, res.Reason)
	hasConnection := res.Header.Has("connection")
	var vias []byte
	for _, f := range res.Header.Fields {
		switch {
		case wire.EqualFold(f.Name, "content-length") && (framing != wire.NoBody || res.Status < 200 || res.Status == 204),
			hopByHop(f.Name):
		case delivered && wire.EqualFold(f.Name, headerCode):
		case wire.EqualFold(f.Name, "via"):
			if vias != nil {
				vias = append(vias, ", "...)
			}
			vias = append(vias, f.Value...)
		case hasConnection && listed(&res.Header, f.Name):
		default:
			w.Field(f.Name, f.Value)
		}
	}
	if res.Status >= 200 {
		writeVia(w, vias)
	}
	w.Framing(framing, length)
	if connection != "" {
		w.FieldString("Connection", connection)
	}
	w.EndHead()
}

func writeVia(w *http1.Writer, before []byte) {
	if len(before) == 0 {
		w.FieldString("Via", via)
		return
	}
	w.Field(viaName, append(append(before, ", "...), via...))
}

var (
	hostName = []byte("Host")
	viaName  = []byte("Via")
)

// countVia returns how many proxies a request has passed.
func countVia(h *wire.Header) int {
	n := 0
	for i := range h.Fields {
		if wire.EqualFold(h.Fields[i].Name, "via") {
			http1.EachElement(h.Fields[i].Value, func([]byte) { n++ })
		}
	}
	return n
}

// writeProblem writes a whole answer of the proxy's own.
func writeProblem(w *http1.Writer, p *Problem, head bool, closing bool) {
	body := p.body()
	w.StatusLine(p.Status, []byte(reason(p.Status)))
	w.FieldString(headerErr, p.header())
	w.FieldString(headerCode, p.Code)
	if p.Retryable {
		w.FieldString(headerRetryable, "true")
	}
	w.FieldString("Content-Type", "text/plain; charset=utf-8")
	w.FieldString("Via", via)
	w.FieldString("Content-Length", strconv.Itoa(len(body)))
	if closing {
		w.FieldString("Connection", "close")
	}
	w.EndHead()
	if !head {
		w.Raw(body)
	}
}
