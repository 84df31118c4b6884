// Package logtest is for tests that read what is logged while goroutines still log it.
//
//	var log logtest.Buffer
//	logger := slog.New(slog.NewTextHandler(&log, nil))
//
// It waits for nothing: a test that expects a line waits for what the line is about, or looks again.
package logtest

import (
	"bytes"
	"sync"
)

// Buffer keeps what is written. The zero value is empty; it is safe for concurrent use.
type Buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String is all that was written, since Take if that was called.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Take returns what String does, and forgets it.
func (b *Buffer) Take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}
