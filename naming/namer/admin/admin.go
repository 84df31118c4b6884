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
	// Configuration returns, as what becomes JSON, what the namer was told.
	Configuration func() any
	Metrics       prometheus.Gatherer // nil: no /metrics
	// Ready returns what the namer still waits for; nothing means ready.
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
//	/admin/ping, /admin/ready, /metrics
//
// A caller from this machine must say localhost or an address in Host, and no page of another
// site may POST: the pages are for people with a port-forward, whose browsers show other sites too.
func Handler(c Config) http.Handler {
	p := &pages{c}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /admin/ping", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "pong") })
	mux.HandleFunc("GET /admin/ready", p.ready)
	mux.HandleFunc("GET /bound-names.json", p.boundNames)
	mux.HandleFunc("GET /namer_state", p.namerState)
	mux.HandleFunc("GET /namer_state/{prefix...}", p.namerState)
	if c.Configuration != nil {
		mux.HandleFunc("GET /config.json", func(w http.ResponseWriter, _ *http.Request) { delegator.Show(w, c.Configuration()) })
	}
	if c.Metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{}))
	}
	return mux
}

type pages struct{ Config }

func (p *pages) ready(w http.ResponseWriter, _ *http.Request) {
	if p.Ready != nil {
		if waiting := p.Ready(); len(waiting) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintf(w, "not ready: %s\n", strings.Join(waiting, "; "))
			return
		}
	}
	_, _ = fmt.Fprint(w, "ready\n")
}
