// Package router is the proxy's request path: it alone knows in which order the
// parts work on a request.
//
//	outgoing: read head → identify → bind → pick an endpoint → hop → relay
//	incoming: read head → is the endpoint ours → relay
//
// One goroutine drives an exchange, and none waits for the next request of a
// connection that can be parked; a second one runs only while a request body is
// being sent that had not arrived with its head. Bodies are streamed; no more of
// one is held than the policy keeps to send it again.
//
// Invariant: every request whose head could be read is answered exactly once,
// by the backend's answer or by a Problem, unless its client left or the proxy
// was stopped. A request is sent again only before anything of an answer was
// passed on, and only for a reason in docs/design/data-path.md.
//
//	out := router.NewOutgoing(router.OutgoingConfig{…})
//	err := out.Serve(ctx, listener) // until ctx ends and the connections are done
package router
