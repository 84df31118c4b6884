package router

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// maxDrained is how much of a body nobody wants is read to save a connection.
const maxDrained = 64 << 10

// outcome is how one attempt to send a request ended.
type outcome struct {
	// err is nil if an answer was sent to the client, whole or in part.
	err error
	// again is true if the request certainly had no effect and can be sent again.
	again bool
	// status is that of the answer that was sent.
	status int
}

// clientFault is a failure of the client's own: its body broke the rules, or it
// went away.
type clientFault struct{ err error }

func (f *clientFault) Error() string { return "the client failed: " + f.err.Error() }

// answer returns what is due: a problem if the client may read it, else the
// status under which the request is counted.
func (f *clientFault) answer() (int, *Problem) {
	var parse *http1.ParseError
	if errors.As(f.err, &parse) {
		return 0, badRequest(parse.Status, parse.What)
	}
	return statusGone, nil
}

// statusGone counts a request whose client did not wait for the answer. It is
// never sent; nginx has made the number known.
const statusGone = 499

// lookEvery is how often the proxy looks whether a client still waits.
const lookEvery = time.Second

// attempt sends the request in s.req over c and relays the answer. It hands c
// back to p, or closes it. skip, if not nil, is shown the head of the answer; when
// it returns an error, the answer is not relayed and the error is the outcome's.
func (s *session) attempt(p *pool.Pool, c *pool.Conn, a *added, skip func(*wire.Response) error) outcome {
	s.upstream.Store(c)
	defer s.upstream.Store(nil)

	replayable := s.req.Body == wire.NoBody || s.held != nil
	safe := s.req.Safe() && replayable
	method := append(make([]byte, 0, 16), s.req.Method...) // outlives the request's buffer
	minor := s.req.Minor
	writeRequest(c.W, &s.req, a)

	up := s.upload(c)
	if up == nil {
		if err := c.W.Flush(); err != nil {
			_ = c.Close()
			// Only a safe request may be sent twice, for it may have arrived.
			return outcome{err: err, again: safe}
		}
	}

	for {
		err := s.await(c, method, up)
		if err == nil && s.res.Status == 101 {
			err = errors.New("the endpoint switches protocols, which nobody asked for")
		}
		if err != nil {
			silent := c.R.Buffered() == 0 && (errors.Is(err, io.EOF) || isReset(err))
			if failed := up.failed(); failed != nil {
				err = &clientFault{failed}
			}
			_ = c.Close()
			s.stopUpload(up)
			return outcome{err: fmt.Errorf("read the answer: %w", err), again: safe && silent}
		}
		if s.res.Status >= 200 {
			break
		}
		if minor == 1 { // RFC 9110, section 15.2: never to an HTTP/1.0 client
			writeResponse(s.w, &s.res, wire.NoBody, 0, "", a.delivery)
			if s.w.Flush() != nil {
				_ = c.Close()
				s.closing = true
				s.stopUpload(up)
				return outcome{status: statusGone}
			}
		}
	}

	body := c.R.Body(s.res.Body, s.res.Length)
	if skip != nil {
		if err := skip(&s.res); err != nil {
			s.stopUpload(up)
			finish(p, c, up == nil && !s.res.Close && discard(&body))
			return outcome{err: err, again: replayable}
		}
	}
	return s.relay(p, c, up, &body, minor, a.delivery)
}

// await reads the next head of the answer into s.res. It gives up, with a
// clientFault, when nobody waits for the answer any more.
func (s *session) await(c *pool.Conn, method []byte, up *upload) error {
	for {
		_ = c.SetReadDeadline(time.Now().Add(lookEvery))
		err := c.R.Response(&s.res, method)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			_ = c.SetReadDeadline(time.Time{})
			return err
		}
		// While its body is on the way, reading it tells whether it is there.
		if (up == nil || up.finished()) && s.r.Buffered() == len(s.held) && pool.Closed(s.conn) {
			s.closing = true
			return &clientFault{errors.New("it closed the connection before the answer")}
		}
	}
}

// relay sends the answer in s.res on to the client.
func (s *session) relay(p *pool.Pool, c *pool.Conn, up *upload, body *http1.Body, minor byte, delivered bool) outcome {
	framing, length := s.res.Body, s.res.Length
	if framing == wire.UntilClose {
		framing = wire.Chunked
	}
	if framing == wire.Chunked && minor == 0 {
		framing, s.closing = wire.UntilClose, true
	}
	connection := ""
	switch {
	case s.closing:
		connection = "close"
	case minor == 0:
		connection = "keep-alive"
	}
	status := s.res.Status
	reusable := !s.res.Close
	writeResponse(s.w, &s.res, framing, length, connection, delivered)
	readErr, writeErr := http1.Relay(s.w, body, framing == wire.Chunked)
	if readErr != nil || writeErr != nil {
		// The client cannot tell a cut answer from a whole one unless its
		// connection breaks too.
		s.closing = true
		_ = c.Close()
		s.stopUpload(up)
		if tcp, ok := s.conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset: to HTTP/1.0 an orderly end means a whole answer
		}
		_ = s.conn.Close()
		if readErr != nil {
			return outcome{status: 502}
		}
		return outcome{status: statusGone}
	}
	if up != nil && !up.finish(s) {
		reusable = false
		s.closing = true
	}
	finish(p, c, reusable && body.Done())
	return outcome{status: status}
}

func finish(p *pool.Pool, c *pool.Conn, reusable bool) {
	if reusable {
		p.Put(c)
	} else {
		_ = c.Close()
	}
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

// upload is a request body on its way while the answer is awaited.
type upload struct {
	conn *pool.Conn // to the backend
	done chan struct{}
	ok   bool  // after done: the body was sent whole
	err  error // after done: why the client's side failed, if it did
}

// upload starts sending the request body. One that is held is only appended to
// the head; then, as without a body, the result is nil.
func (s *session) upload(c *pool.Conn) *upload {
	if s.req.Body == wire.NoBody {
		return nil
	}
	if s.held != nil {
		_ = c.W.Data(s.held, false)
		return nil
	}
	body := s.r.Body(s.req.Body, s.req.Length)
	chunked := s.req.Body == wire.Chunked
	up := &upload{conn: c, done: make(chan struct{})}
	// The head goes out before the body is awaited: the client may be waiting
	// for a 100 (Continue), the backend may refuse.
	_ = c.W.Flush()
	go func() {
		readErr, writeErr := http1.Relay(c.W, &body, chunked)
		if writeErr != nil {
			// The backend has stopped reading; its answer may be on its way.
			// The client is let finish, within reason.
			discard(&body)
		}
		up.ok, up.err = readErr == nil && writeErr == nil, readErr
		close(up.done)
		if readErr != nil {
			// The backend must not take half a body for a whole one. Whoever
			// waits for its answer then finds done closed, and the reason.
			_ = c.Close()
		}
	}()
	return up
}

func (u *upload) finished() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// failed returns why the client's side of the upload has failed, if it has.
func (u *upload) failed() error {
	if u == nil || !u.finished() {
		return nil
	}
	return u.err
}

// finish waits for the rest of the upload after the answer is complete, and
// reports whether both connections can be used again.
func (u *upload) finish(s *session) bool {
	if u.finished() {
		return u.ok
	}
	_ = s.w.Flush()
	limit := time.Now().Add(lingerFor)
	_ = s.conn.SetReadDeadline(limit)
	_ = u.conn.SetWriteDeadline(limit)
	<-u.done
	_ = u.conn.SetWriteDeadline(time.Time{})
	return u.ok
}

// stopUpload ends an upload that has become pointless.
func (s *session) stopUpload(u *upload) {
	if u == nil {
		return
	}
	_ = s.conn.SetReadDeadline(past)
	_ = u.conn.SetWriteDeadline(past)
	<-u.done
	_ = s.conn.SetReadDeadline(time.Time{})
	if !u.ok {
		s.closing = true // somewhere inside the body
	}
}
