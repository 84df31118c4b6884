package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// The opcodes of RFC 6455, section 5.2.
const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// maxMessage bounds what is believed of a length.
const maxMessage = 16 << 20

// socket is one end of a WebSocket (RFC 6455), as far as these tests use it: no fragments and no
// extensions. One goroutine may read while another writes.
type socket struct {
	conn   net.Conn
	r      *bufio.Reader
	client bool // clients mask what they send, section 5.3
}

// acceptOf answers a key, section 4.2.2.
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// accept is the server's side of the handshake.
func accept(w http.ResponseWriter, r *http.Request) (*socket, error) {
	key := r.Header.Get("Sec-Websocket-Key")
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || r.Header.Get("Sec-Websocket-Version") != "13" || key == "" {
		return nil, fmt.Errorf("this is no WebSocket handshake: %v", r.Header)
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nX-App: %s\r\n\r\n",
		acceptOf(key), w.Header().Get("X-App"))
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &socket{conn: conn, r: buffered.Reader}, nil
}

// upgrade is the client's side of the handshake, on a connection whose other end understands the target: a
// path, or a whole URL if it is a proxy.
func upgrade(ctx context.Context, conn net.Conn, target, host string) (*socket, *http.Response, error) {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n",
		target, host, key)
	if err != nil {
		return nil, nil, err
	}
	s := &socket{conn: conn, r: bufio.NewReader(conn), client: true}
	res, err := http.ReadResponse(s.r, nil)
	if err != nil {
		return nil, nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Sec-Websocket-Accept") != acceptOf(key) {
		return nil, res, fmt.Errorf("the handshake was answered %s, %v", res.Status, res.Header)
	}
	return s, res, nil
}

// read returns the next frame, whatever it is but a ping, which it answers.
func (s *socket) read() (op byte, message []byte, err error) {
	for {
		op, message, err = s.frame()
		if err != nil || op != opPing {
			return op, message, err
		}
		if err := s.write(opPong, message); err != nil {
			return 0, nil, err
		}
	}
}

func (s *socket) frame() (op byte, message []byte, err error) {
	var head [14]byte
	if _, err := io.ReadFull(s.r, head[:2]); err != nil {
		return 0, nil, err
	}
	masked, length := head[1]&0x80 != 0, uint64(head[1]&0x7f)
	switch rest := head[2:]; length {
	case 126:
		_, err = io.ReadFull(s.r, rest[:2])
		length = uint64(binary.BigEndian.Uint16(rest))
	case 127:
		_, err = io.ReadFull(s.r, rest[:8])
		length = binary.BigEndian.Uint64(rest)
	}
	switch {
	case err != nil:
		return 0, nil, err
	case head[0]&0x80 == 0 || head[0]&0x70 != 0:
		return 0, nil, errors.New("a frame in parts or with an extension")
	case masked == s.client:
		return 0, nil, errors.New("a frame that is masked wrongly")
	case length > maxMessage:
		return 0, nil, fmt.Errorf("a frame of %d bytes", length)
	}
	var mask [4]byte
	if masked {
		if _, err := io.ReadFull(s.r, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	message = make([]byte, length)
	if _, err := io.ReadFull(s.r, message); err != nil {
		return 0, nil, err
	}
	for i := range message {
		message[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, message, nil
}

// write sends one frame.
func (s *socket) write(op byte, message []byte) error {
	head := []byte{0x80 | op, 0}
	switch n := len(message); {
	case n < 126:
		head[1] = byte(n)
	case n < 1<<16:
		head[1] = 126
		head = binary.BigEndian.AppendUint16(head, uint16(n))
	default:
		head[1] = 127
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	frame := append(head, message...)
	if s.client {
		head[1] |= 0x80
		var mask [4]byte
		_, _ = rand.Read(mask[:])
		frame = append(append(head, mask[:]...), message...)
		for i, p := 0, frame[len(frame)-len(message):]; i < len(p); i++ {
			p[i] ^= mask[i%4]
		}
	}
	_, err := s.conn.Write(frame)
	return err
}
