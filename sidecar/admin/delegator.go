package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/tulle-mesh/tulle/naming"
)

// delegationTimeout is how long a name of /delegator.json may be waited for, as
// in Linkerd 1.x.
const delegationTimeout = 2 * time.Second

// maxQuestion bounds the body of a question to /delegator.json.
const maxQuestion = 1 << 20

// ErrNoDelegation is returned by Config.Delegate for a router whose names are
// another's business, who does not explain them.
var ErrNoDelegation = errors.New("the interpreter cannot show delegations")

// Question is what /delegator.json is asked.
type Question struct {
	// Router is the label of a router. Empty or unknown, only the namers of the
	// process count, unless there is but one router.
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
		var raw struct{ Namespace, Caller, Path, Dtab *string }
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			query := r.URL.Query()
			for key, into := range map[string]**string{"namespace": &raw.Namespace, "caller": &raw.Caller, "path": &raw.Path, "dtab": &raw.Dtab} {
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
		q := Question{Router: text(raw.Namespace), Caller: text(raw.Caller)}
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
		case errors.Is(err, ErrNoDelegation):
			http.Error(w, "Name Interpreter for "+q.Router+" cannot show delegations", http.StatusNotImplemented)
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
