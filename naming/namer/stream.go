package namer

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// extendEvery is how long a time that was set for reading or writing is left alone: to set it
// anew for every line would cost more than the line.
const extendEvery = time.Second

var heartbeatLine = []byte("{}\n")

// maxNames bounds what one proxy may watch, and the names in use that are noted for it: ten
// times what a router of a proxy keeps bound. What is beyond is refused, and what is as much
// again beyond that has no answer; a stream that ended for it would come back with all of it.
const maxNames = 10_000

// errBeyond is the cause of what fails as it is beyond.
var errBeyond = fmt.Errorf("this proxy follows more than %d names: "+
	"the namer tells of this one as soon as another is followed no more", maxNames)

// Source knows replica sets and pods. Its methods neither block nor fail and may be called
// concurrently; release may be called more than once.
type Source interface {
	// Replicas returns the live state of a bound name until release is called. A name
	// that is none of the Source's is Neg.
	Replicas(id naming.Path) (replicas *watch.Value[naming.Replicas], release func())
	// Pods returns the pods of a node, live, until release is called: nil as long as they
	// are not known.
	Pods(node string) (pods *watch.Value[[]api.Pod], release func())
}

// StreamConfig is what a Stream works with.
type StreamConfig struct {
	Store  Store
	Source Source
	// Admit says who sent a request, before anything of it is read; nil admits everyone. An
	// error with a method StatusCode() int is answered with that status, another one with
	// 403. It is asked again every ten minutes or so, and the stream ends with 401 and 403.
	Admit func(r *http.Request) (Guest, error)
	// MaxStreams bounds the streams of one guest at an address, where all who have no name are
	// one; 0: 1000. A proxy needs one, and a second while nobody has noticed the end of the
	// first. Without Admit there is no bound.
	MaxStreams int
	// Policy is the text of the policy that all proxies are sent, live; nil as long as it
	// is not known. Without a Value none is sent.
	Policy *watch.Value[[]byte]
	// Namers is the text of the namers that all proxies are sent, likewise.
	Namers *watch.Value[[]byte]
	// Rules returns what a ConfigMap says, live, until release is called, which may be more than
	// once: nil as long as nothing is known. It neither blocks nor fails, and may be called
	// concurrently. Without it there are no ConfigMaps.
	Rules func(api.ConfigMap) (rules *watch.Value[*api.Rules], release func())
	// Seen takes note of the names that proxies say they use; nil forgets them.
	Seen   *Seen
	Logger *slog.Logger
}

// Guest is a proxy that may speak.
type Guest struct {
	Name string // who it is, empty if that is not known
	// May says whether it may have what it says hello for; nil: it may. Errors are as Admit's.
	May func(hello api.Hello) error
}

func (g Guest) may(hello api.Hello) error {
	if g.May == nil {
		return nil
	}
	return g.May(hello)
}

// Stream is the handler of api.WatchPath. It needs HTTP/2, or HTTP/1.1 with a client that
// reads while it writes. A stream ends with its request's context: give the http.Server a
// BaseContext that ends when it is to shut down, for Shutdown waits for streams.
type Stream struct {
	cfg    StreamConfig
	topics topics
	guests crowd
}

// NewStream returns the handler. It starts nothing.
func NewStream(cfg StreamConfig) *Stream {
	return &Stream{cfg: cfg, topics: topics{all: map[string]*topic{}}}
}

// ServeHTTP serves one proxy until it goes away, falls silent or the request's context ends.
func (h *Stream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuseJSON(w, http.StatusMethodNotAllowed, errors.New("a stream begins with POST"))
		return
	}
	if r.ProtoMajor < 2 {
		// To find where a body ends that nobody read, net/http would read beside itself.
		w.Header().Set("Connection", "close")
	}
	out := http.NewResponseController(w)
	if err := out.EnableFullDuplex(); err != nil && r.ProtoMajor < 2 {
		refuseJSON(w, http.StatusHTTPVersionNotSupported, errors.New("a stream needs HTTP/2"))
		return
	}
	var guest Guest
	if h.cfg.Admit != nil {
		_ = out.SetReadDeadline(time.Now().Add(api.Silence)) // what a stranger sends is not waited for
		var err error
		if guest, err = h.cfg.Admit(r); err != nil {
			h.refuse(w, r, api.Hello{}, err)
			return
		}
		leave, err := h.guests.enter(caller(r, guest.Name), cmp.Or(h.cfg.MaxStreams, maxStreams))
		if err != nil {
			h.refuse(w, r, api.Hello{}, err)
			return
		}
		defer leave()
	}
	s := &session{
		stream: h,
		used:   map[api.Name]bool{},
		out:    out,
		w:      w,
		in:     bufio.NewScanner(r.Body),
		names:  map[string]*subscription{},
		beyond: map[string]*subscription{},
		wake:   make(chan struct{}, 1),
	}
	s.in.Buffer(nil, api.MaxLine)
	first, err := s.read(r.Context())
	if err == nil && first.Hello == nil {
		err = errors.New("the first line is no hello")
	}
	if err == nil && len(first.Hello.ConfigMaps) > api.MaxConfigMaps {
		err = fmt.Errorf("the hello names %d ConfigMaps, %d at most are allowed", len(first.Hello.ConfigMaps), api.MaxConfigMaps)
	}
	if err != nil {
		refuseJSON(w, http.StatusBadRequest, fmt.Errorf("begin stream: %w", err))
		return
	}
	hello := *first.Hello
	s.dtab = hello.DtabNamespace
	if err := guest.may(hello); err != nil {
		h.refuse(w, r, hello, err)
		return
	}
	ctx := r.Context()
	if h.cfg.Admit != nil {
		var stop func()
		ctx, stop = guarded(ctx, around(readmitEvery), func(ctx context.Context) error {
			guest, err := h.cfg.Admit(r.WithContext(ctx))
			if err == nil {
				err = guest.may(hello)
			}
			return err
		})
		defer stop()
	}
	log := h.cfg.Logger.With("proxy", hello.Proxy, "node", hello.Node)
	s.log = log
	log.Info("proxy connected", "mode", hello.Mode)
	// First, so that a proxy that has its dtab and begins to serve has these, too.
	s.followText("policy", h.cfg.Policy, func(text, version string) *api.FromNamer {
		return &api.FromNamer{Policy: &api.Policy{Text: text, Version: version}}
	})
	s.followText("namers", h.cfg.Namers, func(text, version string) *api.FromNamer {
		return &api.FromNamer{Namers: &api.Namers{Text: text, Version: version}}
	})
	s.followDtab()
	for _, m := range hello.ConfigMaps {
		s.followRules(m)
	}
	if hello.Mode == api.ModeHost {
		s.followPods(hello.Node)
	}
	log.Info("proxy gone", "cause", s.run(ctx))
}

// refuse answers a proxy that is not admitted.
func (h *Stream) refuse(w http.ResponseWriter, r *http.Request, hello api.Hello, err error) {
	h.cfg.Logger.Warn("proxy not admitted", "proxy", hello.Proxy, "node", hello.Node, "from", r.RemoteAddr, "error", err)
	setRetry(w, err)
	refuseJSON(w, statusOf(err), err)
}

func refuseJSON(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(status)
	w.Write(line(map[string]string{"error": err.Error()}))
}

// session is one proxy's stream. One goroutine reads, one writes; whoever changes a watched
// value only marks its subscriptions dirty, so that a slow proxy costs memory for one mark
// per name and nothing else.
type session struct {
	stream *Stream
	w      io.Writer
	out    *http.ResponseController
	in     *bufio.Scanner
	dtab   string // the namespace of the proxy's dtab
	log    *slog.Logger

	// By the reader alone, until it is gone.
	names    map[string]*subscription
	beyond   map[string]*subscription // those that fail until one of names goes
	used     map[api.Name]bool
	omitted  int             // how many are in use beside them
	warned   bool            // of names that are beyond
	extended time.Time       // when the time to read was
	always   []*subscription // the policy, the namers, the dtab, the ConfigMaps and the pods

	wake chan struct{} // one token: there may be something dirty

	mu    sync.Mutex
	dirty []*subscription
}

// subscription is one thing that a proxy follows.
type subscription struct {
	session *session
	topic   *topic
	sent    uint64 // number of the state that was sent last; by the writer alone

	dirty, stopped bool // guarded by session.mu
}

// subscribe follows the topic of that key, which start makes if nobody else follows it.
func (s *session) subscribe(key string, start func() *topic) *subscription {
	sub := &subscription{session: s}
	s.stream.topics.join(key, sub, start)
	s.mark(sub)
	return sub
}

func (s *session) unsubscribe(sub *subscription) {
	s.stream.topics.leave(sub)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub.stopped = true
}

// mark puts a subscription on the writer's list. It is called from the hooks of values, so
// it takes no lock but the session's own.
func (s *session) mark(sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.dirty || sub.stopped {
		return
	}
	sub.dirty = true
	s.dirty = append(s.dirty, sub)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take returns what is dirty, and makes it clean: whatever changes from now on is marked
// again.
func (s *session) take() []*subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	dirty := s.dirty
	s.dirty = nil
	for _, sub := range dirty {
		sub.dirty = false
	}
	return slices.DeleteFunc(dirty, func(sub *subscription) bool { return sub.stopped })
}

// followText follows a text that all proxies are sent, if there is one.
func (s *session) followText(key string, value *watch.Value[[]byte], message func(text, version string) *api.FromNamer) {
	if value == nil {
		return
	}
	s.always = append(s.always, s.subscribe(key, func() *topic {
		return newTopic(value, func() {}, bytes.Equal, func(text []byte) *api.FromNamer {
			if text == nil {
				return nil
			}
			sum := sha256.Sum256(text)
			return message(string(text), hex.EncodeToString(sum[:8]))
		})
	}))
}

func (s *session) followDtab() {
	s.always = append(s.always, s.subscribe("dtab "+s.dtab, func() *topic {
		value, release := s.stream.cfg.Store.Watch(s.dtab)
		return newTopic(value, release,
			func(a, b *Versioned) bool { return a.Version == b.Version },
			func(v *Versioned) *api.FromNamer {
				if v == nil {
					return nil
				}
				return &api.FromNamer{Dtab: &api.Dtab{Text: v.Dtab.Exact(), Version: etag(v.Version)}}
			})
	}))
}

// followRules follows a key of a ConfigMap.
func (s *session) followRules(m api.ConfigMap) {
	s.always = append(s.always, s.subscribe("rules "+m.Namespace+"/"+m.Name+"/"+m.Key, func() *topic {
		value, release := watch.New(&api.Rules{ConfigMap: m, Cause: "this namer reads no ConfigMaps"}), func() {}
		if s.stream.cfg.Rules != nil {
			value, release = s.stream.cfg.Rules(m)
		}
		return newTopic(value, release, (*api.Rules).Equal, func(r *api.Rules) *api.FromNamer {
			if r == nil {
				return nil
			}
			return &api.FromNamer{Rules: r}
		})
	}))
}

func (s *session) followPods(node string) {
	s.always = append(s.always, s.subscribe("pods "+node, func() *topic {
		value, release := s.stream.cfg.Source.Pods(node)
		return newTopic(value, release, slices.Equal[[]api.Pod], func(pods []api.Pod) *api.FromNamer {
			if pods == nil {
				return nil
			}
			return &api.FromNamer{Pods: &api.Pods{Node: node, Pods: pods}}
		})
	}))
}

// watch follows a name, which fails as long as there are too many.
func (s *session) watch(name string) {
	switch {
	case s.names[name] != nil || s.beyond[name] != nil:
	case len(s.names) < maxNames:
		s.follow(name)
	case len(s.beyond) < maxNames:
		if !s.warned {
			s.warned = true
			s.log.Warn("proxy follows too many names", "limit", maxNames)
		}
		s.beyond[name] = s.subscribe("beyond "+name, func() *topic { return refused(name, errBeyond) })
	}
}

// unwatch forgets a name, and follows another one that failed for want of room.
func (s *session) unwatch(name string) {
	if drop(s, s.beyond, name) || !drop(s, s.names, name) {
		return
	}
	for next := range s.beyond {
		drop(s, s.beyond, next)
		s.follow(next)
		break
	}
}

// drop reports whether the name was one of those subscriptions.
func drop(s *session, names map[string]*subscription, name string) bool {
	sub := names[name]
	if sub == nil {
		return false
	}
	s.unsubscribe(sub)
	delete(names, name)
	return true
}

// follow begins to follow a name. What cannot be followed fails at once, and for good.
func (s *session) follow(name string) {
	s.names[name] = s.subscribe("replicas "+name, func() *topic {
		id, err := naming.ParsePath(name)
		if err != nil {
			return refused(name, err)
		}
		value, release := s.stream.cfg.Source.Replicas(id)
		return replicas(name, value, release)
	})
}

func refused(name string, cause error) *topic {
	return replicas(name, watch.New(naming.Replicas{State: naming.StateFailed, Cause: cause.Error()}), func() {})
}

func replicas(name string, value *watch.Value[naming.Replicas], release func()) *topic {
	return newTopic(value, release, naming.Replicas.Equal, func(r naming.Replicas) *api.FromNamer {
		return &api.FromNamer{Replicas: &api.Replicas{Name: name, Replicas: r}}
	})
}

// run serves the stream and returns why it ended. No goroutine and no subscription is left.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		cancel(s.readAll(ctx))
	}()
	cancel(s.writeAll(ctx))
	s.out.SetReadDeadline(time.Unix(1, 0)) // wakes the reader, whatever it waits for
	<-reader
	for _, names := range []map[string]*subscription{s.beyond, s.names} {
		for name := range names {
			drop(s, names, name)
		}
	}
	for n := range s.used {
		s.stream.cfg.Seen.remove(s.dtab, n)
	}
	s.omit(-s.omitted)
	for _, sub := range s.always {
		s.unsubscribe(sub)
	}
	return context.Cause(ctx)
}

// read returns the next line from the proxy, or an error once there are no more or ctx has
// ended.
func (s *session) read(ctx context.Context) (api.FromProxy, error) {
	var m api.FromProxy
	if now := time.Now(); now.Sub(s.extended) > extendEvery {
		s.extended = now
		s.out.SetReadDeadline(now.Add(api.Silence))
	}
	if ctx.Err() != nil { // looked at last, for run ends the time to read after it ended ctx
		return m, context.Cause(ctx)
	}
	if !s.in.Scan() {
		if err := s.in.Err(); err != nil {
			return m, fmt.Errorf("read line: %w", err)
		}
		return m, io.EOF
	}
	if err := json.Unmarshal(s.in.Bytes(), &m); err != nil {
		return m, fmt.Errorf("read line: %w", err)
	}
	return m, nil
}

func (s *session) readAll(ctx context.Context) error {
	for {
		m, err := s.read(ctx)
		if err != nil {
			return err
		}
		if m.Unwatch != "" {
			s.unwatch(m.Unwatch)
		}
		if m.Watch != "" {
			s.watch(m.Watch)
		}
		if m.Use != nil && s.stream.cfg.Seen != nil {
			s.use(m.Use)
		}
	}
}

// use takes note of which names the proxy began and ceased to use.
func (s *session) use(u *api.Use) {
	seen := s.stream.cfg.Seen
	for _, n := range u.Remove {
		switch {
		case s.used[n]:
			delete(s.used, n)
			seen.remove(s.dtab, n)
		case s.omitted > 0:
			s.omit(-1)
		}
	}
	for _, n := range u.Add {
		switch {
		case s.used[n]:
		case len(s.used) >= maxNames || len(n.Path)+len(n.Namespace) > maxUsed:
			s.omit(1)
		default:
			s.used[n] = true
			seen.add(s.dtab, n)
		}
	}
}

// omit says that the proxy uses so many more names that are not noted.
func (s *session) omit(more int) {
	if more != 0 {
		s.omitted += more
		s.stream.cfg.Seen.omit(s.dtab, more)
	}
}

// writeAll sends what is dirty, many messages a flush, and heartbeats when nothing is.
func (s *session) writeAll(ctx context.Context) error {
	heartbeat := time.NewTicker(api.Heartbeat)
	defer heartbeat.Stop()
	var extended time.Time
	beat := true // tells the proxy that it is admitted, whatever else is known
	for {
		// A peer that takes nothing for so long hears no heartbeat either: it is gone, or
		// might as well be.
		if now := time.Now(); now.Sub(extended) > extendEvery {
			extended = now
			s.out.SetWriteDeadline(now.Add(api.Silence))
		}
		wrote := false
		write := func(line []byte) error {
			wrote = true
			_, err := s.w.Write(line)
			return err
		}
		var err error
		if beat {
			err = write(heartbeatLine)
		}
		for _, sub := range s.take() {
			if line, seq := sub.topic.state(); seq != sub.sent && err == nil {
				sub.sent = seq
				err = write(line)
			}
		}
		if wrote && err == nil {
			err = s.out.Flush()
			heartbeat.Reset(api.Heartbeat)
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		beat = false
		select {
		case <-s.wake:
		case <-heartbeat.C:
			beat = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
