package namer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// recheckEvery is how often it is asked whether who follows something over the API still may.
	recheckEvery = time.Minute
	// readmitEvery is how often, within a half, that is asked of a proxy: each question is one to
	// the API server, and there may be thousands of proxies.
	readmitEvery = 10 * time.Minute
	// retryAfter is what callers with too many streams are told to wait.
	retryAfter = 10 * time.Second
)

// guarded returns a context that ends with the refusal when check first refuses with 401 or 403;
// it asks about every so often. That it cannot be found out is no refusal: what follows something
// while Kubernetes is away goes on. The caller must call stop, after which nothing is asked.
func guarded(ctx context.Context, every time.Duration, check func(context.Context) error) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		timer := time.NewTimer(every)
		defer timer.Stop()
		for {
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			if err := check(ctx); err != nil && ctx.Err() == nil {
				switch statusOf(err) {
				case http.StatusUnauthorized, http.StatusForbidden:
					cancel(fmt.Errorf("no longer allowed: %w", err))
					return
				}
			}
			timer.Reset(every)
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}

// around spreads a time over half to one and a half of it, lest all come at once.
func around(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// crowd counts the streams of each caller. The zero crowd is empty.
type crowd struct {
	mu      sync.Mutex
	streams map[string]int
}

// tooMany is a caller that has as many streams as one may.
type tooMany struct {
	who   string
	limit int
}

func (e *tooMany) Error() string {
	return fmt.Sprintf("%s has %d streams open, the most that one caller may: end some, or follow less", e.who, e.limit)
}

// StatusCode is the HTTP status to answer with.
func (e *tooMany) StatusCode() int { return http.StatusTooManyRequests }

// enter counts one more stream of a caller until leave is called, or says that there are too many.
func (c *crowd) enter(who string, limit int) (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[who] >= limit {
		return nil, &tooMany{who, limit}
	}
	if c.streams == nil {
		c.streams = map[string]int{}
	}
	c.streams[who]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.streams[who]--; c.streams[who] == 0 {
			delete(c.streams, who)
		}
	}, nil
}

// caller is who sent a request, for crowd: a name together with where it comes from, since many
// machines may show the token of one service account, and many people come from one address.
func caller(r *http.Request, by string) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if by == "" || by == host {
		return host
	}
	return by + " at " + host
}

// setRetry adds to the header of a refusal when to come again.
func setRetry(w http.ResponseWriter, err error) {
	if errors.As(err, new(*tooMany)) {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
}

// PlainHost reports whether the Host of a request is localhost or an address, which no web page can
// have resolve to anything else: one that has its own name resolve to this machine's loopback is,
// to the browser, a page of ours.
func PlainHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}
