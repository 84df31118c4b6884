package sidecar

import (
	"context"
	"net/http"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/handover"
)

// linger is how long a proxy that was replaced and then told to stop leaves idle
// connections to their clients, counted from when it was replaced: who sends a
// request in this time is told to come back on a new connection. With grace it
// is within the thirty seconds that Kubernetes gives a pod.
const linger = 8 * time.Second

const (
	// shortPatience is how long a proxy tries to listen where somebody waits for
	// it to say what is wrong.
	shortPatience = 5 * time.Second
	// longPatience is the same for a host proxy, which the kubelet would start
	// again and again, each time later: whoever removes what is in the way waits
	// for it. The startup probe of the chart has less.
	longPatience = 15 * time.Minute
)

// Serving reports whether the proxy that runs with these settings has its
// listeners. A host proxy's own port cannot tell: while a node's proxy is
// replaced, it is the other one that answers.
func Serving(ctx context.Context, cfg Config) error {
	return handover.Serving(ctx, cfg.Handover, cfg.PodName)
}

// handover says how a proxy replaces another one, and is replaced.
func (p *Proxy) handover() handover.Config {
	cfg := handover.Config{Socket: p.cfg.Handover, Name: p.cfg.PodName, Linger: p.linger, Logger: p.log}
	if p.mesh == nil {
		cfg.Exit, cfg.Patience = true, shortPatience
		return cfg
	}
	// Whoever is a host proxy of this mesh, and nobody else.
	id := p.mesh.identity.ID()
	cfg.Server, cfg.Client = p.mesh.identity.ServerTLS(id), p.mesh.identity.ClientTLS(id)
	cfg.Ready, cfg.Patience = p.mesh.ready, longPatience
	return cfg
}

// leaving reports whether another process serves in place of this one.
func (p *Proxy) leaving() bool { return p.listeners != nil && p.listeners.Leaving() }

// closing makes the connections of h end after their next answer while p is
// leaving.
func (p *Proxy) closing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.leaving() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}
