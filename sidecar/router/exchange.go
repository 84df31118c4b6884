package router

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/sidecar/accesslog"
	"github.com/tulle-mesh/tulle/sidecar/classify"
	"github.com/tulle-mesh/tulle/sidecar/deadline"
	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/tracing"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// smallBody is what certainly fits into a socket that nothing waits in.
const smallBody = 8 << 10

// maxDrained is how much of a body nobody wants is read to save a connection.
const maxDrained = 64 << 10

// exchange is one request and its answer. It is borrowed by a session for that
// time, so an idle connection does not keep its memory.
type exchange struct {
	s   *session
	req wire.Request
	res wire.Response
	up  upload

	routing routing // of an outgoing request
	sending sending

	started int64 // when the head was complete, in the time of package clock
	ended   int64 // when the answer was, likewise
	head    bool  // the request's method is HEAD
	closing bool  // the client's connection ends after this answer
	broken  bool  // the answer was cut on its way from the endpoint
	asked   bool  // the client was told to send its body
	minor   byte  // of the client's version
	// tunnelled is true if the connection went to a tunnel and is closed.
	tunnelled bool

	status int            // under which the answer is counted
	size   int64          // of the answer's body, if it was known beforehand
	line   accesslog.Line // of the request, if there is a log

	held      []byte // the request's body, if it is small enough to be sent again
	deadline  deadline.Deadline
	diagnosis diagnosis       // of a TRACE
	trace     tracing.Context // of the request's way out, once it was asked for
	method    []byte          // outlives the request's buffer
	scratch   []byte
}

// release gives the exchange's memory to whoever needs an exchange next.
func (x *exchange) release() {
	x.req.Reset()
	x.res.Reset()
	x.line.Reset()
	*x = exchange{
		req: wire.Request{Header: x.req.Header}, res: wire.Response{Header: x.res.Header},
		method: x.method[:0], scratch: x.scratch[:0], up: upload{kept: x.up.kept[:0]}, line: x.line,
	}
	spare.Put(x)
}

// hold reads a small request body, unless the client waits to be asked for it.
func (x *exchange) hold() *Problem {
	x.minor = x.req.Minor
	x.method = append(x.method[:0], x.req.Method...)
	limit := x.s.server.policy.Get().Server.ReplayBufferBytes
	if x.req.Body != wire.Fixed || x.req.Expect || x.req.Length > int64(limit) {
		x.up.begin(x, limit)
		return nil
	}
	p := &x.s.server.policy.Get().Server
	waits := x.s.r.Buffered() < int(x.req.Length) && p.HeadTimeout > 0
	if waits {
		_ = x.s.conn.SetReadDeadline(time.Now().Add(p.HeadTimeout))
	}
	var err error
	x.held, err = x.s.r.Hold(int(x.req.Length))
	if waits {
		_ = x.s.conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		x.closing = true
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return slowBody
		}
		return &Problem{Status: statusGone, Code: codeBadRequest, Message: "the request ends inside its body"}
	}
	return nil
}

// keeps reports whether all that was sent of the request so far can be sent once
// more.
func (x *exchange) keeps() bool {
	return x.req.Body == wire.NoBody || x.held != nil || !x.up.over.Load()
}

// replayable reports whether the request can be sent once more. If so, no more of
// its body is sent in the present attempt.
func (x *exchange) replayable() bool {
	switch {
	case x.req.Body == wire.NoBody || x.held != nil:
		return true
	case x.up.over.Load():
		return false
	}
	x.up.stop(x)
	return x.up.replayable()
}

// clientFault is a failure of the client's own: its body broke the rules, or it
// went away.
type clientFault struct{ err error }

func (f *clientFault) Error() string { return "the client failed: " + f.err.Error() }
func (f *clientFault) Unwrap() error { return f.err }

var errGone = &clientFault{errors.New("it closed the connection before the answer")}

// answer returns what is due: a problem if the client may read it, else the
// status under which the request is counted.
func (f *clientFault) answer() (int, *Problem) {
	var parse *http1.ParseError
	switch {
	case errors.As(f.err, &parse):
		return 0, badRequest(parse)
	case errors.Is(f.err, os.ErrDeadlineExceeded):
		return 0, slowBody
	}
	return statusGone, nil
}

// statusGone counts a request whose client did not wait for the answer. It is
// never sent; nginx has made the number known.
const statusGone = 499

// silence is a connection that ended without a byte of an answer: nobody knows
// whether the request had an effect.
type silence struct{ err error }

func (s *silence) Error() string { return s.err.Error() }
func (s *silence) Unwrap() error { return s.err }

func silent(err error) bool {
	var s *silence
	return errors.As(err, &s)
}

// errLate is the end of the time that an attempt has.
var errLate = errors.New("there was no answer in time")

// send writes the request to c and waits for the head of the final answer, until
// due (0: for ever) in the time of package clock. After an error c is closed.
func (x *exchange) send(p *pool.Pool, c *pool.Conn, a *added, due int64) error {
	s := x.s
	much := x.up.streams || len(x.held) > smallBody
	s.await(c, due, much)
	err := x.offer(c, a)
	s.awaitNone(c, due, much)
	if err == nil {
		return nil
	}
	s.upstream.Store(nil)
	p.Close(c)
	x.up.stop(x)
	switch fault := x.up.fault(); {
	case fault != nil:
		return &clientFault{fault}
	case s.gone.Load():
		x.closing = true
		return errGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errLate
	}
	return err
}

func (x *exchange) offer(c *pool.Conn, a *added) error {
	writeRequest(c.W, x, a)
	if x.held != nil {
		_ = c.W.Data(x.held, false)
	}
	if x.held != nil || x.req.Body == wire.NoBody {
		if err := c.W.Flush(); err != nil {
			return &silence{err}
		}
	} else {
		x.up.start(x.s, c)
	}
	for heard := false; ; heard = true {
		if err := c.R.Response(&x.res, x.method); err != nil {
			if !heard && c.R.Buffered() == 0 && (errors.Is(err, io.EOF) || isReset(err)) {
				return &silence{fmt.Errorf("read the answer: %w", err)}
			}
			return fmt.Errorf("read the answer: %w", err)
		}
		switch {
		case x.res.Status >= 200:
			return nil
		case x.res.Status == 101:
			if len(a.upgrade) == 0 {
				return errors.New("the endpoint switches protocols, which nobody asked for")
			}
			return nil
		case x.minor == 1: // RFC 9110, section 15.2: never to an HTTP/1.0 client
			x.asked = x.asked || x.res.Status == 100
			writeResponse(x.s.w, &x.res, x.early())
			if err := x.s.w.Flush(); err != nil {
				x.closing = true
				return errGone
			}
		}
	}
}

// early says how an answer goes on that is no answer to the request yet, or none any
// more. No proxy makes such a one itself.
func (x *exchange) early() answerHead {
	return answerHead{foreign: true, clear: x.s.server.hides()}
}

// abandon gives up the answer whose head is in x.res, and saves the connection
// if that takes little.
func (x *exchange) abandon(p *pool.Pool, c *pool.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(lingerFor))
	body := c.R.Body(x.res.Body, x.res.Length)
	whole := x.up.whole()
	x.up.stop(x)
	reusable := !x.res.Close && whole && discard(&body)
	x.s.upstream.Store(nil)
	if reusable {
		_ = c.SetReadDeadline(time.Time{})
		p.Put(c, clock.Now())
		return
	}
	p.Close(c)
}

// relay sends the answer in x.res on to the client, and returns the status under
// which the request is counted.
func (x *exchange) relay(p *pool.Pool, c *pool.Conn, a answerHead) int {
	s := x.s
	a.framing, a.length = x.res.Body, x.res.Length
	if a.framing == wire.UntilClose {
		a.framing = wire.Chunked
	}
	if a.framing == wire.Chunked && x.minor == 0 {
		a.framing, x.closing = wire.UntilClose, true
	}
	// Endpoints that refuse a body half-way hang up, and not all say so before.
	unwanted := x.res.Close || x.res.Status >= 400
	if x.up.cut() || x.withheld() || x.up.lost(unwanted) || x.s.server.draining.Load() {
		x.closing = true
	}
	switch {
	case x.closing:
		a.connection = "close"
	case x.minor == 0:
		a.connection = "keep-alive"
	}
	if a.framing == wire.Fixed {
		x.size = a.length
	}
	status, reusable := x.res.Status, !x.res.Close
	writeResponse(s.w, &x.res, a)
	body := c.R.Body(x.res.Body, x.res.Length)
	s.relayed.Store(c)
	if s.gone.Load() {
		c.Hurry(goneAfter)
	}
	readErr, writeErr := http1.Relay(s.w, &body, a.framing == wire.Chunked)
	x.ended = clock.Now()
	s.relayed.Store(nil)
	if s.gone.Load() {
		reusable = false // left may be at it
	}
	if readErr != nil || writeErr != nil {
		// The client cannot tell a cut answer from a whole one unless its
		// connection breaks too.
		x.closing = true
		s.upstream.Store(nil)
		p.Close(c)
		x.up.stop(x)
		if l, ok := s.conn.(interface{ SetLinger(int) error }); ok {
			_ = l.SetLinger(0) // a reset: to HTTP/1.0 an orderly end means a whole answer
		}
		_ = s.conn.Close()
		if readErr != nil && !s.gone.Load() {
			x.broken = true
			return 502
		}
		return statusGone
	}
	if !x.up.finish(x) {
		reusable, x.closing = false, true
	}
	s.upstream.Store(nil)
	if reusable && body.Done() {
		p.Put(c, x.ended)
	} else {
		p.Close(c)
	}
	return status
}

// withheld reports whether the client holds its body back until it is asked for
// it, which the answer did without. Clients differ in whether the body then
// follows all the same, or the next request.
func (x *exchange) withheld() bool {
	return x.req.Expect && !x.asked && x.up.streams && !x.up.begun.Load()
}

// refuse answers with a problem of the proxy's own.
func (x *exchange) refuse(p *Problem) {
	x.status = p.Status
	if p.Code != "" {
		x.s.server.metrics.Error(x.s.server.name, p.Code)
	}
	if x.req.Body != wire.NoBody && x.held == nil && !(x.up.streams && x.up.sent()) {
		x.closing = true // its body has not been read
	}
	x.closing = x.closing || x.s.server.draining.Load()
	if p.Status == statusGone {
		x.closing = true
		return
	}
	writeProblem(x.s.w, p, x)
}

// discard reads the rest of a body and reports whether it got to the end
// without much ado.
func discard(body *http1.Body) bool {
	for n := 0; n <= maxDrained; {
		piece, err := body.Next()
		if err != nil {
			return err == io.EOF
		}
		n += len(piece)
	}
	return false
}

// isReset reports whether the peer cut the connection.
func isReset(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// class is what the answer in x.res is held to be.
func (x *exchange) class(k classify.Kind) classify.Class {
	c := k.Class(x.method, x.res.Status)
	if c.Failed() && x.res.Header.HasKind(wire.KindRetryable) {
		c = c.Override(x.method, x.res.Header.Value(wire.KindRetryable))
	}
	return c
}
