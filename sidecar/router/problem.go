package router

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/sidecar/http1"
)

// Problem is an answer that the proxy makes itself. Status and Code are what
// programs read; Code is stable across versions.
type Problem struct {
	Status    int
	Code      string
	Message   string // what went wrong; the first line goes into l5d-err
	Hint      string // what to do about it, one line
	Retryable bool   // certain that no application saw the request

	busy bool // there is too much to do, and it may be tried elsewhere at once
}

// The codes, each with the one place that makes it.
const (
	codeBadRequest    = "T101" // the request is not HTTP/1.1 as the RFCs have it
	codeBadDtab       = "T102" // l5d-dtab or l5d-ctx-dtab does not parse
	codeNoHost        = "T103" // nothing says whom the request is for
	codeLoop          = "T104" // more proxies on the way than a sane path has
	codeUnknownCaller = "T106" // a caller that looks like a pod, and that nobody knows
	codeSlowHead      = "T107" // the head did not arrive in time
	codeSlowBody      = "T108" // the body stopped arriving
	codeLongLine      = "T109" // a request line longer than the limit
	codeLargeHead     = "T110" // a head larger than the limit, or of too many fields
	codeBusyProxy     = "T111" // as many requests as the proxy may have
	codeConnections   = "T112" // as many connections as the proxy may have
	codeBusyService   = "T113" // as many requests as the service may have
	codeExpired       = "T114" // the deadline had passed before the request came
	codeBadForwards   = "T115" // Max-Forwards of a TRACE is no whole number
	codeBadChain      = "T116" // Proxy-Authorization names no proxy to go on to
	codeNoRoute       = "T201" // the name binds to nothing, or to no endpoint
	codeBindTimeout   = "T202" // what the name is, or where, was not known in time
	codeBindError     = "T203" // the name cannot be bound
	codeNoIdentity    = "T204" // the proxy has no certificate yet
	codeMetadata      = "T205" // a cloud's metadata, which is not for others to ask for
	codeEgress        = "T206" // outside, and nothing in egress.allow matches
	codeUnreachable   = "T301" // no endpoint could be connected to
	codeBadAnswer     = "T302" // the endpoint's answer is not HTTP, or it hung up
	codeAttemptLate   = "T303" // an attempt took longer than it may
	codeTotalLate     = "T304" // the request took longer than it may, with retries
	codeBusyEndpoints = "T305" // each endpoint has as many requests as it may
	codeNack          = "T306" // the endpoint said that it did not process the request
	codeWantsTLS      = "T307" // the client's policy wants TLS, which is not spoken yet
	codeNotOurs       = "T401" // incoming: the endpoint is not behind this proxy
	codeNoEndpoint    = "T402" // incoming: the request does not say which endpoint
	codeAppDown       = "T403" // incoming: the application refused the connection
	codeAppBadAnswer  = "T404" // incoming: the application hung up or spoke no HTTP
)

// maxErr bounds the l5d-err header.
const maxErr = 4 << 10

// body returns the text of the answer.
func (p *Problem) body() string {
	return p.Message + "\n\n" + p.Code + ": " + p.Hint + "\n"
}

// header returns the value of l5d-err: the message, form-encoded.
func (p *Problem) header() string {
	m := p.Message
	if len(m) > maxErr {
		m = m[:maxErr]
	}
	return url.QueryEscape(m)
}

// Problems that are always the same.
var (
	busyProxy = &Problem{Status: 503, Code: codeBusyProxy, Retryable: true, busy: true,
		Message: "this proxy has as many requests as it may",
		Hint:    "send less, add proxies, or raise server.maxConcurrentRequests of its policy"}
	slowHead = &Problem{Status: 408, Code: codeSlowHead, Retryable: true,
		Message: "the head of the request did not arrive in time",
		Hint:    "send it at once, or raise server.headTimeoutMs of the proxy's policy"}
	slowBody = &Problem{Status: 408, Code: codeSlowBody,
		Message: "the body of the request stopped arriving",
		Hint:    "send it without long pauses, or raise server.headTimeoutMs of the proxy's policy"}
	// hungUp is sent to nobody.
	hungUp = &Problem{Status: statusGone, Message: "the client closed the connection before its name was known"}
)

func badRequest(e *http1.ParseError) *Problem {
	p := &Problem{Status: e.Status, Code: codeBadRequest, Message: e.What,
		Hint: "correct the client that sent this request; it was not forwarded"}
	switch e.Kind {
	case http1.LineTooLong:
		p.Code, p.Hint = codeLongLine, "shorten the URL, or raise server.maxInitialLineKB of the proxy's policy"
	case http1.HeadTooLarge, http1.TooManyFields:
		p.Code, p.Hint = codeLargeHead, "send less, of cookies for example, or raise server.maxHeadersKB or server.maxHeaderFields of the proxy's policy"
	}
	return p
}

func badDtab(header string, err error) *Problem {
	hint := "write rules as /prefix => /destination, separated by semicolons"
	if !errors.As(err, new(*naming.ParseError)) {
		hint = fmt.Sprintf("send no more than %d rules and %d bytes with a request, in all its headers together; what is for all requests belongs in the dtab",
			naming.MaxOverrideRules, naming.MaxOverrideBytes)
	}
	return &Problem{Status: 400, Code: codeBadDtab, Message: header + ": " + err.Error(), Hint: hint}
}

// noRoute is the answer for a name that leads nowhere, in the form that users
// of Linkerd 1.x know. stored are rules that an interpreter keeps. advice is what to
// do, if that is not the mesh's.
func noRoute(service, namespace, advice string, stored, base, override []string) *Problem {
	var b strings.Builder
	b.WriteString("Unable to route request!\n\nservice name: " + service)
	for _, part := range []struct {
		heading string
		rules   []string
	}{{"dtab", stored}, {"base dtab", base}, {"override dtab", override}} {
		b.WriteString("\n" + part.heading + ":")
		for _, d := range part.rules {
			b.WriteString("\n  " + d)
		}
	}
	hint := "check that what the rules above lead to is there and has endpoints, and that no rule stops it"
	switch {
	case advice != "":
		hint = advice
	case namespace != "":
		hint = "the caller belongs to the namespace " + namespace + ": check that the Service is there (else write service.namespace), " +
			"that it has the port (80 or one named http, if none is written) and ready endpoints, and that no rule above stops it"
	}
	return &Problem{Status: 502, Code: codeNoRoute, Message: b.String(), Retryable: true, Hint: hint}
}

// unreachable is the answer when connecting failed, in the form that users of
// Linkerd 1.x know.
func unreachable(service, client string, addresses []string, selected string, cause error) *Problem {
	return &Problem{Status: 502, Code: codeUnreachable, Retryable: true,
		Message: fmt.Sprintf("Unable to establish connection to %s.\n\nservice name: %s\nclient name: %s\naddresses: [%s]\nselected address: %s\ncause: %v",
			selected, service, client, strings.Join(addresses, ", "), selected, cause),
		Hint: "check that the pods behind this address run and, for pods in the mesh, that their proxy does"}
}

// forbidden is the answer for a cloud's metadata.
func forbidden(message string) *Problem {
	return &Problem{Status: 403, Code: codeMetadata, Message: message, Retryable: true,
		Hint: "ask for metadata without a proxy: add its address to no_proxy"}
}

// reasons holds the phrases of the statuses that a Problem uses.
func reason(status int) string {
	switch status {
	case 400:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 408:
		return "Request Timeout"
	case 414:
		return "URI Too Long"
	case 417:
		return "Expectation Failed"
	case 431:
		return "Request Header Fields Too Large"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 505:
		return "HTTP Version Not Supported"
	}
	return "Status " + strconv.Itoa(status)
}
