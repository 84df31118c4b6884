package registry_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// Whatever is configured and looked up: every id that comes out or was asked for is known, by
// its own name; what is bound is what its state says; and the name is what went in.
func TestIDs(t *testing.T) {
	element := rapid.SampledFrom([]string{"shop", "Shop", "http", "80", "cart", "x", "v1", "a b", "io.l5d.k8s", "#", "%"})
	prefix := rapid.SliceOfN(rapid.SampledFrom([]string{"x", "y", "shop"}), 1, 2)
	port := []registry.Transformer{{Kind: registry.Port, Port: "81"}}
	genNamer := rapid.Custom(func(t *rapid.T) registry.Namer {
		n := registry.Namer{
			Kind:   rapid.SampledFrom([]string{registry.Kubernetes, registry.KubernetesHere, registry.KubernetesExternal, registry.Files}).Draw(t, "kind"),
			Prefix: prefix.Draw(t, "prefix"),
		}
		if n.Kind != registry.Files && rapid.Bool().Draw(t, "label") {
			n.LabelSelector = "v"
		}
		if rapid.Bool().Draw(t, "transformed") {
			n.Transformers = port
		}
		return n
	})
	rapid.Check(t, func(t *rapid.T) {
		s := newSource()
		r, err := registry.New(registry.Config{
			Namers: rapid.SliceOfN(genNamer, 1, 4).Draw(t, "namers"), Source: s, Getenv: func(string) string { return "shop" },
		})
		if err != nil {
			return // they are ambiguous
		}
		p := append(naming.Path{"#"}, prefix.Draw(t, "under")...)
		p = append(p, rapid.SliceOfN(element, 0, 5).Draw(t, "rest")...)
		state := func(id naming.Path) naming.Replicas {
			text := id.String()
			if len(id) == 0 || id[0] != "#" {
				t.Fatalf("asked for %s", text)
			}
			value, release := r.Replicas(text)
			release()
			return value.Get()
		}
		answer := r.Resolver(state)(p)
		// Say something of what was asked for, one leaf after the other.
		for range 8 {
			if !answer.Pending {
				break
			}
			for id := range s.users {
				if s.of(id).Get().State == naming.StatePending {
					s.set(id, rapid.SampledFrom([]string{"neg", "10.0.0.1:80", "failed", ""}).Draw(t, "state"))
				}
			}
			answer = r.Resolver(state)(p)
		}
		if answer.Pending {
			t.Fatalf("%s stays pending", p)
		}
		if answer.Bound == nil {
			return
		}
		b := *answer.Bound
		value, release := r.Replicas(b.ID.String())
		defer release()
		if got := value.Get(); got.State != naming.StateBound {
			t.Fatalf("%s is bound to %s, which is %s", p, b.ID, got.State)
		}
		id := b.ID
		if id[0] == "%" {
			id = id[3:] // /%/io.l5d.port/81
		}
		if len(id)+len(b.Residual) != len(p) || !p[len(id):].Equal(b.Residual) {
			t.Fatalf("%s is %s and %s", p, b.ID, b.Residual)
		}
		if again := r.Resolver(state)(id); again.Bound == nil || !again.Bound.ID.Equal(b.ID) {
			t.Fatalf("%s is %s, and its id is %s", p, b.ID, show(again))
		}
	})
}

// A proxy's cold bind: five rules, of which the last but one answers.
func BenchmarkBind(b *testing.B) {
	d, err := naming.ParseDtab("/caller=>/$/dev.tulle.service/shop ; /srv=>/#/edge/shop/http ; /host=>/srv ; /svc=>/host ; /host/world=>/srv/world-v2 | /srv/world-v1")
	if err != nil {
		b.Fatal(err)
	}
	r, err := registry.New(registry.Config{Source: newSource(), Namers: append(registry.Default(), registry.Namer{
		Kind: registry.Kubernetes, Prefix: naming.Path{"edge"}, Transformers: []registry.Transformer{{Kind: registry.Port, Port: "81"}}})})
	if err != nil {
		b.Fatal(err)
	}
	bound, neg := replicas("10.0.0.1:80"), replicas("neg")
	state := func(id naming.Path) naming.Replicas {
		if id[len(id)-1] == "world-v1" {
			return bound
		}
		return neg
	}
	p := naming.Path{"svc", "world"}
	b.ReportAllocs()
	for b.Loop() {
		tree, err := naming.Bind(d, p, r.Resolver(state))
		if err != nil || tree.Kind != naming.BoundLeaf {
			b.Fatal(fmt.Sprint(tree, err))
		}
	}
}
