package namer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

const (
	dtabsPath = "/api/1/dtabs"
	// maxBody bounds a dtab in bytes; Kubernetes would not store a larger one.
	maxBody = 1 << 20
)

// Media types of a dtab.
const (
	typeJSON = "application/json" // [{"prefix":"/svc","dst":"/host"}]
	typeDtab = "application/dtab" // /svc=>/host
	typeText = "text/plain"       // the same
)

// API is namerd's HTTP API for dtabs, as namerctl and pipelines of Linkerd 1.x speak it:
//
//	GET           /api/1/dtabs         ["default"]
//	GET, HEAD     /api/1/dtabs/<ns>    the dtab; its version is in ETag
//	POST          /api/1/dtabs/<ns>    create; 409 if it exists
//	PUT           /api/1/dtabs/<ns>    write; with If-Match, 412 if the version differs
//	DELETE        /api/1/dtabs/<ns>
//
// With ?watch=true a GET does not end, and sends a line at every change until the request's
// context ends. Everything else is 404. Unlike namerd it takes DNS labels only as names.
//
// It authenticates nobody: whoever reaches it can route the mesh.
type API struct {
	store Store
	log   *slog.Logger
}

// APIConfig is what an API works with.
type APIConfig struct {
	Store  Store
	Logger *slog.Logger
}

// NewAPI returns the API. It starts nothing.
func NewAPI(cfg APIConfig) *API { return &API{cfg.Store, cfg.Logger} }

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, ok := strings.CutPrefix(r.URL.Path, dtabsPath)
	switch {
	case ok && (rest == "" || rest == "/"):
		a.list(w, r)
		return
	case !ok || rest[0] != '/':
		w.WriteHeader(http.StatusNotFound)
		return
	}
	namespace := rest[1:]
	if !rewrite.IsLabel(namespace) {
		refuse(w, http.StatusBadRequest, errNamespace.Error())
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if r.Method == http.MethodGet && watching(r) {
			a.watch(w, r, namespace)
		} else {
			a.get(w, r, namespace)
		}
	case http.MethodPost, http.MethodPut:
		a.write(w, r, namespace)
	case http.MethodDelete:
		a.answer(w, namespace, a.store.Delete(r.Context(), namespace, ""))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func watching(r *http.Request) bool {
	switch r.URL.Query().Get("watch") {
	case "true", "1", "t":
		return true
	}
	return false
}

func (a *API) list(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", typeJSON)
	if watching(r) {
		follow(w, r, a.store.Names(), func(names []string) []byte {
			if names == nil {
				return nil
			}
			return line(names)
		})
		return
	}
	names := a.store.Names().Get()
	if names == nil {
		refuse(w, http.StatusServiceUnavailable, "the store is not read yet: try again")
		return
	}
	w.Write(line(names))
}

func (a *API) get(w http.ResponseWriter, r *http.Request, namespace string) {
	v, err := a.store.Get(r.Context(), namespace)
	if err != nil {
		a.answer(w, namespace, err)
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
	value, release := a.store.Watch(namespace)
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

func (a *API) write(w http.ResponseWriter, r *http.Request, namespace string) {
	dtab, err := readDtab(w, r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	change := Change{Dtab: dtab}
	version, conditional := r.Header["If-Match"]
	switch {
	case r.Method == http.MethodPost:
		_, err = a.store.Create(r.Context(), namespace, change)
	case conditional:
		// What is not base64 is no version of ours, so it cannot match. An empty string
		// is the version of nothing, and Update never finds it.
		stamp, _ := base64.StdEncoding.DecodeString(version[0])
		_, err = a.store.Update(r.Context(), namespace, change, string(stamp))
	default:
		_, err = a.store.Put(r.Context(), namespace, change)
	}
	a.answer(w, namespace, err)
}

// answer sends the status of a write or of a failed read, without a body.
func (a *API) answer(w http.ResponseWriter, namespace string, err error) {
	status := http.StatusNoContent
	switch {
	case err == nil:
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrExists), errors.Is(err, ErrConflict):
		status = http.StatusConflict
	case errors.Is(err, ErrVersion):
		status = http.StatusPreconditionFailed
	case errors.Is(err, ErrForbidden):
		status = http.StatusForbidden
	default:
		status = http.StatusInternalServerError
		a.log.Error("dtab storage failed", "namespace", namespace, "error", err)
	}
	w.WriteHeader(status)
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff") // the text quotes the request
	w.WriteHeader(status)
	io.WriteString(w, text)
}

// etag is the form of a version outside: base64 without quotes, as namerd has it.
func etag(version string) string { return base64.StdEncoding.EncodeToString([]byte(version)) }

// accepted returns the first media type of the Accept header that a dtab can have, and JSON
// if there is none.
func accepted(r *http.Request) string {
	for _, types := range r.Header.Values("Accept") {
		for t := range strings.SplitSeq(types, ",") {
			t, _, _ = strings.Cut(t, ";")
			switch t = strings.ToLower(strings.TrimSpace(t)); t {
			case typeJSON, typeDtab, typeText:
				return t
			case "*/*", "application/*":
				return typeJSON
			case "text/*":
				return typeText
			}
		}
	}
	return typeJSON
}

// rule is the JSON form of a dentry.
type rule struct {
	Prefix string `json:"prefix"`
	Dst    string `json:"dst"`
}

// print returns the dtab in the form of a media type, with a newline.
func print(d naming.Dtab, as string) []byte {
	if as != typeJSON {
		return []byte(d.String() + "\n")
	}
	rules := make([]rule, len(d))
	for i, e := range d {
		rules[i] = rule{e.Prefix.String(), e.Dst.String()}
	}
	return line(rules)
}

// line is v as JSON with a newline; trees keep their & and >.
func line(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil // strings and slices of strings: it cannot fail
	}
	return b.Bytes()
}

// readDtab reads the body of a write in the form its Content-Type says.
func readDtab(w http.ResponseWriter, r *http.Request) (naming.Dtab, error) {
	given := r.Header.Get("Content-Type")
	as, _, err := mime.ParseMediaType(given)
	if err != nil || as != typeJSON && as != typeDtab && as != typeText {
		return nil, fmt.Errorf("Invalid Content-Type %q. ", given) //lint:ignore ST1005 the text is namerd's
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("read dtab: %w", err)
	}
	if as != typeJSON {
		return naming.ParseDtab(string(body))
	}
	var rules []*rule
	if err := json.Unmarshal(body, &rules); err != nil {
		return nil, fmt.Errorf("read dtab: %w", err)
	}
	dtab := make(naming.Dtab, len(rules))
	for i, r := range rules {
		if r == nil {
			return nil, fmt.Errorf("The dtab contains invalid dentries: %s", body) //lint:ignore ST1005 the text is namerd's
		}
		if dtab[i].Prefix, err = naming.ParsePrefix(r.Prefix); err != nil {
			return nil, err
		}
		if dtab[i].Dst, err = naming.ParseTree(r.Dst); err != nil {
			return nil, err
		}
	}
	return dtab, nil
}
