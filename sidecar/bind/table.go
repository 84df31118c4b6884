package bind

import (
	"cmp"
	"hash/maphash"
	"math/bits"
	"slices"
	"sync/atomic"
)

// table finds names in one step and without a lock: they hang in chains, one for
// each of twice as many hashes as there may be names. It is changed with the
// binder's mu held. A reader who stands at a name that is just being removed goes on
// to what came after it.
type table struct {
	seed   maphash.Seed
	chains []atomic.Pointer[Name]
	names  int
	limit  int
}

// maxChains bounds the memory of an empty table.
const maxChains = 1 << 16

func newTable(limit int) *table {
	n := min(1<<bits.Len(uint(2*limit-1)), maxChains)
	return &table{seed: maphash.MakeSeed(), chains: make([]atomic.Pointer[Name], n), limit: limit}
}

func (t *table) hash(namespace string, id []byte, text string) uint64 {
	h := maphash.Bytes(t.seed, id) + 31*maphash.String(t.seed, namespace)
	if text != "" { // or all overrides of one name hang in one chain
		h += 37 * maphash.String(t.seed, text)
	}
	return h
}

func (t *table) chain(hash uint64) *atomic.Pointer[Name] {
	return &t.chains[hash&uint64(len(t.chains)-1)]
}

// find returns the name with this key, or nil.
func (t *table) find(hash uint64, namespace string, id []byte, text string) *Name {
	for n := t.chain(hash).Load(); n != nil; n = n.next.Load() {
		if n.hash == hash && n.id == string(id) && n.namespace == namespace && n.text == text {
			return n
		}
	}
	return nil
}

// add hangs n in, and returns the name that it takes the place of, if there are too
// many: the one that is idle for longest.
func (t *table) add(n *Name) (gone *Name) {
	if t.names >= t.limit {
		for i := range t.chains {
			for n := t.chains[i].Load(); n != nil; n = n.next.Load() {
				if gone == nil || n.used.Load() < gone.used.Load() {
					gone = n
				}
			}
		}
		t.remove(gone)
	}
	chain := t.chain(n.hash)
	n.next.Store(chain.Load())
	chain.Store(n)
	t.names++
	return gone
}

func (t *table) remove(n *Name) {
	at := t.chain(n.hash)
	for at.Load() != n {
		at = &at.Load().next
	}
	at.Store(n.next.Load())
	t.names--
}

func (t *table) all() []*Name {
	all := make([]*Name, 0, t.names)
	for i := range t.chains {
		for n := t.chains[i].Load(); n != nil; n = n.next.Load() {
			all = append(all, n)
		}
	}
	return all
}

// idlest returns all names, the one that is idle for longest first.
func (t *table) idlest() []*Name {
	all := t.all()
	used := make(map[*Name]int64, len(all)) // which goes on changing
	for _, n := range all {
		used[n] = n.used.Load()
	}
	slices.SortFunc(all, func(x, y *Name) int { return cmp.Compare(used[x], used[y]) })
	return all
}
