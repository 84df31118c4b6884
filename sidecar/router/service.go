package router

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/sidecar/classify"
	"github.com/tulle-mesh/tulle/sidecar/client"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/retry"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// service is what holds for one service name of one namespace, whatever it is
// bound to and whatever overrides its requests carry.
type service struct {
	name    string
	budget  *retry.Budget
	metrics *telemetry.Service
	terms   atomic.Pointer[terms]
	active  atomic.Int64      // requests under way
	used    atomic.Int64      // in the time of package clock
	evicted atomic.Bool       // services.get makes another
	routes  map[string]*route // by the client's id; guarded by services.mu
}

// route counts a service's requests that went to one client.
type route struct {
	client  *client.Client
	metrics *telemetry.Route
}

// terms are a service's policy in the words of the parts.
type terms struct {
	policy.Service
	classifier classify.Kind
	backoff    retry.Backoff
}

func termsOf(p policy.Service) *terms {
	kind, _ := classify.Parse(p.ResponseClassifier) // the policy has been checked
	return &terms{Service: p, classifier: kind, backoff: retry.Backoff{Min: p.Retries.Backoff.Min, Max: p.Retries.Backoff.Max}}
}

func budgetOf(b policy.Budget) retry.Config {
	return retry.Config{MinPerSec: b.MinPerSec, PercentCanRetry: b.PercentCanRetry, TTL: b.TTL}
}

func (s *service) adopt(p policy.Service) {
	if s.terms.Load().Service == p {
		return
	}
	s.budget.SetConfig(budgetOf(p.Retries.Budget))
	s.terms.Store(termsOf(p))
}

// services holds those in use, within bounds, as callers can invent names. Names remember theirs, so it is asked once for
// each. It is safe for concurrent use.
type services struct {
	router  string // its label in metrics
	policy  *watch.Value[*policy.Policy]
	metrics *telemetry.Metrics
	limit   int           // how many are kept
	idleTTL time.Duration // how long an unused one is kept

	mu  sync.Mutex
	all map[[2]string]*service // by namespace and name
}

// get returns the service of a name, and what counts its requests to a client.
func (s *services) get(namespace, name string, c *client.Client) (*service, *telemetry.Route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]string{namespace, name}
	known := s.all[key]
	if known == nil {
		if len(s.all) >= s.limit {
			s.evictIdlest()
		}
		p := s.policy.Get().Service(name)
		known = &service{
			name: name, budget: retry.NewBudget(budgetOf(p.Retries.Budget)), metrics: s.metrics.Service(name), routes: map[string]*route{},
		}
		known.terms.Store(termsOf(p))
		s.all[key] = known
	}
	known.used.Store(clock.Now())
	r := known.routes[c.ID]
	if r == nil {
		if len(known.routes) >= maxBindings {
			s.prune(known)
		}
		r = &route{metrics: s.metrics.Route(s.router, name, c.ID)}
		known.routes[c.ID] = r
	}
	r.client = c
	return known, r.metrics
}

func (s *services) evictIdlest() {
	var idlest [2]string
	for k, v := range s.all {
		if first := s.all[idlest]; first == nil || v.used.Load() < first.used.Load() {
			idlest = k
		}
	}
	s.evict(idlest)
}

// evict forgets a service, and what was counted of it.
func (s *services) evict(key [2]string) {
	known := s.all[key]
	delete(s.all, key)
	known.evicted.Store(true)
	for _, r := range known.routes {
		s.metrics.ForgetRoute(r.metrics)
	}
	s.metrics.ForgetService(known.metrics)
}

// prune forgets what was counted of clients that are no more.
func (s *services) prune(known *service) {
	for id, r := range known.routes {
		if r.client.Closed() {
			s.metrics.ForgetRoute(r.metrics)
			delete(known.routes, id)
		}
	}
}

// sweep forgets what was not used since then.
func (s *services) sweep(since int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, known := range s.all {
		if known.used.Load() < since && known.active.Load() == 0 {
			s.evict(key)
		} else {
			s.prune(known)
		}
	}
}

// run makes changes of the policy hold, and forgets idle services, until ctx ends.
func (s *services) run(ctx context.Context) {
	tick := time.NewTicker(min(time.Minute, max(s.idleTTL/2, time.Second)))
	defer tick.Stop()
	for {
		p, changed := s.policy.Watch()
		s.mu.Lock()
		for key, known := range s.all {
			known.adopt(p.Service(key[1]))
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-tick.C:
			s.sweep(clock.Now() - int64(s.idleTTL))
		case <-ctx.Done():
			return
		}
	}
}
