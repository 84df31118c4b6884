package admin

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/delegator"
	"github.com/tulle-mesh/tulle/naming/namer"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// patience is how long a page waits for the storage.
const patience = 5 * time.Second

// index is the page of all dtab namespaces.
type index struct {
	Root       string // where it is, from the page
	Problem    string // what is wrong with what was asked for, or with the namer
	Namespaces []namespace
	Known      bool // whether it is known which there are
	InUse      bool // whether it is known which names are in use
	Pages      []page
}

type namespace struct {
	Name  string
	Rules string // how many
	InUse int    // how many names proxies use it for
}

// page is another page to go to.
type page struct{ Address, What string }

func (p *pages) index(w http.ResponseWriter, _ *http.Request) {
	status := http.StatusOK
	if p.Store.Names().Get() == nil {
		status = http.StatusServiceUnavailable
	}
	problem := ""
	if waiting := p.waiting(); len(waiting) > 0 {
		problem = "The namer is not ready: " + strings.Join(waiting, "; ") + "."
	}
	p.showIndex(w, status, "", problem)
}

func (p *pages) showIndex(w http.ResponseWriter, status int, root, problem string) {
	all := p.Store.Names().Get()
	i := index{Root: root, Problem: problem, Known: all != nil, InUse: p.Names != nil}
	for _, name := range all {
		n := namespace{Name: name, Rules: "?"}
		if dtab := p.now(name); dtab != nil {
			n.Rules = strconv.Itoa(len(dtab.Dtab))
		}
		if p.Names != nil {
			n.InUse = len(p.Names(name))
		}
		i.Namespaces = append(i.Namespaces, n)
	}
	for _, other := range []struct {
		there         bool
		address, what string
	}{
		{true, "namer_state", "names that are followed, with their endpoints"},
		{true, "bound-names.json", "names that exist"},
		{true, "storage/dtabs.json", "all rules"},
		{p.Configuration != nil, "config.json", "what the namer was told"},
		{p.Level != nil, "logging", "how much it logs"},
		{p.Metrics != nil, "metrics", "for Prometheus"},
		{true, "admin/ready", "whether it is ready"},
	} {
		if other.there {
			i.Pages = append(i.Pages, page{other.address, other.what})
		}
	}
	i.show(w, status)
}

// now returns the dtab of a namespace as it is known, nil if it is not.
func (p *pages) now(name string) *namer.Versioned {
	value, release := p.Store.Watch(name)
	defer release()
	return value.Get()
}

// dtab serves the playground on the rules of a namespace.
func (p *pages) dtab(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("namespace")
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	dtab, err := (*namer.Versioned)(nil), namer.ErrNotFound
	if rewrite.IsLabel(name) { // no other can be stored
		dtab, err = p.Store.Get(ctx, name)
	}
	switch {
	case errors.Is(err, namer.ErrNotFound):
		p.showIndex(w, http.StatusNotFound, "../", fmt.Sprintf("There is no dtab %q.", name))
		return
	case err != nil:
		p.showIndex(w, http.StatusInternalServerError, "../", fmt.Sprintf("The dtab %q cannot be read: %v", name, err))
		return
	}
	page := playground{Name: name, Dtab: dtab.Dtab, Notes: []string{count(len(dtab.Dtab), "rule")}}
	if revisions, err := p.Store.History(ctx, name); err == nil { // without it the page is as good
		for _, old := range revisions {
			if old.Version == dtab.Version {
				page.Notes = append(page.Notes, fmt.Sprintf("written %s by %s", when(old.Time), cmp.Or(old.By, "somebody")))
				continue
			}
			page.Past = append(page.Past, past{When: when(old.Time), By: cmp.Or(old.By, "somebody"), Dtab: old.Dtab})
		}
	}
	page.Notes = append(page.Notes, "version "+version(dtab.Version))
	if p.Names != nil {
		page.Names = p.Names(name)
	}
	page.show(w)
}

// explain answers what a name means by the rules that are given, and no others.
func (p *pages) explain(ctx context.Context, q delegator.Question) ([]byte, error) {
	switch {
	case p.Registry == nil:
		return nil, &refusal{http.StatusNotImplemented, "this namer knows no names, only dtabs"}
	case q.Caller != "" && !rewrite.IsLabel(q.Caller):
		return nil, &refusal{http.StatusBadRequest, fmt.Sprintf("Invalid caller: %q is no namespace of Kubernetes", q.Caller)}
	}
	var rules naming.Dtab
	if q.Dtab != nil {
		rules = *q.Dtab
	}
	return namer.Delegate(ctx, p.Registry, q.Caller, rules, q.Path)
}

// refusal is an answer that is not what was asked for.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

// StatusCode is the HTTP status to answer with.
func (e *refusal) StatusCode() int { return e.status }

// version is a version as the API has it in ETag.
func version(v string) string { return base64.StdEncoding.EncodeToString([]byte(v)) }

func when(t time.Time) string {
	if t.IsZero() {
		return "at an unknown time"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
