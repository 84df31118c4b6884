package namer

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// Seen is the set of names that the connected proxies say they use. A name is gone when the
// last of them ceases to use it, or is gone itself. The zero Seen is empty; its methods may be
// called concurrently.
type Seen struct {
	mu    sync.Mutex
	users map[api.Name]int
}

// Names returns the names, sorted by path and namespace.
func (s *Seen) Names() []api.Name {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.users), func(a, b api.Name) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Namespace, b.Namespace))
	})
}

func (s *Seen) add(n api.Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == nil {
		s.users = map[api.Name]int{}
	}
	s.users[n]++
}

func (s *Seen) remove(n api.Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[n]--; s.users[n] == 0 {
		delete(s.users, n)
	}
}
