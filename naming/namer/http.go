package namer

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// APIConfig is what an API works with.
type APIConfig struct {
	Store Store
	// Registry answers for names; without one, questions about names get 501.
	Registry Registry
	// Seen has the names that proxies use, which plans are made for; nil: none. Names that are
	// bound or resolved as a stream are added, with the rules that they come with.
	Seen *Seen
	// BoundNames returns the ids that are known to exist, in any order; nil: none.
	BoundNames func() []string
	// Authorize returns who sent a request, for logs and the history, or why that one may not
	// do verb (get, list, watch, create, update or delete) to a namespace, which is empty for
	// all of them. An empty verb asks for no more than who it is. An error with a method
	// StatusCode() int is answered with that status, another one with 403. Nil allows everyone
	// everything. It is called before the body of a request is read, and again each minute
	// while something is followed, which ends with 401 and 403.
	Authorize func(r *http.Request, verb, namespace string) (by string, err error)
	// MaxStreams bounds what one caller may follow at a time, one being whoever Authorize says,
	// at an address; 0: 1000.
	MaxStreams int
	Logger     *slog.Logger
}

// Registry knows what names mean that a dtab says nothing about, as *registry.Registry does.
type Registry interface {
	// Resolver returns the resolver of all names; state says, without blocking, what is
	// known of a bound id.
	Resolver(state func(id naming.Path) naming.Replicas) naming.Resolver
	// Replicas returns the live replica set of a bound id until release is called.
	Replicas(id string) (value *watch.Value[naming.Replicas], release func())
	// Knows reports whether all transformers of a bound id, /%/…, are its own.
	Knows(id naming.Path) bool
}

// API is namerd's HTTP API, as namerctl, pipelines and proxies of Linkerd 1.x speak it:
//
//	GET           /api/1/dtabs             ["default"]
//	GET, HEAD     /api/1/dtabs/<ns>        the dtab; its version is in ETag
//	POST          /api/1/dtabs/<ns>        create; 409 if it exists
//	PUT           /api/1/dtabs/<ns>        write; with If-Match, 412 if the version differs
//	DELETE        /api/1/dtabs/<ns>
//	GET           /api/1/bind/<ns>         what ?path= is bound to, with the rules of ?dtab= added
//	GET           /api/1/addr/<ns>         the replica set of the bound id ?path=
//	GET           /api/1/resolve/<ns>      both in one
//	GET, POST     /api/1/delegate[/<ns>]   everything that the rules make of a path
//	GET           /api/1/bound-names       the ids that exist
//
// and what Tulle has in addition:
//
//	GET           /api/1/dtabs/<ns>/history    what was written, newest first
//	POST          /api/1/plan/<ns>             what a dtab would change for the names in use
//
// Questions about names take ?caller=<namespace>, for rules that lead to /caller.
//
// With ?watch=true a GET does not end, and sends a line at every change until the request's
// context ends, of bound-names within five seconds; delegate and what Tulle added do not know it.
// Everything else is 404. Unlike namerd it takes DNS labels only as namespaces.
type API struct {
	cfg     APIConfig
	streams crowd
}

// maxStreams is enough for a proxy of Linkerd 1.x with hundreds of names, which follows each of
// them, and its addresses, in a stream of its own; and for many proxies behind one address.
const maxStreams = 1000

// NewAPI returns the API. It starts nothing.
func NewAPI(cfg APIConfig) *API {
	cfg.MaxStreams = cmp.Or(cfg.MaxStreams, maxStreams)
	return &API{cfg: cfg}
}

const base = "/api/1/"

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	limitBody(w, r)
	rest, ok := strings.CutPrefix(r.URL.Path, base)
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	route, namespace, _ := strings.Cut(rest, "/")
	switch route {
	case "dtabs":
		a.dtabs(w, r, namespace)
	case "bind":
		a.names(w, r, namespace, a.cfg.Seen, bind)
	case "addr":
		a.names(w, r, namespace, nil, addr) // what is bound already is used by another name
	case "resolve":
		a.names(w, r, namespace, a.cfg.Seen, resolve)
	case "delegate":
		a.delegate(w, r, namespace)
	case "plan":
		a.plan(w, r, namespace)
	case "bound-names":
		a.boundNames(w, r)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// allow reports whether the caller may do verb, and who it is. It has answered if not.
func (a *API) allow(w http.ResponseWriter, r *http.Request, verb, namespace string) (by string, ok bool) {
	if a.cfg.Authorize == nil {
		return "", true
	}
	by, err := a.cfg.Authorize(r, verb, namespace)
	if err == nil {
		return by, true
	}
	status := statusOf(err)
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="tulle"`)
	}
	refuse(w, status, err.Error())
	return "", false
}

// begin begins a stream of a caller who may watch a namespace, or all if it is empty: the request
// that it returns ends when the caller no longer may. It has answered if not.
func (a *API) begin(w http.ResponseWriter, r *http.Request, by, namespace string) (_ *http.Request, end func(), ok bool) {
	leave, err := a.streams.enter(caller(r, by), a.cfg.MaxStreams)
	if err != nil {
		a.cfg.Logger.Warn("stream refused", "namespace", namespace, "error", err)
		setRetry(w, err)
		refuse(w, statusOf(err), err.Error())
		return nil, nil, false
	}
	if a.cfg.Authorize == nil {
		return r, leave, true
	}
	ctx, stop := guarded(r.Context(), recheckEvery, func(ctx context.Context) error {
		_, err := a.cfg.Authorize(r.WithContext(ctx), "watch", namespace)
		return err
	})
	return r.WithContext(ctx), func() {
		if cause := context.Cause(ctx); cause != ctx.Err() {
			a.cfg.Logger.Info("stream ended", "namespace", namespace, "by", by, "cause", cause)
		}
		stop()
		leave()
	}, true
}

// statusOf is the status of a refusal: what it says itself, else 403.
func statusOf(err error) int {
	if e := (interface{ StatusCode() int })(nil); errors.As(err, &e) {
		return e.StatusCode()
	}
	return http.StatusForbidden
}

// namespaceOK reports whether a namespace could exist. It has answered if not.
func namespaceOK(w http.ResponseWriter, namespace string) bool {
	if rewrite.IsLabel(namespace) {
		return true
	}
	refuse(w, http.StatusBadRequest, errNamespace.Error())
	return false
}

// watching reports whether a request asks for a stream.
func watching(r *http.Request) bool {
	switch r.URL.Query().Get("watch") {
	case "true", "1", "t":
		return true
	}
	return false
}

// reading is the verb of a request that reads.
func reading(r *http.Request) string {
	if watching(r) {
		return "watch"
	}
	return "get"
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff") // the text quotes the request
	w.WriteHeader(status)
	io.WriteString(w, text)
}

// fail answers for a store that did not do what it should. Refusals have no body, as namerd's.
func (a *API) fail(w http.ResponseWriter, namespace string, err error) {
	var status int
	switch {
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrExists), errors.Is(err, ErrConflict):
		status = http.StatusConflict
	case errors.Is(err, ErrVersion):
		status = http.StatusPreconditionFailed
	case errors.Is(err, ErrForbidden):
		refuse(w, http.StatusForbidden, err.Error())
		return
	default:
		a.cfg.Logger.Error("dtab storage failed", "namespace", namespace, "error", err)
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.WriteHeader(status)
}

// wrote logs a write that was done.
func (a *API) wrote(what, namespace, by, before, after string) {
	a.cfg.Logger.Info(what, "namespace", namespace, "by", cmp.Or(by, "unknown"), "before", etag(before), "after", etag(after))
}
