// Package dns follows host names: it answers for the bound names
// /$/inet/<host>/<port> with the addresses that DNS has for the host.
//
// A name is looked up again when its records run out, after 30 seconds at the latest
// and after one at the earliest. One that does not resolve has no endpoints; a
// resolver that fails keeps the last answer.
//
//	n := dns.New(dns.Config{})
//	value, release := n.Replicas("/$/inet/example.org/80")
//	defer release()
package dns

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

const (
	// shortest and longest are the times after which a name is looked up again, whatever
	// its records say.
	shortest = time.Second
	longest  = 30 * time.Second
	// retry is the same for a name that has no addresses, the first time; it
	// doubles up to longest, for most of such names are mistakes.
	retry = 3 * time.Second
	// patience bounds one lookup.
	patience = 5 * time.Second
)

// Config is what a Namer works with.
type Config struct {
	// Lookup resolves a host; nil asks System.
	Lookup Lookup
	// Allow says why an address must not be gone to; nil allows all. A name that
	// has no other addresses has failed.
	Allow func(netip.AddrPort) error
}

// Lookup resolves a host that is no address. ttl is how long the answer holds, 0 if that is not
// known. A host that does not exist is a *net.DNSError with IsNotFound. It is called concurrently.
type Lookup func(ctx context.Context, host string) (addresses []netip.Addr, ttl time.Duration, err error)

// Namer follows names. It is safe for concurrent use.
type Namer struct {
	lookup Lookup
	allow  func(netip.AddrPort) error

	mu    sync.Mutex
	names map[string]*name
}

type name struct {
	value watch.Value[naming.Replicas]
	users int
	stop  context.CancelFunc
}

// New returns a Namer that follows nothing.
func New(c Config) *Namer {
	n := &Namer{lookup: c.Lookup, allow: c.Allow, names: map[string]*name{}}
	if n.lookup == nil {
		n.lookup = System
	}
	if n.allow == nil {
		n.allow = func(netip.AddrPort) error { return nil }
	}
	return n
}

// Replicas returns the live addresses of id until release is called. An id that
// is none of this namer's, or whose port is no number, has failed for good.
func (n *Namer) Replicas(id string) (value *watch.Value[naming.Replicas], release func()) {
	path, err := naming.ParsePath(id)
	host, port, ok := rewrite.Inet(path)
	if err != nil || !ok {
		return failed("it is not of the form /$/inet/<host>/<port>, with a port from 1 to 65535")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.names[id]
	if f == nil {
		ctx, stop := context.WithCancel(context.Background())
		f = &name{stop: stop}
		n.names[id] = f
		go n.follow(ctx, f, host, port)
	}
	f.users++
	return &f.value, sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if f.users--; f.users == 0 {
			f.stop()
			delete(n.names, id)
		}
	})
}

func failed(cause string) (*watch.Value[naming.Replicas], func()) {
	return watch.New(naming.Replicas{State: naming.StateFailed, Cause: cause}), func() {}
}

func (n *Namer) follow(ctx context.Context, f *name, host string, port uint16) {
	again := retry
	for {
		addresses, wait, err := n.ask(ctx, host)
		if ctx.Err() != nil {
			return
		}
		var notFound *net.DNSError
		switch {
		case err == nil:
			again = retry
			if next := n.replicas(addresses, port); !next.Equal(f.value.Get()) {
				f.value.Set(next)
			}
		case errors.As(err, &notFound) && notFound.IsNotFound, f.value.Get().State == naming.StatePending:
			if next := naming.Of(); !next.Equal(f.value.Get()) {
				f.value.Set(next)
			}
			wait, again = again, min(2*again, longest)
		default: // keep the last answer
			wait, again = again, min(2*again, longest)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// replicas returns what a name is that has these addresses.
func (n *Namer) replicas(addresses []netip.Addr, port uint16) naming.Replicas {
	var endpoints []naming.Endpoint
	var refused error
	for _, a := range addresses {
		ap := netip.AddrPortFrom(a.Unmap(), port)
		if err := n.allow(ap); err != nil {
			refused = err
			continue
		}
		endpoints = append(endpoints, naming.Endpoint{Address: ap.String(), Weight: 1})
	}
	if len(endpoints) == 0 && refused != nil {
		return naming.Replicas{State: naming.StateFailed, Cause: refused.Error()}
	}
	return naming.Of(endpoints...)
}

// ask returns what a host has, and when to ask again.
func (n *Namer) ask(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
	if a, err := Literal(host); err == nil {
		return []netip.Addr{a}, longest, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	addresses, ttl, err := n.lookup(ctx, host)
	return addresses, min(max(cmp.Or(ttl, longest), shortest), longest), err
}

// Literal parses an address that is written as a host, also one such as 127.1, which Linkerd 1.x
// understands and its documentation is full of.
func Literal(host string) (netip.Addr, error) {
	if last, ok := strings.CutPrefix(host, "127."); ok && !strings.Contains(last, ".") {
		host = "127.0.0." + last
	}
	return netip.ParseAddr(host)
}
