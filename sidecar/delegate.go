package sidecar

import (
	"context"
	"net/http"
	"sync"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/naming/rewrite"
	"github.com/tulle-mesh/tulle/sidecar/admin"
)

// delegate explains, as JSON, what a name means.
func (p *Proxy) delegate(ctx context.Context, q admin.Question) ([]byte, error) {
	r := p.route(q.Router)
	switch {
	case r == nil && q.Router != "":
		return nil, p.noRouter(q.Router)
	case r == nil && len(p.routes) == 1:
		r = p.routes[0]
	}
	var given naming.Dtab
	if q.Dtab != nil {
		given = *q.Dtab
	}
	ask := inquiry{names: p.names, path: q.Path, rules: given}
	if r != nil {
		switch {
		case r.kept:
			given = r.dtab().Concat(given...)
		case q.Dtab == nil:
			given = r.dtab()
		default:
			given = r.binder.Stored().Concat(given...)
		}
		ask = inquiry{names: r.names, path: q.Path, rules: given, transform: r.transform}
	}
	if r != nil && r.configMap != nil && r.stored.Get() == nil {
		if why := r.unruled(p.namer); why != "" {
			return nil, &unruled{why}
		}
	}
	if r != nil && r.namerd != nil { // which has rules before these
		explained, err := r.namerd.Delegate(ctx, q.Path, given, q.Caller)
		if err != nil {
			return nil, &admin.Elsewhere{Who: "the namerd at " + r.namerdAt, Err: err}
		}
		ask.explained = &explained
		return ask.answer(ctx)
	}
	caller := q.Caller
	if caller == "" {
		if p.file != nil { // whose routers have no rule for /caller
			return ask.answer(ctx)
		}
		caller = p.cfg.DefaultNamespace
		if p.mesh != nil && p.cfg.Namespace != "" {
			caller = p.cfg.Namespace
		}
	}
	ask.rules = naming.Dtab{{Prefix: naming.Prefix{"caller"}, Dst: naming.Leaf{"$", rewrite.Service, caller}}}.Concat(ask.rules...)
	return ask.answer(ctx)
}

// unruled is a router whose rules are not known.
type unruled struct{ why string }

func (e *unruled) Error() string { return e.why }

// StatusCode is what to answer with.
func (e *unruled) StatusCode() int { return http.StatusServiceUnavailable }

func (p *Proxy) noRouter(label string) error {
	missing := &admin.NoRouter{Label: label}
	for _, r := range p.routes {
		missing.Routers = append(missing.Routers, r.label)
	}
	return missing
}

// inquiry is one question about a name. It follows what it asks about for as long
// as the question takes.
type inquiry struct {
	names     *names
	path      naming.Path
	rules     naming.Dtab
	transform *registry.Transformation // nil for none
	explained *naming.Delegation       // by a namerd; nil if the rules explain

	news     chan struct{} // has a token after a change
	followed map[string]*watch.Value[naming.Replicas]
	releases []func()
}

// answer returns the steps as soon as all that matters is known.
func (q *inquiry) answer(ctx context.Context) ([]byte, error) {
	q.news, q.followed = make(chan struct{}, 1), map[string]*watch.Value[naming.Replicas]{}
	defer func() {
		for _, release := range q.releases {
			release()
		}
	}()
	for {
		resolve := q.names.Resolver(q.state)
		var d naming.Delegation
		if q.explained != nil {
			d = *q.explained
		} else {
			d = naming.Delegate(q.rules, q.path, resolve)
		}
		if q.transform != nil {
			d = d.Transform(q.transform.String(), func(b naming.Bound) naming.BoundTree {
				t, err := q.transform.Apply(naming.BoundTree{Kind: naming.BoundLeaf, Leaf: b}, resolve)
				if err != nil {
					return naming.BoundTree{Kind: naming.BoundFail}
				}
				return t
			})
		}
		open := d.Pending()
		text := d.JSON(func(id naming.Path) naming.Replicas {
			r := q.state(id)
			open = open || r.State == naming.StatePending
			return r
		})
		if !open {
			return text, nil
		}
		select {
		case <-q.news:
		case <-ctx.Done():
			if !d.Pending() {
				return text, nil // what it leads to is known, if not how that is
			}
			return nil, context.Cause(ctx)
		}
	}
}

func (q *inquiry) state(id naming.Path) naming.Replicas {
	text := id.String()
	value := q.followed[text]
	if value == nil {
		var release func()
		value, release = q.names.Replicas(text)
		unhook := value.Notify(func() {
			select {
			case q.news <- struct{}{}:
			default:
			}
		})
		q.followed[text] = value
		q.releases = append(q.releases, sync.OnceFunc(func() { unhook(); release() }))
	}
	return value.Get()
}
