package namer

import (
	"errors"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// plan is what a dtab would change, in JSON.
type plan struct {
	Version string        `json:"version"` // the ETag of the present dtab, empty if there is none
	Names   []plannedName `json:"names"`
	Omitted int           `json:"omitted,omitempty"` // uses of names that are too long or too many to be among them
}

// plannedName is what a dtab would change for one name.
type plannedName struct {
	Path    string        `json:"path"`
	Caller  string        `json:"caller,omitempty"` // the namespace of who asks
	Dtab    string        `json:"dtab,omitempty"`   // rules that who asks adds to the dtab, now and then
	Before  []plannedLeaf `json:"before"`           // empty if the name does not resolve
	After   []plannedLeaf `json:"after"`
	Lost    bool          `json:"lost"` // requests that have somewhere to go would not have any more
	Changed bool          `json:"changed"`
	Unknown []string      `json:"unknown,omitempty"` // before or after, or both, if namers have not said in time what that is
	Reason  string        `json:"reason,omitempty"`  // why some or all have nowhere to go afterwards
}

// plannedLeaf is one replica set that requests go to.
type plannedLeaf struct {
	ID    string  `json:"id"`
	Share float64 `json:"share"` // of the requests for the name; 1 is all of them
}

// plan answers POST /api/1/plan/<ns> with what the dtab of the body would change for the names
// in use, and for those of the query. It writes nothing.
func (a *API) plan(w http.ResponseWriter, r *http.Request, namespace string) {
	if r.Method != http.MethodPost || namespace == "" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if !namespaceOK(w, namespace) {
		return
	}
	if _, ok := a.mayAsk(w, r, namespace); !ok {
		return
	}
	names, omitted, err := a.plannedNames(r, namespace)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	after, err := readDtab(w, r)
	if err != nil {
		refuseBody(w, err)
		return
	}
	now, err := a.cfg.Store.Get(r.Context(), namespace)
	if errors.Is(err, ErrNotFound) {
		now, err = &Versioned{}, nil
	}
	if err != nil {
		a.fail(w, namespace, err)
		return
	}
	l := newLive(a.cfg.Registry)
	l.keep = true // names that are known are not asked for again
	defer l.close()
	p := plan{etag(now.Version), make([]plannedName, len(names)), omitted}
	left := make([]int, len(names)) // those that namers have not answered yet
	for i := range names {
		left[i] = i
	}
	l.after(patience)
	begin := time.Now()
	if l.run(r.Context(), func() bool {
		left = slices.DeleteFunc(left, func(i int) bool {
			if r.Context().Err() != nil {
				return false
			}
			p.Names[i] = compare(l, names[i], now.Dtab, after)
			return p.Names[i].Unknown == nil
		})
		return len(left) > 0 && time.Since(begin) < patience
	}) != nil {
		return // nobody is there any more
	}
	w.Header().Set("Content-Type", typeJSON)
	w.Write(line(p))
}

// plannedNames returns the names that a plan is made for: those in use, but for those that are
// omitted, and those that the query asks for.
func (a *API) plannedNames(r *http.Request, namespace string) (names []usedName, omitted int, err error) {
	if a.cfg.Seen != nil {
		names, omitted = a.cfg.Seen.used(namespace)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, 0, err
	}
	for _, path := range query["path"] {
		if _, err := newQuestion("", query.Get("caller"), path, ""); err != nil {
			return nil, 0, err
		}
		if n := (usedName{Name: api.Name{Namespace: query.Get("caller"), Path: path}}); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names, omitted, nil
}

// compare says what becomes of a name, as far as that is known now.
func compare(l *live, n usedName, before, after naming.Dtab) plannedName {
	p := plannedName{Path: n.Path, Caller: n.Namespace, Dtab: n.rules}
	q, err := newQuestion("", n.Namespace, n.Path, n.rules)
	if err != nil { // some proxy said so
		p.Before, p.After, p.Reason = []plannedLeaf{}, []plannedLeaf{}, err.Error()
		return p
	}
	resolver := l.registry.Resolver(l.state)
	was, errBefore := naming.Bind(q.dtab(before), q.path, resolver)
	will, errAfter := naming.Bind(q.dtab(after), q.path, resolver)
	var answered, remain float64
	p.Before, answered = leaves(was)
	p.After, remain = leaves(will)
	p.Changed = !slices.Equal(p.Before, p.After)
	waits := errAfter == nil && will.Kind == naming.BoundPending
	p.Lost = remain < answered-tiny && !waits
	if errBefore == nil && was.Kind == naming.BoundPending {
		p.Unknown = append(p.Unknown, "before")
		p.Reason = "a namer has not answered yet where requests go now"
	}
	if waits {
		p.Unknown = append(p.Unknown, "after")
	}
	if remain < 1-tiny {
		p.Reason = reason(will, errAfter)
	}
	return p
}

// tiny is what shares may differ by because numbers are rounded.
const tiny = 1e-6

// leaves returns where requests for a name go, and the share of them that goes anywhere.
func leaves(t naming.BoundTree) (all []plannedLeaf, sum float64) {
	shares := map[string]float64{}
	share(t, 1, shares)
	all = []plannedLeaf{}
	for _, id := range slices.Sorted(maps.Keys(shares)) {
		sum += shares[id]
		all = append(all, plannedLeaf{id, math.Round(shares[id]*1e6) / 1e6})
	}
	return all, sum
}

// share divides the requests for t among its leaves, as naming.BoundTree.Pick does.
func share(t naming.BoundTree, of float64, among map[string]float64) {
	if t.Kind == naming.BoundLeaf {
		among[t.Leaf.ID.String()] += of
	}
	var sum float64
	for _, b := range t.Branches {
		sum += b.Weight
	}
	for _, b := range t.Branches {
		part := b.Weight / sum
		if sum <= 0 {
			part = 1 / float64(len(t.Branches))
		}
		if part > 0 {
			share(b.Tree, of*part, among)
		}
	}
}

// reason says why not all requests have somewhere to go.
func reason(t naming.BoundTree, err error) string {
	if err != nil {
		return err.Error()
	}
	switch t.Kind {
	case naming.BoundPending:
		return "a namer has not answered yet"
	case naming.BoundFail:
		return "a rule says it fails: !"
	case naming.BoundEmpty:
		return "a rule says it has no endpoints: $"
	case naming.BoundUnion:
		return "a branch of a union has no endpoints: $"
	}
	return "no rule and no namer answers it"
}
