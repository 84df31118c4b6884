package router

import (
	"errors"
	"fmt"
	"io"
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

// attempt sends the request in s.req over c and relays the answer. It hands c
// back to p, or closes it. If skip is not nil and accepts the head of the
// answer, the answer is not relayed, and the outcome is an error.
func (s *session) attempt(p *pool.Pool, c *pool.Conn, a *added, skip func(*wire.Response) error) outcome {
	s.upstream.Store(c)
	defer s.upstream.Store(nil)

	safe := s.req.Safe() && s.req.Body == wire.NoBody
	method := append(make([]byte, 0, 16), s.req.Method...) // outlives the request's buffer
	minor := s.req.Minor
	writeRequest(c.W, &s.req, a)

	up := s.upload(c)
	if up == nil {
		if err := c.W.Flush(); err != nil {
			_ = c.Close()
			// Without a body the request may have arrived whole, but only a
			// safe one may be sent twice; a connection that was idle before
			// and fails at once was closed by the peer earlier.
			return outcome{err: err, again: safe || c.Reused && s.req.Body == wire.NoBody}
		}
	}

	for {
		err := c.R.Response(&s.res, method)
		if err == nil && s.res.Status == 101 {
			err = errors.New("the endpoint switches protocols, which nobody asked for")
		}
		if err != nil {
			silent := c.R.Buffered() == 0 && (errors.Is(err, io.EOF) || isReset(err))
			_ = c.Close()
			begun := s.stopUpload(up)
			return outcome{err: fmt.Errorf("read the answer: %w", err), again: safe && silent && !begun}
		}
		if s.res.Status >= 200 {
			break
		}
		if minor == 1 { // RFC 9110, section 15.2: never to an HTTP/1.0 client
			writeResponse(s.w, &s.res, wire.NoBody, 0, "")
			if s.w.Flush() != nil {
				_ = c.Close()
				s.closing = true
				s.stopUpload(up)
				return outcome{status: 499}
			}
		}
	}

	body := c.R.Body(s.res.Body, s.res.Length)
	if skip != nil {
		if err := skip(&s.res); err != nil {
			begun := s.stopUpload(up)
			reusable := !s.res.Close && discard(&body) && !begun
			finish(p, c, reusable)
			return outcome{err: err, again: !begun}
		}
	}
	return s.relay(p, c, up, &body, minor)
}

// relay sends the answer in s.res on to the client.
func (s *session) relay(p *pool.Pool, c *pool.Conn, up *upload, body *http1.Body, minor byte) outcome {
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
	writeResponse(s.w, &s.res, framing, length, connection)
	readErr, writeErr := http1.Relay(s.w, body, framing == wire.Chunked)
	if readErr != nil || writeErr != nil {
		// The client cannot tell a cut answer from a whole one unless its
		// connection breaks too.
		s.closing = true
		_ = c.Close()
		s.stopUpload(up)
		_ = s.conn.Close()
		if readErr != nil {
			return outcome{status: 502}
		}
		return outcome{status: 499}
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
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errReset) || errors.Is(err, errPipe)
}

// upload is a request body on its way while the answer is awaited.
type upload struct {
	conn *pool.Conn // to the backend
	done chan struct{}
	ok   bool // after done: the body was sent whole
}

// upload starts sending the request body. A body that has arrived already is
// only appended to the head, and the result is nil.
func (s *session) upload(c *pool.Conn) *upload {
	if s.req.Body == wire.NoBody {
		return nil
	}
	body := s.r.Body(s.req.Body, s.req.Length)
	chunked := s.req.Body == wire.Chunked
	if s.req.Body == wire.Fixed && int64(s.r.Buffered()) >= s.req.Length {
		for {
			piece, err := body.Next()
			if err != nil {
				break
			}
			_ = c.W.Data(piece, false)
		}
		up := &upload{conn: c, done: make(chan struct{}), ok: c.W.Flush() == nil}
		close(up.done)
		return up
	}
	up := &upload{conn: c, done: make(chan struct{})}
	// The head goes out before the body is awaited: the client may be waiting
	// for a 100 (Continue), the backend may refuse.
	_ = c.W.Flush()
	go func() {
		defer close(up.done)
		readErr, writeErr := http1.Relay(c.W, &body, chunked)
		if writeErr != nil {
			// The backend has stopped reading; its answer may be on its way.
			// The client is let finish, within reason.
			up.ok = false
			discard(&body)
			return
		}
		if readErr != nil {
			_ = c.Close() // the backend must not take half a body for a whole one
			return
		}
		up.ok = true
	}()
	return up
}

// finish waits for the rest of the upload after the answer is complete, and
// reports whether both connections can be used again.
func (u *upload) finish(s *session) bool {
	select {
	case <-u.done:
		return u.ok
	default:
	}
	_ = s.w.Flush()
	limit := time.Now().Add(lingerFor)
	_ = s.conn.SetReadDeadline(limit)
	_ = u.conn.SetWriteDeadline(limit)
	<-u.done
	_ = u.conn.SetWriteDeadline(time.Time{})
	return u.ok
}

// stopUpload ends an upload that has become pointless. It reports whether any
// of the body may have been consumed, so that the request cannot be repeated.
func (s *session) stopUpload(u *upload) (begun bool) {
	if u == nil {
		return false
	}
	_ = s.conn.SetReadDeadline(past)
	_ = u.conn.SetWriteDeadline(past)
	<-u.done
	_ = s.conn.SetReadDeadline(time.Time{})
	if !u.ok {
		s.closing = true // somewhere inside the body
	}
	return true
}
