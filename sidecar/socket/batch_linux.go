package socket

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// TryRead is Read, but returns 0 and no error if nothing has arrived.
func (c *Conn) TryRead(b []byte) (int, error) {
	c.mu.Lock()
	closed, expired, there := c.closed, c.in.expired, c.in.ready || c.hup
	c.in.ready = c.in.ready && (closed || expired) // looked at below; only later news make it ready again
	c.mu.Unlock()
	switch {
	case closed:
		return 0, c.fail("read", net.ErrClosed)
	case expired:
		return 0, c.fail("read", os.ErrDeadlineExceeded)
	case !there:
		return 0, nil
	case !c.acquire():
		return 0, c.fail("read", net.ErrClosed)
	}
	n, err := recv(c.fd, b)
	c.release()
	switch {
	case err == nil && n > 0 && n < len(b):
		return n, nil
	case err == syscall.EAGAIN:
		return 0, nil
	}
	c.again() // there may be more, of which the kernel has told
	switch {
	case err == nil && n == 0:
		c.ended()
		return 0, io.EOF
	case err == nil || err == syscall.EINTR:
		return n, nil
	}
	return 0, c.fail("read", os.NewSyscallError("recv", err))
}

// maxParts is how many parts are handed to the kernel at once.
const maxParts = 16

// WriteParts writes all of the parts, in order, unless it fails, in as few system
// calls as it can. It changes the slices, not the bytes in them.
func (c *Conn) WriteParts(parts [][]byte) error {
	for {
		for len(parts) > 0 && len(parts[0]) == 0 {
			parts = parts[1:]
		}
		if len(parts) == 0 {
			return nil
		}
		if !c.acquire() {
			return c.fail("write", net.ErrClosed)
		}
		n, err := sendParts(c.fd, parts)
		c.release()
		switch err {
		case nil:
			for i := range parts {
				if n < len(parts[i]) {
					parts[i] = parts[i][n:]
					break
				}
				n -= len(parts[i])
				parts[i] = nil
			}
		case syscall.EINTR:
		case syscall.EAGAIN:
			if err := c.waitOut(); err != nil {
				return c.fail("write", err)
			}
		default:
			return c.fail("write", os.NewSyscallError("sendmsg", err))
		}
	}
}

func sendParts(fd int, parts [][]byte) (int, error) {
	var list [maxParts]syscall.Iovec
	n := 0
	for _, p := range parts[:min(len(parts), maxParts)] {
		if len(p) > 0 {
			list[n].Base = &p[0]
			list[n].SetLen(len(p))
			n++
		}
	}
	message := syscall.Msghdr{Iov: &list[0]}
	message.Iovlen = uint64(n)
	sent, _, e := syscall.RawSyscall(syscall.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&message)), syscall.MSG_NOSIGNAL)
	if e != 0 {
		return 0, e
	}
	return int(sent), nil
}
