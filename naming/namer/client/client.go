// Package client is the proxy's side of the namer's stream: it keeps the policy, the namers, the
// dtab, the rules of ConfigMaps, the replica sets that are asked for and, for a host proxy, the
// pods of the node up to date, and tells the namer which names are in use.
//
// It resolves nothing and knows nothing of requests. It only holds what the namer last said.
//
// Invariant: what was known stays known. While the namer is away, or has just started and
// knows little, the last values stand; they are replaced by newer knowledge and never by
// the lack of it.
//
//	c, err := client.New(client.Config{URL: "https://tulle-controller:4181", TLS: config, Token: token, Hello: hello, Logger: log})
//	go c.Run(ctx)
//	replicas, release := c.Replicas("/#/io.l5d.k8s/default/80/world")
//	defer release()
//	r, changed := replicas.Watch()
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// Waits between attempts to connect. The first is short, for a controller that restarts is
// back in a moment; the last bounds the time a mesh needs to find a controller that was away
// for long. Each is spread over half to one and a half of it, lest all proxies come at once.
const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// Config is what a Client works with.
type Config struct {
	// URL is the base URL of the mesh API. With http it speaks HTTP/2 in clear text.
	URL string
	// TLS says whom to trust; nil means the system's roots. It is not used with http.
	TLS *tls.Config
	// Token returns the bearer token to show, anew at every connection; nil shows none.
	Token func() (string, error)
	// Hello says who we are.
	Hello api.Hello
	// InUse returns the names that are bound at present, in any order; it is asked at the
	// beginning of a stream, at every heartbeat and after Used. Nil reports none.
	InUse  func() []api.Name
	Logger *slog.Logger
	// Dial connects to the host and port of URL; nil means TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client follows the namer. Its methods may be called concurrently.
type Client struct {
	cfg Config
	url *url.URL

	policy   watch.Value[*api.Policy]
	namers   watch.Value[*api.Namers]
	dtab     watch.Value[*naming.Dtab]
	pods     watch.Value[[]api.Pod]
	rules    map[api.ConfigMap]*rules // those of Config.Hello; not modified after New
	state    atomic.Pointer[State]
	heard    atomic.Int64  // Unix nanoseconds
	synced   chan struct{} // closed when the dtab, and the pods if we need them, have come
	isSynced bool          // by the goroutine of Run alone

	// changed has one token when names may differ from what the namer was told.
	changed chan struct{}
	// used has one token when there may be names in use that the namer was not told of.
	used chan struct{}

	mu    sync.Mutex
	names map[string]*name
}

// name is a replica set that somebody follows. The value is never set with Client.mu held,
// for its hooks may call back into us.
type name struct {
	replicas watch.Value[naming.Replicas]
	users    int // guarded by Client.mu
}

// New returns a Client that knows nothing yet. It fails if the URL is no http or https URL.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("read the URL of the namer: %w", err)
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("read the URL of the namer: %q is not of the form https://host:port", cfg.URL)
	}
	c := &Client{
		cfg:     cfg,
		url:     u.JoinPath(api.WatchPath),
		synced:  make(chan struct{}),
		changed: make(chan struct{}, 1),
		used:    make(chan struct{}, 1),
		names:   map[string]*name{},
		rules:   map[api.ConfigMap]*rules{},
	}
	for _, m := range cfg.Hello.ConfigMaps {
		c.rules[m] = &rules{}
	}
	c.state.Store(&State{})
	return c, nil
}

// Policy returns the policy of the mesh as text, live; nil as long as it is not known, which
// is forever if the namer has none. A hook of Notify has returned before what the namer sent
// after the policy is taken in.
func (c *Client) Policy() *watch.Value[*api.Policy] { return &c.policy }

// Namers returns the namers of the mesh as text, live; nil as long as they are not known, which
// is forever if the namer has none to send. As with the policy, a hook of Notify has returned
// before what the namer sent after it is taken in.
func (c *Client) Namers() *watch.Value[*api.Namers] { return &c.namers }

// Dtab returns the base dtab, live; nil as long as it is not known.
func (c *Client) Dtab() *watch.Value[*naming.Dtab] { return &c.dtab }

// Pods returns the pods of our node, live; nil as long as they are not known, which is
// forever unless we are a host proxy.
func (c *Client) Pods() *watch.Value[[]api.Pod] { return &c.pods }

// State is how it stands with the stream.
type State struct {
	Connected bool
	// Since is when the stream came up or was lost; zero before the first one.
	Since time.Time
	// Err is why the last attempt failed; nil while connected and before the first.
	Err error
}

// State returns how it stands with the stream now.
func (c *Client) State() State { return *c.state.Load() }

// Heard is when the namer's last word came, a heartbeat included; zero before the first.
func (c *Client) Heard() time.Time {
	if at := c.heard.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Connected reports whether the namer answers now.
func (c *Client) Connected() bool { return c.state.Load().Connected }

// Synced is closed once the first dtab has come and, for a host proxy, the first pods. It
// stays closed whatever happens later.
func (c *Client) Synced() <-chan struct{} { return c.synced }

// Replicas returns the live state of a bound name until release is called: pending, then
// what the namer says. It neither blocks nor fails. All who follow one name share the value;
// release may be called more than once.
func (c *Client) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.names[id]
	if n == nil {
		n = &name{}
		c.names[id] = n
		signal(c.changed)
	}
	n.users++
	var once sync.Once
	return &n.replicas, func() {
		once.Do(func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if n.users--; n.users == 0 {
				delete(c.names, id)
				signal(c.changed)
			}
		})
	}
}

// Used says that there may be more names in use: the namer is told at once, but at most every
// second. It neither blocks nor asks.
func (c *Client) Used() { signal(c.used) }

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run keeps a stream to the namer open until ctx ends, and returns nil then. Every failure
// is a reason to try again.
func (c *Client) Run(ctx context.Context) error {
	backoff, quiet := minBackoff, false
	for {
		err := c.stream(ctx)
		lost := State{Since: c.State().Since, Err: err}
		served := c.Connected()
		if served {
			lost.Since = time.Now()
		}
		c.state.Store(&lost)
		if ctx.Err() != nil {
			return nil
		}
		if served {
			backoff, quiet = minBackoff, false
		}
		// One line when it is lost, one when it is found: retries are no news. That the namer
		// ends a stream is no fault: it stops, or the token that was shown has run out.
		level := slog.LevelWarn
		switch {
		case quiet:
			level = slog.LevelDebug
		case served && errors.Is(err, io.EOF):
			level = slog.LevelInfo
		default:
			quiet = true
		}
		wait := backoff/2 + rand.N(backoff)
		c.cfg.Logger.Log(ctx, level, "namer not connected", "url", c.cfg.URL, "error", err, "retry", wait.Round(time.Millisecond))
		backoff = min(2*backoff, maxBackoff)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

var errSilent = fmt.Errorf("the namer has said nothing for %v", api.Silence)

// stream opens one stream and serves it until it breaks. Each has a connection of its own:
// when a peer is taken for dead, nothing of it is used again.
func (c *Client) stream(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer func() {
		if cause := context.Cause(ctx); cause != nil {
			err = cause // what made the connection break, rather than how
		}
	}()
	silence := time.AfterFunc(api.Silence, func() { cancel(errSilent) })
	defer silence.Stop()

	header := http.Header{"Content-Type": {"application/x-ndjson"}}
	if c.cfg.Token != nil {
		token, err := c.cfg.Token()
		if err != nil {
			return err
		}
		header.Set("Authorization", "Bearer "+token)
	}
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	body, lines := io.Pipe()
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer func() { cancel(err) }()
	helpers.Go(func() {
		// The end of the context alone does not reach an HTTP/2 request that waits for
		// more of its body, and a peer that is silent answers no good-bye.
		<-ctx.Done()
		lines.CloseWithError(context.Cause(ctx))
		conn.Close()
	})
	helpers.Go(func() {
		if err := c.send(ctx, lines); err != nil {
			cancel(err)
		}
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.String(), body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	request.Header = header
	response, err := conn.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return fmt.Errorf("open stream: the namer answered %s: %s", response.Status, bytes.TrimSpace(text))
	}
	in := json.NewDecoder(response.Body)
	for {
		var m api.FromNamer
		if err := in.Decode(&m); err != nil {
			return fmt.Errorf("read stream: %w", err)
		}
		silence.Reset(api.Silence)
		c.heard.Store(time.Now().UnixNano())
		if !c.Connected() {
			c.state.Store(&State{Connected: true, Since: time.Now()})
			c.cfg.Logger.Info("namer connected", "url", c.cfg.URL)
		}
		c.receive(m)
	}
}

func (c *Client) connect(ctx context.Context) (*http.ClientConn, error) {
	transport := &http.Transport{
		TLSClientConfig: c.cfg.TLS.Clone(),
		DialContext:     c.cfg.Dial,
		Protocols:       new(http.Protocols),
	}
	transport.Protocols.SetHTTP2(c.url.Scheme == "https")
	transport.Protocols.SetUnencryptedHTTP2(c.url.Scheme == "http")
	port := map[string]string{"https": "443", "http": "80"}[c.url.Scheme]
	address := net.JoinHostPort(c.url.Hostname(), cmp.Or(c.url.Port(), port))
	conn, err := transport.NewClientConn(ctx, c.url.Scheme, address)
	if err != nil {
		return nil, fmt.Errorf("connect to the namer: %w", err)
	}
	return conn, nil
}

// wanted returns a copy of the names that are followed now.
func (c *Client) wanted() map[string]*name {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.names)
}

// receive takes in one message.
func (c *Client) receive(m api.FromNamer) {
	switch {
	case m.Policy != nil:
		if old := c.policy.Get(); old == nil || old.Text != m.Policy.Text {
			c.policy.Set(m.Policy)
		}
	case m.Namers != nil:
		if old := c.namers.Get(); old == nil || old.Text != m.Namers.Text {
			c.namers.Set(m.Namers)
		}
	case m.Dtab != nil:
		dtab, err := naming.ParseDtab(m.Dtab.Text)
		if err != nil {
			// The namer stores no such thing; one of a later version might.
			c.cfg.Logger.Error("dtab kept as it was", "version", m.Dtab.Version, "error", err)
			return
		}
		if old := c.dtab.Get(); old == nil || old.Exact() != dtab.Exact() {
			c.dtab.Set(&dtab)
		}
	case m.Rules != nil:
		if r := c.rules[m.Rules.ConfigMap]; r != nil {
			r.take(m.Rules, c.cfg.Logger)
		}
	case m.Pods != nil:
		pods := m.Pods.Pods
		if pods == nil {
			pods = []api.Pod{}
		}
		if old := c.pods.Get(); old == nil || !slices.Equal(old, pods) {
			c.pods.Set(pods)
		}
	case m.Replicas != nil:
		c.mu.Lock()
		n := c.names[m.Replicas.Name]
		c.mu.Unlock()
		if n == nil {
			return // released while this was on its way
		}
		old, r := n.replicas.Get(), m.Replicas.Replicas
		known := old.State == naming.StateNeg || old.State == naming.StateBound
		if lost := r.State == naming.StatePending || r.State == naming.StateFailed; lost && known {
			return // a namer that cannot know tells us nothing new
		}
		if !r.Equal(old) {
			n.replicas.Set(r)
		}
	}
	if !c.isSynced && c.dtab.Get() != nil && (c.pods.Get() != nil || c.cfg.Hello.Mode != api.ModeHost) {
		c.isSynced = true
		close(c.synced)
	}
}
