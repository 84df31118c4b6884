// Package file is the namer io.l5d.fs: a directory of files, each named as a
// service and holding its addresses.
//
//	# <root>/cart
//	10.0.0.7 8080
//	10.0.0.8 8080 * 0.5
//	cart.example.org 80
//
// It answers for the ids /#/io.l5d.fs/<name>, where name is the path of a file
// below the root, element by element. It does not find out where in a longer
// path the file ends: package rewrite does, by asking for the shorter ids first.
// It needs no help from the kernel to see a change: it looks at the files that
// somebody follows a few times a second, so that a ConfigMap's swapped links and
// network file systems work too.
//
// Invariant: a change is believed once the file has kept still from one look to
// the next, so that a file that is being written is never read half; and what
// was once known survives a file that no longer parses.
//
//	n := file.New(file.Config{Root: "/etc/services", Inet: dns.Replicas})
//	go n.Run(ctx)
//	value, release := n.Replicas("/#/io.l5d.fs/cart")
//	defer release()
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

const (
	// lookEvery is how often files are looked at; a change is known after two looks.
	lookEvery = 300 * time.Millisecond
	// maxSize is the largest file that is read, in bytes; Linkerd 1.x has the same.
	maxSize = 500 << 10
)

// Config is what a Namer works with.
type Config struct {
	// Root is the directory of the files.
	Root string
	// Inet follows the addresses of host names, by the ids /$/inet/<host>/<port>.
	// Nil refuses files with host names.
	Inet func(id string) (value *watch.Value[naming.Replicas], release func())
	// Logger gets one line for each change that could not be taken; nil discards them.
	Logger *slog.Logger
}

// Namer follows files. It is safe for concurrent use.
type Namer struct {
	cfg  Config
	wake chan struct{} // somebody wants the files to be looked at now

	mu    sync.Mutex
	names map[string]*name
	gone  []*name // whose hosts are to be released
}

// name is a file that somebody follows. All but value and users belong to Run.
type name struct {
	value watch.Value[naming.Replicas]
	users int // guarded by Namer.mu

	path   string
	looked bool
	last   fs.FileInfo // of the last look, nil: there is no such file
	taken  fs.FileInfo // what value is made of
	lines  []line
	hosts  []host
	// failing is why the file was not taken, empty if it was.
	failing string
	dirty   atomic.Bool // a host has new addresses
}

// host is a line whose addresses come from DNS.
type host struct {
	value   *watch.Value[naming.Replicas]
	weight  float64
	release func()
}

// New returns a Namer that follows nothing.
func New(c Config) *Namer {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Namer{cfg: c, wake: make(chan struct{}, 1), names: map[string]*name{}}
}

// Replicas returns the live addresses of id until release is called; they are
// pending until Run has looked. An id that no file can have is Neg for good.
func (n *Namer) Replicas(id string) (value *watch.Value[naming.Replicas], release func()) {
	path, ok := n.path(id)
	if !ok {
		return watch.New(naming.Replicas{State: naming.StateNeg}), func() {}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.names[id]
	if f == nil {
		f = &name{path: path}
		n.names[id] = f
		n.signal()
	}
	f.users++
	return &f.value, sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if f.users--; f.users == 0 {
			delete(n.names, id)
			n.gone = append(n.gone, f)
			n.signal()
		}
	})
}

// path returns the file of an id. Names come from requests: an element must not
// lead elsewhere, and hidden files, among them those that editors and the
// kubelet keep for themselves, are nobody's.
func (n *Namer) path(id string) (string, bool) {
	p, err := naming.ParsePath(id)
	if err != nil {
		return "", false
	}
	elements, ok := rewrite.File(p)
	if !ok {
		return "", false
	}
	for _, e := range elements {
		if e[0] == '.' || strings.ContainsAny(e, "/\\\x00") {
			return "", false
		}
	}
	return filepath.Join(n.cfg.Root, filepath.Join(elements...)), true
}

func (n *Namer) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run looks at the files until ctx ends; it returns nil.
func (n *Namer) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ticked := true; ; {
		names := n.followed()
		if len(names) == 0 {
			tick.Stop() // an idle proxy sleeps
		}
		for _, f := range names {
			if ticked || !f.looked {
				n.look(f)
			}
			if f.dirty.Swap(false) {
				f.publish()
			}
		}
		select {
		case <-tick.C:
			ticked = true
		case <-n.wake:
			ticked = false
			if len(names) == 0 {
				tick.Reset(lookEvery)
			}
		case <-ctx.Done():
			for _, f := range n.followed() {
				f.forget()
			}
			return nil
		}
	}
}

// followed returns the files that somebody follows, after it let go of others.
func (n *Namer) followed() []*name {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.gone {
		f.forget()
	}
	n.gone = nil
	names := make([]*name, 0, len(n.names))
	for _, f := range n.names {
		names = append(names, f)
	}
	return names
}

// look takes what the file holds if that is new and the file keeps still.
func (n *Namer) look(f *name) {
	info, err := stat(f.path)
	if err != nil {
		n.fail(f, err)
		f.looked = false // to take it as soon as it is back
		return
	}
	still := same(f.last, info)
	first := !f.looked
	f.last, f.looked = info, true
	if !first && (!still || same(f.taken, info)) {
		return
	}
	f.taken = info
	if info == nil {
		f.forget()
		f.set(naming.Replicas{State: naming.StateNeg})
		return
	}
	lines, err := n.read(f.path)
	if err != nil {
		n.fail(f, err)
		return
	}
	f.failing = ""
	n.follow(f, lines)
	f.publish()
}

// fail says, once, that a file cannot be read. What it said last stays.
func (n *Namer) fail(f *name, err error) {
	kept := f.value.Get().State == naming.StateBound
	if text := err.Error(); f.failing != text {
		f.failing = text
		n.cfg.Logger.Warn("cannot take the addresses of a file", "file", f.path, "kept", kept, "error", err)
	}
	if !kept {
		f.set(naming.Replicas{State: naming.StateFailed, Cause: err.Error()})
	}
}

// stat returns nil for what is no file, and an error if that cannot be known.
func stat(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return nil, nil
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, nil
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	return info, nil
}

func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func (n *Namer) read(path string) ([]line, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxSize {
		return nil, fmt.Errorf("%s is larger than %d kB", path, maxSize>>10)
	}
	lines, err := parse(path, string(content))
	if err != nil {
		return nil, err
	}
	for _, l := range lines {
		if l.host != "" && n.cfg.Inet == nil {
			return nil, fmt.Errorf("%s: %s is no IP address", path, l.host)
		}
	}
	return lines, nil
}

// follow makes f follow the host names of its new lines. Those that were there
// before are followed first and let go of then, so that they keep their addresses.
func (n *Namer) follow(f *name, lines []line) {
	old := f.hosts
	f.lines, f.hosts = lines, nil
	for _, l := range lines {
		if l.host == "" {
			continue
		}
		id := naming.Path{"$", "inet", l.host, fmt.Sprint(l.port)}.String()
		value, release := n.cfg.Inet(id)
		unhook := value.Notify(func() {
			f.dirty.Store(true)
			n.signal()
		})
		f.hosts = append(f.hosts, host{value: value, weight: l.endpoint.Weight, release: func() { unhook(); release() }})
	}
	for _, h := range old {
		h.release()
	}
}

// publish makes f's value of its lines and of what is known of its hosts.
func (f *name) publish() {
	var endpoints []naming.Endpoint
	pending := false
	for _, l := range f.lines {
		if l.host == "" {
			endpoints = append(endpoints, l.endpoint)
		}
	}
	for _, h := range f.hosts {
		r := h.value.Get()
		pending = pending || r.State == naming.StatePending
		for _, e := range r.Endpoints {
			e.Weight = h.weight
			endpoints = append(endpoints, e)
		}
	}
	if len(endpoints) == 0 && pending {
		return // nothing is known yet; what was known before stays
	}
	f.set(naming.Of(endpoints...))
}

func (f *name) set(r naming.Replicas) {
	if !r.Equal(f.value.Get()) {
		f.value.Set(r)
	}
}

// forget lets go of the hosts.
func (f *name) forget() {
	for _, h := range f.hosts {
		h.release()
	}
	f.lines, f.hosts = nil, nil
}
