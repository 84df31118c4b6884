package namer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// patience is how long a question about a name waits for a namer that has not answered: a
// delegation is not shown without, the addresses of a bound name are shown as pending.
const patience = 2 * time.Second

// question is what is asked about a name.
type question struct {
	namespace string // whose dtab counts; empty for none
	caller    string // the namespace of who would ask, empty for nobody in particular
	path      naming.Path
	extra     naming.Dtab // rules after those of the namespace
}

// dtab returns the rules that hold for the question, given those of the namespace.
func (q question) dtab(stored naming.Dtab) naming.Dtab {
	return withCaller(q.caller, stored).Concat(q.extra...)
}

// withCaller puts the rule in front by which proxies know the namespace of their caller.
func withCaller(caller string, d naming.Dtab) naming.Dtab {
	if caller == "" {
		return d
	}
	rule := naming.Dentry{Prefix: naming.Prefix{"caller"}, Dst: naming.Leaf{"$", "dev.tulle.service", caller}}
	return naming.Dtab{rule}.Concat(d...)
}

// ask reads a question from the query of a request, which must be made for reading. It has
// answered if it returns false, else by is who asks.
func (a *API) ask(w http.ResponseWriter, r *http.Request, namespace string) (q question, by string, ok bool) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.WriteHeader(http.StatusNotFound)
		return q, "", false
	}
	if by, ok = a.mayAsk(w, r, namespace); !ok {
		return q, "", false
	}
	// What cannot be read must not be left out silently, such as all behind a bare ';'.
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		refuse(w, http.StatusBadRequest, "Invalid query: "+err.Error()+"; write % as %25 and ; as %3B")
		return q, "", false
	}
	q, err = newQuestion(namespace, query.Get("caller"), query.Get("path"), query.Get("dtab"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return q, "", false
	}
	return q, by, true
}

// newQuestion parses a question. The texts of its errors are namerd's.
func newQuestion(namespace, caller, path, dtab string) (q question, err error) {
	q.namespace, q.caller = namespace, caller
	if q.path, err = naming.ParsePath(path); err != nil {
		return q, fmt.Errorf("Invalid path: %w", err) //lint:ignore ST1005 the text is namerd's
	}
	if q.extra, err = naming.ParseDtab(dtab); err != nil {
		return q, fmt.Errorf("Invalid dtab: %w", err) //lint:ignore ST1005 like the other
	}
	if caller != "" && !rewrite.IsLabel(caller) {
		return q, fmt.Errorf("Invalid caller: %w", errNamespace) //lint:ignore ST1005 like the other
	}
	return q, nil
}

// mayAsk reports whether the caller may ask about names in a namespace, or in none. It has
// answered if not, else by is who it is.
func (a *API) mayAsk(w http.ResponseWriter, r *http.Request, namespace string) (by string, ok bool) {
	verb := reading(r)
	if namespace == "" { // all that namers know
		verb = "list"
	}
	if by, ok = a.allow(w, r, verb, namespace); !ok {
		return "", false
	}
	if a.cfg.Registry == nil {
		refuse(w, http.StatusNotImplemented, "this namer knows no names, only dtabs")
		return "", false
	}
	return by, true
}

// answer is what is known of a question now.
type answer struct {
	text    []byte // nil while it waits for something
	pending bool   // text has something in it that is not known yet
	err     error  // ends a stream
}

// bind answers what a name is bound to.
func bind(l *live, q question, dtab naming.Dtab) answer {
	tree, err := naming.Bind(dtab, q.path, l.registry.Resolver(l.state))
	if err != nil || tree.Kind == naming.BoundPending {
		return answer{err: err}
	}
	var a answer
	a.text = tree.JSON(func(id naming.Path) naming.Replicas {
		r := l.state(id)
		a.pending = a.pending || r.State == naming.StatePending
		return r
	})
	return a
}

// resolve answers with the replica set that one request for the name could go to.
func resolve(l *live, q question, dtab naming.Dtab) answer {
	tree, err := naming.Bind(dtab, q.path, l.registry.Resolver(l.state))
	if err != nil || tree.Kind == naming.BoundPending {
		return answer{err: err}
	}
	leaf, ok := tree.Pick(rand.Float64())
	if !ok {
		return answer{text: naming.Replicas{State: naming.StateNeg}.Addr().JSON()}
	}
	return addr(l, question{path: leaf.ID}, nil)
}

// addr answers with the replica set of a bound id. What a proxy's own transformers put in front
// of it is the proxy's business.
func addr(l *live, q question, _ naming.Dtab) answer {
	id := q.path
	for len(id) > 0 && id[0] == "%" && !l.registry.Knows(id) {
		inner := slices.IndexFunc(id[1:], func(e string) bool { return e == "#" || e == "$" || e == "%" })
		if inner < 0 {
			break
		}
		id = id[1+inner:]
	}
	r := l.state(id)
	if r.State == naming.StatePending {
		return answer{}
	}
	return answer{text: r.Addr().JSON()}
}

// explain answers with everything that the rules make of a name.
func explain(l *live, q question, dtab naming.Dtab) answer {
	d := naming.Delegate(dtab, q.path, l.registry.Resolver(l.state))
	if d.Pending() {
		return answer{}
	}
	var a answer
	a.text = d.JSON(func(id naming.Path) naming.Replicas {
		r := l.state(id)
		a.pending = a.pending || r.State == naming.StatePending
		return r
	})
	return a
}

// names answers a question about a name, once or as a stream. Seen, if any, has the name for as long
// as it is followed.
func (a *API) names(w http.ResponseWriter, r *http.Request, namespace string, seen *Seen, evaluate func(*live, question, naming.Dtab) answer) {
	if namespace == "" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if !namespaceOK(w, namespace) {
		return
	}
	q, by, ok := a.ask(w, r, namespace)
	if !ok {
		return
	}
	if watching(r) && r.Method == http.MethodGet {
		r, end, ok := a.begin(w, r, by, namespace)
		if !ok {
			return
		}
		defer end()
		if seen != nil {
			defer seen.note(q.namespace, usedName{api.Name{Namespace: q.caller, Path: q.path.String()}, q.extra.Exact()})()
		}
		a.stream(w, r, q, evaluate)
		return
	}
	a.once(w, r, q, evaluate)
}

// evaluation returns how a question is to be evaluated whenever l says so.
func (a *API) evaluation(l *live, q question, evaluate func(*live, question, naming.Dtab) answer) func() answer {
	if q.namespace == "" {
		return func() answer { return evaluate(l, q, q.dtab(nil)) }
	}
	stored := l.dtab(a.cfg.Store, q.namespace)
	return func() answer {
		v := stored.Get()
		if v == nil {
			return answer{}
		}
		return evaluate(l, q, q.dtab(v.Dtab))
	}
}

// settle returns the first answer that there is, after waiting a little longer for what is pending
// in it. Its error is that of the answer, or why ctx ended before there was one.
func (l *live) settle(ctx context.Context, now func() answer) (last answer, err error) {
	l.after(patience)
	begin := time.Now()
	late := l.run(ctx, func() bool {
		last = now()
		known := last.err != nil || last.text != nil && (!last.pending || time.Since(begin) >= patience)
		return !known
	})
	if late != nil && last.text == nil {
		return last, late
	}
	return last, last.err
}

// once answers as soon as there is something to say.
func (a *API) once(w http.ResponseWriter, r *http.Request, q question, evaluate func(*live, question, naming.Dtab) answer) {
	l := newLive(a.cfg.Registry)
	defer l.close()
	last, err := l.settle(r.Context(), a.evaluation(l, q, evaluate))
	switch {
	case last.err != nil:
		refuse(w, http.StatusInternalServerError, last.err.Error())
	case err != nil:
		// The delegation's deadline, or nobody is there any more.
		refuse(w, http.StatusServiceUnavailable, "Request timed out.")
	default:
		w.Header().Set("Content-Type", typeJSON)
		w.Write(last.text)
	}
}

// Delegate explains, as JSON, everything that rules make of a name for callers in a namespace,
// which is empty for nobody in particular. It waits two seconds for addresses that are pending, and
// for what a name leads to until ctx ends; its error is why that ended.
func Delegate(ctx context.Context, registry Registry, caller string, rules naming.Dtab, path naming.Path) ([]byte, error) {
	l := newLive(registry)
	defer l.close()
	q := question{caller: caller, path: path}
	last, err := l.settle(ctx, func() answer { return explain(l, q, q.dtab(rules)) })
	return last.text, err
}

// stream answers at every change with what is another than before. An error is the last line.
func (a *API) stream(w http.ResponseWriter, r *http.Request, q question, evaluate func(*live, question, naming.Dtab) answer) {
	l := newLive(a.cfg.Registry)
	defer l.close()
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(http.StatusOK)
	if out.Flush() != nil {
		return
	}
	now := a.evaluation(l, q, evaluate)
	var sent []byte
	l.run(r.Context(), func() bool {
		next := now()
		if next.err != nil {
			next.text = []byte(next.err.Error() + "\n")
		}
		if next.text != nil && !bytes.Equal(next.text, sent) {
			if !send(w, out, next.text) {
				return false
			}
			sent = next.text
		}
		return next.err == nil
	})
}

// delegate answers GET and POST /api/1/delegate and /api/1/delegate/<ns>.
func (a *API) delegate(w http.ResponseWriter, r *http.Request, namespace string) {
	if namespace != "" && !namespaceOK(w, namespace) {
		return
	}
	var (
		q  question
		ok bool
	)
	if r.Method == http.MethodPost {
		q, ok = a.posted(w, r, namespace)
	} else {
		q, _, ok = a.ask(w, r, namespace)
	}
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	a.once(w, r.WithContext(ctx), q, explain)
}

// posted reads a question from the body of a request. It has answered if it returns false.
func (a *API) posted(w http.ResponseWriter, r *http.Request, namespace string) (q question, ok bool) {
	given := r.Header.Get("Content-Type")
	if media, _, err := mime.ParseMediaType(given); err != nil || media != typeJSON {
		refuse(w, http.StatusUnsupportedMediaType, fmt.Sprintf("Invalid Content-Type %q: send %s", given, typeJSON))
		return q, false
	}
	// Before the body is read; whose dtab it asks about may be in there.
	if namespace == "" {
		_, ok = a.allow(w, r, "", "")
	} else {
		_, ok = a.mayAsk(w, r, namespace)
	}
	if !ok {
		return q, false
	}
	var raw struct{ Namespace, Dtab, Path, Caller string }
	body, err := readBody(w, r)
	if err == nil {
		err = json.Unmarshal(body, &raw)
	}
	if err != nil {
		refuseBody(w, fmt.Errorf("Malformed delegation request: %w", err)) //lint:ignore ST1005 the text is namerd's
		return q, false
	}
	if namespace == "" {
		if namespace = raw.Namespace; namespace != "" && !namespaceOK(w, namespace) {
			return q, false
		}
		if _, ok = a.mayAsk(w, r, namespace); !ok {
			return q, false
		}
	}
	q, err = newQuestion(namespace, raw.Caller, raw.Path, raw.Dtab)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return q, false
	}
	return q, true
}

// boundEvery is how often whoever follows the bound names is told of others: to list them takes a
// look at every Service.
const boundEvery = 5 * time.Second

// boundNames answers with all ids that are known to exist.
func (a *API) boundNames(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	verb, watches := "list", watching(r) && r.Method == http.MethodGet
	if watches {
		verb = "watch"
	}
	by, ok := a.allow(w, r, verb, "")
	if !ok {
		return
	}
	all := func() []byte {
		ids := []string{}
		if a.cfg.BoundNames != nil {
			ids = append(ids, a.cfg.BoundNames()...)
			slices.Sort(ids)
		}
		return line(ids)
	}
	if !watches {
		w.Header().Set("Content-Type", typeJSON)
		w.Write(all())
		return
	}
	r, end, ok := a.begin(w, r, by, "")
	if !ok {
		return
	}
	defer end()
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", typeJSON)
	tick := time.NewTicker(boundEvery)
	defer tick.Stop()
	for sent := []byte(nil); ; {
		if next := all(); !bytes.Equal(next, sent) {
			if !send(w, out, next) {
				return
			}
			sent = next
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}
