// Package admin serves the pages of a namer's administration port, those that namerd has at port
// 9991: which dtabs there are, a playground on each, and what the namer knows of names.
//
// It keeps nothing: each page asks the store, or a function of its Config. It does not write dtabs:
// the HTTP API of package namer does, which asks who may. It is a slow path.
//
// Invariant: nothing that a page does changes how names are bound. All that it sets is how much
// is logged.
//
//	h := admin.Handler(admin.Config{Store: store, Registry: names, Followed: ledger.Followed, …})
//	http.ListenAndServe("127.0.0.1:9991", h)
package admin

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tulle-mesh/tulle/naming/delegator"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// Followed is a bound name that the namer follows, as a registry.Ledger notes it.
type Followed = registry.Followed

// Config is what the pages show. All functions are called from many goroutines. Those that are
// nil have nothing to say.
type Config struct {
	Store namer.Store
	// Registry answers for names; without one the playground gets 501.
	Registry namer.Registry
	// Followed returns what is followed now, by id: the method of that name of the Ledger that
	// the Registry has.
	Followed func() []Followed
	// BoundNames returns the ids that are known to exist, in any order, as the API has them.
	BoundNames func() []string
	// Names returns the names that the dtab of a namespace is used for, as a namer.Seen does;
	// the playground offers them.
	Names func(namespace string) []api.Name
	// Configuration returns, as what becomes JSON, what the namer was told; nil: no /config.json.
	Configuration func() any
	Metrics       prometheus.Gatherer // nil: no /metrics
	// Ready returns what the namer still waits for, for people; nothing means ready.
	Ready func() []string
	// Level is what /logging shows and sets; nil: it is not to be set, and there is no such page.
	Level *slog.LevelVar
	// Logger gets a line when the level is set; nil: none.
	Logger *slog.Logger
}

// Handler returns the pages:
//
//	/                           the dtab namespaces
//	/dtab/<ns>                  the playground, with the rules of one
//	/dtab/delegator.json        what a name means by rules that are given, step by step; GET and POST
//	/storage/dtabs.json         what is stored
//	/bound-names.json           the ids that exist
//	/namer_state                the ids that are followed, with their endpoints
//	/namer_state/<prefix>.json  those of one namer
//	/config.json                what the namer was told
//	/logging, /logging.json     how much it logs; POST sets it
//	/admin/ping, /admin/ready
//	/metrics                    also /admin/metrics/prometheus
//
// A caller from this machine must say localhost or an address in Host, and so must whoever sets
// something; and no page of another site may POST: the pages are for people with a port-forward,
// whose browsers show other sites too.
func Handler(c Config) http.Handler {
	p := &pages{c}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.index)
	mux.HandleFunc("GET /dtab/{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "../", http.StatusFound) })
	mux.HandleFunc("GET /dtab/{namespace}", p.dtab)
	mux.HandleFunc("GET /dtab/delegator.css", delegator.File)
	mux.HandleFunc("GET /dtab/delegator.js", delegator.File)
	answer := delegator.Answer(p.explain)
	mux.Handle("GET /dtab/delegator.json", answer)
	mux.Handle("POST /dtab/delegator.json", answer)
	mux.HandleFunc("GET /storage/dtabs.json", p.stored)
	mux.HandleFunc("GET /bound-names.json", p.boundNames)
	mux.HandleFunc("GET /namer_state", p.namerState)
	mux.HandleFunc("GET /namer_state/{prefix...}", p.namerState)
	mux.HandleFunc("GET /admin/ping", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "pong") })
	mux.HandleFunc("GET /admin/ready", p.ready)
	if c.Configuration != nil {
		mux.HandleFunc("GET /config.json", func(w http.ResponseWriter, _ *http.Request) { delegator.Show(w, c.Configuration()) })
	}
	if c.Level != nil {
		mux.HandleFunc("GET /logging", p.logging)
		mux.HandleFunc("POST /logging", p.logging)
		mux.HandleFunc("GET /logging.json", p.loggers)
		mux.HandleFunc("POST /logging.json", p.setLogger)
	}
	if c.Metrics != nil {
		metrics := promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{})
		mux.Handle("GET /metrics", metrics)
		mux.Handle("GET /admin/metrics/prometheus", metrics) // where Linkerd 1.x and namerd have them
	}
	return local(http.NewCrossOriginProtection().Handler(mux))
}

// pages is the handlers.
type pages struct{ Config }

// local refuses callers from this machine who found it by a name that anybody could have resolve to it.
func local(pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, _ := netip.ParseAddrPort(r.RemoteAddr)
		if peer.Addr().Unmap().IsLoopback() && !namer.PlainHost(r.Host) {
			http.Error(w, fmt.Sprintf("from this machine the pages are reached as localhost or by an address, not as %q", r.Host), http.StatusForbidden)
			return
		}
		pages.ServeHTTP(w, r)
	})
}

func (p *pages) waiting() []string {
	if p.Ready == nil {
		return nil
	}
	return p.Ready()
}

func (p *pages) ready(w http.ResponseWriter, _ *http.Request) {
	if waiting := p.waiting(); len(waiting) > 0 {
		http.Error(w, "not ready: "+strings.Join(waiting, "; "), http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprint(w, "ready\n")
}
