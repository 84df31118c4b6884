package handover

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// version of the protocol between the two processes. A process that does not
// know the other's refuses, and so goes on as it was.
const version = 1

// message is a line of JSON. The new process asks, the old one answers and
// sends the files along, the new one takes, and the old one confirms:
//
//	new → old  {"version":1,"addresses":[":4140",":4141"]}
//	old → new  {"version":1,"addresses":[":4140",":4141"]}   with 3 files; the last is the socket of the handover
//	new → old  {"take":true}                                 from here on the new one could serve
//	old → new  {"yours":true}                                the old one has stopped accepting
//
// The connection stays. When the new process has handed on to a third one it
// says so, and the first one gives its reserve up. When the connection ends
// without, the first one accepts again.
//
//	new → old  {"release":true}
type message struct {
	Version   int      `json:"version,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	Take      bool     `json:"take,omitempty"`
	Yours     bool     `json:"yours,omitempty"`
	Release   bool     `json:"release,omitempty"`
	Error     string   `json:"error,omitempty"` // why the old process keeps the listeners
}

// maxTalk bounds what one side may say on a connection.
const maxTalk = 64 << 10

// link is a connection to another process that has proved to be one of us.
type link struct {
	raw   *net.UnixConn
	files *fileConn
	conn  net.Conn // TLS over files, or files itself
	in    *json.Decoder
}

// protocol keeps these connections apart from the mesh's own, whose certificates
// are the same.
const protocol = "tulle-handover"

// connect makes a link on the new process's side.
func connect(ctx context.Context, raw *net.UnixConn, config *tls.Config) (*link, error) {
	l := &link{raw: raw, files: &fileConn{UnixConn: raw}}
	return l, l.prove(ctx, config, tls.Client)
}

// accept makes a link on the old process's side. It waits for the other one
// until ctx ends or the connection is closed.
func accept(ctx context.Context, raw *net.UnixConn, config *tls.Config) (*link, error) {
	l := &link{raw: raw, files: &fileConn{UnixConn: raw}}
	return l, l.prove(ctx, config, tls.Server)
}

func (l *link) prove(ctx context.Context, config *tls.Config, side func(net.Conn, *tls.Config) *tls.Conn) error {
	l.conn = l.files
	if config == nil {
		uid, err := peerUID(l.raw)
		if err != nil {
			return fmt.Errorf("ask who the other process is: %w", err)
		}
		if own := os.Getuid(); uid != own {
			return fmt.Errorf("the other process runs as user %d, this one as %d", uid, own)
		}
	} else {
		config = config.Clone()
		config.NextProtos = []string{protocol}
		conn := side(l.files, config)
		if err := conn.HandshakeContext(ctx); err != nil {
			return err
		}
		l.conn = conn
	}
	l.in = json.NewDecoder(io.LimitReader(l.conn, maxTalk))
	return nil
}

// send sends a message, and files with its first byte.
func (l *link) send(m message, files ...*os.File) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	l.files.attach = files
	_, err = l.conn.Write(append(text, '\n'))
	return err
}

// receive waits for a message until the connection's deadline.
func (l *link) receive() (message, error) {
	var m message
	if err := l.in.Decode(&m); err != nil {
		return message{}, err
	}
	if m.Error != "" {
		return message{}, &keptError{m.Error}
	}
	return m, nil
}

// keptError is why the old process keeps the listeners, in its own words.
type keptError struct{ why string }

func (e *keptError) Error() string { return e.why }

// step bounds what follows, until the next step.
func (l *link) step(d time.Duration) {
	deadline := time.Time{}
	if d > 0 {
		deadline = time.Now().Add(d)
	}
	_ = l.raw.SetDeadline(deadline)
}

// close ends the connection, and closes files that nobody has taken.
func (l *link) close() {
	_ = l.raw.Close()
	closeAll(l.files.received)
	l.files.received = nil
}

// fileConn is a connection on which files can travel along with the bytes, so
// that a TLS stream can carry them. One goroutine reads and one writes.
type fileConn struct {
	*net.UnixConn
	attach   []*os.File // go with the next write
	received []*os.File // came with what was read
}

// maxFiles bounds what can be received at once; the kernel takes 253.
const maxFiles = 16

// Read implements [io.Reader].
func (c *fileConn) Read(b []byte) (int, error) {
	rights := make([]byte, rightsSpace(maxFiles))
	n, m, flags, _, err := c.ReadMsgUnix(b, rights)
	if m > 0 {
		files, parseErr := parseRights(rights[:m])
		c.received = append(c.received, files...)
		if err == nil {
			err = parseErr
		}
	}
	if err == nil && truncated(flags) {
		err = errors.New("more files came than were asked for")
	}
	return max(n, 0), err // it is -1 with an error
}

// Write implements [io.Writer].
func (c *fileConn) Write(b []byte) (int, error) {
	if len(c.attach) == 0 {
		return c.UnixConn.Write(b)
	}
	files := c.attach
	c.attach = nil
	rights, err := makeRights(files)
	if err != nil {
		return 0, err
	}
	n, _, err := c.WriteMsgUnix(b, rights, nil)
	if err != nil || n == len(b) {
		return n, err
	}
	more, err := c.UnixConn.Write(b[n:])
	return n + more, err
}
