package router

import (
	"errors"
	"io"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// upload is a request body that had not arrived with its head, on its way to an
// endpoint while the answer is awaited. Its beginning is kept, so that as long
// as no more than that has been sent it can be sent again.
type upload struct {
	streams bool // there is such a body
	body    http1.Body
	chunked bool
	ended   bool   // body was read to its end
	kept    []byte // what was read of it, up to limit
	limit   int
	over    atomic.Bool // more than limit was read
	begun   atomic.Bool // something was read
	all     atomic.Bool // everything was read, though perhaps not sent yet

	// Of the present attempt. done is nil when none is under way.
	conn *pool.Conn
	done chan struct{}
	ok   bool  // after done: the body was sent whole
	err  error // after done: why the client's side failed, if it did
}

func (u *upload) begin(x *exchange, limit int) {
	if x.req.Body == wire.NoBody {
		return
	}
	*u = upload{
		streams: true, chunked: x.req.Body == wire.Chunked, kept: u.kept[:0], limit: limit,
		body: x.s.r.Body(x.req.Body, x.req.Length),
	}
}

// replayable is called when no attempt is under way.
func (u *upload) replayable() bool { return u.streams && !u.over.Load() && u.err == nil }

// cut reports whether the end of the body will not be read any more.
func (u *upload) cut() bool { return u.streams && u.done == nil && !u.ended }

// start sends the body to c, after the head that is in c.W. Neither is held back
// while more is awaited: the client may be waiting for a 100 (Continue), the
// endpoint may refuse.
func (u *upload) start(s *session, c *pool.Conn) {
	u.conn, u.done, u.ok = c, make(chan struct{}), false
	go u.run(s, c, u.done)
}

func (u *upload) run(s *session, c *pool.Conn, done chan struct{}) {
	readErr, writeErr := u.copy(s, c)
	u.ok, u.err = readErr == nil && writeErr == nil, readErr
	close(done)
	if readErr != nil {
		// The endpoint must not take half a body for a whole one, so c is used no
		// more; and whoever waits for its answer is woken.
		s.interrupt(c)
	}
}

func (u *upload) copy(s *session, c *pool.Conn) (readErr, writeErr error) {
	defer func() {
		if p := recover(); p != nil { // as in session.run
			s.server.log.Error("upload failed", "router", s.server.name, "panic", p, "stack", string(debug.Stack()))
			_ = s.conn.Close()
			_ = c.Conn.Close()
			readErr = errors.New("its body could not be read")
		}
	}()
	w := c.W
	_ = w.Data(u.kept, u.chunked)
	for !u.over.Load() && !u.ended {
		p, err := u.body.NextFor(w)
		u.begun.Store(true)
		switch {
		case err == io.EOF:
			u.ended = true
			u.all.Store(true)
		case err != nil:
			if err := w.Flush(); err != nil {
				return nil, err
			}
			return err, nil
		case len(u.kept)+len(p) > u.limit:
			u.over.Store(true)
		default:
			u.kept = append(u.kept, p...)
		}
		_ = w.Data(p, u.chunked)
	}
	if u.over.Load() {
		readErr, writeErr = http1.Relay(w, &u.body, u.chunked)
		u.ended = readErr == nil && writeErr == nil
		return readErr, writeErr
	}
	if u.chunked {
		w.EndChunks(&u.body.Trailer)
	}
	return nil, w.Flush()
}

// whole reports whether nothing of the body is left to be sent in the present
// attempt, or was in the last one.
func (u *upload) whole() bool {
	if u.done == nil {
		return !u.streams || u.ok
	}
	select {
	case <-u.done:
		return u.ok
	default:
		return false
	}
}

// lost reports whether the rest of the body will hardly reach the endpoint, which
// has answered already: sending it failed, or the answer says that the endpoint
// wants no more.
func (u *upload) lost(unwanted bool) bool {
	if u.done == nil {
		return false
	}
	select {
	case <-u.done:
		return !u.ok
	default:
		return unwanted && !u.all.Load()
	}
}

// sent reports whether the whole body, if there is one, has been read from the
// client. It is called when no attempt is under way.
func (u *upload) sent() bool { return !u.streams || u.ended }

// fault returns why the client's side failed, if it did, once stop was called.
func (u *upload) fault() error {
	if u.streams && u.done == nil {
		return u.err
	}
	return nil
}

// stop ends the attempt's upload, if one is under way. What the client has sent
// of the body is kept as far as the limit goes.
func (u *upload) stop(x *exchange) {
	if u.done == nil {
		return
	}
	select {
	case <-u.done:
	default:
		_ = x.s.conn.SetReadDeadline(past)
		_ = u.conn.SetWriteDeadline(past)
		<-u.done
		_ = x.s.conn.SetReadDeadline(time.Time{})
		if errors.Is(u.err, os.ErrDeadlineExceeded) {
			u.err = nil // of our making
		}
	}
	u.done = nil
	if !u.ended && u.over.Load() {
		x.closing = true // somewhere inside the body
	}
}

// finish waits for the rest of the upload after the answer is complete, and
// reports whether both connections can be used again.
func (u *upload) finish(x *exchange) bool {
	if u.done == nil {
		return !u.streams || u.ok
	}
	if !u.whole() {
		_ = x.s.w.Flush()
		limit := time.Now().Add(lingerFor)
		_ = x.s.conn.SetReadDeadline(limit)
		_ = u.conn.SetWriteDeadline(limit)
		<-u.done
		_ = u.conn.SetWriteDeadline(time.Time{})
		_ = x.s.conn.SetReadDeadline(time.Time{})
	}
	u.done = nil
	return u.ok
}
