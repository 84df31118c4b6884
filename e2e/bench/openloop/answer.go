//go:build linux

// Package openloop sends requests at a constant rate, whatever the answers take, and measures each
// answer from the moment its request was due. A server that stalls therefore makes every request late
// that it held up; a closed loop, which waits for an answer before it asks again, would send fewer and
// hide the stall ("coordinated omission").
//
// It is no client: one GET over and over on kept connections, one at a time on each, answers of 200 with
// a Content-Length. Invariant: every request that was due is sent and counted, or Run fails.
//
//	latencies, err := openloop.Run(ctx, openloop.Config{
//		Addresses: backends, Host: "bench", Path: "/", Connections: 64, Rate: 20_000, Duration: 5 * time.Second,
//	})
//	p99 := latencies.Quantile(0.99)
package openloop

import (
	"bytes"
	"fmt"
	"strconv"
)

// answer reads the answers of one connection, one after the other. The zero value is ready.
type answer struct {
	head []byte // what there is of an unfinished head
	body int    // bytes that are still to come, once the head is read
}

// maxHead is more than any proxy here puts before 100 bytes.
const maxHead = 16 << 10

// feed takes the next bytes and reports whether they end an answer. Bytes of a next answer are an error:
// none was asked for.
func (a *answer) feed(b []byte) (bool, error) {
	if a.body > 0 {
		return a.rest(len(b))
	}
	all := b
	if len(a.head) > 0 { // seldom: a head comes in one piece
		a.head = append(a.head, b...)
		all = a.head
	}
	end := bytes.Index(all, []byte("\r\n\r\n"))
	if end < 0 {
		if len(all) > maxHead {
			return false, fmt.Errorf("an answer's head is longer than %d bytes", maxHead)
		}
		if len(a.head) == 0 {
			a.head = append(a.head, b...)
		}
		return false, nil
	}
	length, err := contentLength(all[:end+2])
	if err != nil {
		return false, err
	}
	a.head = a.head[:0]
	a.body = length
	return a.rest(len(all) - end - 4)
}

func (a *answer) rest(n int) (bool, error) {
	if n > a.body {
		return false, fmt.Errorf("an answer is %d bytes longer than it says", n-a.body)
	}
	a.body -= n
	return a.body == 0, nil
}

// contentLength returns the Content-Length of a head whose lines all end in CRLF.
func contentLength(head []byte) (int, error) {
	status, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("an answer begins with %q, want HTTP/1.1 200", status)
	}
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("content-length")) {
			n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil || n < 0 {
				return 0, fmt.Errorf("an answer has the Content-Length %q", value)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("an answer has no Content-Length: %q", head)
}
