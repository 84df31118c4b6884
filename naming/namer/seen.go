package namer

import (
	"cmp"
	"slices"
	"sync"

	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// Seen is the names that the connected proxies say they use, by the namespace of their dtab, and
// those that are followed over the API. A name is gone when the last of them ceases to use it, or
// is gone itself. The zero Seen is empty; its methods may be called concurrently.
type Seen struct {
	mu      sync.Mutex
	users   map[seenName]int
	ruled   map[string]int // how many of a namespace have rules
	omitted map[string]int // how many uses there are of names of a namespace that are not in users
}

// usedName is a name with what makes it mean something else than it does to others.
type usedName struct {
	api.Name
	rules string // after those of the dtab, as naming.Dtab.Exact prints them; mostly none
}

type seenName struct {
	dtab string
	usedName
}

// What is taken note of is bounded, for a request may name anything, and bring rules. What is
// beyond routes as the rest does, but no plan tells of it.
const (
	maxUsed  = 1 << 10 // bytes of a name
	maxRules = 4 << 10 // bytes of the rules that it comes with
	maxRuled = 1000    // names with rules in one namespace
)

// Names returns the names that the dtab of a namespace is used for, sorted by path and by the
// namespace of the caller. Names that come with rules of their own are not among them: the dtab
// does not say what they mean.
func (s *Seen) Names(dtabNamespace string) []api.Name {
	used, _ := s.used(dtabNamespace)
	var all []api.Name
	for _, n := range used {
		if n.rules == "" {
			all = append(all, n.Name)
		}
	}
	return all
}

// used returns all names, with their rules, likewise sorted, and how many uses of others are omitted.
func (s *Seen) used(dtabNamespace string) (all []usedName, omitted int) {
	s.mu.Lock()
	for n := range s.users {
		if n.dtab == dtabNamespace {
			all = append(all, n.usedName)
		}
	}
	omitted = s.omitted[dtabNamespace]
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b usedName) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.rules, b.rules))
	})
	return all, omitted
}

// note takes note of a name, or that it is omitted, until forget is called, which must be once.
func (s *Seen) note(dtabNamespace string, n usedName) (forget func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := seenName{dtabNamespace, n}
	_, known := s.users[key]
	if len(n.Path) > maxUsed || len(n.rules) > maxRules || !known && n.rules != "" && s.ruled[dtabNamespace] >= maxRuled {
		increase(&s.omitted, dtabNamespace)
		return func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			decrease(s.omitted, dtabNamespace)
		}
	}
	increase(&s.users, key)
	if !known && n.rules != "" {
		increase(&s.ruled, dtabNamespace)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if decrease(s.users, key) == 0 && n.rules != "" {
			decrease(s.ruled, dtabNamespace)
		}
	}
}

func (s *Seen) add(dtabNamespace string, n api.Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	increase(&s.users, seenName{dtabNamespace, usedName{Name: n}})
}

func (s *Seen) remove(dtabNamespace string, n api.Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	decrease(s.users, seenName{dtabNamespace, usedName{Name: n}})
}

// omit says that there are so many more uses of names that are not taken note of.
func (s *Seen) omit(dtabNamespace string, more int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.omitted == nil {
		s.omitted = map[string]int{}
	}
	if s.omitted[dtabNamespace] += more; s.omitted[dtabNamespace] == 0 {
		delete(s.omitted, dtabNamespace)
	}
}

func increase[K comparable](counts *map[K]int, key K) {
	if *counts == nil {
		*counts = map[K]int{}
	}
	(*counts)[key]++
}

// decrease returns what is left.
func decrease[K comparable](counts map[K]int, key K) int {
	counts[key]--
	if counts[key] == 0 {
		delete(counts, key)
	}
	return counts[key]
}
