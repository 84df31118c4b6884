//go:build !race

package router

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/sidecar/accesslog"
	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// The race detector makes pools forget, on purpose; so there is no counting then.

// heads returns what notes a request, writes its head for the next hop and logs
// it, as often as it is called.
func heads(t testing.TB, words, fields string) func() {
	p, err := policy.Parse("policy.yaml", []byte(words))
	if err != nil {
		t.Fatal(err)
	}
	srv := newServer("outgoing", telemetry.New(prometheus.NewRegistry()), nil)
	srv.policy = watch.New(p)
	srv.access = accesslog.New(accesslog.Config{Path: func() string { return "" }})
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	x := &exchange{s: &session{server: &srv, conn: ours, source: "127.0.0.1"}}
	r := http1.NewReader(strings.NewReader("GET /a HTTP/1.1\r\nHost: world\r\nUser-Agent: curl/8.9\r\nAccept: */*\r\n"+fields+"\r\n"), http1.DefaultLimits)
	if err := r.Request(&x.req); err != nil {
		t.Fatal(err)
	}
	w := http1.NewWriter(io.Discard)
	a := &added{service: "/svc/world", client: "/#/io.l5d.k8s/ns/http/world"}
	return func() {
		x.note(srv.access, &p.Server)
		x.trace.Span = 0 // another request
		writeRequest(w, x, a)
		_ = w.Flush()
		x.status, x.ended = 200, 0
		x.logged(srv.access)
	}
}

const carried = "l5d-ctx-trace: AAAAAAAAAKoAAAAAAAAAuwAAAAAAAADMAAAAAAAAAAY=\r\nl5d-reqid: 00000000000000cc\r\n"

var headCases = []struct{ name, words, fields string }{
	{"Root", "", ""},
	{"Context", "", carried},
	{"Sample", "", carried + "l5d-sample: 0.25\r\n"},
	{"B3", "server: {tracePropagator: {kind: io.l5d.zipkin}}", "X-B3-TraceId: 00000000000000cc\r\nX-B3-SpanId: 00000000000000aa\r\n"},
	{"Forwarded", "server: {addForwardedHeader: {}, timestampHeader: x-request-start}", ""},
}

func TestHeadsAllocateNothing(t *testing.T) {
	for _, c := range append(headCases, struct{ name, words, fields string }{"Log", "server: {httpAccessLog: /x}", ""}) {
		write := heads(t, c.words, c.fields)
		for range 4000 {
			write() // until nothing has to grow
		}
		if n := testing.AllocsPerRun(100, write); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

func BenchmarkHead(b *testing.B) {
	for _, c := range headCases {
		b.Run(c.name, func(b *testing.B) {
			write := heads(b, c.words, c.fields)
			b.ReportAllocs()
			for b.Loop() {
				write()
			}
		})
	}
}
