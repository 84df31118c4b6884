package router

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

const (
	// headerAddContext asks every router on the way of a TRACE for a report in the
	// answer's body.
	headerAddContext = "l5d-add-context"
	headerForwards   = "Max-Forwards"
	// maxReported is how large a body may be that a report is appended to.
	maxReported = 64 << 10
)

// diagnosis is what a TRACE wants of the routers on its way.
type diagnosis struct {
	report  bool // appended to the body of the answer
	limited bool // it came with Max-Forwards
	left    int  // further routers that it may pass, if it is limited; -1: it ends here
}

// diagnose finds out what a request wants, if it is a TRACE.
func (x *exchange) diagnose() *Problem {
	if string(x.req.Method) != "TRACE" {
		return nil
	}
	h := &x.req.Header
	if h.HasKind(wire.KindL5d) {
		x.diagnosis.report = wire.EqualFold(h.Get(headerAddContext), "true")
	}
	for i := range h.Fields {
		if h.Fields[i].Kind != wire.KindMaxForwards {
			continue
		}
		// RFC 9110, section 7.6.2: digits, and one field. What is more than anybody
		// counts to may be made less.
		n, err := strconv.ParseUint(string(h.Fields[i].Value), 10, 31)
		if err != nil || x.diagnosis.limited {
			return &Problem{Status: 400, Code: codeBadForwards, Message: "Invalid value for Max-Forwards header",
				Hint: "say once by how many proxies the TRACE may be forwarded, as a whole number, or leave it out"}
		}
		x.diagnosis.limited, x.diagnosis.left = true, int(n)-1
	}
	return nil
}

// endsHere reports whether the request is to be answered by this router.
func (d *diagnosis) endsHere() bool { return d.limited && d.left < 0 }

// report is what a router says about itself in the answer to a TRACE.
type report struct {
	router          string
	took            time.Duration
	service, client string
	addresses       []string
	selected        string        // empty if none was
	steps           []naming.Step // from the service's name to the client's; nil if another router went them
}

// String returns the report in the form that users of Linkerd 1.x know.
func (r *report) String() string {
	var b strings.Builder
	selected := r.selected
	if selected == "" {
		selected = "none"
	}
	fmt.Fprintf(&b, "\n--- Router: %s ---\nrequest duration: %d ms\nservice name: %s\nclient name: %s\naddresses: [%s]\nselected address: %s\n",
		r.router, r.took.Milliseconds(), r.service, r.client, strings.Join(r.addresses, ", "), selected)
	if r.steps != nil {
		b.WriteString("dtab resolution:\n")
	}
	for _, s := range r.steps {
		b.WriteString("  " + s.String() + "\n")
	}
	return b.String()
}

// report returns what is known of a request on its way out.
func (o *Outgoing) report(x *exchange, r *routing, picker *client.Picker, selected string) *report {
	return &report{
		router: o.server.name, took: time.Duration(clock.Now() - x.started), service: r.name.Service, client: r.client.ID,
		addresses: addresses(picker), selected: selected, steps: r.name.Explain(r.id),
	}
}

// report is the same for a request that is delivered: the outgoing router has
// said whereto.
func (in *Incoming) report(x *exchange, endpoint, selected string) *report {
	h := &x.req.Header
	return &report{
		router: in.server.name, took: time.Duration(clock.Now() - x.started), service: string(h.Value(wire.KindDstService)),
		client: string(h.Value(wire.KindDstClient)), addresses: []string{endpoint}, selected: selected,
	}
}

func addresses(p *client.Picker) []string {
	all := make([]string, 0, p.Len())
	for _, e := range p.All() {
		all = append(all, e.Value.Endpoint.Address)
	}
	return all
}

// end answers a TRACE that goes no further, with a report if it wants one.
func (o *Outgoing) end(ctx context.Context, x *exchange, r *routing) (int, *Problem) {
	text := ""
	if x.diagnosis.report {
		picker, problem := o.picker(ctx, x, r)
		if problem != nil {
			return 0, problem
		}
		text = o.report(x, r, picker, "").String()
	}
	return x.reply(text), nil
}

// reply answers the request with a text.
func (x *exchange) reply(text string) int {
	if x.req.Body != wire.NoBody && x.held == nil {
		x.closing = true // its body has not been read
	}
	w := x.s.w
	w.StatusLine(200, []byte("OK"))
	w.FieldString("Via", via)
	if text != "" {
		w.FieldString("Content-Type", "text/plain; charset=utf-8")
	}
	w.Framing(wire.Fixed, int64(len(text)))
	if x.closing {
		w.FieldString("Connection", "close")
	}
	w.EndHead()
	w.Raw(text)
	x.size = int64(len(text))
	return 200
}

// explain is relay for a TRACE that wants a report after the body.
func (x *exchange) explain(p *pool.Pool, c *pool.Conn, a answerHead, r *report) int {
	text := x.echoed(c)
	res := detach(&x.res)
	x.abandon(p, c)
	if len(text) > 0 {
		text = append(text, '\n')
	}
	text = append(text, r.String()...)
	if x.closing {
		a.connection = "close"
	} else if x.minor == 0 {
		a.connection = "keep-alive"
	}
	a.framing, a.length = wire.Fixed, int64(len(text))
	writeResponse(x.s.w, res, a)
	x.s.w.Raw(string(text))
	x.size = a.length
	return res.Status
}

// echoed returns the body of the answer in x.res, or what stands for one whose end
// is not known beforehand, as Linkerd 1.x has it.
func (x *exchange) echoed(c *pool.Conn) []byte {
	res := &x.res
	encoded := res.Header.Has("content-encoding")
	switch {
	case res.Body == wire.NoBody:
		return nil
	case res.Body == wire.Fixed && res.Length <= maxReported && !encoded:
		var text []byte
		body := c.R.Body(res.Body, res.Length)
		for {
			piece, err := body.Next()
			text = append(text, piece...)
			if err == io.EOF {
				res.Body = wire.NoBody // it has been read
				return bytes.TrimSpace(text)
			}
			if err != nil {
				res.Close = true
				return append(text, "\nThe answer broke off: "+err.Error()...)
			}
		}
	}
	kind := "chunked"
	if res.Body == wire.Fixed {
		kind = "large or compressed"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.%d %d %s\n", res.Minor, res.Status, res.Reason)
	kept := res.Header.Fields[:0]
	for _, f := range res.Header.Fields {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
		if !wire.EqualFold(f.Name, "content-encoding") {
			kept = append(kept, f)
		}
	}
	res.Header.Fields = kept
	fmt.Fprintf(&b, "\nDiagnostic trace encountered %s response. Response content discarded.", kind)
	return b.Bytes()
}

// detach returns a copy of a head that outlives its connection's memory.
func detach(res *wire.Response) *wire.Response {
	own := *res
	own.Reason = bytes.Clone(res.Reason)
	own.Header.Fields = make([]wire.Field, len(res.Header.Fields))
	for i, f := range res.Header.Fields {
		own.Header.Fields[i] = wire.Field{Name: bytes.Clone(f.Name), Value: bytes.Clone(f.Value), Kind: f.Kind}
	}
	return &own
}
