package delegator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"time"

	"github.com/tulle-mesh/tulle/naming"
)

// patience is how long a name may be waited for, as in Linkerd 1.x.
const patience = 2 * time.Second

// maxQuestion bounds the body of a question, in bytes: the longest dtab that is stored, as people edit it.
const maxQuestion = 2 << 20

// Question is what delegator.json is asked.
type Question struct {
	// Router is the label of a router of a proxy, or what namerd and Linkerd 1.x call a namespace.
	Router string
	// Caller is the namespace of who would ask, empty for nobody in particular.
	Caller string
	Path   naming.Path
	// Dtab is nil if none was given.
	Dtab *naming.Dtab
}

// Answer explains, as JSON, every step of what a name means. It is called from many goroutines.
// An error is the one of ctx, which ends when the time is over; or one for the reader, which gets
// the status of its method StatusCode() int, 500 without.
type Answer func(context.Context, Question) ([]byte, error)

// ServeHTTP serves delegator.json, by GET and POST.
func (answer Answer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, ok := read(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	text, err := answer(ctx, q)
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(append(bytes.TrimRight(text, "\n"), '\n'))
		return
	}
	status, reason := http.StatusInternalServerError, err.Error()
	if e := (interface{ StatusCode() int })(nil); errors.As(err, &e) {
		status = e.StatusCode()
	} else if errors.Is(err, context.DeadlineExceeded) {
		status, reason = http.StatusServiceUnavailable, "Request timed out."
	}
	http.Error(w, reason, status)
}

// read reads a question. It has answered if it returns false.
func read(w http.ResponseWriter, r *http.Request) (q Question, ok bool) {
	var raw struct{ Namespace, Router, Caller, Path, Dtab *string }
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		// What cannot be read must not be left out silently, such as rules behind a bare ';'.
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			http.Error(w, "Invalid query: "+err.Error()+"; write % as %25 and ; as %3B", http.StatusBadRequest)
			return q, false
		}
		for key, into := range map[string]**string{"namespace": &raw.Namespace, "router": &raw.Router, "caller": &raw.Caller, "path": &raw.Path, "dtab": &raw.Dtab} {
			if query.Has(key) {
				value := query.Get(key)
				*into = &value
			}
		}
		if raw.Path == nil {
			http.Error(w, "Invalid path: there is none; ask for ?path=/svc/name", http.StatusBadRequest)
			return q, false
		}
	case http.MethodPost:
		if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
			http.Error(w, "the Content-Type must be application/json", http.StatusUnsupportedMediaType)
			return q, false
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuestion))
		if err == nil {
			err = json.Unmarshal(body, &raw)
		}
		if err != nil || raw.Path == nil || raw.Dtab == nil {
			http.Error(w, fmt.Sprintf("Malformed delegation request: %.1000s", body), http.StatusBadRequest)
			return q, false
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "the method must be GET or POST", http.StatusMethodNotAllowed)
		return q, false
	}
	if raw.Router == nil {
		raw.Router = raw.Namespace // as in Linkerd 1.x
	} else if raw.Namespace != nil && *raw.Namespace != *raw.Router {
		http.Error(w, fmt.Sprintf("two routers, %q and %q: namespace is another word for router", *raw.Router, *raw.Namespace), http.StatusBadRequest)
		return q, false
	}
	q.Router, q.Caller = text(raw.Router), text(raw.Caller)
	var err error
	if q.Path, err = naming.ParsePath(*raw.Path); err != nil {
		http.Error(w, "Invalid path: "+err.Error(), http.StatusBadRequest)
		return q, false
	}
	if raw.Dtab != nil {
		dtab, err := naming.ParseDtab(*raw.Dtab)
		if err != nil {
			http.Error(w, "Invalid dtab: "+err.Error(), http.StatusBadRequest)
			return q, false
		}
		q.Dtab = &dtab
	}
	return q, true
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
