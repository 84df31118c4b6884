package router

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/clock"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/sidecar/classify"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/retry"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// maxServices bounds the services that are kept, as callers can invent names.
const maxServices = 1000

// service is what holds for one service name of one namespace, whatever it is
// bound to and whatever overrides its requests carry.
type service struct {
	name    string
	budget  *retry.Budget
	metrics *telemetry.Service
	terms   atomic.Pointer[terms]
	active  atomic.Int64 // requests under way
	used    atomic.Int64 // in the time of package clock
	evicted atomic.Bool  // services.get makes another
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

// services holds those in use. Names remember theirs, so it is asked once for
// each. It is safe for concurrent use.
type services struct {
	policy  *watch.Value[*policy.Policy]
	metrics *telemetry.Metrics

	mu  sync.Mutex
	all map[[2]string]*service // by namespace and name
}

// get returns the service of a name.
func (s *services) get(namespace, name string) *service {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]string{namespace, name}
	if known := s.all[key]; known != nil {
		return known
	}
	if len(s.all) >= maxServices {
		idlest := key
		for k, v := range s.all {
			if idlest == key || v.used.Load() < s.all[idlest].used.Load() {
				idlest = k
			}
		}
		s.all[idlest].evicted.Store(true)
		delete(s.all, idlest)
	}
	p := s.policy.Get().Service(name)
	made := &service{name: name, budget: retry.NewBudget(budgetOf(p.Retries.Budget)), metrics: s.metrics.Service(name)}
	made.terms.Store(termsOf(p))
	made.used.Store(clock.Now())
	s.all[key] = made
	return made
}

// run makes changes of the policy hold until ctx ends.
func (s *services) run(ctx context.Context) {
	for {
		p, changed := s.policy.Watch()
		s.mu.Lock()
		for key, known := range s.all {
			known.adopt(p.Service(key[1]))
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
