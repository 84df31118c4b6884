// Package capture brings connections to a proxy whose application knows nothing
// of it: it writes the rules by which the kernel redirects what leaves a pod, tells
// a proxy where a redirected connection was going, and marks the proxy's own ones.
//
// It accepts, dials and routes nothing. The rules are written once, by an init
// container that may do so; all else needs no privilege. Why it works like this is
// in docs/design/redirect.md.
//
// Invariant: a connection that carries the mark of the proxy's own user is never
// redirected, so none can go round in circles, and a table is either the old one
// or the new one, never half of it.
//
//	err := capture.Apply(capture.Rules{Port: 4140, UID: 65532})     // as NET_ADMIN
//	to, ok := capture.Original(conn)                                // of an accepted one
//	err = capture.Mark(fd)                                          // before connect(2)
package capture
