package namer

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/naming"
)

// dtabs answers for everything below /api/1/dtabs.
func (a *API) dtabs(w http.ResponseWriter, r *http.Request, namespace string) {
	if namespace == "" {
		a.list(w, r)
		return
	}
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	if name, ok := strings.CutSuffix(namespace, "/history"); ok && read {
		if namespaceOK(w, name) {
			a.history(w, r, name)
		}
		return
	}
	if !namespaceOK(w, namespace) {
		return
	}
	switch {
	case r.Method == http.MethodGet && watching(r):
		a.watch(w, r, namespace)
	case read:
		a.get(w, r, namespace)
	case r.Method == http.MethodPost:
		a.create(w, r, namespace)
	case r.Method == http.MethodPut:
		a.put(w, r, namespace)
	case r.Method == http.MethodDelete:
		a.remove(w, r, namespace)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (a *API) list(w http.ResponseWriter, r *http.Request) {
	verb := "list"
	if watching(r) {
		verb = "watch"
	}
	by, ok := a.allow(w, r, verb, "")
	if !ok {
		return
	}
	if watching(r) {
		r, end, ok := a.begin(w, r, by, "")
		if !ok {
			return
		}
		defer end()
		w.Header().Set("Content-Type", typeJSON)
		follow(w, r, a.cfg.Store.Names(), func(names []string) []byte {
			if names == nil {
				return nil
			}
			return line(names)
		})
		return
	}
	names := a.cfg.Store.Names().Get()
	if names == nil {
		refuse(w, http.StatusServiceUnavailable, "the store is not read yet: try again")
		return
	}
	w.Header().Set("Content-Type", typeJSON)
	w.Write(line(names))
}

func (a *API) get(w http.ResponseWriter, r *http.Request, namespace string) {
	if _, ok := a.allow(w, r, "get", namespace); !ok {
		return
	}
	v, err := a.cfg.Store.Get(r.Context(), namespace)
	if err != nil {
		a.fail(w, namespace, err)
		return
	}
	as := accepted(r)
	w.Header().Set("Content-Type", as)
	w.Header().Set("ETag", etag(v.Version))
	if r.Method == http.MethodGet {
		w.Write(print(v.Dtab, as))
	}
}

func (a *API) watch(w http.ResponseWriter, r *http.Request, namespace string) {
	by, ok := a.allow(w, r, "watch", namespace)
	if !ok {
		return
	}
	r, end, ok := a.begin(w, r, by, namespace)
	if !ok {
		return
	}
	defer end()
	value, release := a.cfg.Store.Watch(namespace)
	defer release()
	as := accepted(r)
	w.Header().Set("Content-Type", as)
	follow(w, r, value, func(v *Versioned) []byte {
		if v == nil || v.Version == "" {
			return nil // wait for it
		}
		return print(v.Dtab, as)
	})
}

// revision is the JSON form of a Revision.
type revision struct {
	Version string      `json:"version"`
	Time    time.Time   `json:"time"`
	By      string      `json:"by"`
	Dtab    naming.Dtab `json:"dtab"`
}

func (a *API) history(w http.ResponseWriter, r *http.Request, namespace string) {
	if _, ok := a.allow(w, r, "get", namespace); !ok {
		return
	}
	past, err := a.cfg.Store.History(r.Context(), namespace)
	if err != nil {
		a.fail(w, namespace, err)
		return
	}
	all := make([]revision, len(past))
	for i, p := range past {
		all[i] = revision{etag(p.Version), p.Time.UTC(), p.By, rules(p.Dtab)}
	}
	w.Header().Set("Content-Type", typeJSON)
	w.Write(line(all))
}

func (a *API) create(w http.ResponseWriter, r *http.Request, namespace string) {
	by, ok := a.allow(w, r, "create", namespace)
	if !ok {
		return
	}
	dtab, err := readDtab(w, r)
	if err != nil {
		refuseBody(w, err)
		return
	}
	version, err := a.cfg.Store.Create(r.Context(), namespace, Change{dtab, by})
	if err != nil {
		a.fail(w, namespace, err)
		return
	}
	a.wrote("dtab created", namespace, by, "", version)
	w.WriteHeader(http.StatusNoContent)
}

func (a *API) put(w http.ResponseWriter, r *http.Request, namespace string) {
	by, ok := a.allow(w, r, "update", namespace)
	if !ok {
		return
	}
	dtab, err := readDtab(w, r)
	if err != nil {
		refuseBody(w, err)
		return
	}
	var before, after string
	if match, guarded := r.Header["If-Match"]; guarded {
		before = versionOf(match[0])
		after, err = a.cfg.Store.Update(r.Context(), namespace, Change{dtab, by}, before)
	} else {
		old, missing := a.cfg.Store.Get(r.Context(), namespace)
		switch {
		case missing == nil:
			before = old.Version
		case errors.Is(missing, ErrNotFound):
			// To write what is not there is to create it.
			if by, ok = a.allow(w, r, "create", namespace); !ok {
				return
			}
		}
		after, err = a.cfg.Store.Put(r.Context(), namespace, Change{dtab, by})
	}
	if err != nil {
		a.fail(w, namespace, err)
		return
	}
	a.wrote("dtab written", namespace, by, before, after)
	w.WriteHeader(http.StatusNoContent)
}

func (a *API) remove(w http.ResponseWriter, r *http.Request, namespace string) {
	by, ok := a.allow(w, r, "delete", namespace)
	if !ok {
		return
	}
	before := ""
	if old, err := a.cfg.Store.Get(r.Context(), namespace); err == nil {
		before = old.Version
	}
	if err := a.cfg.Store.Delete(r.Context(), namespace, by); err != nil {
		a.fail(w, namespace, err)
		return
	}
	a.wrote("dtab deleted", namespace, by, before, "")
	w.WriteHeader(http.StatusNoContent)
}
