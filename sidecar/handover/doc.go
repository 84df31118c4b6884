// Package handover gives the listeners of a running process to the process that
// replaces it, so that no connection is refused or reset in between.
//
// The old process offers its listeners at a Unix socket. The new one connects,
// waits until it could serve, and each proves to the other that it is one of us:
// by TLS on that socket, or by running as the same user. Then the file
// descriptors of the listening sockets go over (SCM_RIGHTS, see unix(7)), and
// that of the Unix socket with them, so that it never stops answering. The old
// process stops accepting, the new one starts; who is in the sockets' queues
// meanwhile is accepted by the new one. The old process goes on with the
// connections that it has, and keeps the listeners in reserve: should the new
// one end before it is told to stop itself, it accepts again.
//
// It is not a way to share load: between two processes exactly one accepts. It
// hands over no connections, and no state. It needs Linux, and both processes in
// one network namespace.
//
// Invariant: from the first Listen on, some process accepts or is about to, as
// long as one that has the listeners lives and has not been told to stop.
//
//	set, err := handover.Listen(ctx, handover.Config{Socket: "@tulle/host", Ready: ready}, ":4140", ":9990")
//	go set.Run(ctx) // until the process is told to stop
//	ln := set.Listeners()
//	go serve(ln[0]) // close connections after their next answer while set.Leaving()
package handover
