package policy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
)

const (
	// lookEvery is how often a file is read. A ConfigMap takes a minute to reach
	// a pod, so this is for people who edit and wait.
	lookEvery = 500 * time.Millisecond
	// maxSize is the largest policy in bytes, that of a ConfigMap.
	maxSize = 1 << 20
)

// File follows the policy in a file: by its content, so that links that are
// swapped and files that are replaced do not matter. A change is taken once two
// looks have seen the same, since the beginning of a file may be a policy too;
// and taken as a whole or not at all: while the file is wrong or missing, the
// policy that was good stays.
type File struct {
	path string
	log  *slog.Logger

	value          *watch.Value[*Policy]
	now            chan struct{} // Reload was called
	taken, refused atomic.Uint64

	// Load's, and then Run's.
	good  []byte // what the policy was made of
	seen  []byte // what the last look saw
	wrong string // why there is no new policy, empty if there is no reason
}

// NewFile returns a follower of the file at path that has the default policy.
// It does no I/O. A nil logger discards what it says.
func NewFile(path string, log *slog.Logger) *File {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &File{path: path, log: log, value: watch.New(Default()), now: make(chan struct{}, 1)}
}

// Value is the policy, which changes while Run runs.
func (f *File) Value() *watch.Value[*Policy] { return f.value }

// Load reads the file now. It is called once, before Run; a proxy whose policy
// is wrong then does not start.
func (f *File) Load() error {
	content, err := f.read()
	if err != nil {
		return err
	}
	f.seen = content
	return f.take(content)
}

// Reload makes Run take at once what is in the file.
func (f *File) Reload() {
	select {
	case f.now <- struct{}{}:
	default:
	}
}

// Loads returns how often a policy was taken, and how often one was refused.
func (f *File) Loads() (taken, refused uint64) { return f.taken.Load(), f.refused.Load() }

// Run follows the file until ctx ends; it returns nil.
func (f *File) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.look(false)
		case <-f.now:
			f.look(true)
		case <-ctx.Done():
			return nil
		}
	}
}

// look takes what is new in the file, and says so. Told to do it at once, it
// needs no second look.
func (f *File) look(atOnce bool) {
	if atOnce {
		f.wrong = "" // who asks gets an answer, though it may be the old one
	}
	content, err := f.read()
	if err != nil {
		f.refuse(err)
		return
	}
	still := bytes.Equal(content, f.seen)
	f.seen = content
	unchanged := bytes.Equal(content, f.good)
	switch {
	case !still && !atOnce:
	case unchanged && f.wrong == "" && !atOnce:
	case unchanged:
		// It was wrong or away in between, or somebody asked and wants an answer.
		f.wrong = ""
		f.log.Info("policy is as it was", "file", f.path)
	default:
		if err := f.take(content); err != nil {
			f.refuse(err)
			return
		}
		f.log.Info("policy changed", "file", f.path)
	}
}

// refuse says, once, why there is no new policy.
func (f *File) refuse(err error) {
	if text := err.Error(); f.wrong != text {
		f.wrong = text
		f.refused.Add(1)
		f.log.Error("policy not taken, the old one stays", "error", err)
	}
}

// take makes content the policy if it is one.
func (f *File) take(content []byte) error {
	p, err := Parse(f.path, content)
	if err != nil {
		return err
	}
	for _, w := range p.Warnings {
		f.log.Warn(w.Text, "file", w.File, "line", w.Line)
	}
	f.good, f.wrong = content, ""
	f.taken.Add(1)
	f.value.Set(p)
	return nil
}

func (f *File) read() ([]byte, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err == nil && len(content) > maxSize {
		err = fmt.Errorf("%s is larger than %d bytes", f.path, maxSize)
	}
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	return content, nil
}
