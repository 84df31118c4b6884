package namer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// lookEvery is how often the files are looked at. What somebody edits is believed once it has
// kept still from one look to the next, what another Files wrote at once.
const lookEvery = 300 * time.Millisecond

const dtabSuffix = ".dtab"

// FilesConfig is what a Files works with.
type FilesConfig struct {
	Dir    string // is there already; its names are the namespaces, with .dtab
	Logger *slog.Logger
}

// Files is a Store in a directory of files <namespace>.dtab, which may be edited by hand as well:
// a file holds the rules as text, with comments, which a write through the Store does not keep.
// One that does not parse, or cannot be read, changes nothing: the last rules that did go on, even
// over a restart, and other namespaces are not affected.
//
// Versions and histories are in the directory's .history. Several processes may have one
// directory, and give the same answers; they lock it with flock(2). A directory that cannot be
// written to, such as a mounted ConfigMap, can be read: writes are ErrForbidden then.
type Files struct {
	cfg   FilesConfig
	names watch.Value[[]string]

	mu      sync.Mutex
	looked  bool // once
	entries map[string]*fileEntry
	ignored map[string]bool // files that were said to be no dtabs
}

// fileEntry is a namespace that exists, existed or is watched; guarded by Files.mu.
type fileEntry struct {
	dtab     watch.Value[*Versioned]
	watchers int
	journal  *journal
	last     fs.FileInfo // of the last look, nil: there was no file
	settled  bool        // last is what the journal knows, or was found wrong
	wrong    string      // sum of the content that was found wrong
	problem  error       // why the file or its journal cannot be read, nil if they can
}

// NewFiles returns a Files that has read nothing. It does no I/O.
func NewFiles(cfg FilesConfig) *Files {
	return &Files{cfg: cfg, entries: map[string]*fileEntry{}, ignored: map[string]bool{}}
}

// Run looks at the files until ctx ends, and returns nil then. It fails at once if the directory
// cannot be read; later that is logged, and what was known goes on.
func (s *Files) Run(ctx context.Context) error {
	if err := s.look(); err != nil {
		return err
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	failing := ""
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := ""
		if err := s.look(); err != nil {
			if now = err.Error(); now != failing {
				s.cfg.Logger.Error("dtabs are kept as they were", "dir", s.cfg.Dir, "error", now)
			}
		}
		failing = now
	}
}

// look takes in what has changed.
func (s *Files) look() error {
	files, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("read the directory of dtabs: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]bool{}
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), dtabSuffix)
		switch {
		case !ok || name == "" || name[0] == '.':
		case rewrite.IsLabel(name):
			found[name] = true
		case !s.ignored[name]:
			s.ignored[name] = true
			s.cfg.Logger.Warn("a file is no dtab", "file", f.Name(), "error", errNamespace)
		}
	}
	for name := range s.entries {
		found[name] = true
	}
	for name := range found {
		if err := s.lookAt(name); err != nil {
			return err
		}
	}
	s.looked = true
	s.publish()
	return nil
}

// lookAt takes in one file if it is another than at the last look. What is wrong with it is the
// entry's; it fails if the directory cannot be locked.
func (s *Files) lookAt(name string) error {
	e := s.entry(name)
	info, err := os.Stat(s.path(name))
	if err != nil {
		info, e.settled = nil, e.settled && errors.Is(err, fs.ErrNotExist)
	}
	still := sameFile(e.last, info) || !s.looked
	if e.journal != nil && e.settled && still {
		return nil
	}
	e.last = info
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s.refresh(name, e, still)
	return nil
}

func sameFile(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// refresh takes in the file and its journal as they are now. An edit is left for later unless
// the file is known to keep still. It is called with the directory locked.
func (s *Files) refresh(name string, e *fileEntry, still bool) {
	content, unread := readRules(s.path(name))
	gone := errors.Is(unread, fs.ErrNotExist)
	if gone {
		unread = nil
	}
	j, err := readJournal(s.cfg.Dir, name)
	switch {
	case err != nil:
		s.failed(name, e, fmt.Errorf("%w; restore it, or delete it to begin a new history with the rules of %s", err, s.path(name)))
		if j = e.journal; j == nil {
			return
		}
	default:
		if e.journal != nil && e.journal.Writes > j.Writes {
			j = e.journal // it could not be written
		}
		e.journal = j
		s.failed(name, e, unread)
	}
	if e.settled = e.problem == nil; unread != nil {
		return
	}
	if gone || sumOf(content) == j.Sum {
		e.wrong = ""
	}
	switch {
	case gone && len(j.Revisions) > 0:
		if e.settled = still && e.settled; still {
			j.Revisions, j.Sum = nil, ""
			s.remember(name, j)
			s.cfg.Logger.Info("dtab deleted", "namespace", name, "by", "the file's removal")
		}
	case !gone && sumOf(content) != j.Sum && sumOf(content) != e.wrong:
		if e.settled = still && e.settled; still {
			s.edited(name, e, content)
		}
	}
}

// failed takes in why a file or its journal cannot be read, nil if they can, and says so once.
func (s *Files) failed(name string, e *fileEntry, err error) {
	if err != nil && (e.problem == nil || e.problem.Error() != err.Error()) {
		s.cfg.Logger.Error("dtab kept as it was", "namespace", name, "served", e.served(), "error", err)
	}
	e.problem = err
}

// readRules reads a file, and no directory or pipe of that name.
func readRules(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		what := "no regular file"
		if info.IsDir() {
			what = "a directory"
		}
		return nil, fmt.Errorf("%s is %s; move it away, and put a file of rules into its place", path, what)
	}
	var content []byte
	if err == nil {
		content, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read dtab: %w; have it be a file that the namer may read", err)
	}
	return content, nil
}

// edited takes in what somebody wrote into the file.
func (s *Files) edited(name string, e *fileEntry, content []byte) {
	dtab, err := naming.ParseDtab(string(content))
	if len(content) > maxBody {
		err = fmt.Errorf("the file has more than %d bytes", maxBody)
	}
	if err != nil {
		e.wrong = sumOf(content)
		s.cfg.Logger.Error("dtab kept as it was", "file", s.path(name), "served", e.served(), "error", naming.Brief(err))
		return
	}
	e.wrong = ""
	if now := e.journal.newest(); now.has(dtab) {
		e.journal.Sum = sumOf(content) // nothing but comments and spaces
	} else {
		at := time.Now()
		if info, err := os.Stat(s.path(name)); err == nil {
			at = info.ModTime()
		}
		e.journal.push(Change{Dtab: dtab}, content, at)
		s.cfg.Logger.Info("dtab written", "namespace", name, "by", "an edit of the file", "before", etag(now.Version), "after", etag(versionBytes(e.journal.Writes)))
	}
	s.remember(name, e.journal)
}

// remember saves a journal. Where that is not possible nothing can be written either, and the
// time of the file's last change is as good a version as any.
func (s *Files) remember(name string, j *journal) {
	if err := j.save(s.cfg.Dir, name); err != nil {
		s.cfg.Logger.Debug("history not kept", "namespace", name, "error", err)
		if len(j.Revisions) > 0 && !j.Revisions[0].Time.IsZero() {
			j.Writes = max(j.Writes, uint64(j.Revisions[0].Time.UnixNano()))
			j.Revisions[0].Version = j.Writes
		}
	}
}

// served reports whether there are rules.
func (e *fileEntry) served() bool { return e.journal != nil && len(e.journal.Revisions) > 0 }

func (s *Files) path(name string) string { return filepath.Join(s.cfg.Dir, name+dtabSuffix) }

// lock keeps other processes out of the directory. One that cannot be written to needs no lock.
func (s *Files) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.cfg.Dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o666)
	if readOnly(err) {
		return func() {}, nil
	}
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the directory of dtabs: %w", err)
	}
	return func() { f.Close() }, nil // which unlocks
}

func readOnly(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

func (s *Files) entry(name string) *fileEntry {
	e := s.entries[name]
	if e == nil {
		e = &fileEntry{}
		s.entries[name] = e
	}
	return e
}

// publish sets what has changed, once all was read.
func (s *Files) publish() {
	if !s.looked {
		return
	}
	names := []string{}
	for name, e := range s.entries {
		next := (*Versioned)(nil) // there may be rules, nobody can say which
		if e.journal != nil {
			next = e.journal.newest()
			if next.Version == "" && (e.wrong != "" || e.problem != nil) {
				next = nil
			}
		}
		if now := e.dtab.Get(); next != nil && (now == nil || now.Version != next.Version) {
			e.dtab.Set(next)
		}
		if next != nil && next.Version != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if now := s.names.Get(); now == nil || !slices.Equal(now, names) {
		s.names.Set(names)
	}
}

// with calls f with what is known of a namespace now, and publishes what f has changed.
func (s *Files) with(name string, still bool, f func(e *fileEntry, now *Versioned) error) error {
	if !rewrite.IsLabel(name) { // it is to be a file's
		return errNamespace
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	known := s.entries[name] != nil
	e := s.entry(name)
	s.refresh(name, e, still || !s.looked)
	if err = e.problem; e.journal != nil {
		err = f(e, e.journal.newest())
	}
	e.settled = false // the next look compares: last may be of before
	if !known && e.watchers == 0 && e.forgettable() {
		delete(s.entries, name) // it was only asked for
	}
	s.publish()
	return err
}

// forgettable reports whether there is nothing to know of a namespace.
func (e *fileEntry) forgettable() bool {
	return e.wrong == "" && (e.journal == nil || e.journal.Writes == 0)
}

// write stores a dtab, if allowed says so of the version of the present one.
func (s *Files) write(name string, c Change, allowed func(version string) error) (version string, err error) {
	// Even of a file that is being edited: who writes now must know.
	err = s.with(name, true, func(e *fileEntry, now *Versioned) error {
		if err := allowed(now.Version); err != nil {
			return err
		}
		if now.has(c.Dtab) && e.wrong == "" && e.problem == nil { // and its comments stay
			version = now.Version
			return nil
		}
		content := fileOf(c.Dtab)
		if err := replace(s.path(name), content); err != nil {
			return forbidden(err)
		}
		e.wrong, e.problem = "", nil
		e.journal.push(c, content, time.Now())
		version = versionBytes(e.journal.Writes)
		return forbidden(e.journal.save(s.cfg.Dir, name))
	})
	return version, err
}

func forbidden(err error) error {
	if readOnly(err) {
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	return err
}

// Names implements Store.
func (s *Files) Names() *watch.Value[[]string] { return &s.names }

// Get implements Store. It returns what another process has written a moment ago, too.
func (s *Files) Get(_ context.Context, namespace string) (v *Versioned, err error) {
	err = s.with(namespace, false, func(e *fileEntry, now *Versioned) error {
		switch v = now; {
		case now.Version != "":
			return nil
		case e.problem != nil:
			return e.problem
		case e.wrong != "":
			return fmt.Errorf("read dtab: %s does not parse", s.path(namespace))
		}
		return ErrNotFound
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// Create implements Store.
func (s *Files) Create(_ context.Context, namespace string, c Change) (string, error) {
	return s.write(namespace, c, mayCreate)
}

// Put implements Store.
func (s *Files) Put(_ context.Context, namespace string, c Change) (string, error) {
	return s.write(namespace, c, func(string) error { return nil })
}

// Update implements Store.
func (s *Files) Update(_ context.Context, namespace string, c Change, version string) (string, error) {
	return s.write(namespace, c, mayUpdate(version))
}

// Delete implements Store.
func (s *Files) Delete(_ context.Context, namespace, _ string) error {
	return s.with(namespace, true, func(e *fileEntry, now *Versioned) error {
		switch {
		case now.Version == "" && e.problem != nil:
			return e.problem
		case now.Version == "" && e.wrong == "":
			return ErrNotFound
		}
		if err := os.Remove(s.path(namespace)); err != nil {
			return forbidden(fmt.Errorf("delete dtab: %w", err))
		}
		e.journal.Revisions, e.journal.Sum, e.wrong = nil, "", ""
		return forbidden(e.journal.save(s.cfg.Dir, namespace))
	})
}

// History implements Store.
func (s *Files) History(_ context.Context, namespace string) (past []Revision, err error) {
	err = s.with(namespace, false, func(e *fileEntry, now *Versioned) error {
		if now.Version == "" {
			return ErrNotFound
		}
		for _, t := range e.journal.Revisions {
			r, err := t.revision()
			if err != nil {
				return fmt.Errorf("read %s: %w", journalPath(s.cfg.Dir, namespace), err)
			}
			past = append(past, r)
		}
		return nil
	})
	return past, err
}

// Watch implements Store.
func (s *Files) Watch(namespace string) (*watch.Value[*Versioned], func()) {
	if !rewrite.IsLabel(namespace) { // proxies name what they like
		return watch.New(&Versioned{}), func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(namespace)
	e.watchers++
	if s.looked && e.journal == nil {
		if err := s.lookAt(namespace); err != nil {
			s.cfg.Logger.Error("dtab not read", "namespace", namespace, "error", err)
		}
		s.publish()
	}
	return &e.dtab, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if e.watchers--; e.watchers == 0 && e.forgettable() {
			delete(s.entries, namespace) // it only ever was asked for
		}
	})
}
