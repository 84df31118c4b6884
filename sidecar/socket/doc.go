// Package socket has TCP connections that cost nothing while they are idle, and
// the poller that wakes whoever waits for them.
//
// It knows nothing of HTTP. It exists beside package net because a proxy's
// requests are so short that the waiting is a good part of their cost: net tries
// to read before it waits, so every exchange begins with two system calls that
// find nothing, and a connection that waits keeps a goroutine and its stack. A
// Conn remembers what the kernel has reported (edge-triggered epoll), so that it
// reads only when something is there, can say without a system call whether its
// peer has left, and can be parked: then its next byte starts a task.
//
// Invariant: after the last byte, the end or the failure of a connection was
// reported, every Read, Write and parked task that waited for it runs. A file
// descriptor is closed only when no call uses it, so none ever reaches the
// connection that gets its number next.
//
// On systems other than Linux the package hands out the connections of net.
//
//	poller, err := socket.Open()
//	go poller.Run(ctx)
//	ln, err := poller.Listener(tcp)
//	conn, err := ln.Accept()
//	if c, ok := conn.(*socket.Conn); ok && c.Park(serve) { return }
package socket
