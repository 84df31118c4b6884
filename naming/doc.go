// Package naming is the language of names: paths, dtabs, name trees, and how they bind.
//
// A request is given a path such as /svc/world. A dtab, an ordered list of rules
// `prefix => tree`, rewrites it step by step until paths remain that the dtab says nothing
// about and that a namer answers. Bind runs these steps and decides failover.
//
// It is the pure language and nothing else: no I/O, no goroutines, no state, no Kubernetes.
// Where answers come from is the caller's Resolver.
//
// Invariant: paths, dtabs, trees and replica sets are values; nothing here modifies one
// after it was made, so all of them may be shared between goroutines. Printing is canonical:
// what String prints parses again and prints the same. Only weights lose by it, all but two
// decimals; Dtab.Exact and Dtab.Lossless print them all.
//
//	d, err := naming.ParseDtab("/srv => /#/io.l5d.k8s/default/http ; /svc => /srv")
//	tree, err := naming.Bind(d, naming.Path{"svc", "world"}, resolve)
//	if leaf, ok := tree.Pick(rand.Float64()); ok {
//		// leaf.ID is /#/io.l5d.k8s/default/http/world
//	}
//
// The language is that of finagle and Linkerd 1.x; where Tulle differs, the comment of the
// function says so.
package naming
