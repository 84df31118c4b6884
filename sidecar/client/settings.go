package client

import (
	"github.com/tulle-mesh/tulle/sidecar/accrual"
	"github.com/tulle-mesh/tulle/sidecar/balance"
	"github.com/tulle-mesh/tulle/sidecar/policy"
	"github.com/tulle-mesh/tulle/sidecar/pool"
	"github.com/tulle-mesh/tulle/sidecar/retry"
)

// What follows says the operator's words in those of the parts.

func balancer(p *policy.Client) balance.Config {
	b := &p.LoadBalancer
	kinds := map[string]balance.Kind{
		policy.P2C: balance.P2C, policy.EWMA: balance.EWMA, policy.Aperture: balance.Aperture, policy.RoundRobin: balance.RoundRobin,
	}
	return balance.Config{
		Kind: kinds[b.Kind], MaxEffort: b.MaxEffort, DecayTime: b.DecayTime, SmoothWindow: b.SmoothWindow,
		LowLoad: b.LowLoad, HighLoad: b.HighLoad, MinAperture: b.MinAperture,
	}
}

func ejection(p *policy.Client) accrual.Config {
	f := &p.FailureAccrual
	kinds := map[string]accrual.Kind{
		policy.ConsecutiveFailures: accrual.Consecutive, policy.SuccessRate: accrual.SuccessRate,
		policy.SuccessRateWindowed: accrual.Windowed, policy.NoAccrual: accrual.None,
	}
	return accrual.Config{
		Kind: kinds[f.Kind], Failures: f.Failures, SuccessRate: f.SuccessRate, Requests: f.Requests, Window: f.Window,
		Backoff: accrual.Backoff{Min: f.Backoff.Min, Max: f.Backoff.Max},
	}
}

func limits(p *policy.Client) pool.Limits {
	c := &p.ConnectionPool
	l := pool.Limits{MinIdle: c.MinSize, MaxOpen: c.MaxSize, Waiters: c.MaxWaiters, Idle: c.IdleTime, Life: p.Session.LifeTime}
	if s := p.Session.IdleTime; s > 0 && (l.Idle == 0 || s < l.Idle) {
		l.Idle = s
	}
	return l
}

func budget(b policy.Budget) retry.Config {
	return retry.Config{MinPerSec: b.MinPerSec, PercentCanRetry: b.PercentCanRetry, TTL: b.TTL}
}
