package namer

import (
	"cmp"
	"slices"
	"sync"

	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// Seen is the names that the connected proxies say they use, by the namespace of their dtab. A
// name is gone when the last of them ceases to use it, or is gone itself. The zero Seen is
// empty; its methods may be called concurrently.
type Seen struct {
	mu    sync.Mutex
	users map[seenName]int
}

type seenName struct {
	dtab string
	api.Name
}

// maxUsed bounds the text of a name that is taken note of. Longer ones route as others do, but
// no plan tells of them.
const maxUsed = 1 << 10

// Names returns the names that the dtab of a namespace is used for, sorted by path and by the
// namespace of the caller.
func (s *Seen) Names(dtabNamespace string) []api.Name {
	s.mu.Lock()
	var all []api.Name
	for n := range s.users {
		if n.dtab == dtabNamespace {
			all = append(all, n.Name)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b api.Name) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Namespace, b.Namespace))
	})
	return all
}

func (s *Seen) add(dtabNamespace string, n api.Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == nil {
		s.users = map[seenName]int{}
	}
	s.users[seenName{dtabNamespace, n}]++
}

func (s *Seen) remove(dtabNamespace string, n api.Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := seenName{dtabNamespace, n}
	if s.users[key]--; s.users[key] == 0 {
		delete(s.users, key)
	}
}
