package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/naming"
)

// delegationTimeout is how long a name of /delegator.json may be waited for, as
// in Linkerd 1.x.
const delegationTimeout = 2 * time.Second

// maxQuestion bounds the body of a question to /delegator.json.
const maxQuestion = 1 << 20

// Elsewhere is returned by Config.Delegate if names are another's business, who did not
// explain this one.
type Elsewhere struct {
	Who string
	Err error
}

func (e *Elsewhere) Error() string { return fmt.Sprintf("names are bound by %s: %v", e.Who, e.Err) }
func (e *Elsewhere) Unwrap() error { return e.Err }

// NoRouter is returned by Config.Delegate if no router has the label that it was asked
// for.
type NoRouter struct {
	Label   string
	Routers []string // labels of those that there are
}

func (e *NoRouter) Error() string {
	return fmt.Sprintf("no router has the label %q; there are: %s", e.Label, strings.Join(e.Routers, ", "))
}

// Question is what /delegator.json is asked.
type Question struct {
	// Router is the label of a router. Empty, only the namers of the process count,
	// unless there is but one router.
	Router string
	// Caller is the namespace of who would ask, empty for the proxy's own.
	Caller string
	Path   naming.Path
	// Dtab is put after what the router's interpreter keeps itself; for the default
	// one it takes the place of the router's. Nil if none was given, which is the
	// router's own.
	Dtab *naming.Dtab
}

// delegator serves /delegator.json.
func delegator(c Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var raw struct{ Namespace, Router, Caller, Path, Dtab *string }
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			// What cannot be read must not be left out silently, such as rules behind a bare ';'.
			query, err := url.ParseQuery(r.URL.RawQuery)
			if err != nil {
				http.Error(w, "Invalid query: "+err.Error()+"; write % as %25 and ; as %3B", http.StatusBadRequest)
				return
			}
			for key, into := range map[string]**string{"namespace": &raw.Namespace, "router": &raw.Router, "caller": &raw.Caller, "path": &raw.Path, "dtab": &raw.Dtab} {
				if query.Has(key) {
					value := query.Get(key)
					*into = &value
				}
			}
			if raw.Path == nil {
				http.Error(w, "Invalid path: there is none; ask for ?path=/svc/name", http.StatusBadRequest)
				return
			}
		case http.MethodPost:
			if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
				http.Error(w, "the Content-Type must be application/json", http.StatusUnsupportedMediaType)
				return
			}
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuestion))
			if err == nil {
				err = json.Unmarshal(body, &raw)
			}
			if err != nil || raw.Path == nil || raw.Dtab == nil {
				http.Error(w, fmt.Sprintf("Malformed delegation request: %.1000s", body), http.StatusBadRequest)
				return
			}
		default:
			w.Header().Set("Allow", "GET, HEAD, POST")
			http.Error(w, "the method must be GET or POST", http.StatusMethodNotAllowed)
			return
		}
		if raw.Router == nil {
			raw.Router = raw.Namespace // as in Linkerd 1.x
		} else if raw.Namespace != nil && *raw.Namespace != *raw.Router {
			http.Error(w, fmt.Sprintf("two routers, %q and %q: namespace is another word for router", *raw.Router, *raw.Namespace), http.StatusBadRequest)
			return
		}
		q := Question{Router: text(raw.Router), Caller: text(raw.Caller)}
		var err error
		if q.Path, err = naming.ParsePath(*raw.Path); err != nil {
			http.Error(w, "Invalid path: "+err.Error(), http.StatusBadRequest)
			return
		}
		if raw.Dtab != nil {
			dtab, err := naming.ParseDtab(*raw.Dtab)
			if err != nil {
				http.Error(w, "Invalid dtab: "+err.Error(), http.StatusBadRequest)
				return
			}
			q.Dtab = &dtab
		}
		ctx, cancel := context.WithTimeout(r.Context(), delegationTimeout)
		defer cancel()
		answer, err := c.Delegate(ctx, q)
		switch {
		case err == nil:
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(append(answer, '\n'))
		case errors.As(err, new(*NoRouter)):
			http.Error(w, err.Error(), http.StatusBadRequest)
		case errors.As(err, new(*Elsewhere)):
			http.Error(w, err.Error(), http.StatusBadGateway)
		case errors.Is(err, context.DeadlineExceeded):
			http.Error(w, "Request timed out.", http.StatusServiceUnavailable)
		default:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
