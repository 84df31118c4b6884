package policy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
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
	*Live
	path string
	now  chan struct{}       // Reload was called
	text watch.Value[[]byte] // what the policy was made of

	// Load's, and then Run's.
	seen  []byte // what the last look saw
	wrong string // why there is no new policy, empty if there is no reason
}

// NewFile returns a follower of the file at path that has the default policy.
// It does no I/O. A nil logger discards what it says.
func NewFile(path string, log *slog.Logger) *File {
	return &File{Live: NewLive(log), path: path, now: make(chan struct{}, 1)}
}

// Text is the file that the policy was made of, word by word, so never one that
// is wrong; nil before the first.
func (f *File) Text() *watch.Value[[]byte] { return &f.text }

// Load reads the file now. It is called once, before Run, by who does not want
// to start with a policy that is wrong.
func (f *File) Load() error {
	content, err := f.read()
	if err != nil {
		return err
	}
	f.seen = content
	return f.take(content)
}

// Reload makes Run take at once what is in the file. Called before Run, it has
// Run begin with that.
func (f *File) Reload() {
	select {
	case f.now <- struct{}{}:
	default:
	}
}

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
		f.refuseOnce(err)
		return
	}
	still := bytes.Equal(content, f.seen)
	f.seen = content
	good := f.text.Get()
	unchanged := good != nil && bytes.Equal(content, good)
	switch {
	case !still && !atOnce:
	case unchanged && f.wrong == "" && !atOnce:
	case unchanged:
		// It was wrong or away in between, or somebody asked and wants an answer.
		f.wrong = ""
		f.log.Info("policy is as it was", "file", f.path)
	default:
		if err := f.take(content); err != nil {
			f.refuseOnce(err)
			return
		}
		f.log.Info("policy changed", "file", f.path)
	}
}

// refuseOnce says, once, why there is no new policy.
func (f *File) refuseOnce(err error) {
	if text := err.Error(); f.wrong != text {
		f.wrong = text
		f.refuse(err)
	}
}

// take makes content the policy if it is one.
func (f *File) take(content []byte) error {
	if err := f.Live.take(f.path, content); err != nil {
		return err
	}
	f.wrong = ""
	f.text.Set(content)
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
