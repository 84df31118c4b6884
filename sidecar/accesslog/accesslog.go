// Package accesslog writes one line for each request to a file, in the form that
// Linkerd 1.x and, but for the first word and the digits of the month, Apache
// call combined:
//
//	cart 192.0.2.7 - - [23/11/2026:07:06:17 +0000] "GET /a?b HTTP/1.1" 200 512 "-" "curl/8.9"
//
// It is for people and for the tools that read such files; what is to be counted
// is in package telemetry. It does not rotate: it notices within a second that the
// file was renamed or removed, as logrotate does, and begins a new one.
//
// Invariant: a request never waits for the disk. Lines that it does not take in
// time are dropped and counted.
//
//	l := accesslog.New(accesslog.Config{Path: path, Logger: log})
//	go l.Run(ctx)
//	var line accesslog.Line
//	line.Begin(&accesslog.Request{Host: host, Method: method, Target: target})
//	l.Append(&line, time.Now(), 200, 512) // when the request is answered
package accesslog

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxBuffer is how many bytes of lines wait at most while others are written:
	// some tenths of a second of a busy proxy.
	maxBuffer = 256 << 10
	// writeEvery is how long a line waits for others to be written with.
	writeEvery = 200 * time.Millisecond
	// writeFor is how long a pipe may take nothing, so that Run comes to an end.
	writeFor = 5 * time.Second
	// stdout is not opened, for that needs rights a container may not have.
	stdout = "/dev/stdout"
)

// Config is what a Log works with.
type Config struct {
	// Path returns the file's name now, empty for none. It is asked before lines
	// are written.
	Path   func() string
	Logger *slog.Logger // of transitions; nil discards them
}

// Log is the log of requests. Append, Reopen and Dropped are safe for concurrent
// use.
type Log struct {
	path    func() string
	log     *slog.Logger
	wake    chan struct{} // there is something to write
	hurry   chan struct{} // there is much
	stale   atomic.Bool   // Reopen was called
	dropped atomic.Uint64

	mu     sync.Mutex
	buf    []byte // lines to write
	lines  uint64 // in buf
	second int64  // of stamp
	stamp  []byte

	// Run's.
	spare  []byte
	file   *os.File
	opened string // its path
	failed bool   // the last attempt to write was one
}

// New returns a Log that has opened nothing.
func New(cfg Config) *Log {
	l := &Log{path: cfg.Path, log: cfg.Logger, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1)}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l
}

// Append adds the line of a request that was answered at the time at, with bytes
// in the answer's body: 0 or less if that is not known, which is written as "-".
// It never blocks, and does not allocate in steady state.
func (l *Log) Append(line *Line, at time.Time, status int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := at.Unix(); s != l.second || l.stamp == nil {
		l.second = s
		l.stamp = at.AppendFormat(l.stamp[:0], "[02/01/2006:15:04:05 -0700]")
	}
	before := len(l.buf)
	if before+len(line.buf)+64 > maxBuffer {
		l.dropped.Add(1)
		return
	}
	l.buf = line.appendTo(l.buf, l.stamp, status, bytes)
	l.lines++
	switch {
	case before == 0:
		poke(l.wake)
	case before <= maxBuffer/2 && len(l.buf) > maxBuffer/2:
		poke(l.hurry)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Reopen makes Run open the file anew, also if it was not moved, and let go of
// one that Path does not name any more.
func (l *Log) Reopen() {
	l.stale.Store(true)
	poke(l.wake)
	poke(l.hurry)
}

// Dropped returns how many lines were not written.
func (l *Log) Dropped() uint64 { return l.dropped.Load() }

// Run writes lines until ctx ends, and then those that wait. It returns nil. It is
// called once.
func (l *Log) Run(ctx context.Context) error {
	defer l.close()
	timer := time.NewTimer(writeEvery)
	defer timer.Stop()
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			l.write()
			return nil
		}
		timer.Reset(writeEvery)
		select {
		case <-timer.C:
		case <-l.hurry:
		case <-ctx.Done():
		}
		l.write()
	}
}

// write writes what waits.
func (l *Log) write() {
	path := l.path()
	off := path == ""
	if off {
		path = l.opened // which is where lines from before belong
	}
	if l.stale.Swap(false) || l.file != nil && l.moved() {
		l.close()
	}
	l.mu.Lock()
	lines, n := l.buf, l.lines
	l.buf, l.lines, l.spare = l.spare[:0], 0, nil
	l.mu.Unlock()
	if n > 0 {
		if err := l.put(path, lines); err != nil {
			l.dropped.Add(n)
			if !l.failed {
				l.log.Error("access log not written, its lines are dropped", "file", path, "error", err)
			}
			l.failed = true
		} else if l.failed {
			l.failed = false
			l.log.Info("access log is written again", "file", path, "dropped", l.dropped.Load())
		}
	}
	if off {
		l.close()
		return // and keep no memory
	}
	l.spare = lines
}

// put appends lines to the file at path; nowhere if path is empty.
func (l *Log) put(path string, lines []byte) error {
	if path == "" {
		return nil
	}
	if l.file == nil || l.opened != path {
		l.close()
		file, err := open(path)
		if err != nil {
			return err
		}
		l.file, l.opened = file, path
	}
	_ = l.file.SetWriteDeadline(time.Now().Add(writeFor))
	_, err := l.file.Write(lines)
	if err != nil {
		l.close()
	}
	return err
}

// open opens a file without waiting for anything, as one that is a pipe would.
func open(path string) (*os.File, error) {
	if path == stdout {
		return os.Stdout, nil
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
}

// moved reports whether another file, or none, has the open one's name now.
func (l *Log) moved() bool {
	if l.opened == stdout {
		return false
	}
	ours, err := l.file.Stat()
	if err != nil {
		return true
	}
	named, err := os.Stat(l.opened)
	return err != nil || !os.SameFile(ours, named)
}

func (l *Log) close() {
	if l.file != nil && l.opened != stdout {
		_ = l.file.Close()
	}
	l.file, l.opened = nil, ""
}
