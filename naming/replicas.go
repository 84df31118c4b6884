package naming

import (
	"cmp"
	"fmt"
	"slices"
)

// State says what is known about a name. The zero State is StatePending.
type State uint8

const (
	StatePending State = iota // nothing is known yet
	StateNeg                  // there is no such thing now; alternatives are tried
	StateFailed               // it cannot be known, see Cause
	StateBound                // it exists, with some endpoints or with none
)

var stateNames = [...]string{"pending", "neg", "failed", "bound"}

// String is "pending", "neg", "failed" or "bound", the words used on the wire.
func (s State) String() string { return nameOf(stateNames[:], uint8(s)) }

// MarshalText is String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the words of String and refuses others.
func (s *State) UnmarshalText(text []byte) error {
	i, err := indexOf("state", stateNames[:], string(text))
	*s = State(i)
	return err
}

// Hop says where a proxy really connects for an endpoint. The zero Hop is HopNone.
type Hop uint8

const (
	HopNone    Hop = iota // to the endpoint itself, in clear text: no proxy answers for it
	HopSidecar            // to the incoming port of the proxy in the endpoint's pod
	HopHost               // to the incoming port of the proxy on the endpoint's node
)

var hopNames = [...]string{"none", "sidecar", "host"}

// String is "none", "sidecar" or "host", the words used on the wire.
func (h Hop) String() string { return nameOf(hopNames[:], uint8(h)) }

// MarshalText is String.
func (h Hop) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads the words of String and refuses others.
func (h *Hop) UnmarshalText(text []byte) error {
	i, err := indexOf("hop", hopNames[:], string(text))
	*h = Hop(i)
	return err
}

func nameOf(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("unknown(%d)", i)
}

func indexOf(what string, names []string, s string) (int, error) {
	if i := slices.Index(names, s); i >= 0 {
		return i, nil
	}
	return 0, fmt.Errorf("unknown %s %q: want one of %q", what, s, names)
}

// Endpoint is one address of a replica set, and how to reach it. Endpoints are comparable.
type Endpoint struct {
	// Address is the ip:port the application listens on.
	Address string `json:"address"`
	// Node is the name of the node it runs on, if known.
	Node string `json:"node,omitempty"`
	// Hop is the proxy in front of it.
	Hop Hop `json:"hop"`
	// Via is the ip:port of that proxy, empty for HopNone.
	Via string `json:"via,omitempty"`
	// Identity is the SPIFFE id that must be presented at Via, empty for HopNone.
	Identity string `json:"identity,omitempty"`
	// Weight is the share of requests relative to other endpoints; 1 unless said otherwise.
	Weight float64 `json:"weight"`
}

// Replicas is what is known of one bound name. It is immutable once published; Endpoints
// are sorted by address, without duplicates.
type Replicas struct {
	State State `json:"state"`
	// Endpoints may be empty though the State is StateBound: the name exists, nobody
	// serves it, and alternatives are not tried.
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	// Cause explains StateFailed.
	Cause string `json:"cause,omitempty"`
}

// Equal reports whether r and s say the same.
func (r Replicas) Equal(s Replicas) bool {
	return r.State == s.State && r.Cause == s.Cause && slices.Equal(r.Endpoints, s.Endpoints)
}

// Of returns a bound replica set of the endpoints in canonical order: sorted by address,
// the first of equal addresses kept. It takes ownership of the slice.
func Of(endpoints ...Endpoint) Replicas {
	slices.SortStableFunc(endpoints, func(a, b Endpoint) int { return cmp.Compare(a.Address, b.Address) })
	endpoints = slices.CompactFunc(endpoints, func(a, b Endpoint) bool { return a.Address == b.Address })
	return Replicas{State: StateBound, Endpoints: endpoints}
}
