package classify

import "github.com/tulle-mesh/tulle/sidecar/wire"

// Nack is whether a server says that it has not processed the request, as
// Finagle's servers and proxies do.
type Nack uint8

// The answers. None of the nacks is for the caller to see: it gets a 502.
const (
	NoNack    Nack = iota // an ordinary answer, which may well be a 503
	Requeue               // not processed: send it again, from the requeue budget
	DoNotSend             // not processed, and not to be sent again
)

// Nacked tells a nack from an ordinary answer: a 503 with finagle-http-nack, or
// with Retry-After: 0, asks to be sent again; one with
// finagle-http-nonretryable-nack, which wins, asks not to.
func Nacked(status int, h *wire.Header) Nack {
	switch {
	case status != 503:
		return NoNack
	case h.Has("finagle-http-nonretryable-nack"):
		return DoNotSend
	case h.Has("finagle-http-nack"), string(h.Get("retry-after")) == "0":
		return Requeue
	}
	return NoNack
}
