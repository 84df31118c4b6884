package namerd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
)

const (
	// spread is over how long all streams come back at most once namerd is there.
	spread = time.Second
	// maxRefused bounds the wait after a refusal. Namerd is there, and what it refuses may
	// be put right at any time by who writes the rules.
	maxRefused = 30 * time.Second
	// maxLine is the largest state in bytes: some hundred thousand endpoints.
	maxLine = 16 << 20
	// maxText is how much of an error is kept.
	maxText = 1 << 10
)

var (
	errSame   = errors.New("nothing new")
	errEnded  = errors.New("namerd has ended its answer")
	errNoRoom = errors.New("this proxy follows too many names at namerd at the moment")
)

// refusal is an answer that is none: namerd is there, and says why it cannot answer.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// topics are what is followed of one kind, by the query of the request.
type topics[T any] struct {
	all   map[string]*topic[T]
	slots chan struct{} // has a token for each stream
}

// topic is one thing that is followed, and what is known of it.
type topic[T any] struct {
	value  watch.Value[T]
	users  int // guarded by Client.mu
	stream *stream
}

// stream is how a topic is asked for.
type stream struct {
	path, url string
	slots     chan struct{}
	ctx       context.Context // ends once nobody follows the topic
	stop      context.CancelFunc
	// take takes in a state, by the goroutine of the stream. The error is a refusal.
	take func(line []byte) error
	// refuse says that there is no answer, and is false if there is one to keep, or that
	// is known.
	refuse func(error) bool
}

func newTopics[T any](streams int) topics[T] {
	return topics[T]{all: map[string]*topic[T]{}, slots: make(chan struct{}, streams)}
}

// follow returns the live value of what a request is answered until release is called.
// take returns the next value, or errSame; refuse returns what takes the place of known
// because of err, if anything does.
func follow[T any](
	c *Client, topics *topics[T], route string, query url.Values,
	take func(line []byte, known T) (T, error), refuse func(err error, known T) (T, bool),
) (value *watch.Value[T], release func()) {
	key := query.Encode()
	c.mu.Lock()
	defer c.mu.Unlock()
	t := topics.all[key]
	if t == nil {
		t = &topic[T]{}
		u := c.base.JoinPath(route, url.PathEscape(c.cfg.Namespace))
		u.RawQuery = key + "&watch=true"
		s := &stream{path: query.Get("path"), url: u.String(), slots: topics.slots}
		s.ctx, s.stop = context.WithCancel(context.Background())
		s.take = func(line []byte) error {
			next, err := take(line, t.value.Get())
			if err == nil {
				t.value.Set(next)
			} else if errors.Is(err, errSame) {
				err = nil
			}
			return err
		}
		s.refuse = func(err error) bool {
			next, ok := refuse(err, t.value.Get())
			if ok {
				t.value.Set(next)
			}
			return ok
		}
		t.stream = s
		topics.all[key] = t
		if c.run != nil {
			c.start(s)
		}
	}
	t.users++
	return &t.value, sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(topics.all, key)
			t.stream.stop()
		}
	})
}

// start is called with mu held, while Run runs.
func (c *Client) start(s *stream) {
	run := c.run
	c.wg.Go(func() {
		ctx, cancel := context.WithCancel(run)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		c.keep(ctx, s)
	})
}

// keep keeps a stream open until ctx ends.
func (c *Client) keep(ctx context.Context, s *stream) {
	select {
	case s.slots <- struct{}{}:
	default:
		s.refuse(errNoRoom)
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
	defer func() { <-s.slots }()
	base := c.cfg.Retry.Base
	wait := base
	for {
		back := c.back.wait() // before it is asked, so that it is not missed
		opened, err := c.read(ctx, s)
		if ctx.Err() != nil {
			return
		}
		lasted := !opened.IsZero() && time.Since(opened) >= base
		if lasted {
			wait = base
		}
		refused, denied := errors.As(err, new(refusal)), errors.As(err, new(denial))
		if refused {
			wait = min(wait, max(maxRefused, base))
		}
		now := wait/2 + rand.N(wait/2+1)
		switch {
		case refused:
			level := slog.LevelDebug      // one line is enough
			if s.refuse(err) && !denied { // that is told once for all
				level = slog.LevelWarn
			}
			c.cfg.Logger.Log(ctx, level, "namerd refuses a name", "namerd", c.cfg.Address, "path", s.path, "error", err)
			wait *= 2
			if !denied {
				back = nil
			}
		case lasted: // another one may be there at once
			now = rand.N(min(spread, base))
		default:
			wait = min(2*wait, c.cfg.Retry.Max)
		}
		if pause(ctx, now, back) {
			wait = base
			pause(ctx, rand.N(min(spread, base)), nil)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// pause waits for d, or until ctx ends or early is closed; it is true for the latter.
func pause(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-early:
		return true
	}
	return false
}

// read takes in one answer until it ends, which it never does for a good reason. opened
// is when it began, zero if namerd did not answer.
func (c *Client) read(ctx context.Context, s *stream) (opened time.Time, err error) {
	defer func() {
		if err != nil && !errors.As(err, new(refusal)) && ctx.Err() == nil {
			c.lost(err)
		}
	}()
	response, err := c.get(ctx, s.url)
	var denied denial
	switch {
	case errors.As(err, &denied):
		if ctx.Err() == nil {
			c.denied(denied)
		}
		return opened, err
	case errors.As(err, new(refusal)): // it is there
		c.opened()
		defer c.closed()
		return opened, err
	case err != nil:
		return opened, err
	}
	defer response.Body.Close()
	c.opened()
	defer c.closed()
	opened = time.Now()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxLine)
	lines.Split(whole)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		if line[0] != '{' {
			return opened, refusal{fmt.Errorf("namerd: %s", line[:min(len(line), maxText)])}
		}
		if err := s.take(line); err != nil {
			return opened, refusal{err}
		}
	}
	if err := lines.Err(); err != nil {
		return opened, fmt.Errorf("read what namerd says: %w", err)
	}
	return opened, errEnded
}

// whole splits off lines that are complete: the rest of an answer that broke means
// nothing.
func whole(data []byte, _ bool) (advance int, line []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	return 0, nil, nil
}

// comeback tells all who wait for a namerd that it is there after it was not.
type comeback struct {
	mu   sync.Mutex
	next chan struct{} // closed then
}

func (b *comeback) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next
}

func (b *comeback) now() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.next)
	b.next = make(chan struct{})
}

// opened is called when namerd has answered, and closed when that answer is over.
func (c *Client) opened() {
	c.mu.Lock()
	c.open++
	news := !c.state.Connected
	if news {
		c.state = State{Connected: true, Since: time.Now()}
	}
	c.mu.Unlock()
	if news {
		c.back.now()
		c.cfg.Logger.Info("namerd connected", "namerd", c.cfg.Address)
	}
}

func (c *Client) closed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
}

// lost is called when namerd did not answer or broke off.
func (c *Client) lost(err error) {
	c.mu.Lock()
	level := slog.LevelDebug
	if c.open == 0 {
		if c.state.Connected {
			c.state.Since = time.Now()
		}
		if c.state.Err == nil || c.state.Refused {
			level = slog.LevelWarn // one line when it is lost, one when it is found
		}
		c.state = State{Since: c.state.Since, Err: err}
	}
	c.mu.Unlock()
	c.cfg.Logger.Log(context.Background(), level, "namerd not connected", "namerd", c.cfg.Address, "error", err)
}
