package http1

import (
	"bytes"
	"errors"
	"io"

	"github.com/tulle-mesh/tulle/sidecar/wire"
)

// A Waiter is a connection that says when Read would not wait. A Reader over one
// holds no buffer until there is something to put into it.
type Waiter interface {
	io.Reader
	// WaitReadable blocks until Read would return at once.
	WaitReadable() error
}

// A TryReader can also read without waiting. A Reader over one takes all that
// has arrived before it passes anything on, which makes writes fewer.
type TryReader interface {
	Waiter
	// TryRead is Read, but returns 0 and no error if nothing has arrived.
	TryRead(p []byte) (int, error)
}

// Reader reads HTTP/1 messages from a connection, which it makes the best of if
// it is a Waiter or a TryReader. It is not safe for concurrent use.
//
// A head that was read stays where it is, and so do the slices that point into
// it, until Wait, Request, Response or Idle is called. Reading the body does not
// touch it.
type Reader struct {
	src    io.Reader
	waiter Waiter    // src, or nil
	trier  TryReader // src, or nil
	limits Limits

	buf  []byte // nil while nothing is held
	r, w int    // buf[r:w] is unread
	base int    // buf[:base] belongs to the last head
	head []byte // the buffer of the last head, if reading goes on in another

	// to is where Relay passes on what is read. Before it is flushed, no byte that
	// was handed out since the last time may be overwritten, and nothing is waited
	// for, so that a relay never holds data back.
	to *Writer

	trailer wire.Header // memory for that of a chunked body
}

// NewReader returns a Reader over src.
func NewReader(src io.Reader, limits Limits) *Reader {
	b := &Reader{src: src, limits: limits}
	b.waiter, _ = src.(Waiter)
	b.trier, _ = src.(TryReader)
	return b
}

// SetLimits changes the limits for the next head.
func (b *Reader) SetLimits(l Limits) { b.limits = l }

// Buffered returns how many bytes have been read from the connection and not
// yet been consumed.
func (b *Reader) Buffered() int { return b.w - b.r }

// Wait blocks until at least one byte is buffered. It returns io.EOF when the
// peer has closed. The last head is not valid any more.
func (b *Reader) Wait() error {
	b.forget()
	if b.r < b.w {
		return nil
	}
	return b.fill(1)
}

// Idle gives back the buffers, but for bytes that are still unread. The last
// head is not valid any more.
func (b *Reader) Idle() {
	b.forget()
	b.release()
	if cap(b.trailer.Fields) > 0 {
		b.trailer = wire.Header{}
	}
}

// forget ends the validity of the last head.
func (b *Reader) forget() {
	b.base = 0
	if b.head != nil {
		giveBack(b.head)
		b.head = nil
	}
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
}

// Hold waits until at least n bytes are buffered and returns them without
// consuming them; Discard does that. They stay valid as long as the head does,
// or until the next Hold.
func (b *Reader) Hold(n int) ([]byte, error) {
	for b.w-b.r < n {
		if err := b.fill(n - (b.w - b.r)); err != nil {
			return nil, unexpected(err)
		}
	}
	return b.buf[b.r : b.r+n], nil
}

// Discard consumes n buffered bytes.
func (b *Reader) Discard(n int) { b.r += n }

// fill reads at least one byte behind those that are unread. want is for how
// many there should be room.
func (b *Reader) fill(want int) error {
	if b.trier == nil {
		if err := b.pause(); err != nil {
			return err
		}
	}
	for {
		if err := b.room(want); err != nil {
			return err
		}
		var n int
		var err error
		if b.trier != nil {
			n, err = b.trier.TryRead(b.buf[b.w:])
		} else if n, err = b.src.Read(b.buf[b.w:]); n == 0 && err == nil {
			err = io.ErrNoProgress
		}
		b.w += n
		if n > 0 {
			return nil // an error that came with data comes again
		}
		if err != nil {
			return err
		}
		if err := b.pause(); err != nil {
			return err
		}
	}
}

// pause makes ready to wait, and does so if that needs no buffer.
func (b *Reader) pause() error {
	if b.to != nil {
		if err := b.to.Flush(); err != nil {
			return err
		}
	}
	if b.waiter == nil {
		return nil
	}
	b.release()
	return b.waiter.WaitReadable()
}

// release gives back what buffer the unread bytes do not need.
func (b *Reader) release() {
	switch {
	case b.base > 0 || b.buf == nil:
	case b.r == b.w:
		giveBack(b.buf)
		b.buf, b.r, b.w = nil, 0, 0
	case len(b.buf) > smallSize && b.w-b.r <= smallSize/2:
		// Peers that send the beginning of something and no more are to cost little.
		b.move(borrow(smallSize))
	}
}

// move continues in another buffer.
func (b *Reader) move(next []byte) {
	b.w = copy(next, b.buf[b.r:b.w])
	b.r = 0
	if b.base > 0 {
		b.head, b.base = b.buf, 0
	} else {
		giveBack(b.buf)
	}
	b.buf = next
}

// room makes space to read into behind the unread bytes, for want of them if
// that is not too much.
func (b *Reader) room(want int) error {
	unread := b.w - b.r
	switch free := len(b.buf) - b.w; {
	case b.buf == nil:
		b.buf = borrow(want)
		return nil
	case b.base > 0: // the head stays where it is
		if free < want {
			b.move(borrow(sizeFor(unread, want)))
		}
		return nil
	case b.to != nil: // and so does what it has not sent yet
		if free >= want || free >= largeSize/4 {
			return nil
		}
		if err := b.to.Flush(); err != nil {
			return err
		}
	}
	if len(b.buf) < unread+want && len(b.buf) < largeSize || len(b.buf) == unread {
		b.move(borrow(sizeFor(unread, want)))
	} else if b.r > 0 {
		b.w = copy(b.buf, b.buf[b.r:b.w])
		b.r = 0
	}
	return nil
}

// sizeFor returns how large a buffer should be that takes the unread bytes and
// more: want if that is not too much, else some.
func sizeFor(unread, want int) int {
	if n := min(unread+want, largeSize); n > unread {
		return n
	}
	return 2 * unread
}

// unexpected turns an end of input inside a message into io.ErrUnexpectedEOF.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Request reads the next request head into req, checked strictly: what another
// parser could take for a different request is a *ParseError. io.EOF means that
// the client closed between requests. After an error of the connection, such as
// a deadline that has passed, it can be called again to go on.
func (b *Reader) Request(req *wire.Request) error {
	if err := b.skipEmptyLines(); err != nil {
		return err
	}
	req.Reset()
	n, err := parseRequest(b.buf[b.r:b.w], req, &b.limits)
	if err == nil && n == 0 {
		if err = b.wholeHead(); err == nil {
			req.Reset()
			n, err = parseRequest(b.buf[b.r:b.w], req, &b.limits)
		}
	}
	if err != nil {
		return err
	}
	b.took(n)
	return requestSemantics(req)
}

// Response reads the next response head into res. method is the request's; it
// decides with the status whether a body follows (RFC 9112, section 6.3). After
// an error of the connection it can be called again to go on.
func (b *Reader) Response(res *wire.Response, method []byte) error {
	if err := b.Wait(); err != nil {
		return err
	}
	res.Reset()
	n, err := parseResponse(b.buf[b.r:b.w], res, &b.limits)
	if err == nil && n == 0 {
		if err = b.wholeHead(); err == nil {
			res.Reset()
			n, err = parseResponse(b.buf[b.r:b.w], res, &b.limits)
		}
	}
	if err != nil {
		return err
	}
	b.took(n)
	return responseSemantics(res, method)
}

// took notes that the head is whole and n bytes long.
func (b *Reader) took(n int) {
	b.r += n
	b.base = b.r
}

// maxEmptyLines is how many empty lines may stand before a request line. RFC
// 9112, section 2.2, wants at least one to be tolerated.
const maxEmptyLines = 4

// skipEmptyLines drops CRLFs before a request line and leaves at least one byte
// of what follows.
func (b *Reader) skipEmptyLines() error {
	for n := 0; ; n++ {
		if err := b.Wait(); err != nil {
			return err
		}
		if b.buf[b.r] != '\r' {
			return nil
		}
		for b.w-b.r < 2 {
			if err := b.fill(1); err != nil {
				return unexpected(err)
			}
		}
		if b.buf[b.r+1] != '\n' {
			return bad("a bare CR stands before the request line")
		}
		if n == maxEmptyLines {
			return bad("there are too many empty lines before the request line")
		}
		b.r += 2
	}
}

// wholeHead reads on until the empty line that ends the head is buffered, or
// more than a head may have. What is wrong with it is for the parser to say.
func (b *Reader) wholeHead() error {
	for seen := 0; ; {
		var end, line bool
		seen, end, line = scanHead(b.buf[b.r:b.w], seen)
		switch {
		case end:
			return nil
		case !line && b.w-b.r >= b.limits.Line:
			return errLineTooLong
		case b.w-b.r >= b.limits.Line+b.limits.Head+2:
			return errHeadTooLarge
		}
		if err := b.fill(1); err != nil {
			return unexpected(err)
		}
	}
}

// scanHead looks for the empty line, from where an earlier call came to. line
// says whether the first line is whole.
func scanHead(p []byte, seen int) (next int, end, line bool) {
	for {
		i := bytes.IndexByte(p[seen:], '\n')
		if i < 0 {
			return seen, false, seen > 0
		}
		i += seen
		if i == seen || i == seen+1 && p[seen] == '\r' || p[i-1] != '\r' {
			return seen, true, true // or a bare LF, which ends it too
		}
		seen = i + 1
	}
}
