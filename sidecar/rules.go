package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

const (
	// rulesEvery is how often a file of rules is read.
	rulesEvery = 500 * time.Millisecond
	// maxRules is the largest such file in bytes, that of a ConfigMap.
	maxRules = 1 << 20
)

// rules are a dtab that comes from a file (the interpreter io.l5d.fs), followed
// live. As in Linkerd 1.x a file that is not there has no rules, and one that is
// wrong leaves those that were good.
type rules struct {
	path string
	log  *slog.Logger
	dtab *watch.Value[*naming.Dtab]

	seen  string // what the last look saw
	taken string // what the dtab was made of
	wrong string // why it is not what is in the file; empty if there is no reason
}

// newRules returns the rules at path, which it reads.
func newRules(path string, log *slog.Logger) *rules {
	r := &rules{path: path, log: log, dtab: watch.New(&naming.Dtab{})}
	r.look()
	r.look()
	return r
}

// run follows the file until ctx ends.
func (r *rules) run(ctx context.Context) error {
	tick := time.NewTicker(rulesEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.look()
		case <-ctx.Done():
			return nil
		}
	}
}

// look takes what is in the file once two looks have seen the same, since the
// beginning of a file may be a dtab too.
func (r *rules) look() {
	text, err := readRules(r.path)
	still := text == r.seen
	r.seen = text
	if err == nil && !still {
		return
	}
	var dtab naming.Dtab
	if err == nil {
		if text == r.taken && r.wrong == "" {
			return
		}
		if dtab, err = naming.ParseDtab(text); err != nil {
			err = fmt.Errorf("read %s: %w", r.path, err)
		}
	}
	if err != nil {
		if r.wrong != err.Error() {
			r.wrong = err.Error()
			r.log.Error("rules not taken, the old ones stay", "error", err)
		}
		return
	}
	r.wrong, r.taken = "", text
	r.dtab.Set(&dtab)
	r.log.Info("rules taken", "file", r.path, "rules", len(dtab))
}

// readRules returns the file's text, empty if there is no file.
func readRules(path string) (string, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxRules+1))
	if err == nil && len(content) > maxRules {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxRules)
	}
	return string(content), err
}
