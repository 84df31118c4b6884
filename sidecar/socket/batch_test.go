//go:build linux

package socket

import (
	"bytes"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

func TestTryRead(t *testing.T) {
	p := open(t)
	c, peer := pair(t, p)
	buf := make([]byte, 4)
	if n, err := c.TryRead(buf); n != 0 || err != nil {
		t.Errorf("nothing is there: got %d, %v", n, err)
	}
	_, _ = peer.Write([]byte("abcdef"))
	_ = c.WaitReadable()
	if n, err := c.TryRead(buf); n != 4 || err != nil {
		t.Errorf("the first four: got %d, %v", n, err)
	}
	if n, err := c.TryRead(buf); n != 2 || err != nil {
		t.Errorf("the rest: got %d, %v", n, err)
	}
	if n, err := c.TryRead(buf); n != 0 || err != nil {
		t.Errorf("nothing any more: got %d, %v", n, err)
	}
	_ = peer.Close()
	_ = c.WaitReadable()
	for range 2 {
		if _, err := c.TryRead(buf); err != io.EOF {
			t.Errorf("the end: got %v", err)
		}
	}
	_ = c.Close()
	if _, err := c.TryRead(buf); err == nil || err == io.EOF {
		t.Errorf("closed: got %v", err)
	}
}

func TestWriteParts(t *testing.T) {
	p := open(t)
	c, peer := pair(t, p)
	var want []byte
	var wg sync.WaitGroup
	var got []byte
	wg.Go(func() { got, _ = io.ReadAll(peer) })
	for range 50 {
		parts := make([][]byte, rand.IntN(2*maxParts))
		for i := range parts {
			parts[i] = bytes.Repeat([]byte{byte(rand.Uint32())}, rand.IntN(3)*rand.IntN(100<<10))
			want = append(want, parts[i]...)
		}
		if err := c.WriteParts(parts); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.CloseWrite()
	wg.Wait()
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes were sent, other %d arrived", len(want), len(got))
	}
}
