//go:build linux

package socket

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

// What OnDial sets is there on the connection, and what it refuses is not made.
func TestOnDial(t *testing.T) {
	p := open(t)
	ln := listen(t, p)
	defer func() { _ = ln.Close() }()
	refuse := errors.New("not now")
	var answer error
	p.OnDial(func(fd uintptr) error {
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PRIORITY, 4)
		return answer
	})
	c, err := p.Dial(t.Context(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	priority := 0
	err = c.(*Conn).Control(func(fd uintptr) {
		priority, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PRIORITY)
	})
	if err != nil || priority != 4 {
		t.Errorf("the priority is %d, %v", priority, err)
	}
	_ = c.Close()
	if err := c.(*Conn).Control(func(uintptr) { t.Error("lent what is closed") }); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	answer = refuse
	if _, err := p.Dial(t.Context(), ln.Addr().String()); !errors.Is(err, refuse) || !strings.HasPrefix(err.Error(), "dial tcp 127.0.0.1:") {
		t.Error(err)
	}
}
