// Package tunnel carries bytes that are none of the proxy's business: what
// follows a CONNECT, a WebSocket upgrade, or first bytes that are no HTTP.
//
// It does not dial, listen, route or authorize, and it does not read what it
// carries, but for Sniff, which tells from the first bytes of a connection
// whether they are HTTP after all.
//
// Invariant: a peer that sees an orderly end has got everything the other one
// sent, unless the tunnel was cut because of its idle time or its context. When
// Copy returns, both connections are closed and none of its goroutines is left.
//
//	switch kind, name := tunnel.Sniff(first); kind {
//	case tunnel.HTTP1: … // route it
//	default:
//		stats, err := tunnel.Copy(ctx, client, backend, first, nil, tunnel.Config{Idle: time.Hour})
//	}
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// fewSize is the buffer of a direction that waits for bytes: an idle
	// tunnel holds two of them and nothing else.
	fewSize = 1 << 10
	// flowSize is the buffer of one in which bytes flow, borrowed meanwhile.
	flowSize = 32 << 10
	// spliceSize is how much the kernel is told to move at a time: of a long
	// flow, that takes two thirds of the CPU time that copying does. With a
	// quarter of it hardly anything is saved, and more saves no more.
	spliceSize = 1 << 20
	// flowFor is how long a flow may pause before its buffer, or its pipe in the
	// kernel, is given back.
	flowFor = time.Second
	// lingerFor is how long a peer has to take what the other sent before it
	// failed.
	lingerFor = time.Second
)

// ErrIdle ends a tunnel through which nothing has passed for Config.Idle.
var ErrIdle = errors.New("nothing passed through the tunnel for its idle time")

// Config says how long a tunnel lasts.
type Config struct {
	// Idle is how long nothing may pass, both directions taken together. A piece
	// has passed when all of it is in its receiver's socket, so a peer that takes
	// less than a piece in that time counts as idle: 32 KiB, or 1 MiB where the
	// kernel moves it. 0 is no limit: then a half-closed tunnel lasts as long as
	// its other half.
	Idle time.Duration
}

// Stats counts the bytes that were handed on, those of the heads too.
type Stats struct {
	AToB, BToA int64
}

// Copy sends what comes from a to b and what comes from b to a, first of all
// aHead and bHead, which have been read from a and b already. When one of them
// sends no more, the other is told so (by CloseWrite) and may go on; a connection
// that has no CloseWrite ends both ways. Copy returns when both are done, and has
// closed both; nobody else may use them meanwhile, and their deadlines are lost.
//
// The error is nil if both ended in order, ErrIdle, the cause of ctx, which cuts
// the tunnel at once, or what failed first. A failure of one side reaches the
// other as a reset, so that nobody takes a part for the whole.
//
// Between two connections of one type that has ReadFrom (*net.TCPConn for
// example) the kernel moves the bytes where it can (splice(2)). Copy adds one
// goroutine; while nothing passes it holds neither large buffers nor pipes.
func Copy(ctx context.Context, a, b net.Conn, aHead, bHead []byte, cfg Config) (Stats, error) {
	t := &tunnel{a: a, b: b, idle: cfg.Idle, started: time.Now()}
	there := direction{tunnel: t, src: a, dst: b}
	back := direction{tunnel: t, src: b, dst: a}
	if reflect.TypeOf(a) == reflect.TypeOf(b) {
		there.kernel, _ = b.(io.ReaderFrom)
		back.kernel, _ = a.(io.ReaderFrom)
	}
	_ = a.SetDeadline(time.Time{})
	_ = b.SetDeadline(time.Time{})

	stop := context.AfterFunc(ctx, func() { t.cut(context.Cause(ctx)) })
	t.watch()
	var wg sync.WaitGroup
	wg.Go(func() { there.run(aHead) })
	back.run(bHead)
	wg.Wait()
	stop()
	err := t.finish()
	closeConn(b, there.orderly())
	closeConn(a, back.orderly())
	return Stats{there.moved, back.moved}, err
}

// tunnel is what both directions share.
type tunnel struct {
	a, b    net.Conn
	idle    time.Duration
	started time.Time
	last    atomic.Int64 // nanoseconds since started: when bytes passed last

	mu     sync.Mutex
	timer  *time.Timer // nil without an idle time
	cause  error       // what ended the tunnel, if it did not end in order
	ours   bool        // the tunnel was cut here, no peer failed
	limit  time.Time   // no Read or Write lasts longer; zero for none
	closed bool        // there is nothing to cut any more
}

func (t *tunnel) touch() {
	if t.idle > 0 {
		t.last.Store(int64(time.Since(t.started)))
	}
}

// watch cuts the tunnel when nothing has passed for the idle time.
func (t *tunnel) watch() {
	if t.idle <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(t.idle, func() {
		left := t.idle - (time.Since(t.started) - time.Duration(t.last.Load()))
		if left <= 0 {
			t.cut(ErrIdle)
			return
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if !t.closed {
			t.timer.Reset(left)
		}
	})
}

// cut ends the tunnel now; cause is nil if that is in order.
func (t *tunnel) cut(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limit.IsZero() && !t.closed {
		t.cause, t.ours = cause, true
	}
	t.end(time.Unix(1, 0))
}

// fail ends the tunnel after wait, because of err.
func (t *tunnel) fail(err error, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limit.IsZero() {
		t.cause = err
	}
	t.end(time.Now().Add(wait))
}

// end makes limit the end, if none is earlier. t.mu is held.
func (t *tunnel) end(limit time.Time) {
	if t.closed || !t.limit.IsZero() && !limit.Before(t.limit) {
		return
	}
	t.limit = limit
	_ = t.a.SetDeadline(limit)
	_ = t.b.SetDeadline(limit)
}

// over reports whether the limit has passed.
func (t *tunnel) over() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.limit.IsZero() && !time.Now().Before(t.limit)
}

// finish makes the timer and a late cut harmless and returns the cause.
func (t *tunnel) finish() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.timer != nil {
		t.timer.Stop()
	}
	return t.cause
}

// direction is one of the two ways through a tunnel. Its goroutine owns it.
type direction struct {
	*tunnel
	src, dst net.Conn
	kernel   io.ReaderFrom // dst, if the kernel can move the bytes; else nil
	moved    int64         // bytes that dst has taken
	whole    bool          // all that src sent, and its end
	refused  bool          // dst did not take what it was given
}

// orderly reports whether dst may see an orderly end.
func (d *direction) orderly() bool { return d.whole || d.ours && !d.refused }

// run moves bytes until src ends or the tunnel does.
func (d *direction) run(head []byte) {
	few := make([]byte, fewSize)
	readErr, writeErr := d.relay(head, few)
	switch {
	case writeErr != nil:
		d.refused = true
		// What dst sent before it failed is still for src, and src must not be
		// reset by bytes that nobody reads before it has that.
		d.fail(fmt.Errorf("write to %s: %w", d.dst.RemoteAddr(), writeErr), lingerFor)
		if err := d.drain(few); err != io.EOF {
			d.fail(err, 0)
		}
	case readErr == io.EOF:
		d.whole = true
		if half, ok := d.dst.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // the other direction finds out if dst is gone
		} else {
			d.cut(nil)
		}
	default:
		d.fail(fmt.Errorf("read from %s: %w", d.src.RemoteAddr(), readErr), 0)
	}
}

// relay waits for bytes with the small buffer few, and has them flow when they
// fill it.
func (d *direction) relay(head, few []byte) (readErr, writeErr error) {
	if len(head) > 0 {
		if writeErr = d.write(head); writeErr != nil {
			return nil, writeErr
		}
	}
	for {
		n, err := d.src.Read(few)
		if n > 0 {
			if writeErr = d.write(few[:n]); writeErr != nil {
				return nil, writeErr
			}
		}
		if err != nil {
			return err, nil
		}
		if n == len(few) {
			if readErr, writeErr = d.flow(); readErr != nil || writeErr != nil {
				return readErr, writeErr
			}
		}
	}
}

func (d *direction) write(p []byte) error {
	d.touch() // p has just been read
	n, err := d.dst.Write(p)
	d.moved += int64(n)
	d.touch()
	return err
}

// buffers are of flowSize. They are shared by all tunnels of the process, which
// is the point of a pool.
var buffers = sync.Pool{New: func() any { return new([flowSize]byte) }}

// flow moves bytes until none come for flowFor. Both errors are nil then.
func (d *direction) flow() (readErr, writeErr error) {
	var buf *[flowSize]byte
	if d.kernel == nil {
		buf = buffers.Get().(*[flowSize]byte)
		defer buffers.Put(buf)
	}
	defer d.arm(time.Time{})
	for {
		d.arm(time.Now().Add(flowFor))
		before := d.moved
		if buf == nil {
			readErr, writeErr = d.splice()
		} else {
			readErr, writeErr = d.pump(buf[:])
		}
		switch {
		case writeErr != nil:
			return nil, writeErr
		case readErr == nil:
		case !errors.Is(readErr, os.ErrDeadlineExceeded) || d.over():
			return readErr, nil
		case d.moved == before:
			return nil, nil
		}
	}
}

// arm sets the deadline of reading from src to t, or to the tunnel's limit if
// that is earlier.
func (d *direction) arm(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.limit.IsZero() && (t.IsZero() || t.After(d.limit)) {
		t = d.limit
	}
	_ = d.src.SetReadDeadline(t)
}

// pump moves bytes through buf until an error, that of the deadline too.
func (d *direction) pump(buf []byte) (readErr, writeErr error) {
	for {
		n, err := d.src.Read(buf)
		if n > 0 {
			if writeErr = d.write(buf[:n]); writeErr != nil {
				return nil, writeErr
			}
		}
		if err != nil {
			return err, nil
		}
	}
}

// splice has the kernel move up to spliceSize bytes.
func (d *direction) splice() (readErr, writeErr error) {
	from := io.LimitedReader{R: d.src, N: spliceSize}
	n, err := d.kernel.ReadFrom(&from)
	if n > 0 {
		d.moved += n
		d.touch()
	}
	switch {
	case err == nil && from.N > 0:
		return io.EOF, nil
	case err == nil:
		return nil, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err, nil
	}
	// The kernel does not say whose error it is. As dst's it is the milder one:
	// reading on tells soon if it was src's.
	return nil, err
}

// drain reads what src still sends and drops it.
func (d *direction) drain(few []byte) error {
	for {
		if _, err := d.src.Read(few); err != nil {
			return err
		}
	}
}

// closeConn closes c: in order, or by a reset so that its peer does not take what
// it got for the whole. Even TLS must not say then that this is the end.
func closeConn(c net.Conn, orderly bool) {
	if !orderly {
		for {
			outer, ok := c.(interface{ NetConn() net.Conn })
			if !ok {
				break
			}
			c = outer.NetConn()
		}
		if tcp, ok := c.(interface{ SetLinger(int) error }); ok {
			_ = tcp.SetLinger(0)
		}
	}
	_ = c.Close()
}
