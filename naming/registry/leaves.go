package registry

import (
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// Leaves is the [Source] of a control plane, which asks DNS for hosts and Kubernetes for
// everything else. It is safe for concurrent use if its parts are.
type Leaves struct {
	// Hosts follows the ids /$/inet/<host>/<port>, as a dns.Namer does.
	Hosts Source
	// Kubernetes follows all other ids, as the method Replicas of a kubernetes.Index does.
	Kubernetes func(id naming.Path) (value *watch.Value[naming.Replicas], release func())
}

// Replicas implements [Source]. What is no id has failed.
func (l Leaves) Replicas(id string) (*watch.Value[naming.Replicas], func()) {
	path, err := naming.ParsePath(id)
	if err != nil {
		return watch.New(naming.Replicas{State: naming.StateFailed, Cause: err.Error()}), func() {}
	}
	if _, _, ok := rewrite.Inet(path); ok {
		return l.Hosts.Replicas(id)
	}
	return l.Kubernetes(path)
}
