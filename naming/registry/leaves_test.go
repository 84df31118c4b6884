package registry_test

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// says is a source whose states say whom and what they were asked for.
type says string

func (s says) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	return watch.New(naming.Replicas{State: naming.StateFailed, Cause: string(s) + " " + id}), func() {}
}

// Hosts with a port are DNS's, everything else is Kubernetes'.
func TestLeaves(t *testing.T) {
	l := registry.Leaves{Hosts: says("dns"), Kubernetes: func(id naming.Path) (*watch.Value[naming.Replicas], func()) {
		return says("kubernetes").Replicas(id.String())
	}}
	for id, want := range map[string]string{
		"/$/inet/example.org/80":                "dns /$/inet/example.org/80",
		"/$/io.buoyant.rinet/80/example.org":    "dns /$/io.buoyant.rinet/80/example.org",
		"/$/inet/example.org":                   "kubernetes /$/inet/example.org",
		"/#/io.l5d.k8s/shop/http/world":         "kubernetes /#/io.l5d.k8s/shop/http/world",
		"/#/io.l5d.k8s/inet/80/inet":            "kubernetes /#/io.l5d.k8s/inet/80/inet",
		"/#/io.l5d.k8s.external/shop/http/edge": "kubernetes /#/io.l5d.k8s.external/shop/http/edge",
	} {
		value, release := l.Replicas(id)
		if got := value.Get(); got.State != naming.StateFailed || got.Cause != want {
			t.Errorf("%s: %+v", id, got)
		}
		release()
	}
	value, release := l.Replicas("no id")
	defer release()
	if got := value.Get(); got.State != naming.StateFailed || !strings.Contains(got.Cause, "'/' expected") {
		t.Errorf("%+v", got)
	}
}
