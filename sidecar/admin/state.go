package admin

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/delegator"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// Followed is a bound name that the proxy follows.
type Followed struct {
	ID      string    `json:"id"`
	Routers []string  `json:"routers,omitempty"` // labels of those that use it
	Updated time.Time `json:"updated,omitzero"`  // when its state last changed, as this proxy saw it
	naming.Replicas
}

// Namer is how it stands with whoever tells the proxy about names.
type Namer struct {
	Address string `json:"address"`
	// Router is whose names it binds, by the rules of its Namespace; both are empty for
	// that of the mesh.
	Router    string `json:"router,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Connected bool   `json:"connected"`
	// SilentSeconds is how long nothing was heard, heartbeats included; nil before
	// the first word.
	SilentSeconds *float64 `json:"silentSeconds,omitempty"`
	Error         string   `json:"error,omitempty"` // of the last attempt to connect
}

// NamerState is what /namer_state shows.
type NamerState struct {
	Namers []Namer    `json:"namers"` // none if all names are known without one
	Names  []Followed `json:"names"`  // by id
}

// boundNames serves the ids of names that exist.
func boundNames(c Config) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		ids := []string{}
		for _, n := range c.NamerState().Names {
			if n.State == naming.StateBound {
				ids = append(ids, n.ID)
			}
		}
		delegator.Show(w, ids)
	}
}

// namerState serves what is followed: everything, or what a namer's prefix is
// said to answer for.
func namerState(c Config) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		state := c.NamerState()
		if name := r.PathValue("prefix"); name != "" {
			prefix, ok := strings.CutSuffix(name, ".json")
			if !ok {
				http.NotFound(w, r)
				return
			}
			state.Names = slices.DeleteFunc(state.Names, func(f Followed) bool { return !registry.Under(f.ID, prefix) })
		}
		delegator.Show(w, state)
	}
}
