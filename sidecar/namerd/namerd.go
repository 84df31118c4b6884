// Package namerd follows what a namerd says of names, ours or the one of Linkerd
// 1.x, over its HTTP API: what a path is bound to by the rules that it keeps, and
// the endpoints of what came out.
//
// It evaluates and routes nothing. Each thing that is followed is one answer without
// an end, on a connection of its own in HTTP/1.1, for that is what the original speaks;
// over TLS and with a bearer token where a Config says so. Endpoints are gone to directly: proxies in front of them that a
// namerd tells of are left out.
//
// Invariant: only knowledge replaces knowledge. While namerd is away, has just
// started, or cannot say what it said before, the last tree and the last endpoints
// stand.
//
//	c, err := namerd.New(namerd.Config{Address: "namerd.test:4180", Namespace: "internal", Logger: log})
//	go c.Run(ctx)
//	tree, release := c.Bind(naming.Path{"svc", "world"}, nil, changed)
//	defer release()
//	replicas, leave := c.Replicas("/#/io.l5d.k8s/default/http/world-v1")
//	defer leave()
package namerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
)

// What holds where a Config says nothing. The waits are those of Linkerd 1.x.
const (
	DefaultBase      = 5 * time.Second
	DefaultMax       = 10 * time.Minute
	DefaultNamespace = "default"
	DefaultStreams   = 2048
)

// Retry is how long to wait before namerd is asked again: Base after the first failure
// and twice as long after each further one, up to Max. Each wait is spread over its
// second half, lest all proxies come at once.
type Retry struct{ Base, Max time.Duration }

// Config is what a Client works with. Fields that are zero have their default.
type Config struct {
	// Address is the host:port of namerd's HTTP API, or a URL that stands in front of
	// /api/1, such as http://host:port/prefix.
	Address   string
	Namespace string // whose rules count
	Retry     Retry
	// Streams bounds the connections, for names and for replica sets each. What finds no
	// room has failed until there is some.
	Streams int
	// Beside is another Client of the same namerd, if there is one: once one of them finds it
	// again after it was away, so do all.
	Beside *Client
	// TLS is how namerd is trusted; nil speaks in clear text.
	TLS *TLS
	// Token returns the bearer token to show, read for every request, for it is replaced
	// from time to time; empty shows none, as nil does. Whoever listens has it without TLS.
	Token func() (string, error)
	// Dial connects to namerd; the default is TCP with keep-alives that notice within
	// half a minute that nobody is there any more.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Logger *slog.Logger // discards
}

// Client follows one namerd. Its methods may be called concurrently.
type Client struct {
	cfg       Config
	base      *url.URL // of /api/1
	transport *http.Transport

	// Nothing is called with it held: who is told of a change may be asking something.
	mu    sync.Mutex
	run   context.Context // of Run, while it runs
	wg    sync.WaitGroup  // of streams; grows only with mu held and run set
	names topics[bound]
	sets  topics[naming.Replicas]

	open     int // streams that are up
	refusals uint64
	state    State
	back     *comeback // shared with those beside
}

// State is how it stands with namerd.
type State struct {
	Connected bool
	// Since is when the first stream came up or the last one was lost; zero before any.
	Since time.Time
	// Err is why namerd could not be asked, nil while connected and before it was asked.
	Err error
	// Refused is set if namerd is there and answers nothing to this proxy because of who
	// it is; Hint then says what may be done.
	Refused bool
	Hint    string
}

// New returns a Client that knows nothing yet and connects to nothing.
func New(c Config) (*Client, error) {
	base, err := baseURL(c.Address, c.TLS != nil)
	if err != nil {
		return nil, err
	}
	if c.Namespace == "" {
		c.Namespace = DefaultNamespace
	}
	if c.Retry.Base <= 0 {
		c.Retry.Base = DefaultBase
	}
	if c.Retry.Max <= 0 {
		c.Retry.Max = DefaultMax
	}
	c.Retry.Max = max(c.Retry.Base, c.Retry.Max)
	if c.Streams <= 0 {
		c.Streams = DefaultStreams
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{
			Timeout: 5 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
		}).DialContext
	}
	t := &http.Transport{
		DialContext: c.Dial, Protocols: new(http.Protocols), DisableCompression: true,
		// An answer ends when something is wrong; then nothing of the connection is used again.
		DisableKeepAlives: true, ResponseHeaderTimeout: 30 * time.Second,
	}
	t.Protocols.SetHTTP1(true)
	if c.TLS != nil {
		t.DialTLSContext = c.dialTLS
	}
	back := &comeback{next: make(chan struct{})}
	if c.Beside != nil {
		back = c.Beside.back
	}
	return &Client{
		cfg: c, base: base, transport: t, back: back,
		names: newTopics[bound](c.Streams), sets: newTopics[naming.Replicas](c.Streams),
	}, nil
}

func baseURL(address string, encrypted bool) (*url.URL, error) {
	text, scheme := address, "http"
	if encrypted {
		scheme = "https"
	}
	if !strings.Contains(text, "://") {
		text = scheme + "://" + text
	}
	u, err := url.Parse(text)
	if err == nil && (u.Scheme != scheme || u.Hostname() == "" || u.RawQuery != "" || u.User != nil) {
		err = fmt.Errorf("want host:port or %s://host:port", scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("read the address of namerd, %q: %w", address, err)
	}
	return u.JoinPath("api", "1"), nil
}

// Run asks namerd and keeps asking until ctx ends, and returns nil then. Before, after
// and without it nothing becomes known, and what is known stands.
func (c *Client) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	c.run = ctx
	for _, t := range c.names.all {
		c.start(t.stream)
	}
	for _, t := range c.sets.all {
		c.start(t.stream)
	}
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	c.run = nil
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}

// State returns how it stands with namerd now.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// bound is what is known of a name: a tree, or why there is none. The zero bound is
// pending.
type bound struct {
	tree naming.BoundTree
	err  error
}

// Bind follows what path means by the rules of the namespace and further ones, which
// win, until release is called. get neither blocks nor allocates: it is pending until
// namerd has answered, and keeps what it said last; its error says why there is nothing
// to keep. changed is called after get has changed, must be quick, and may be called
// once more after release. All who follow the same share one stream.
func (c *Client) Bind(path naming.Path, rules naming.Dtab, changed func()) (get func() (naming.BoundTree, error), release func()) {
	query := url.Values{"path": {path.String()}}
	if len(rules) > 0 {
		query.Set("dtab", rules.Exact())
	}
	value, leave := follow(c, &c.names, "bind", query, takeName, refuseName)
	unhook := value.Notify(changed)
	return func() (naming.BoundTree, error) {
			b := value.Get()
			return b.tree, b.err
		}, func() {
			unhook()
			leave()
		}
}

// Replicas returns the live replica set of a bound id until release is called: pending,
// then what namerd says, or failed if it says that it cannot say. It neither blocks nor
// fails. All who follow one id share the value.
func (c *Client) Replicas(id string) (value *watch.Value[naming.Replicas], release func()) {
	return follow(c, &c.sets, "addr", url.Values{"path": {id}}, takeReplicas, refuseReplicas)
}

func takeName(line []byte, known bound) (bound, error) {
	var d naming.Delegation
	if err := json.Unmarshal(line, &d); err != nil {
		return known, fmt.Errorf("read what namerd says: %w", err)
	}
	tree, err := d.BoundTree()
	switch {
	case err != nil:
		return known, err
	case tree.Kind == naming.BoundPending, known.err == nil && reflect.DeepEqual(tree, known.tree): // only endpoints changed
		return known, errSame
	}
	return bound{tree: tree}, nil
}

func refuseName(err error, known bound) (bound, bool) {
	if known.tree.Kind != naming.BoundPending || known.err != nil && known.err.Error() == err.Error() {
		return known, false
	}
	return bound{err: err}, true
}

func takeReplicas(line []byte, known naming.Replicas) (naming.Replicas, error) {
	var a naming.Addr
	if err := json.Unmarshal(line, &a); err != nil {
		return known, fmt.Errorf("read what namerd says: %w", err)
	}
	next := naming.Replicas(a)
	if next.State == naming.StateFailed {
		return known, errors.New(next.Cause)
	}
	for i := range next.Endpoints {
		e := &next.Endpoints[i]
		e.Hop, e.Via, e.Identity = naming.HopNone, "", ""
	}
	if next.State == naming.StateNeg && known.State == naming.StateBound {
		// The name that led here is about to lead elsewhere, or nowhere, which its own stream says. It is waited for:
		// a moment without either would fail requests that an alternative is there for.
		return naming.Replicas{State: naming.StatePending}, nil
	}
	if next.State == naming.StatePending || next.Equal(known) {
		return known, errSame
	}
	return next, nil
}

func refuseReplicas(err error, known naming.Replicas) (naming.Replicas, bool) {
	next := naming.Replicas{State: naming.StateFailed, Cause: err.Error()}
	if known.State == naming.StateBound || known.State == naming.StateNeg || next.Equal(known) {
		return known, false
	}
	return next, true
}
