package admin

import (
	"net/http"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/delegator"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// stored serves what the storage has, as this namer knows it: without asking, so that it is what is
// served.
func (p *pages) stored(w http.ResponseWriter, _ *http.Request) {
	type state struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"` // as in ETag
		Dtab    naming.Dtab `json:"dtab"`              // null as long as it is not known
	}
	names := p.Store.Names().Get()
	all := []state{}
	for _, name := range names {
		s := state{Name: name}
		if dtab := p.now(name); dtab != nil {
			s.Version, s.Dtab = version(dtab.Version), append(naming.Dtab{}, dtab.Dtab...)
		}
		all = append(all, s)
	}
	delegator.Show(w, map[string]any{"known": names != nil, "dtabs": all})
}

// boundNames serves the ids that are known to exist.
func (p *pages) boundNames(w http.ResponseWriter, _ *http.Request) {
	ids := []string{}
	if p.BoundNames != nil {
		ids = append(ids, p.BoundNames()...)
		slices.Sort(ids)
	}
	delegator.Show(w, ids)
}

// namerState serves what is followed: everything, or what is a namer's at a prefix.
func (p *pages) namerState(w http.ResponseWriter, r *http.Request) {
	names := []Followed{}
	if p.Followed != nil {
		names = append(names, p.Followed()...)
	}
	if file := r.PathValue("prefix"); file != "" {
		prefix, ok := strings.CutSuffix(file, ".json")
		if !ok {
			http.NotFound(w, r)
			return
		}
		names = slices.DeleteFunc(names, func(f Followed) bool { return !registry.Under(f.ID, prefix) })
	}
	delegator.Show(w, map[string]any{"names": names})
}
