package transform_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/transform"
)

// replicas reads "10.1.1.7:80@a 10.1.2.9:80", or a state.
func replicas(text string) naming.Replicas {
	switch text {
	case "neg":
		return naming.Replicas{State: naming.StateNeg}
	case "pending":
		return naming.Replicas{}
	case "failed":
		return naming.Replicas{State: naming.StateFailed, Cause: "why"}
	}
	var all []naming.Endpoint
	for _, f := range strings.Fields(text) {
		a, node, _ := strings.Cut(f, "@")
		all = append(all, naming.Endpoint{Address: a, Node: node, Weight: 1})
	}
	return naming.Of(all...)
}

func text(r naming.Replicas) string {
	if r.State != naming.StateBound {
		return strings.TrimSpace(r.State.String() + " " + r.Cause)
	}
	var all []string
	for _, e := range r.Endpoints {
		s := e.Address
		if e.Node != "" {
			s += "@" + e.Node
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

// The example of Linkerd's documentation of its own, and every way to miss.
func TestProxies(t *testing.T) {
	const (
		named    = "10.1.1.2:4141@a 10.1.2.2:4141@b"
		nameless = "10.1.1.2:4141 10.1.2.2:4141"
	)
	for _, c := range []struct{ in, proxies, byName, bySubnet string }{
		{"10.1.1.7:80@a 10.1.1.8:80@a 10.1.2.9:80@b", named, named, named},
		{"10.1.1.7:80 10.1.1.8:80 10.1.2.9:80", nameless, "neg", nameless},
		{"10.1.1.7:80 10.1.1.8:80 10.1.2.9:80", named, "neg", named},
		{"10.1.1.7:80@a 10.1.1.8:80@a 10.1.2.9:80@b", nameless, "neg", nameless},
		{"10.1.3.5:80@c", named, "neg", "neg"},
		{"10.1.3.5:80", nameless, "neg", "neg"},
		{"10.1.2.5:80@a", named, "10.1.1.2:4141@a", "10.1.1.2:4141@a"}, // names count more
		{"10.1.1.7:80@c", named, "neg", "neg"},
		{"[fd00::1]:80@a", named, "10.1.1.2:4141@a", "10.1.1.2:4141@a"},
		{"[fd00::1]:80", "[fd00::2]:4141", "neg", "neg"}, // only IPv4 has such networks
		{"[::ffff:10.1.1.7]:80", nameless, "neg", "10.1.1.2:4141"},
		{"10.1.1.7:80@a", "10.1.1.2:4141@a 10.1.1.3:4141@a", "10.1.1.2:4141@a 10.1.1.3:4141@a", "10.1.1.2:4141@a 10.1.1.3:4141@a"},
		{"10.1.1.7:80@a", "", "neg", "neg"},
		{"10.1.1.7:80@a", "neg", "neg", "neg"},
		{"10.1.1.7:80@a", "pending", "pending", "pending"},
		{"10.1.1.7:80@a", "failed", "failed the proxies of the nodes: why", "failed the proxies of the nodes: why"},
		{"", named, "", ""},
		{"neg", named, "neg", "neg"},
		{"pending", named, "pending", "pending"},
		{"failed", named, "failed why", "failed why"},
		{"failed", "failed", "failed why", "failed why"},
	} {
		if got := text(transform.Proxies(replicas(c.in), replicas(c.proxies), false)); got != c.byName {
			t.Errorf("%s through %s: %s, want %s", c.in, c.proxies, got, c.byName)
		}
		if got := text(transform.Proxies(replicas(c.in), replicas(c.proxies), true)); got != c.bySubnet {
			t.Errorf("%s through %s by subnet: %s, want %s", c.in, c.proxies, got, c.bySubnet)
		}
	}
	light := naming.Of(naming.Endpoint{Address: "10.1.1.7:80", Node: "a", Weight: 0.5})
	if got := transform.Proxies(light, replicas(named), false); got.Endpoints[0].Weight != 1 {
		t.Errorf("the weight of an endpoint went to its proxy: %v", got)
	}
}

func TestLocal(t *testing.T) {
	ip := netip.MustParseAddr("10.1.2.2")
	const endpoints = "10.1.1.7:80@a 10.1.1.8:80@a 10.1.2.9:80@b"
	for _, c := range []struct {
		in       string
		here     transform.Place
		bySubnet bool
		want     string
	}{
		{endpoints, transform.Place{Node: "b"}, false, "10.1.2.9:80@b"},
		{endpoints, transform.Place{Node: "b", IP: ip}, true, "10.1.2.9:80@b"},
		{endpoints, transform.Place{Node: "a", IP: ip}, true, "10.1.1.7:80@a 10.1.1.8:80@a"},
		{endpoints, transform.Place{Node: "c"}, false, "neg"},
		{endpoints, transform.Place{IP: ip}, false, "neg"},
		{endpoints, transform.Place{IP: ip}, true, "10.1.2.9:80@b"},
		{"10.1.1.7:80 10.1.2.9:80", transform.Place{IP: ip}, true, "10.1.2.9:80"},
		{"10.1.1.7:80 10.1.2.9:80", transform.Place{}, true, "neg"},
		{"10.1.1.7:80 10.1.2.9:80", transform.Place{}, false, "neg"}, // two unknown nodes are not one
		{"10.1.2.9:80", transform.Place{Node: "b"}, true, "neg"},
		{"", transform.Place{Node: "b"}, false, ""},
		{"pending", transform.Place{Node: "b"}, false, "pending"},
	} {
		if got := text(transform.Local(replicas(c.in), c.here, c.bySubnet)); got != c.want {
			t.Errorf("%s at %v (by subnet: %t): %s, want %s", c.in, c.here, c.bySubnet, got, c.want)
		}
	}
}

func TestHosts(t *testing.T) {
	want := func(a netip.Addr) bool {
		return a == netip.MustParseAddr("10.1.1.7") || a == netip.MustParseAddr("fd00::1")
	}
	for in, kept := range map[string]string{
		"10.1.1.7:80 10.1.1.7:81 10.1.1.8:80 [fd00::1]:80": "10.1.1.7:80 10.1.1.7:81 [fd00::1]:80",
		"[::ffff:10.1.1.7]:80":                             "[::ffff:10.1.1.7]:80",
		"10.1.1.8:80":                                      "neg",
		"":                                                 "",
		"failed":                                           "failed why",
	} {
		if got := text(transform.Hosts(replicas(in), want)); got != kept {
			t.Errorf("%s: %s, want %s", in, got, kept)
		}
	}
}

func TestPort(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.1.7:80@a 10.1.1.7:81@a 10.1.1.8:90 [fd00::1]:80": "10.1.1.7:9000@a 10.1.1.8:9000 [fd00::1]:9000",
		"":        "",
		"neg":     "neg",
		"pending": "pending",
	} {
		if got := text(transform.Port(replicas(in), 9000)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func genReplicas(label string) *rapid.Generator[naming.Replicas] {
	return rapid.Custom(func(t *rapid.T) naming.Replicas {
		r := naming.Of(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) naming.Endpoint {
			return naming.Endpoint{
				Address: fmt.Sprintf("10.0.%d.%d:%d", rapid.IntRange(0, 3).Draw(t, "c"), rapid.IntRange(1, 4).Draw(t, "d"), rapid.IntRange(80, 81).Draw(t, "port")),
				Node:    rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "node"),
				Weight:  1,
			}
		}), 0, 8).Draw(t, label)...)
		r.State = rapid.SampledFrom([]naming.State{naming.StateBound, naming.StateBound, naming.StateBound, naming.StatePending, naming.StateNeg}).Draw(t, "state")
		if r.State != naming.StateBound {
			r.Endpoints = nil
		}
		return r
	})
}

// What comes out is in canonical order, of what went in, the same when done again; and what
// went in is as it was.
func TestLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, proxies := genReplicas("endpoints").Draw(t, "r"), genReplicas("proxies").Draw(t, "p")
		bySubnet := rapid.Bool().Draw(t, "bySubnet")
		here := transform.Place{Node: rapid.SampledFrom([]string{"", "a"}).Draw(t, "here"), IP: netip.MustParseAddr("10.0.1.9")}
		before := naming.Replicas{State: r.State, Endpoints: slices.Clone(r.Endpoints)}
		for what, apply := range map[string]func(naming.Replicas) naming.Replicas{
			"local": func(r naming.Replicas) naming.Replicas { return transform.Local(r, here, bySubnet) },
			"hosts": func(r naming.Replicas) naming.Replicas {
				return transform.Hosts(r, func(a netip.Addr) bool { return a.As4()[3] == 2 })
			},
			"port": func(r naming.Replicas) naming.Replicas { return transform.Port(r, 9000) },
		} {
			out := apply(r)
			if !r.Equal(before) {
				t.Fatalf("%s changed %s", what, text(before))
			}
			if again := apply(out); !again.Equal(out) {
				t.Fatalf("%s of %s: %s, then %s", what, text(r), text(out), text(again))
			}
			if canonical := naming.Of(slices.Clone(out.Endpoints)...); !slices.Equal(canonical.Endpoints, out.Endpoints) {
				t.Fatalf("%s of %s is out of order: %s", what, text(r), text(out))
			}
			if out.State != r.State && (out.State != naming.StateNeg || r.State != naming.StateBound) {
				t.Fatalf("%s makes %s of %s", what, text(out), text(r))
			}
		}
		// Each endpoint has its proxies, and each proxy is needed by an endpoint.
		out := transform.Proxies(r, proxies, bySubnet)
		if r.State != naming.StateBound || proxies.State != naming.StateBound || len(r.Endpoints) == 0 {
			return
		}
		same := func(a, b naming.Endpoint) bool {
			place := func(e naming.Endpoint) transform.Place {
				return transform.Place{Node: e.Node, IP: netip.MustParseAddrPort(e.Address).Addr()}
			}
			return transform.SameNode(place(a), place(b), bySubnet)
		}
		for _, p := range proxies.Endpoints {
			want := slices.ContainsFunc(r.Endpoints, func(e naming.Endpoint) bool { return same(e, p) })
			if slices.Contains(out.Endpoints, p) != want {
				t.Fatalf("%s through %s: %s", text(r), text(proxies), text(out))
			}
		}
	})
}
